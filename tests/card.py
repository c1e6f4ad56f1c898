"""A card of a few MiB: a real file system of its own, made for one test, which can be filled and can break.

Needs root. A tool that is missing raises: a test without its disk is a failure, not a skip.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.servers import program


def run(*command: str) -> str:
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass
class Card:
    """One mounted file system. `image` is empty for one in memory."""

    path: str
    image: str = ""

    @property
    def device(self) -> str:
        """The block device of a file system in an image."""
        return run("findmnt", "-n", "-o", "SOURCE", self.path)

    def free_bytes(self) -> int:
        figures = os.statvfs(self.path)
        return figures.f_bavail * figures.f_frsize

    def free_percent(self) -> float:
        figures = os.statvfs(self.path)
        return 100 * figures.f_bavail / figures.f_blocks

    def fill(self, name: str = "filler") -> str:
        """Somebody else's file takes all that is left."""
        path = os.path.join(self.path, name)
        for size_bytes in (64 * 1024, 4096, 512):
            with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(size_bytes)):
                    pass
        return path

    def use_up_names(self) -> list[str]:
        """Somebody else's empty files take every inode."""
        directory = os.path.join(self.path, "names")
        os.makedirs(directory, exist_ok=True)
        made: list[str] = []
        with contextlib.suppress(OSError):
            while True:
                path = os.path.join(directory, str(len(made)))
                with open(path, "wb"):
                    made.append(path)
        return made

    def abort(self) -> None:
        """As ext4 does after an error that it met: read-only from one moment to the next."""
        run("mount", "-o", "remount,abort", self.path)

    def mount(self) -> None:
        run("mount", "-o", "loop", self.image, self.path)

    def umount(self) -> None:
        run("umount", self.path)

    def written_sectors(self) -> int:
        """Of 512 bytes, what the block device was told to write so far."""
        with open(f"/sys/class/block/{os.path.basename(self.device)}/stat") as file:
            return int(file.read().split()[6])


@contextmanager
def card(path: str, size_bytes: int, kind: str, *, inodes: int | None = None) -> Iterator[Card]:
    """`kind`: "ext4", in an image beside the directory, or "tmpfs"."""
    os.makedirs(path, exist_ok=True)
    made = Card(path)
    if kind == "tmpfs":
        count = f",nr_inodes={inodes}" if inodes else ""
        run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}{count}", "none", path)
    else:
        made.image = f"{path}.img"
        with open(made.image, "wb") as file:
            file.truncate(size_bytes)
        # Without blocks that only root may use: the agent is root here, and shall meet a full disk.
        run("mkfs.ext4", "-q", "-m", "0", *(["-N", str(inodes)] if inodes else []), made.image)
        made.mount()
    try:
        yield made
    finally:
        subprocess.run([program("umount"), "--lazy", path], check=False, capture_output=True)
