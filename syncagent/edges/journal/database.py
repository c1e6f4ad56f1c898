"""One SQLite file, written by several threads that share their commits.

Promises that a write that returns is committed, that a durable one is on the card, and that one that fails leaves
nothing behind. Knows no table.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from syncagent.core.errors import JournalBroken, JournalLost, JournalTorn

from .log import frames_of
from .room import Room
from .schema import PAGE_BYTES, is_current, migrate

T = TypeVar("T")

FILE_NAME = "journal.db"
#: What SQLite says of a file that is damaged, or none of its own. A disk that does not answer is another matter.
_TORN_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class _Write:
    """One change waiting for its commit."""

    __slots__ = ("apply", "done", "durable", "error", "result")

    def __init__(self, apply: Callable[[sqlite3.Connection], Any], *, durable: bool) -> None:
        self.apply = apply
        self.durable = durable
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """Connections and commits. Thread-safe."""

    def __init__(self, state_dir: str, *, is_read_only: bool = False) -> None:
        self.path = os.path.join(state_dir, FILE_NAME)
        self._lock = threading.Lock()  # guards the writing connection
        self._queue_lock = threading.Lock()  # guards the two fields below
        self._queue: list[_Write] = []
        self._is_led = False
        self._read_lock = threading.Lock()  # guards the reading connection
        self._data_version = -1
        self._is_durable: bool | None = None  # what `synchronous` stands at
        self._lost: JournalLost | None = None  # what the first thread met that found it so
        #: Asked once when a commit finds no room; whether it made some.
        self.make_room: Callable[[], bool] = lambda: False
        self.log_frames = frames_of(f"{self.path}-wal")  # before it was opened, and SQLite took what it could
        self._room = Room(self.path, f"{self.path}-wal")
        self._writer, self._reader = self._open_to_read() if is_read_only else self._open()
        self.identity = None if is_read_only else _identify(self.path)

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        opened: list[sqlite3.Connection] = []
        try:
            writer = self._connect(self.path)
            opened.append(writer)
            writer.execute(f"PRAGMA page_size={PAGE_BYTES}")
            writer.execute("PRAGMA journal_mode=WAL")
            writer.execute("PRAGMA synchronous=NORMAL")
            # The log is folded into the journal in steps of about 1 MiB, and not held bigger than that.
            writer.execute("PRAGMA wal_autocheckpoint=1000")
            writer.execute("PRAGMA journal_size_limit=1048576")
            migrate(writer)
            reader = self._connect(self.path)
            opened.append(reader)
            reader.execute("PRAGMA query_only=ON")
            self._forget(writer)
        except (sqlite3.Error, ValueError) as error:
            for connection in opened:
                connection.close()
            self._raise_if_barred(error, "write", os.path.dirname(self.path), self.path)
            raise self._broken(error) from error
        return writer, reader

    def _broken(self, error: Exception) -> JournalBroken:
        """What an error of SQLite's means."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the others say more
        if code not in _TORN_CODES and not os.path.isdir(self.path):
            return JournalBroken(f"{self.path}: {error}")
        self._lost = self._lost or JournalTorn(
            f"{self.path} is damaged ({error}): the agent sets it aside when it starts"
        )
        return self._lost

    @property
    def is_torn(self) -> bool:
        """Whether any thread found the file damaged."""
        return isinstance(self._lost, JournalTorn)

    def check(self) -> None:
        """Raises: JournalLost when the file was found torn, or is not the one any more that this journal writes to."""
        if self._lost is None and _identify(self.path) != self.identity:
            self._lost = JournalLost(f"{self.path} was deleted or replaced while it was in use")
        if self._lost is not None:
            raise type(self._lost)(str(self._lost))

    def _open_to_read(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """For whoever only looks: nothing is made, here or beside; where there is no journal, it is empty."""
        try:
            connection = self._connect_to_read()
            if connection is None:
                connection = self._connect(":memory:")
                migrate(connection)
            self._forget(connection)
        except (OSError, sqlite3.Error, ValueError) as error:
            self._raise_if_barred(error, "read", self.path)
            raise self._broken(error) from error
        return connection, connection

    def _raise_if_barred(self, error: Exception, verb: str, *places: str) -> None:
        for path in (*places, f"{self.path}-wal", f"{self.path}-shm"):
            if _is_barred(path, verb):
                what = f"this user may not {verb} it; run this as the agent's user or as root"
                raise JournalBroken(f"{path}: {what}") from error

    def _connect_to_read(self) -> sqlite3.Connection | None:
        """None where there is no journal, or one without tables."""
        if not os.path.exists(self.path) and not _is_barred(self.path):
            return None
        # With a log, whoever uses the journal has made what a reader needs beside it. Without one nobody uses it:
        # it stands still, and SQLite must be told so, or it would make both (as another user's, which may lock the
        # agent out), or fail where it may not. An agent that starts in this moment can only make the reading fail.
        how = "mode=ro" if os.path.exists(f"{self.path}-wal") else "mode=ro&immutable=1"
        connection = self._connect(f"file:{quote(os.fsencode(self.path))}?{how}")
        if is_current(connection):
            return connection
        connection.close()
        return None

    def _connect(self, name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(name, timeout=10, isolation_level=None, check_same_thread=False, uri=True)
        connection.execute("PRAGMA cache_size=-2048")
        connection.execute("PRAGMA temp_store=MEMORY")
        return connection

    def close(self) -> None:
        with self._lock, self._read_lock:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("PRAGMA optimize")
            self._reader.close()
            self._writer.close()
            self._room.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def _write(self, apply: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Run `apply` in a transaction and wait until it is committed.

        Changes that arrive while another thread commits are gathered into the next commit: four workers that
        finish together cost one fsync. A change that fails is rolled back alone.
        """
        write = _Write(apply, durable=durable)
        with self._queue_lock:
            self._queue.append(write)
            leads = not self._is_led
            self._is_led = True
        if leads:
            self._lead()
        else:
            write.done.wait()
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    def _lead(self) -> None:
        """Commit batches until none is waiting. The thread that found nobody leading does this for all."""
        while True:
            with self._queue_lock:
                batch, self._queue = self._queue, []
                if not batch:
                    self._is_led = False
                    return
            try:
                with self._lock:
                    self._guard(lambda batch=batch: self._commit_with_room(batch))  # type: ignore[misc]
            except BaseException as error:
                for write in batch:
                    write.error = write.error or error
            finally:
                for write in batch:
                    write.done.set()

    def _commit_with_room(self, batch: Sequence[_Write]) -> None:
        try:
            self._commit(batch)
        except sqlite3.Error as error:
            # A quota that is used up (EDQUOT), or a log that cannot grow, are errors of input and output to SQLite.
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise
            try:
                self._again(batch)
            except sqlite3.Error:
                if not self.make_room():
                    raise
                self._again(batch)

    def _again(self, batch: Sequence[_Write]) -> None:
        """With the log folded into the journal, so that it can be written over from its beginning."""
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        for write in batch:
            write.error = None
        self._commit(batch)

    def fold_log(self) -> int:
        """Bring what was committed so far into the journal's own file; of how many frames. Raises: JournalBroken."""
        with self._lock:
            ((_, frames, _),) = self._guard(lambda: self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
            return int(frames)

    def keep_room(self) -> None:
        """Allocate on the card what the next commits may need, while there is enough."""
        with self._lock:
            self._room.keep()

    def _commit(self, batch: Sequence[_Write]) -> None:
        connection = self._writer
        # In WAL mode FULL adds the fsync that survives a power cut; NORMAL survives a kill.
        self._set_synchronous(connection, is_durable=any(write.durable for write in batch))
        connection.execute("BEGIN IMMEDIATE")
        self._begun()
        try:
            for write in batch:
                self._apply(connection, write, alone=len(batch) == 1)
            connection.execute("COMMIT")
            self._committed()
        except BaseException:
            connection.rollback()
            self._rolled_back()
            raise

    def _set_synchronous(self, connection: sqlite3.Connection, *, is_durable: bool) -> None:
        if is_durable is not self._is_durable:
            connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable

    def _apply(self, connection: sqlite3.Connection, write: _Write, *, alone: bool) -> None:
        if alone:
            write.result = write.apply(connection)
            return
        connection.execute("SAVEPOINT one")
        try:
            write.result = write.apply(connection)
        except sqlite3.Error:
            raise  # the database itself: nothing of this batch may stand
        except Exception as error:
            connection.execute("ROLLBACK TO one")
            self._forget(connection)
            write.error = error
        finally:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("RELEASE one")

    def _guard(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ:
                # The log, or the journal, was cut under us: nothing can be read there again until it is opened anew.
                self._lost = self._lost or JournalLost(f"{self.path} was cut while it was in use ({error})")
                raise self._lost from error
            raise self._broken(error) from error

    def _refresh(self, connection: sqlite3.Connection) -> None:
        """Notice that another process (`send`, `retry`) wrote: what is remembered in memory is read anew."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._data_version = version
            self._forget(connection)

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._read_lock:
            return self._guard(lambda: self._reader.execute(query, values).fetchall())

    def _begun(self) -> None:
        """A transaction begins: what is remembered in memory now is what counts if it fails."""
        raise NotImplementedError

    def _committed(self) -> None:
        """What the transaction changed stands."""
        raise NotImplementedError

    def _rolled_back(self) -> None:
        """Nothing that the transaction changed stands."""
        raise NotImplementedError

    def _forget(self, connection: sqlite3.Connection) -> None:
        """What is remembered in memory may not be true any more: read it anew."""
        raise NotImplementedError


def _identify(path: str) -> tuple[int, int] | None:
    """Device and inode of what is there now. Raises: JournalBroken."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalBroken(f"{path}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _is_barred(path: str, verb: str = "read") -> bool:
    """Whether it may be there, and this user may not "read" it, or "write" it; a read-only disk bars nobody."""
    try:
        os.stat(path)
        is_read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return not os.access(path, os.R_OK) or (verb == "write" and not is_read_only and not os.access(path, os.W_OK))
