"""A Debian in a directory: made once by mmdebstrap, copied for each use, entered without a network.

Everything runs in namespaces of its own (mounts, and for `offline` the network), so that nothing of it outlives the
call. Needs root and mmdebstrap; the network only to make the first copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Self

#: As on a fresh Debian; `systemd` brings systemd-sysusers and the unit's directory, though nothing is booted.
INCLUDED = "python3,python3-cryptography,python3-yaml,adduser,systemd,ca-certificates"


def cache_dir() -> str:
    return os.environ.get("SYNCAGENT_CHROOTS") or "/var/tmp/syncagent-chroots"


def base_of(release: str) -> str:
    """The untouched copy of a release."""
    base = os.path.join(cache_dir(), release)
    if not os.path.exists(os.path.join(base, "etc/debian_version")):
        os.makedirs(cache_dir(), exist_ok=True)
        shutil.rmtree(base, ignore_errors=True)
        making = f"{base}.{os.getpid()}"
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={INCLUDED}", release, making],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        os.rename(making, base)
    return base


@dataclass
class Chroot:
    """One copy, removed at the end: of a release, or of the directory `base` and then only called by its name."""

    release: str
    root: str = ""
    base: str = ""

    def __enter__(self) -> Self:
        self.root = tempfile.mkdtemp(prefix=f"{self.release}-", dir=cache_dir() if os.path.isdir(cache_dir()) else None)
        subprocess.run(["cp", "-a", "--reflink=auto", f"{self.base or base_of(self.release)}/.", self.root], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root)

    def path(self, inside: str) -> str:
        return os.path.join(self.root, inside.lstrip("/"))

    def bring(self, source: str, inside: str) -> None:
        os.makedirs(os.path.dirname(self.path(inside)), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, self.path(inside), ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, self.path(inside))

    def run(self, script: str, *, offline: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """A shell script inside; offline it has a loopback of its own, and nothing else."""
        mounts = "mount --make-rprivate / && for d in proc sys dev; do mount --rbind /$d $0/$d; done"
        link = "ip link set lo up 2>/dev/null || true" if offline else "true"
        inside = f'{mounts} && {link}; exec chroot $0 /bin/sh -euc "$1"'
        command = ["unshare", "--mount", *(["--net"] if offline else []), "sh", "-c", inside, self.root, script]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
        }
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment, stdin=subprocess.DEVNULL
        )

    def told(self, script: str, *, offline: bool = True, timeout_s: float = 1800) -> str:
        """What a script says that must succeed; where the processor is emulated, it takes its time."""
        done = self.run(script, offline=offline, timeout_s=timeout_s)
        if done.returncode != 0:
            raise AssertionError(f"{script}\n{done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
        return done.stdout
