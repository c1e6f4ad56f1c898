"""One guest of the lab, driven by its scripts: commands and files go in and out even without a network.

The lab is a folder of its own, named by VMLAB (by default ../shared/vmlab); it says what it needs. A guest is slow
and shares this machine with others, so every wait is ten times what a board would need.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.packaging.building import ROOT

PACKAGES = ("python3-cryptography", "python3-yaml", "adduser")
WAIT_S = 240.0


class LabMissing(Exception):
    """There is no lab, or no right to use it; the text says what to do."""


def lab_dir(program: str = "run-guest", *, target: str = "test-vm") -> str:
    """The lab's folder, which has that program; the target of make names it to people. Raises: LabMissing."""
    found = os.environ.get("VMLAB") or os.path.join(os.path.dirname(ROOT), "shared", "vmlab")
    if not os.access(os.path.join(found, program), os.X_OK):
        raise LabMissing(f"there is no lab in {found}: name its folder, make {target} VMLAB=/path/to/vmlab")
    if os.geteuid() != 0:
        raise LabMissing(f"the lab builds images and boots machines as root: sudo make {target}")
    return found


@dataclass
class Guest:
    """A machine that is there for the length of the `with` block."""

    name: str
    forward: int  # a port of this host's loopback, which the guest reaches as 10.0.2.2
    options: tuple[str, ...] = ()  # of every start
    disk: str = "writeback"  # strict: what was not flushed is lost in a power cut
    _lab: str = field(default_factory=lab_dir)

    def __enter__(self) -> Self:
        self._call("rm", self.name, check=False)
        try:
            self.boot()
        except BaseException:
            self._call("rm", self.name, check=False)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._call("rm", self.name, check=False)

    @property
    def directory(self) -> str:
        """Where the lab keeps this guest's disks and logs."""
        caches = os.environ.get("XDG_CACHE_HOME") or "/var/tmp"
        cache = os.environ.get("VMLAB_CACHE") or os.path.join(caches, "vmlab")
        return os.path.join(cache, "guests", self.name)

    def boot(self) -> None:
        self._start()

    def save(self, tag: str) -> None:
        """Keep the machine as it is; `restore` has it back in seconds, its disk included."""
        self._call("save", self.name, tag)

    def restore(self, tag: str) -> None:
        self._start("--restore", tag)

    def _start(self, *words: str) -> None:
        packages = [word for package in PACKAGES for word in ("--package", package)]
        options = ("--forward", str(self.forward), "--disk", self.disk, *self.options)
        self._call("start", self.name, *packages, *options, *words, timeout_s=1200)

    def stop(self) -> None:
        self._call("stop", self.name, timeout_s=400)

    def kill(self) -> None:
        """The power is cut. A last line of acks without its end was still on its way: it claims nothing."""
        self._call("kill", self.name)
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.directory, "ack.log"), "rb+") as log:
            log.truncate(log.read().rfind(b"\n") + 1)

    def acked(self) -> list[str]:
        """The lines that came through the ack port."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.directory, "ack.log")) as log:
            return log.read().splitlines()
        return []

    def cable(self, state: str) -> None:
        self._call("link", self.name, state)

    def push(self, source: str, target: str) -> None:
        self._call("push", self.name, source, target)

    def attach(self, file: str, *, size: str = "64M", disk: str = "writeback") -> str:
        """A disk as by USB: it is there now, under the name that is returned."""
        return self._call("attach", self.name, file, "--size", size, "--disk", disk).stdout.strip()

    def begin(self, script: str) -> None:
        """A shell script inside that goes on by itself."""
        self._call("exec", self.name, "--detach", "--", "/bin/sh", "-euc", script)

    def run(self, script: str, *, check: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """A shell script inside, as root."""
        wanted = ("exec", self.name, "--timeout", str(timeout_s), "--", "/bin/sh", "-euc", script)
        return self._call(*wanted, check=check, timeout_s=timeout_s + 60)

    def says(self, script: str) -> str:
        return self.run(script).stdout.strip()

    def _call(self, *words: str, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        command = [os.path.join(self._lab, "run-guest"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done


def wait_for(condition: Callable[[], bool], what: str, *, deadline_s: float = WAIT_S) -> None:
    """Return once it holds; AssertionError when it never did."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {deadline_s:.0f} s")
        time.sleep(0.5)
