"""A few MiB on the card that are kept for the journal: given up when it is full, made again when there is room."""

from __future__ import annotations

import contextlib
import logging
import os

logger = logging.getLogger(__name__)

FILE_NAME = "reserve"
MOST_BYTES = 4 << 20
#: Of the whole file system, at most; where that is too little to help, there is none.
SHARE, LEAST_BYTES = 64, 256 << 10
#: It is made when so many times of it are free.
MARGIN = 4


class Reserve:
    """One file. Thread-safe: what one thread gave up is gone for the others."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE_NAME)

    def is_there(self) -> bool:
        """Whether an agent that had its journal made it."""
        return os.path.exists(self._path)

    def give_up(self) -> bool:
        """Make room; whether there was something to give."""
        try:
            os.unlink(self._path)
        except OSError:
            return False
        logger.warning("reserve given up: the disk of the journal is full")
        return True

    def give_up_if_full(self) -> None:
        """At the start, when the journal has to be opened: SQLite makes files beside it."""
        with contextlib.suppress(OSError):
            figures = os.statvfs(os.path.dirname(self._path))
            if figures.f_bavail * figures.f_frsize < LEAST_BYTES or (figures.f_files and not figures.f_favail):
                self.give_up()

    def make(self) -> None:
        """Make it where it is missing and there is room."""
        with contextlib.suppress(OSError):
            if os.path.exists(self._path):
                return
            figures = os.statvfs(os.path.dirname(self._path))
            size = min(MOST_BYTES, figures.f_blocks * figures.f_frsize // SHARE)
            if size < LEAST_BYTES or figures.f_bavail * figures.f_frsize < MARGIN * size:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # Blocks, and no bytes: the card is not worn by it.
                os.posix_fallocate(fd, 0, size)
            except OSError:
                os.unlink(self._path)
            finally:
                os.close(fd)
