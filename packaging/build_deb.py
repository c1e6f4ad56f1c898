"""Builds dist/syncagent_<version>_all.deb: one package for every architecture, the same bytes each time.

    python packaging/build_deb.py [--output dist] [--version 1.2.3]

Vendors the wheels of lock/runtime.txt (by their hashes) but for those that the distribution has, and takes out what
is never loaded. Needs dpkg-deb, and an interpreter with the runtime requirements; the network only for wheels that
are not in build/wheels yet.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from email.utils import format_datetime

PACKAGING = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(PACKAGING)
sys.path.insert(0, ROOT)  # the command line of this tree is what the manual page is made from

from packaging_parts.changelog import debian_changelog  # noqa: E402
from packaging_parts.licences import debian_copyright  # noqa: E402
from packaging_parts.manual import bash_completion, manual_page  # noqa: E402

MAINTAINER = "The syncagent developers <maintainers@syncagent.invalid>"
HOME = "usr/lib/syncagent"
#: What the distribution has, compiled for the machine: never vendored.
OF_THE_DISTRIBUTION = ("pyyaml", "cryptography", "cffi", "pycparser")
#: rich wants them for source code and Markdown, which the agent never shows; a third of all modules would be theirs.
LEFT_OUT = ("pygments", "markdown_it", "mdurl")
#: Of botocore's 400 services: the store, and the three that credentials of a role or a login come from.
SERVICES = ("s3", "sts", "sso", "sso-oidc")
#: Their names in botocore's endpoints.json.
ENDPOINTS = ("s3", "sts", "portal.sso", "oidc")
#: Files of services that only botocore's own documentation, or a waiter, reads.
UNREAD = ("examples-1.json", "waiters-2.json")
DEPENDS = "python3 (>= 3.11), python3-cryptography, python3-yaml, adduser"
DESCRIPTION = """\
field gateway: finished files go to an S3 bucket
 Cameras and other programs write files below a directory. syncagent
 notices when each file is finished, records it in a durable journal, and
 puts it into an S3 bucket with a digest that the store must prove,
 whatever the link, the clock, the card or the power do meanwhile.
 .
 Everything it needs beside Python's cryptography and YAML modules is
 inside, so that it installs without a network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default=os.path.join(ROOT, "dist"))
    parser.add_argument("--build", default=os.path.join(ROOT, "build"), help="where wheels are kept and it is staged")
    parser.add_argument("--version", help="instead of the version of the code: for trying upgrades")
    parser.add_argument("--schema", type=int, help="instead of the code's: for trying downgrades")
    given = parser.parse_args()
    moment = source_date_epoch()
    version = given.version or code_version()
    staging = os.path.join(given.build, "deb")
    shutil.rmtree(staging, ignore_errors=True)
    wheels = fetch_wheels(os.path.join(given.build, "wheels"))
    distributions = vendor(wheels, os.path.join(staging, HOME))
    add_ourselves(os.path.join(staging, HOME), version)
    add_system_files(staging, version=version, moment=moment, distributions=distributions)
    installed_kib = add_control(staging, version=version, schema=given.schema or code_schema())
    settle(staging, moment)
    os.makedirs(given.output, exist_ok=True)
    package = os.path.join(given.output, f"syncagent_{version}_all.deb")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "--threads-max=1", "--build", staging, package],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(moment)},
    )
    print(f"{package}: {os.path.getsize(package) / 1e6:.1f} MB, installed {installed_kib * 1024 / 1e6:.1f} MB")


def source_date_epoch() -> int:
    """The moment that every file is given: SOURCE_DATE_EPOCH, else the last commit's."""
    if said := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(said)
    answer = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if answer.returncode == 0 and answer.stdout.strip():
        return int(answer.stdout)
    return int(os.stat(os.path.join(ROOT, "CHANGELOG.md")).st_mtime)


def code_version() -> str:
    import syncagent

    return syncagent.__version__


def code_schema() -> int:
    """How many steps the journal of this release has seen."""
    from syncagent.edges.journal.schema import STEPS

    return len(STEPS)


# -- what is vendored -------------------------------------------------------------------------------------------------


def fetch_wheels(folder: str) -> str:
    """The wheels of the lock in `folder`; downloads those that are not there. Each is checked by its hash."""
    os.makedirs(folder, exist_ok=True)
    lock = os.path.join(folder, "lock.txt")
    with open(os.path.join(PACKAGING, "lock", "runtime.txt"), encoding="utf-8") as file:
        blocks = re.split(r"\n(?=[a-z0-9])", file.read())
    wanted = [block for block in blocks if not block.startswith(tuple(f"{name}==" for name in OF_THE_DISTRIBUTION))]
    with open(lock, "w", encoding="utf-8") as file:
        file.write("\n".join(wanted) + "\n")
    # watchdog names a platform, though there is nothing of it inside: `vendor` makes sure.
    command = [*_pip("download"), "--dest", folder, "--find-links", folder, "-r", lock, *_foreign()]
    subprocess.run(command, check=True)
    return folder


def _pip(verb: str) -> list[str]:
    quiet = ["-q", "-q", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    return [sys.executable, "-m", "pip", verb, *quiet]


def _foreign() -> list[str]:
    return ["--platform", "manylinux2014_x86_64", "--implementation", "py", "--abi", "none", "--python-version", "3.11"]


def vendor(wheels: str, home: str) -> list[importlib.metadata.PathDistribution]:
    """Install the wheels into `home` and cut them down; what was installed, with its licences still beside it."""
    install = [*_pip("install"), "--no-index", "--no-compile", "--find-links", wheels, "--target", home]
    subprocess.run([*install, "-r", os.path.join(wheels, "lock.txt"), *_foreign()], check=True)
    shutil.rmtree(os.path.join(home, "bin"), ignore_errors=True)
    found = []
    for name in sorted(os.listdir(home)):
        if name.endswith(".dist-info"):
            distribution = importlib.metadata.Distribution.at(os.path.join(home, name))
            assert isinstance(distribution, importlib.metadata.PathDistribution)
            if not name.startswith(LEFT_OUT):
                found.append(distribution)
    for name in os.listdir(home):
        if name.startswith(LEFT_OUT):
            shutil.rmtree(os.path.join(home, name))
    cut_botocore(home)
    strangers = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(home)
        for name in names
        if re.search(r"\.(so|pyd|dll|dylib|exe)(\.|$)", name)
    ]
    if strangers:
        raise SystemExit(f"not for every architecture: {', '.join(strangers)}")
    return found


def cut_botocore(home: str) -> None:
    """Of botocore's 22 MB of data leave what a store and its credentials need."""
    data = os.path.join(home, "botocore", "data")
    for name in os.listdir(data):
        path = os.path.join(data, name)
        if os.path.isdir(path) and name not in SERVICES:
            shutil.rmtree(path)
    for folder, _, names in os.walk(data):
        for name in set(names) & set(UNREAD):
            os.unlink(os.path.join(folder, name))
    endpoints = os.path.join(data, "endpoints.json")
    with open(endpoints, encoding="utf-8") as file:
        document = json.load(file)
    for partition in document["partitions"]:
        partition["services"] = {
            name: partition["services"][name] for name in ENDPOINTS if name in partition["services"]
        }
    with open(endpoints, "w", encoding="utf-8") as file:
        json.dump(document, file, separators=(",", ":"))
    # What only boto3's resources, examples and manuals are made from.
    shutil.rmtree(os.path.join(home, "boto3", "data"))
    shutil.rmtree(os.path.join(home, "boto3", "examples"), ignore_errors=True)


def add_ourselves(home: str, version: str) -> None:
    """This tree's package, with what tells `importlib.metadata` of it."""
    shutil.copytree(
        os.path.join(ROOT, "syncagent"), os.path.join(home, "syncagent"), ignore=shutil.ignore_patterns("__pycache__")
    )
    if version != code_version():
        path = os.path.join(home, "syncagent", "__init__.py")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        write(path, text.replace(f'__version__ = "{code_version()}"', f'__version__ = "{version}"'))
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)["project"]
    lines = []
    for group, points in sorted(project.get("entry-points", {}).items()):
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in sorted(points.items())), ""]
    about = os.path.join(home, f"syncagent-{version}.dist-info")
    write(os.path.join(about, "METADATA"), f"Metadata-Version: 2.1\nName: syncagent\nVersion: {version}\n")
    write(os.path.join(about, "entry_points.txt"), "\n".join(lines))


# -- what the system sees ---------------------------------------------------------------------------------------------


def add_system_files(
    staging: str, *, version: str, moment: int, distributions: list[importlib.metadata.PathDistribution]
) -> None:
    home = os.path.join(staging, HOME)
    documents = os.path.join(staging, "usr/share/doc/syncagent")
    write(os.path.join(documents, "copyright"), debian_copyright(ROOT, home, distributions))
    for folder in (name for name in os.listdir(home) if name.endswith(".dist-info")):
        # Only their names and entry points are asked for at run time; their licences stand in the copyright file.
        keep = {"METADATA", "entry_points.txt"}
        for name in set(os.listdir(os.path.join(home, folder))) - keep:
            path = os.path.join(home, folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    drop_strays(home)

    with open(os.path.join(ROOT, "CHANGELOG.md"), encoding="utf-8") as file:
        changes = debian_changelog(
            file.read(),
            maintainer=MAINTAINER,
            date=format_datetime(datetime.fromtimestamp(moment, UTC)),
            newest=version,
        )
    write_gz(os.path.join(documents, "changelog.gz"), changes)
    shutil.copy(os.path.join(ROOT, "README.md"), os.path.join(documents, "README.md"))
    write_gz(os.path.join(staging, "usr/share/man/man1/syncagent.1.gz"), manual_page(version, moment))
    write(os.path.join(staging, "usr/share/bash-completion/completions/syncagent"), bash_completion())

    copy("syncagent.wrapper", os.path.join(staging, "usr/bin/syncagent"), mode=0o755)
    copy("syncagent.service", os.path.join(staging, "usr/lib/systemd/system/syncagent.service"))
    copy("maintainer/rtupdate", os.path.join(staging, "usr/share/python3/runtime.d/syncagent.rtupdate"), mode=0o755)
    configs = os.path.join(PACKAGING, "configs")
    target = os.path.join(staging, "etc/syncagent/configs")
    shutil.copytree(configs, target)
    for kind in ("tasks", "messages", "handlers", "devices"):
        os.makedirs(os.path.join(target, kind), exist_ok=True)


def drop_strays(home: str) -> None:
    """Tests, caches and notes of installers are nothing to a device."""
    for folder, folders, names in os.walk(home, topdown=True):
        for name in [each for each in folders if each in ("__pycache__", "tests", "test")]:
            shutil.rmtree(os.path.join(folder, name))
            folders.remove(name)
        for name in names:
            if name.startswith(".") or name == "py.typed" or name.endswith((".pyi", ".pyc", ".sh")):
                os.unlink(os.path.join(folder, name))


def add_control(staging: str, *, version: str, schema: int) -> int:
    """DEBIAN/; the installed size in KiB, as dpkg counts it."""
    control = os.path.join(staging, "DEBIAN")
    sizes_kib, sums = 0, []
    for folder, folders, names in os.walk(staging):
        folders.sort()
        sizes_kib += len(folders)
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                data = file.read()
            relative = os.path.relpath(path, staging)
            sizes_kib += max(1, -(-len(data) // 1024))
            sums.append((relative, hashlib.md5(data, usedforsecurity=False).hexdigest()))
    conffiles = [f"/{path}" for path, _ in sums if path.startswith("etc/")]
    write(
        os.path.join(control, "md5sums"),
        "".join(f"{md5}  {path}\n" for path, md5 in sorted(sums) if f"/{path}" not in conffiles),
    )
    write(os.path.join(control, "conffiles"), "".join(f"{path}\n" for path in conffiles))
    write(
        os.path.join(control, "control"),
        f"Package: syncagent\nVersion: {version}\nArchitecture: all\nMaintainer: {MAINTAINER}\n"
        f"Installed-Size: {sizes_kib}\nDepends: {DEPENDS}\nRecommends: systemd\n"
        f"Suggests: python3-pil\nSection: net\nPriority: optional\nDescription: {DESCRIPTION}\n",
    )
    for name in ("preinst", "postinst", "prerm", "postrm"):
        copy(f"maintainer/{name}", os.path.join(control, name), mode=0o755, SCHEMA=str(schema), VERSION=version)
    return sizes_kib


def settle(staging: str, moment: int) -> None:
    """Modes and times that do not depend on who builds, where or when."""
    for folder, folders, names in os.walk(staging, topdown=False):
        for name in folders + names:
            path = os.path.join(folder, name)
            is_program = os.path.isdir(path) or is_ours_to_run(os.path.relpath(path, staging))
            os.chmod(path, 0o755 if is_program else 0o644)
            os.utime(path, (moment, moment))
    os.chmod(staging, 0o755)
    os.utime(staging, (moment, moment))


def is_ours_to_run(path: str) -> bool:
    return (
        path.startswith("usr/bin/")
        or path.endswith(".rtupdate")
        or path in {f"DEBIAN/{name}" for name in ("preinst", "postinst", "prerm", "postrm")}
    )


def copy(source: str, target: str, *, mode: int = 0o644, **words: str) -> None:
    with open(os.path.join(PACKAGING, source), encoding="utf-8") as file:
        text = file.read()
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    write(target, text, mode=mode)


def write(path: str, text: str, *, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def write_gz(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(gzip.compress(text.encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
