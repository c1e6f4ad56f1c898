"""Room on the card that belongs to a file before it needs it, so that it can grow when nothing is free any more.

Blocks are allocated behind the file's end; no byte is written, and its size stays. Where the file system cannot do
that, there is no such room.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, <linux/falloc.h>
MOST_BYTES = 2 << 20
#: Of the whole file system, at most; where that is too little to help, there is none.
SHARE, LEAST_BYTES = 48, 64 << 10
#: It is taken while so many times of it are free.
MARGIN = 4


def _allocate(fd: int, start: int, size_bytes: int) -> None:
    """fallocate(2), which Python does not have: posix_fallocate changes the size. What fails leaves all as it was.

    By the name whose offsets have 64 bits everywhere: those of plain `fallocate` have 32 on a 32-bit system.
    """
    with contextlib.suppress(OSError, AttributeError):
        call = ctypes.CDLL(None, use_errno=True).fallocate64
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        call(fd, _KEEP_SIZE, start, size_bytes)


class Room:
    """Behind the ends of some files. Call it with a lock of your own.

    Closing a descriptor of a file drops the locks that this process has on it, also SQLite's (fcntl(2)): what was
    opened stays open until `close`, which comes after the database's own.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._fds: dict[str, int] = {}

    def keep(self) -> None:
        """Allocate where less than half is left, and enough is free. Costs a stat when all is well."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                self._keep(self._fd(path))

    def _fd(self, path: str) -> int:
        fd = self._fds.get(path, -1)
        if fd < 0:
            fd = self._fds[path] = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return fd

    def _keep(self, fd: int) -> None:
        status, figures = os.fstat(fd), os.fstatvfs(fd)
        wanted = min(MOST_BYTES, figures.f_blocks * figures.f_frsize // SHARE)
        left = status.st_blocks * 512 - status.st_size
        if wanted < LEAST_BYTES or left >= wanted // 2 or figures.f_bavail * figures.f_frsize < MARGIN * wanted:
            return
        _allocate(fd, status.st_size, wanted)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
