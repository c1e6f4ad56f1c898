"""The drop: bytes to a place below one directory, whole and durable, or not at all.

Promises: nothing outside of the root is touched, no link is followed, no FIFO or device is opened for more than the
moment that shows what it is; at its place there is the old file or the new one, whatever ends the process or the
disk; what `put` returned for survives a power cut. A place that cannot be used is Refused, a disk that does not take
it is Transient(DISK), a group that it cannot have is Blocked. Leaves to others: what goes where, in which order, and
what becomes of older images.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

from syncagent.core.errors import Blocked, Refused, Transient, Trouble
from syncagent.core.words import kind_words

READ_BYTES = 256 * 1024

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: opening a FIFO that nobody writes to would hang for ever.
_LEAF = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Errors of the place, not of the disk: the same will happen until somebody changes it.
_PLACE_ERRNOS = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
_TEMPORARY = ".syncagent-drop-"


class Drop:
    """Places below `root`, by relative paths that are checked already. `mode` and `group` are for what is dropped."""

    def __init__(self, root: str, *, mode: int = 0o644, group: str | None = None) -> None:
        self.root = root
        self._mode = mode
        self._group = group

    def absolute(self, path: str) -> str:
        return os.path.join(self.root, path)

    def check(self, path: str) -> None:
        """Raises: Refused where something stands in a file's way, Blocked where it cannot have its group,
        Transient(DISK)."""
        self._gid()
        with self._translated(path):
            try:
                with self._parent(path) as (parent, name):
                    self._look(parent, name, path)
            except FileNotFoundError:
                return

    def free_bytes(self) -> int:
        """What the file system of the root has left for us. Raises: Transient(DISK)."""
        with self._translated(self.root):
            figures = os.statvfs(self.root)
        return figures.f_bavail * figures.f_frsize

    def holds(self, path: str, *, sha256: str, length: int | None = None) -> bool:
        """Whether the file is there with that digest. Raises: Transient(DISK), Refused."""
        return self.length_of(path, sha256=sha256, length=length) is not None

    def length_of(self, path: str, *, sha256: str, length: int | None = None) -> int | None:
        """How many bytes the file has that is there with that digest, else None. Raises: Transient(DISK), Refused.

        One that is not as long as `length` is not read.
        """
        with self._translated(path):
            try:
                with self._parent(path) as (parent, name):
                    if self._has(parent, name, path, sha256, length):
                        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
            except FileNotFoundError:
                pass  # it is not there, or not any more
        return None

    def put(self, path: str, chunks: Iterable[bytes], *, sha256: str, length: int) -> bool:
        """Put a file there; False when it was there already.

        Raises: Refused, also when the chunks are not what `sha256` says: then all is as it was. Transient(DISK),
        Blocked where it cannot have its group, what `chunks` raises.
        """
        with self._translated(path), self._parent(path, is_made=True) as (parent, name):
            self._look(parent, name, path)
            if self._has(parent, name, path, sha256, length):
                # It may have come there a moment before the power went.
                os.fsync(parent)
                return False
            temporary = _temporary_name(name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)  # of a run that was killed
            fd = os.open(temporary, _NEW, 0o600, dir_fd=parent)
            try:
                try:
                    self._fill(fd, chunks, sha256, length)
                    self._give(fd)
                    os.fchmod(fd, self._mode)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)
            return True

    def tidy(self, path: str) -> None:
        """Remove what a run left there that was killed while it put the file. Raises: Transient(DISK), Refused."""
        with self._translated(path), contextlib.suppress(FileNotFoundError), self._parent(path) as (parent, name):
            os.unlink(_temporary_name(name), dir_fd=parent)

    def read(self, path: str) -> Iterator[bytes]:
        """The file's bytes. Raises: Refused when it is not there, or no regular file; Transient(DISK)."""
        with self._translated(path):
            try:
                with self._parent(path) as (parent, name):
                    fd = self._open(parent, name, path)
            except FileNotFoundError as error:
                raise Refused(f"{path} is not there") from error
        try:
            while True:
                with self._translated(path):
                    piece = os.read(fd, READ_BYTES)
                if not piece:
                    return
                yield piece
        finally:
            os.close(fd)

    def remove(self, path: str, *, sha256: str | None = None) -> None:
        """Remove the file, if it has that digest (None: whatever it has). Raises: Transient(DISK), Refused."""
        with self._translated(path):
            try:
                with self._parent(path) as (parent, name):
                    self._look(parent, name, path)
                    if sha256 is None or self._has(parent, name, path, sha256, None):
                        os.unlink(name, dir_fd=parent)
                        os.fsync(parent)
            except FileNotFoundError:
                return

    # -- steps --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _parent(self, path: str, *, is_made: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that holds `path`, reached without following a link below the root."""
        *parts, name = path.split("/")
        if any(part in ("", ".", "..") for part in (*parts, name)):
            raise Refused(f"{path} is no path below a directory")
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                try:
                    inner = os.open(part, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    if not is_made:
                        raise
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                    os.fsync(fd)
                    inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd, name
        finally:
            os.close(fd)

    def _gid(self) -> int | None:
        """Of the group that files are given to. Raises: Blocked."""
        if self._group is None:
            return None
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError:
            what = f"firmware.group: there is no group {self._group}"
            remedy = f"make it with groupadd {self._group}, or correct firmware.group"
            raise Blocked(what, trouble=Trouble.FILE, remedy=remedy) from None

    def _give(self, fd: int) -> None:
        gid = self._gid()
        if gid is None:
            return
        try:
            os.fchown(fd, -1, gid)
        except PermissionError as error:
            what = f"firmware.group: files may not be given to the group {self._group}"
            remedy = f"add the agent's user to it (usermod -aG {self._group} USER), and restart the agent"
            raise Blocked(what, trouble=Trouble.FILE, remedy=remedy) from error

    def _look(self, parent: int, name: str, path: str) -> None:
        """Raise Refused unless there is a regular file, or nothing."""
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise Refused(f"{path} is a {kind_words(mode)}")

    def _open(self, parent: int, name: str, path: str) -> int:
        fd = os.open(name, _LEAF, dir_fd=parent)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            os.close(fd)
            raise Refused(f"{path} is a {kind_words(mode)}")
        return fd

    def _has(self, parent: int, name: str, path: str, sha256: str, length: int | None) -> bool:
        try:
            fd = self._open(parent, name, path)
        except FileNotFoundError:
            return False
        try:
            if length is not None and os.fstat(fd).st_size != length:
                return False
            found = hashlib.sha256()
            while piece := os.read(fd, READ_BYTES):
                found.update(piece)
            return found.hexdigest() == sha256
        finally:
            os.close(fd)

    def _fill(self, fd: int, chunks: Iterable[bytes], sha256: str, length: int) -> None:
        found, size = hashlib.sha256(), 0
        for chunk in chunks:
            size += len(chunk)
            if size > length:
                break
            found.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        if size != length or found.hexdigest() != sha256:
            raise Refused("what lies in staging is not what was verified")

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = error.strerror or type(error).__name__
            if error.errno in _PLACE_ERRNOS:
                words = "a link, or no directory, is in the way" if error.errno != errno.ENAMETOOLONG else words
                raise Refused(f"{path}: {words}") from error
            raise Transient(f"{path}: {words}", trouble=Trouble.DISK) from error


def _temporary_name(name: str) -> str:
    return _TEMPORARY + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
