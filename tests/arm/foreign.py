"""A Debian for another processor in a directory: the lab's files, copied for each use, run by QEMU's user emulation.

The lab is a folder of its own, named by VMLAB (by default ../shared/vmlab). Its images are only ever copied from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.packaging.building import ROOT
from tests.packaging.chroot import Chroot
from tests.vm.lab import lab_dir

#: What the package depends on and the tests import, where it is compiled: the distribution's, as on a device.
PACKAGES = ("python3-cryptography", "python3-yaml", "python3-pil", "python3-markupsafe", "adduser")
#: What the tests need beside the product, at the versions of the lock.
TOOLS = ("hypothesis", "iniconfig", "packaging", "pluggy", "pygments", "pytest", "pytest-timeout", "sortedcontainers")
#: How wheels call the processors, the newest C library first.
PLATFORMS = {
    "arm64": tuple(f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)),
    "armhf": tuple(f"manylinux_2_{minor}_armv7l" for minor in range(36, 16, -1)),
}
TREE, DEPENDENCIES = "/srv/tree", "/srv/dependencies"


def foreign(arch: str) -> Chroot:
    """A copy of the lab's files for `arch`, which are made first where they are missing. Raises: LabMissing."""
    program = os.path.join(lab_dir("build-image", target="test-arm"), "build-image")
    packages = [word for package in PACKAGES for word in ("--package", package)]
    made = subprocess.run(
        [program, "--arch", arch, "--chroot", *packages], check=True, stdout=subprocess.PIPE, text=True
    )
    enable = os.path.join(os.path.dirname(program), "enable-binfmt")  # an image that was there says nothing of QEMU
    subprocess.run([enable, arch], check=True)
    return Chroot(f"arm-{arch}", base=os.path.join(made.stdout.strip(), "rootfs"))


def bring_tests(root: Chroot, arch: str, python: str) -> None:
    """This tree, and what pytest is made of, for the Python of that version inside."""
    for name in sorted(os.listdir(ROOT)):
        if not name.startswith(".") and name not in ("build", "dist"):
            root.bring(os.path.join(ROOT, name), f"{TREE}/{name}")
    lock = os.path.join(root.root, "srv", "lock.txt")
    with open(os.path.join(ROOT, "packaging/lock/dev.txt"), encoding="utf-8") as file:
        blocks = re.split(r"\n(?=[a-z0-9])", file.read())
    wanted = [block for block in blocks if block.startswith(tuple(f"{name}==" for name in TOOLS))]
    with open(lock, "w", encoding="utf-8") as file:
        file.write("\n".join(wanted) + "\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "-q",
        "--disable-pip-version-check",
        "--no-compile",
        "--no-deps",
    ]
    command += ["--require-hashes", "--only-binary", ":all:", "--target", root.path(DEPENDENCIES), "-r", lock]
    command += ["--implementation", "cp", "--python-version", python, "--abi", f"cp{python.replace('.', '')}"]
    command += [word for platform in PLATFORMS[arch] for word in ("--platform", platform)]
    subprocess.run(command, check=True)
