"""The product on ARM without a board: python -m tests.arm [--arch arm64] [pytest's arguments]

For each architecture, in a Debian of the lab under QEMU's user emulation: installs the package without a network, lets
it send files once to a store of this machine, and runs the unit tests on the package's own libraries. Prints what it
ran on, and how many passed; exits 0 when all did, 2 when there is no lab. The log of the tests is kept in build/arm.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from xml.etree import ElementTree

from tests.arm.foreign import DEPENDENCIES, PLATFORMS, TREE, bring_tests, foreign
from tests.packaging.building import ROOT, build
from tests.packaging.chroot import Chroot
from tests.servers import ACCESS_KEY, SECRET_KEY, VerifyingS3
from tests.vm.lab import LabMissing, lab_dir

SUITE = "tests/unit tests/property tests/test_architecture.py"
LOGS = os.path.join(ROOT, "build", "arm")
#: One test, and all of them: what takes a second may take a minute there, and others want the machine too.
TEST_S, SUITE_S = 1800, 4 * 3600

DESCRIBED = """
cd /
echo "machine:      $(uname -m), $(dpkg --print-architecture)"
python3 - <<'PYTHON'
import sqlite3, struct, sys
sys.path.insert(0, "/usr/lib/syncagent")
from syncagent.edges.trust import verifier
print(f"python:       {sys.version.split()[0]}, {struct.calcsize('P') * 8} bits")
print(f"sqlite:       {sqlite3.sqlite_version}")
print(f"verifier:     {verifier()}")
PYTHON
"""

ONCE = """
syncagent setup --bucket bucket --endpoint-url {endpoint} --system-id arm --no-start \\
    --access-key-id {access} --secret-access-key {secret}
camera=/var/lib/syncagent/generated_data/camera
install -o syncagent -g syncagent -m 640 /srv/field/own-* $camera
install -o nobody -g syncagent -m 644 /srv/field/others-* $camera
setpriv --reuid syncagent --regid syncagent --init-groups syncagent run --once
"""


def install(root: Chroot, package: str) -> None:
    root.bring(package, "/root/syncagent.deb")
    root.told("dpkg -i /root/syncagent.deb; syncagent --version; dpkg --audit")


def send_once(root: Chroot) -> str:
    """Files of several sizes and two users, by `syncagent run --once`; each must arrive byte for byte."""
    sizes = {"own-0": 0, "own-1": 1, "own-2": 200_000, "own-3": 20_000_000, "others-1": 70_000}
    files = {f"{name}.jpg": random.randbytes(size) for name, size in sizes.items()}
    os.makedirs(root.path("/srv/field"))
    for name, content in files.items():
        with open(root.path(f"/srv/field/{name}"), "wb") as file:
            file.write(content)
    with VerifyingS3("bucket") as store:
        script = ONCE.format(endpoint=store.endpoint_url, access=ACCESS_KEY, secret=SECRET_KEY)
        root.told(script, offline=False)
        objects = store.objects()
        parts = len(store.requests(operation="UploadPart"))
    expected = {f"camera/arm/{name}": content for name, content in files.items()}
    arrived = {key: body for key, body in objects.items() if "/.syncagent/" not in key}
    if arrived != expected:
        raise AssertionError(f"arrived: { {key: len(body) for key, body in arrived.items()} }")
    return f"{len(files)} files, {sum(sizes.values())} bytes, {parts} parts"


def run_suite(root: Chroot, arch: str, more: list[str]) -> tuple[str, bool]:
    """The unit tests: what became of them, and whether all is well."""
    python = root.told("python3 -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").strip()
    bring_tests(root, arch, python)
    path = f"{TREE}:{DEPENDENCIES}:/usr/lib/syncagent"
    script = f"""
cd {TREE}
export PYTHONPATH={path} PYTHONUNBUFFERED=1
python3 -m pytest -q -p tests.arm.unhurried -p no:cacheprovider --timeout {TEST_S} -m 'not long' --durations 20 \\
    --junitxml /srv/junit.xml "$@" > /srv/pytest.log 2>&1
"""
    names_tests = any(os.path.exists(os.path.join(ROOT, word.partition("::")[0])) for word in more)
    words = more if names_tests else [*SUITE.split(), *more]
    done = root.run(f"set -- {shlex.join(words)}\n{script}", offline=False, timeout_s=SUITE_S)
    os.makedirs(LOGS, exist_ok=True)
    for name in ("pytest.log", "junit.xml"):
        if os.path.exists(root.path(f"/srv/{name}")):
            shutil.copy(root.path(f"/srv/{name}"), os.path.join(LOGS, f"{arch}-{name}"))
    if not os.path.exists(root.path("/srv/junit.xml")):
        return f"pytest ended with {done.returncode}: build/arm/{arch}-pytest.log {done.stderr[-2000:]}", False
    return summary(root.path("/srv/junit.xml")), done.returncode == 0


def summary(junit: str) -> str:
    """How many passed, and what was left out, and why."""
    counts: Counter[str] = Counter()
    lines = []
    for case in ElementTree.parse(junit).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        counts["passed" if not kinds else min(kinds)] += 1
        if kinds & {"failure", "error"}:
            lines.append(f"NOT OK  {case.get('classname')}::{case.get('name')}")
    reasons = Counter(str(skipped.get("message")) for skipped in ElementTree.parse(junit).iter("skipped"))
    lines += [f"skipped {count}: {re.sub(r'^Skipped: ', '', reason)}" for reason, count in reasons.most_common()]
    return "\n".join([", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())), *lines])


def prove(arch: str, package: str, more: list[str]) -> bool:
    print(f"--- {arch}", flush=True)

    def say(begun: float, text: str) -> None:
        print(f"{text} ({time.monotonic() - begun:.0f} s)", flush=True)

    begun = time.monotonic()
    with foreign(arch) as root:
        say(begun, "the files are there")
        begun = time.monotonic()
        install(root, package)
        say(begun, "installed:    dpkg -i, no network")
        print(root.told(DESCRIBED), end="", flush=True)
        begun = time.monotonic()
        say(begun, f"run --once:   {send_once(root)}, byte for byte")
        begun = time.monotonic()
        text, is_well = run_suite(root, arch, more)
        say(begun, f"unit tests:   {text}")
    return is_well


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.arm", description=__doc__)
    parser.add_argument("--arch", action="append", choices=sorted(PLATFORMS))
    chosen, more = parser.parse_known_args()
    try:
        lab_dir("build-image", target="test-arm")
        with tempfile.TemporaryDirectory() as folder:
            package = build(folder)
            results = [prove(arch, package, more) for arch in chosen.arch or PLATFORMS]
    except LabMissing as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
