"""The scratch directory of one call: made empty, looked into without following a link, made durable, removed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from syncagent.core.errors import HandlerFailed, Transient, Trouble

Scratch = tuple[str, int]  # path and descriptor


def name_in(scratch: str, disk_path: str) -> str:
    """The name of a file of the scratch directory; "" for a path to anywhere else."""
    name = disk_path
    for prefix in (os.path.abspath(scratch) + "/", os.path.realpath(scratch) + "/", "./"):
        if disk_path.startswith(prefix):
            name = disk_path.removeprefix(prefix)
            break
    return "" if "/" in name or "\0" in name or name in ("", ".", "..") else name


def make_durable(name: str, directory: int) -> str:
    """Why this is no file to send, in words; "" when it is, and has reached the disk."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        if status.st_nlink != 1:
            return "is a link to another file"
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except (FileNotFoundError, UnicodeEncodeError):
        return "is not there"
    except PermissionError:
        return "may not be read"
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return ""


@contextmanager
def reported() -> Iterator[None]:
    """A disk that does not do its work, in our own words."""
    try:
        yield
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise Transient(f"scratch directory of a handler: {what}", trouble=Trouble.DISK) from error


@contextmanager
def opened(scratch: str) -> Iterator[Scratch]:
    """Raises: HandlerFailed when the handler took it away."""
    try:
        fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise HandlerFailed("handler: removed its working directory") from None
    try:
        yield scratch, fd
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_empty(scratch: str) -> None:
    """An empty directory in place of whatever was there. Raises: Transient(DISK)."""
    with reported():
        try:
            status = os.lstat(scratch)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(scratch)  # follows no link, and refuses one in its own place
            else:
                os.unlink(scratch)
        os.makedirs(os.path.dirname(os.path.abspath(scratch)), exist_ok=True)
        os.mkdir(scratch, 0o700)


def remove(scratch: str) -> None:
    """As far as possible: the next call begins with an empty directory anyway."""
    shutil.rmtree(scratch, ignore_errors=True)
