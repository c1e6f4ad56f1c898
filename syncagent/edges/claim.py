"""A claim on a directory, between the agent and the commands beside it; it costs the card nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from syncagent.core.errors import AlreadyRunning, Transient, Trouble


@contextlib.contextmanager
def claimed(directory: str) -> Iterator[None]:
    """Hold the directory, alone. Raises: AlreadyRunning when another process does; Transient(DISK)."""
    try:
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o750, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Transient(f"{directory}: {error.strerror}", trouble=Trouble.DISK) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(f"another process is at work in {directory}") from error
        yield
    finally:
        os.close(fd)
