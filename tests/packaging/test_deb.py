"""The Debian package: the same bytes each time, and what it does on a clean Debian without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.building import ROOT, build
from tests.packaging.chroot import Chroot

pytestmark = pytest.mark.long

#: The upper limit for what it takes of a card, compiled modules not counted.
MAX_INSTALLED_KIB = 25_000

#: So many lines of the sandbox may share a comment before one of them has surely slipped in beneath another's.
MOST_TOGETHER = 5

#: A strict store inside, a device that was set up for it, and one picture of another user's.
FIELD = """
cd /srv
python3 -P - <<'PYTHON' &
import sys, time
sys.path[:0] = ["/srv", "/usr/lib/syncagent"]
from tests.verifying import VerifyingS3
store = VerifyingS3("bucket")
with store:
    open("/srv/endpoint", "w").write(store.endpoint_url)
    while True:
        time.sleep(0.1)
        with open("/srv/objects.tmp", "w") as file:
            file.write("".join(sorted(f"{key} {len(body)}\\n" for key, body in store.objects().items())))
        __import__("os").replace("/srv/objects.tmp", "/srv/objects")
PYTHON
store=$!
trap 'kill $store' EXIT
for i in $(seq 100); do [ -s /srv/endpoint ] && break; sleep 0.1; done
"""


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests enter a Debian in a directory: run them as root (make test-deb)")
    for program in ("mmdebstrap", "unshare", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: apt-get install mmdebstrap util-linux dpkg")


def built(folder: Path, *options: str) -> str:
    """A package from the wheels that build/wheels has already; what else it takes is made below `folder`."""
    wheels = os.path.join(ROOT, "build/wheels")
    if os.path.isdir(wheels):
        shutil.copytree(wheels, folder / "build/wheels", dirs_exist_ok=True)
    return build(str(folder), "--build", str(folder / "build"), *options)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def debian(request: pytest.FixtureRequest, package: str) -> Iterator[Chroot]:
    with Chroot(request.param) as root:
        root.bring(package, "/root/syncagent.deb")
        done = root.run("dpkg -i /root/syncagent.deb")
        assert done.returncode == 0, done.stdout + done.stderr
        root.bring(os.path.join(ROOT, "tests"), "/srv/tests")
        yield root


def test_built_twice_it_is_the_same_to_the_byte(package: str, tmp_path: Path) -> None:
    with open(package, "rb") as one, open(built(tmp_path), "rb") as other:
        assert one.read() == other.read()


def test_it_is_small_and_holds_nothing_for_one_architecture(package: str) -> None:
    field = subprocess.run(["dpkg-deb", "-f", package, "Installed-Size"], capture_output=True, text=True, check=True)
    assert int(field.stdout) < MAX_INSTALLED_KIB
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\.so\b|__pycache__|\.pyc|/tests/", listed)
    assert not [line for line in listed.splitlines() if " root/root " not in line]


def test_the_unit_is_sandboxed(package: str) -> None:
    unit = os.path.join(ROOT, "packaging/syncagent.service")
    # The threshold is ten times the figure that people see.
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-200:]


def test_every_line_of_the_sandbox_is_explained() -> None:
    with open(os.path.join(ROOT, "packaging/syncagent.service")) as file:
        sandbox = file.read().partition("-- The sandbox.")[2].partition("[Install]")[0]
    options, unexplained = 0, MOST_TOGETHER
    for line in sandbox.splitlines()[1:]:
        if line.startswith("#"):
            unexplained = 0
        elif line:
            options, unexplained = options + 1, unexplained + 1
            assert unexplained <= MOST_TOGETHER, f"{line} has no comment of its own, and the one before is not for it"
    assert options > 20


def test_it_installs_without_a_network_and_makes_what_it_needs(debian: Chroot) -> None:
    assert re.match(r"syncagent, version \d", debian.told("syncagent --version"))
    made = debian.told("cd /var/lib/syncagent; stat -c '%n %a %U %G' . state generated_data generated_data/camera")
    assert made.splitlines() == [
        ". 755 syncagent syncagent",
        "state 750 syncagent syncagent",
        "generated_data 2775 syncagent syncagent",
        "generated_data/camera 2775 syncagent syncagent",
    ]
    assert "i2c" in debian.told("id -nG syncagent").split()
    assert debian.told("dpkg -V syncagent; dpkg --audit") == ""
    for path in ("/usr/share/man/man1/syncagent.1.gz", "/usr/share/bash-completion/completions/syncagent"):
        assert os.path.exists(debian.path(path))
    manual = debian.told("zcat /usr/share/man/man1/syncagent.1.gz")
    assert ".B SYNCAGENT_CONFIG_DIR\n/etc/syncagent/configs\n" in manual, "not the default of a source tree"
    registered = debian.told("bash -c '. /usr/share/bash-completion/completions/syncagent; complete -p syncagent'")
    assert " -o default " in registered, "no names of files for `send`"
    conffiles = debian.told("dpkg-query -W -f '${Conffiles}' syncagent")
    assert "/etc/syncagent/configs/carriers/bucket.yaml" in conffiles


def test_a_disk_for_the_data_is_writable_in_the_sandbox_also_after_a_purge(debian: Chroot) -> None:
    options = "--bucket b --endpoint-url http://127.0.0.1:1 --no-check"
    script = f"""
cp -a /etc/syncagent/configs /root/configs
syncagent setup {options} --data-dir "/mnt/usb disk"
cat /etc/systemd/system/syncagent.service.d/data.conf
rm -r /etc/systemd/system/syncagent.service.d
syncagent setup {options}
cat /etc/systemd/system/syncagent.service.d/data.conf
rm -r /etc/syncagent/configs /var/lib/syncagent/generated_data
mv /root/configs /etc/syncagent/configs
dpkg-reconfigure syncagent
"""
    assert debian.told(script).splitlines().count('ReadWritePaths="-/mnt/usb disk"') == 2


def test_before_it_was_set_up_it_says_what_to_do(debian: Chroot) -> None:
    done = debian.run("syncagent check-config")
    assert done.returncode == 78
    assert "give the name of the bucket" in done.stderr


def test_every_module_of_ours_can_be_imported_from_what_is_inside(debian: Chroot) -> None:
    script = r"""
cd /usr/lib/syncagent
find syncagent -name '*.py' | grep -v -e /demo/ -e __main__ -e handlers/ | sed 's,/__init__.py$,,; s,\.py$,,; s,/,.,g' \
    | sed 's/^/import /' > /tmp/all.py
PYTHONPATH=/usr/lib/syncagent python3 -W error::DeprecationWarning:syncagent -P /tmp/all.py
"""
    debian.told(script)


def test_files_of_another_user_reach_a_store_that_is_set_up_without_questions(debian: Chroot) -> None:
    script = (
        FIELD
        + """
id pi >/dev/null 2>&1 || adduser --disabled-password --gecos '' --quiet pi
syncagent setup --bucket bucket --endpoint-url "$(cat endpoint)" --system-id field-7 --writer pi \\
    --access-key-id TESTACCESSKEY --secret-access-key test-secret-key --no-start
stat -c '%a %U' /etc/syncagent/configs/carriers/bucket.yaml
su pi -c 'echo picture > /var/lib/syncagent/generated_data/camera/a.jpg'
setpriv --reuid syncagent --regid syncagent --init-groups syncagent run --once
for i in $(seq 100); do grep -q a.jpg objects && break; sleep 0.1; done
cat objects
stat -c '%U' /var/lib/syncagent/state/journal.db
"""
    )
    done = debian.run(script)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "600 syncagent" in lines
    assert "camera/field-7/a.jpg 8" in lines
    assert lines[-1] == "syncagent"


def test_an_upgrade_keeps_state_and_configuration_and_a_downgrade_is_refused(
    debian: Chroot, package: str, tmp_path: Path
) -> None:
    newer = built(tmp_path, "--version", "9.0")
    debian.bring(newer, "/root/newer.deb")
    script = """
echo '# mine' >> /etc/syncagent/configs/system/system.yaml
setpriv --reuid syncagent --regid syncagent --init-groups python3 -c '
import sqlite3
sqlite3.connect("/var/lib/syncagent/state/journal.db").execute("PRAGMA user_version")'
sha256sum /var/lib/syncagent/state/journal.db > /tmp/before
dpkg -i --force-confold /root/newer.deb
sha256sum -c /tmp/before
grep -q '# mine' /etc/syncagent/configs/system/system.yaml
syncagent --version
# As a release with a newer journal would have left it.
setpriv --reuid syncagent --regid syncagent --init-groups python3 -c '
import sqlite3
journal = sqlite3.connect("/var/lib/syncagent/state/journal.db")
(now,) = journal.execute("PRAGMA user_version").fetchone()
journal.execute("PRAGMA user_version = 99")
open("/var/lib/syncagent/state/was", "w").write(str(now))'
if dpkg -i --force-confold /root/syncagent.deb; then echo INSTALLED; fi
syncagent --version
dpkg --audit
setpriv --reuid syncagent --regid syncagent --init-groups python3 -c '
import sqlite3
sqlite3.connect("/var/lib/syncagent/state/journal.db").execute(
    "PRAGMA user_version = " + open("/var/lib/syncagent/state/was").read())'
dpkg -i --force-confold /root/syncagent.deb
find /var/lib/syncagent/state ! -user syncagent
"""
    done = debian.run(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "INSTALLED" not in done.stdout
    assert done.stdout.count("syncagent, version 9.0") == 2
    assert "has schema 99" in done.stderr
    assert "/var/lib/syncagent/state/" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_removed_it_leaves_configuration_and_purged_nothing_but_the_data(package: str, release: str) -> None:
    with Chroot(release) as root:
        root.bring(package, "/root/syncagent.deb")
        root.told("dpkg -i /root/syncagent.deb; syncagent --version")
        root.told("echo picture > /var/lib/syncagent/generated_data/camera/a.jpg; touch /var/lib/syncagent/state/x")
        root.told("mkdir -p /etc/credstore; echo A > /etc/credstore/syncagent.access_key_id")
        root.told("systemctl enable syncagent")  # as `setup` does where systemd runs
        removing = root.run("dpkg -r syncagent")
        assert (removing.returncode, removing.stderr) == (0, "")
        assert os.path.exists(root.path("/etc/syncagent/configs/carriers/bucket.yaml"))
        assert os.path.exists(root.path("/var/lib/syncagent/state/x"))
        assert not os.path.exists(root.path("/usr/lib/syncagent"))
        root.told("dpkg -P syncagent")
        left = root.told("find / -xdev -name '*syncagent*' ! -path '/root/*' ! -path '/proc/*' ! -path '/srv/*'")
        assert sorted(line for line in left.splitlines() if "/dpkg/" not in line) == ["/var/lib/syncagent"]
        assert root.told("find /var/lib/syncagent -type f").split() == [
            "/var/lib/syncagent/generated_data/camera/a.jpg"
        ]
