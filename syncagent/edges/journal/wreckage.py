"""Torn journals beside the one in use: kept for whoever wants to look into them, and never read again.

Only the process that holds the agent's locks may set one aside. Of several the newest and one more are kept.
"""

from __future__ import annotations

import contextlib
import os
import stat

from syncagent.core.errors import JournalBroken

from .database import FILE_NAME

_PREFIX = f"{FILE_NAME}.torn-"
#: What SQLite keeps beside its file.
_BESIDE = ("-wal", "-shm")


def wrecks(state_dir: str) -> list[str]:
    """The names of the torn journals in a state directory, by date."""
    return sorted(name for name in os.listdir(state_dir) if name.startswith(_PREFIX) and not name.endswith(_BESIDE))


def is_missing(state_dir: str) -> bool:
    """Whether there is no journal, or nothing in it: so it is after a power cut that lost its first pages."""
    try:
        status = os.stat(os.path.join(state_dir, FILE_NAME))
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def set_aside(state_dir: str, day: str) -> str:
    """Move the journal, which nobody has open, out of the way; returns the name it has now. Raises: JournalBroken."""
    before = wrecks(state_dir)
    name = next(name for name in _names(f"{_PREFIX}{day}") if name not in before)
    try:
        # The log first: SQLite would fold one that is left behind into the next file of that name.
        for ending in (*_BESIDE, ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(state_dir, FILE_NAME + ending), os.path.join(state_dir, name + ending))
        _sync(state_dir)
    except OSError as error:
        raise JournalBroken(f"cannot set the torn journal aside as {name} in {state_dir}: {error.strerror}") from error
    for old in before[:-1]:
        for ending in ("", *_BESIDE):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(state_dir, old + ending))
    return name


def _names(first: str) -> list[str]:
    return [first, *(f"{first}.{number}" for number in range(2, 1_000))]


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
