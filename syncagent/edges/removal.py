"""Removing one version of one file, and nothing else that may have come under its name.

Promises that a file which was opened for writing, written or replaced at any moment before the removal stays, and
that whatever moment ends the process, the file is there under its own name, or under one that tells whose it is.
Where no lease can be had, who opens the file to write is not seen, and who writes after the last look is not, either.
Decides nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from syncagent.core.errors import FileVanished, Transient, Trouble
from syncagent.core.model import Facts
from syncagent.core.retention import Space
from syncagent.core.territory import ASIDE
from syncagent.edges import files
from syncagent.edges.files import Lease

logger = logging.getLogger(__name__)

#: Of a name, so that the whole stays under the 255 bytes that a file system allows.
_NAME_BYTES = 200
_MAX_TWINS = 1_000
#: Of a row id, which has 64 bits. Whoever made a name like ours may have written anything.
_ID = re.compile(r"[0-9]{1,18}")
#: A directory that has no room for another name can still lose one.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)


class Outcome(Enum):
    REMOVED = "removed"
    VANISHED = "it was not there any more"
    CHANGED = "it is not the version any more"
    BUSY = "somebody has it open for writing"


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of one file."""

    outcome: Outcome
    twin: Facts | None = None  # of its other names, when nothing but the ctime of what they name can be new


def aside_name(name: str, row_id: int) -> str:
    return f"{ASIDE}{row_id}.{os.fsdecode(os.fsencode(name)[:_NAME_BYTES])}"


def parse_aside(name: str) -> tuple[int, str] | None:
    """(row id, the name it had, or how that begins) of a file that was set aside."""
    number, dot, rest = name.removeprefix(ASIDE).partition(".")
    return (int(number), rest) if name.startswith(ASIDE) and dot and rest and _ID.fullmatch(number) else None


def space_at(path: str) -> Space:
    """What the file system of `path` has. Raises: Transient(DISK)."""
    figures = files.figures_of(path)
    unit = figures.f_frsize
    return Space(figures.f_bavail * unit, figures.f_blocks * unit, figures.f_favail, figures.f_files)


def may_remove(root: str, path: str) -> bool:
    """Whether the directory of a file lets us take a name out of it, as far as its permissions tell."""
    try:
        with files.open_directory(root, path.rpartition("/")[0]) as directory:
            return os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True)
    except OSError:
        return False


def remove(root: str, path: str, facts: Facts, *, row_id: int) -> Removal:
    """Remove the file if it still is the version that `facts` describe, and nobody is about to change it.

    A read lease is held from before the first look until after the removal, so that whoever opens the file for
    writing meanwhile waits, and shows. Not durable before `sync`. Raises: Transient(DISK), Transient(FILE).
    """
    try:
        fd = files.open_file(root, path)
    except FileVanished:
        return Removal(Outcome.VANISHED)
    head, _, name = path.rpartition("/")
    try:
        lease = _take_lease(fd)
        if lease is Lease.BUSY:
            return Removal(Outcome.BUSY)
        if files.facts_of(os.fstat(fd)) != facts:
            return Removal(Outcome.CHANGED)
        with files.open_directory(root, head) as directory:
            return _remove(directory, name, fd, facts, aside_name(name, row_id), is_leased=lease is Lease.FREE)
    except (FileNotFoundError, NotADirectoryError):
        return Removal(Outcome.VANISHED)
    except OSError as error:
        raise Transient(f"cannot remove: {files.words(error)}", trouble=Trouble.DISK) from error
    finally:
        os.close(fd)  # which ends the lease, too


def _remove(directory: int, name: str, fd: int, facts: Facts, aside: str, *, is_leased: bool) -> Removal:
    if _exists(directory, aside):
        return Removal(Outcome.CHANGED)  # left by a run that ended in between; it is mended first
    try:
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        aside = name
    if not _is_same(directory, aside, fd, facts) or (is_leased and not _is_held(fd)):
        if aside != name:
            put_back_in(directory, aside, name)
        return Removal(Outcome.CHANGED)
    os.unlink(aside, dir_fd=directory)
    return Removal(Outcome.REMOVED, _twin(fd, facts) if is_leased else None)


def _twin(fd: int, facts: Facts) -> Facts | None:
    """What the other names of the file say now; None without any, or when somebody may have written to it."""
    own = os.fstat(fd)
    now = files.facts_of(own)
    is_same = (now.size_bytes, now.mtime_ns, now.inode) == (facts.size_bytes, facts.mtime_ns, facts.inode)
    return now if own.st_nlink and is_same and _is_held(fd) else None


def _take_lease(fd: int) -> Lease:
    """Take a read lease and keep it."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Lease.BUSY if error.errno in (errno.EAGAIN, errno.ETXTBSY) else Lease.UNAVAILABLE
    return Lease.FREE


def _is_held(fd: int) -> bool:
    """Whether nobody has asked to write since the lease was taken."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def _is_same(directory: int, name: str, fd: int, facts: Facts) -> bool:
    """Whether the name is our file's, which is still as it was; being renamed gave it a new ctime."""
    found, own = os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(fd)
    now = files.facts_of(own)
    is_ours = (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)
    return is_ours and (now.size_bytes, now.mtime_ns) == (facts.size_bytes, facts.mtime_ns)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def put_back(root: str, path: str, name: str) -> str:
    """Give a file that was set aside its name again, or a free one beside it; returns which. Raises: OSError."""
    head, _, aside = path.rpartition("/")
    with files.open_directory(root, head) as directory:
        given = put_back_in(directory, aside, name)
        os.fsync(directory)
        return given


def put_back_in(directory: int, aside: str, name: str) -> str:
    """Never in the place of another file: whatever came under the name meanwhile stays."""
    stem, extension = os.path.splitext(name)
    for number in range(_MAX_TWINS):
        chosen = name if not number else f"{stem}.put-back-{number}{extension}"
        try:
            os.link(aside, chosen, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:
            # No hard links here (FAT), or no room for a second name.
            if _exists(directory, chosen):
                continue
            os.rename(aside, chosen, src_dir_fd=directory, dst_dir_fd=directory)
            return chosen
        os.unlink(aside, dir_fd=directory)
        return chosen
    raise FileExistsError(errno.EEXIST, "too many files of that name", name)


def finish(root: str, path: str) -> None:
    """Remove a file that was set aside. Raises: OSError."""
    head, _, aside = path.rpartition("/")
    with files.open_directory(root, head) as directory:
        os.unlink(aside, dir_fd=directory)
        os.fsync(directory)


def sync(root: str, directories: Iterable[str]) -> None:
    """Make removals durable; one that a power cut undoes is only done again."""
    for path in directories:
        with contextlib.suppress(OSError), files.open_directory(root, path) as directory:
            os.fsync(directory)


def remove_directory(root: str, path: str) -> bool:
    """Remove a directory if it is empty; whether it was."""
    head, _, name = path.rpartition("/")
    try:
        with files.open_directory(root, head) as parent:
            os.rmdir(name, dir_fd=parent)
    except OSError:
        return False
    return True
