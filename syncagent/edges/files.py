"""The file system: listing, pinning, leases, digests, locks.

Promises: no symbolic link below a root is ever followed, no FIFO or device is ever opened for more than the moment
that shows what it is, and a read of a pinned file raises rather than return bytes of another version.
Paths are `str` as `os.fsdecode` gives them, so names that are not UTF-8 survive. Decides nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from syncagent.core.errors import AlreadyRunning, FileChanged, FileVanished, Transient, Trouble
from syncagent.core.model import Digest, Facts
from syncagent.core.words import kind_words
from syncagent.edges.clock import Stop

#: Errors of a disk, not of a file: the same read may succeed when the disk is back.
DISK_ERRNOS = frozenset(
    {errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE}
)
READ_BYTES = 256 * 1024
_HALF = 1 << 63
#: Together a second: far longer than a question takes, and a second agent is still refused soon.
TAKE_ATTEMPTS, TAKE_PAUSE_S = 50, 0.02

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LEAF = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Lease(Enum):
    """What asking for a read lease said about writers."""

    FREE = "no writer has it open"
    BUSY = "a writer has it open"
    UNAVAILABLE = "the file system or the file's owner does not allow leases"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One look at one file: its facts, and whether a writer has it open."""

    facts: Facts
    lease: Lease
    why: str = ""  # for UNAVAILABLE, in words


@dataclass(slots=True)
class Listing:
    """A chunk of one directory. `path` is relative to the walked root ("" for the root itself)."""

    path: str
    files: dict[str, Facts] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    odd: dict[str, str] = field(default_factory=dict)  # name -> "link" | "fifo" | "socket" | "device"
    unreadable: dict[str, str] = field(default_factory=dict)  # name -> why nobody can say what it is
    error: str = ""  # why it could not be read to its end
    missing: bool = False  # it is not there (any more)

    @property
    def entries(self) -> int:
        return len(self.files) + len(self.directories) + len(self.odd) + len(self.unreadable)


def facts_of(status: os.stat_result) -> Facts:
    """What a stat says, in numbers of 64 bits with a sign, the widest that a journal can hold.

    File systems know times before 1677 and after 2262, which become the first or the last nanosecond that fits, and
    inodes of 64 bits without a sign, which keep their bits.
    """
    inode, mtime_ns, ctime_ns = status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    if not (inode < _HALF and -_HALF <= mtime_ns < _HALF and -_HALF <= ctime_ns < _HALF):
        inode = inode - 2 * _HALF if inode >= _HALF else inode
        mtime_ns, ctime_ns = (max(-_HALF, min(time_ns, _HALF - 1)) for time_ns in (mtime_ns, ctime_ns))
    return Facts(status.st_size, mtime_ns, ctime_ns, inode)


def words(error: OSError) -> str:
    """The system's own words for an error, without the path."""
    if error.errno == errno.EOVERFLOW:
        # Of a stat, whose times have 32 bits where the C library's have.
        return "its date lies before 1901 or after 2038, which this 32-bit system cannot read: give it another"
    return error.strerror or type(error).__name__


@contextmanager
def open_directory(root: str, path: str) -> Iterator[int]:
    """A descriptor of `root/path`, reached without following a link below `root`."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.split("/") if path else ():
            if part in ("", ".", ".."):
                raise FileNotFoundError(errno.ENOENT, "not a name below the root", path)
            inner = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def scan_directory(root: str, path: str, *, chunk: int = 2_000) -> Iterator[Listing]:
    """List one directory below `root` in chunks: one stat per entry, nothing opened, memory bounded by `chunk`.

    Never raises OSError: the last Listing says in `error` or `missing` why there is no more.
    """
    listing = Listing(path)
    try:
        with open_directory(root, path) as fd, os.scandir(fd) as entries:
            for entry in entries:
                _note(listing, entry)
                if listing.entries >= chunk:
                    yield listing
                    listing = Listing(path)
    except (FileNotFoundError, NotADirectoryError):
        listing.missing = True
    except OSError as error:
        # ELOOP: the directory became a link while we looked.
        listing.missing = error.errno == errno.ELOOP
        listing.error = "" if listing.missing else words(error)
    yield listing


def _note(listing: Listing, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        # One damaged inode: the other files of its directory are none the worse for it.
        listing.unreadable[entry.name] = words(error)
        return
    if stat.S_ISREG(status.st_mode):
        listing.files[entry.name] = facts_of(status)
    elif stat.S_ISDIR(status.st_mode):
        listing.directories.append(entry.name)
    else:
        listing.odd[entry.name] = kind_words(status.st_mode)


def look(root: str, path: str) -> os.stat_result | None:
    """`lstat` of `root/path` without following a link on the way; None when there is nothing, or can be nothing.

    Raises: Transient(DISK) when that cannot be told.
    """
    head, _, name = path.rpartition("/")
    try:
        with open_directory(root, head) as fd:
            return os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise Transient(f"cannot look: {words(error)}", trouble=Trouble.DISK) from error


def is_file(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISREG(status.st_mode)


def device_of(path: str) -> int | None:
    """The device number of a directory, None when it is not there. A root whose device changes was (un)mounted."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def open_file(root: str, path: str) -> int:
    """A read descriptor of the regular file `root/path`, no link followed.

    Raises: FileVanished; Transient(DISK) when the disk does not answer; Transient(FILE) when it may not be read.
    """
    head, _, name = path.rpartition("/")
    try:
        with open_directory(root, head) as directory:
            # Looked at before it is opened: opening some devices has effects.
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise FileVanished(f"is now a {kind_words(mode)}")
            try:
                # Reading must not cost the card a write of the access time; only the owner may ask for that.
                fd = os.open(name, _LEAF | os.O_NOATIME, dir_fd=directory)
            except PermissionError:
                fd = os.open(name, _LEAF, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileVanished("removed by its writer") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileVanished("is now a link") from error
        trouble = Trouble.DISK if error.errno in DISK_ERRNOS else Trouble.FILE
        raise Transient(f"cannot open: {words(error)}", trouble=trouble) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileVanished("is not a regular file")
    return fd


def ask_lease(fd: int) -> tuple[Lease, str]:
    """Whether anyone has the file open for writing, mapped writers included (fcntl(2), F_SETLEASE with F_RDLCK).

    The lease is given back at once: a writer that opens the file meanwhile is held up by the kernel and SIGIO is
    sent to this process, which must ignore it (`Supervisor.catch_signals`).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ETXTBSY):
            return Lease.BUSY, ""
        if error.errno == errno.EACCES:
            return Lease.UNAVAILABLE, "the file belongs to another user and the agent has no CAP_LEASE"
        return Lease.UNAVAILABLE, f"the file system has none ({words(error)})"
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return Lease.FREE, ""


def sight(root: str, path: str) -> Sighting:
    """Facts and writers of one regular file. Raises what `open_file` raises."""
    fd = open_file(root, path)
    try:
        lease, why = ask_lease(fd)
        return Sighting(facts_of(os.fstat(fd)), lease, why)
    finally:
        os.close(fd)


def _go_on(_start: int) -> None:
    pass


class PinnedFile:
    """One version of one file, open for reading. Use as a context manager.

    Every read goes to the same inode, whatever happens to the name. `check` raises FileChanged once the file is not
    the pinned version any more.
    """

    def __init__(self, fd: int, facts: Facts, *, unsettled: bool = False) -> None:
        self._fd = fd
        self.facts = facts
        #: Sent while still written (`max_unsettled_s`): its first `size_bytes` bytes are the version, growth is none.
        self.unsettled = unsettled
        #: Called with where the next read begins, but for a request's body: who reads gigabytes must listen meanwhile.
        self.pulse: Callable[[int], None] = _go_on

    @classmethod
    def open(cls, root: str, path: str, *, facts: Facts, unsettled: bool = False) -> PinnedFile:
        """Raises: what `open_file` raises; FileChanged when the file is not the version that `facts` describe."""
        pinned = cls(open_file(root, path), facts, unsettled=unsettled)
        try:
            pinned.check()
        except BaseException:
            pinned.close()
            raise
        return pinned

    def __enter__(self) -> PinnedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def size_bytes(self) -> int:
        return self.facts.size_bytes

    def check(self) -> None:
        """Raise FileChanged unless the file is the pinned version and nobody has it open for writing."""
        now = facts_of(os.fstat(self._fd))
        if self.unsettled:
            if now.inode != self.facts.inode or now.size_bytes < self.facts.size_bytes:
                raise FileChanged("rewritten while it was read")
            return
        if now != self.facts:
            raise FileChanged("changed after it was recorded")
        if ask_lease(self._fd)[0] is Lease.BUSY:
            raise FileChanged("opened for writing again")

    def read(self, start: int, size_bytes: int) -> bytes:
        """Exactly the bytes asked for. Raises: FileChanged when the file is shorter now; Transient(DISK)."""
        self.pulse(start)
        return self.bytes_at(start, size_bytes)

    def bytes_at(self, start: int, size_bytes: int) -> bytes:
        """Like `read`, and nobody else gets a turn."""
        pieces = []
        while size_bytes > 0:
            try:
                piece = os.pread(self._fd, size_bytes, start)
            except OSError as error:
                raise Transient(f"cannot read: {words(error)}", trouble=Trouble.DISK) from error
            if not piece:
                raise FileChanged("cut short while it was read")
            pieces.append(piece)
            start += len(piece)
            size_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def digest(self, start: int = 0, size_bytes: int | None = None) -> Digest:
        """MD5 and SHA-256 of a stretch of the file (the whole of it by default), in bounded memory."""
        left = self.size_bytes - start if size_bytes is None else size_bytes
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        while left > 0:
            piece = self.read(start, min(READ_BYTES, left))
            md5.update(piece)
            sha256.update(piece)
            start += len(piece)
            left -= len(piece)
        return Digest(md5.digest(), sha256.digest())

    def stretch(self, start: int, size_bytes: int) -> Stretch:
        """A part of the file as the body of a request."""
        return Stretch(self, start, size_bytes)


class Stretch:
    """Bytes of a pinned file as a rewindable body. Its last read checks that the file is still the pinned version,
    so that a changed file never becomes a whole body."""

    def __init__(self, pinned: PinnedFile, start: int, size_bytes: int) -> None:
        self._pinned = pinned
        self._start = start
        self.size_bytes = size_bytes
        self._at = 0

    def read(self, n: int = -1, /) -> bytes:
        left = self.size_bytes - self._at
        wanted = left if n < 0 else min(n, left)
        if wanted == 0:
            return b""
        piece = self._pinned.bytes_at(self._start + self._at, wanted)
        self._at += wanted
        if self._at == self.size_bytes:
            self._pinned.check()
        return piece

    def rewind(self) -> None:
        self._at = 0


class Content:
    """Bytes in memory as a rewindable body; `digest` is theirs, so that nobody need hash them again."""

    def __init__(self, content: bytes, digest: Digest | None = None) -> None:
        self.digest = digest
        self._content = content
        self.size_bytes = len(content)
        self._at = 0

    def read(self, n: int = -1, /) -> bytes:
        end = self.size_bytes if n < 0 else min(self._at + n, self.size_bytes)
        piece = self._content[self._at : end]
        self._at = end
        return piece

    def rewind(self) -> None:
        self._at = 0


def digest_of(content: bytes) -> Digest:
    return Digest(hashlib.md5(content, usedforsecurity=False).digest(), hashlib.sha256(content).digest())


class Hold:
    """An exclusive claim on a file, ended by `release` or by the end of the process."""

    def __init__(self, path: str) -> None:
        """Raises: AlreadyRunning, with the PID of the holder; Transient(DISK)."""
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            self._take()
            pid_line = f"{os.getpid()}\n".encode()
            # Written only when it differs: a start must not cost the card more than it has to.
            if os.pread(self._fd, 32, 0) != pid_line:
                # In this order, what a killed agent left makes room on a full disk.
                os.pwrite(self._fd, pid_line, 0)
                os.ftruncate(self._fd, len(pid_line))
        except BlockingIOError as error:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunning(f"PID {pid} already runs with {os.path.dirname(path)}") from error
        except OSError as error:
            if self._fd >= 0:
                os.close(self._fd)
            raise Transient(f"cannot lock {path}: {words(error)}", trouble=Trouble.DISK) from error

    def _take(self) -> None:
        """Whoever asks `is_held` has the lock for a moment: only one that stays taken is another agent's."""
        for attempt in range(TAKE_ATTEMPTS + 1):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt == TAKE_ATTEMPTS:
                    raise
                Stop().wait(TAKE_PAUSE_S)

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def is_held(path: str) -> int | None:
    """The PID that holds `path`, or None. Takes the lock for no longer than the question."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


def write_whole(root: str, path: str, data: bytes, *, mode: int = 0o644) -> None:
    """Put a file under `root/path`, whole and durable or not at all, in the place of what is there.

    Raises: OSError.
    """
    head, _, name = path.rpartition("/")
    with open_directory(root, head) as directory:
        # The name tells whose it is, should a power cut leave it: a dot file is nobody's message or picture.
        temporary = f".{name[:40]}.{os.getpid()}-{threading.get_ident():x}.tmp"
        fd = os.open(temporary, _NEW, mode, dir_fd=directory)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)


def rename(root: str, path: str, other: str) -> None:
    """Move a file below one root, durable. Raises: OSError."""
    head, _, name = path.rpartition("/")
    other_head, _, other_name = other.rpartition("/")
    with open_directory(root, head) as source, open_directory(root, other_head) as target:
        os.rename(name, other_name, src_dir_fd=source, dst_dir_fd=target)
        os.fsync(target)
        os.fsync(source)


def unlink(root: str, path: str) -> None:
    """Remove a name below a root; not durable by itself. Raises: OSError."""
    head, _, name = path.rpartition("/")
    with open_directory(root, head) as directory:
        os.unlink(name, dir_fd=directory)


def remove_tree(root: str, name: str) -> None:
    """Remove a directory of our own directly below a root, with all that is in it; no link is followed.

    Raises: Transient(DISK).
    """
    try:
        shutil.rmtree(os.path.join(root, name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise Transient(f"cannot remove {root}/{name}: {words(error)}", trouble=Trouble.DISK) from error


def make_below(root: str, path: str, *, mode: int) -> None:
    """Make a directory and its parents below a root, with exactly this mode, no link followed. Raises: OSError."""
    done: list[str] = []
    for part in path.split("/"):
        with open_directory(root, "/".join(done)) as parent:
            try:
                # The setgid bit comes from the parent, where that has it: a sandbox may forbid to set one.
                os.mkdir(part, mode & 0o1777, dir_fd=parent)
            except FileExistsError:
                pass
            else:
                inner = os.open(part, _DIRECTORY, dir_fd=parent)
                try:
                    if stat.S_IMODE(os.fstat(inner).st_mode) != mode:
                        os.fchmod(inner, mode)  # whatever the umask says
                finally:
                    os.close(inner)
                os.fsync(parent)
        done.append(part)


def make_directory(path: str, *, mode: int = 0o775) -> None:
    """Make a directory and its parents where missing. Raises: Transient(DISK)."""
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
    except OSError as error:
        raise Transient(f"cannot make {path}: {words(error)}", trouble=Trouble.DISK) from error


def figures_of(path: str) -> os.statvfs_result:
    """What there is, and is free, on the file system of `path`. Raises: Transient(DISK)."""
    try:
        return os.statvfs(path)
    except OSError as error:
        raise Transient(f"cannot ask {path} for its space: {words(error)}", trouble=Trouble.DISK) from error


def space_of(path: str) -> tuple[int, int, float]:
    """(free bytes, total bytes, free inodes in percent) of the file system of `path`. Raises: Transient(DISK)."""
    figures = figures_of(path)
    inodes_percent = 100.0 * figures.f_favail / figures.f_files if figures.f_files else 100.0
    return figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize, inodes_percent
