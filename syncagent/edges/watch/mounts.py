"""Mounts: what is mounted below a directory, and whether that changed.

A mount, and often its end, rings nowhere: inotify goes on watching what lies beneath. Asking costs one system
call.
"""

from __future__ import annotations

import contextlib
import os
import re
import select

MOUNTINFO = "/proc/self/mountinfo"


class Mounts:
    """The kernel's list of mounts. Without /proc nothing ever changes, and the scans are left."""

    def __init__(self) -> None:
        self._fd = -1
        self._poll = select.poll()
        self._points: frozenset[tuple[bytes, bytes]] = frozenset()

    def open(self) -> None:
        with contextlib.suppress(OSError):
            self._fd = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._fd, select.POLLPRI)
            self._points = self._read()

    def close(self) -> None:
        if self._fd >= 0:
            self._poll.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1

    def below(self, root: str) -> frozenset[tuple[bytes, bytes]]:
        """(mount id, path) of everything mounted below `root`, as of now."""
        if self._fd >= 0 and self._poll.poll(0):
            self._points = self._read()
        prefix = os.fsencode(os.path.realpath(root)).rstrip(b"/") + b"/"
        return frozenset(point for point in self._points if point[1].startswith(prefix))

    def _read(self) -> frozenset[tuple[bytes, bytes]]:
        try:
            with open(MOUNTINFO, "rb") as file:
                lines = [line.split(b" ", 5) for line in file]
        except OSError:
            return self._points
        return frozenset((fields[0], _unescape(fields[4])) for fields in lines if len(fields) == 6)


def _unescape(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path)
