"""The journal for those who may only read it: what was confirmed after a position, from any process.

Promises never to write: neither into the journal nor, where the directory allows it, beside it. No snapshot is held
between two calls, so a slow reader does not keep the agent's log from being folded in.
"""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from syncagent.core.confirmation import Confirmation
from syncagent.core.errors import JournalBroken
from syncagent.edges.clock import Stop

from .database import FILE_NAME
from .rows import join_path
from .schema import STEPS

T = TypeVar("T")

#: A batch ends early when its messages are as long as this, so that memory does not depend on them.
BATCH_BYTES = 1 << 20
#: An agent that starts or ends right now makes a reading fail for a moment.
ATTEMPTS, PAUSE_S = 20, 0.1

#: Columns of the schema's first step: a journal that waits for its newer agent to start can be read as well.
_CONFIRMED = (
    "SELECT v.position, d.path, v.name, v.key, {size}, v.mtime_ns, v.sha256, a.name, v.confirmed_at, v.message"
    " FROM version v JOIN address a ON a.id = v.address JOIN directory d ON d.id = v.directory"
    " WHERE v.position > ? ORDER BY v.position LIMIT ?"
)
_NEWEST = "SELECT max(position) FROM version WHERE position IS NOT NULL"

#: Changes whenever something was committed or folded in: of the journal and its log, (inode, size, mtime_ns) or None.
Mark = tuple[tuple[int, int, int] | None, tuple[int, int, int] | None]


class JournalReader:
    """Reads the journal of one state directory, whether an agent runs there or not, and whoever owns it."""

    def __init__(self, state_dir: str) -> None:
        self.path = os.path.join(state_dir, FILE_NAME)
        self._pause = Stop()

    def mark(self) -> Mark:
        """What a look at the files says; an equal mark later means that there is nothing new. Raises: JournalBroken."""
        return self._look(self.path), self._look(self.path + "-wal")

    def newest(self) -> int | None:
        """The newest confirmed position, 0 when nothing was confirmed yet, None without a journal.

        Raises: JournalBroken.
        """
        return self._read(lambda connection: int(connection.execute(_NEWEST).fetchone()[0] or 0), 0)

    def confirmed(self, *, after: int, limit: int) -> list[Confirmation]:
        """The next confirmed versions in order of position, at most `limit`. Raises: JournalBroken."""

        def gather(connection: sqlite3.Connection) -> list[Confirmation]:
            found: list[Confirmation] = []
            size = 0
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            # What a handler made has a size of its own.
            query = _CONFIRMED.format(size="coalesce(v.body_size, v.size)" if version > 1 else "v.size")
            for position, head, name, key, size_bytes, mtime_ns, sha256, address, at, message in connection.execute(
                query, (after, limit)
            ):
                found.append(
                    Confirmation(
                        position=position,
                        path=join_path(head, name),
                        key=key,
                        size_bytes=size_bytes,
                        mtime_ns=mtime_ns,
                        sha256=bytes(sha256).hex(),
                        address=address,
                        confirmed_at=at,
                        message=message,
                    )
                )
                size += len(message or "")
                if size >= BATCH_BYTES:
                    break
            return found

        return self._read(gather, []) or []

    # -- connections --------------------------------------------------------------------------------------------------

    def _read(self, work: Callable[[sqlite3.Connection], T], nothing: T) -> T | None:
        """What `work` finds, `nothing` in a journal without tables, None without a journal."""
        failed: Exception | None = None
        for _ in range(ATTEMPTS):
            mark = self.mark()
            if mark[0] is None:
                return None
            try:
                result = self._read_once(work, nothing, is_still=mark[1] is None)
            except sqlite3.Error as error:
                failed = error
                if self._unreadable():
                    break
            else:
                # Without a log nobody has the journal open, and it is read as a file that stands still: nothing else
                # is left to a user who may not create the log. Whether it did stand still shows afterwards.
                if mark[1] is not None or self.mark() == mark:
                    return result
                failed = None
            self._pause.wait(PAUSE_S)
        raise JournalBroken(self._why(failed)) from failed

    def _read_once(self, work: Callable[[sqlite3.Connection], T], nothing: T, *, is_still: bool) -> T:
        how = "mode=ro&immutable=1" if is_still else "mode=ro"
        name = f"file:{urllib.parse.quote(os.fsencode(self.path))}?{how}"
        with closing(sqlite3.connect(name, uri=True, timeout=10, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only=ON")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(STEPS):
                raise JournalBroken(f"{self.path}: it has schema {version}, this release knows {len(STEPS)}")
            return work(connection) if version else nothing

    def _look(self, path: str) -> tuple[int, int, int] | None:
        try:
            facts = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalBroken(self._why(error)) from error
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    def _unreadable(self) -> str | None:
        for path in (self.path, f"{self.path}-wal", f"{self.path}-shm"):
            if os.path.exists(path) and not os.access(path, os.R_OK):
                return path
        return None

    def _why(self, error: Exception | None) -> str:
        """In words for a person; what a user lacks who may not read is the likeliest reason."""
        directory = os.path.dirname(self.path)
        if isinstance(error, PermissionError):
            return f"cannot enter {directory}: run this as a member of its group, or as its owner"
        unreadable = self._unreadable()
        if unreadable:
            return f"cannot read {unreadable}: run this as a member of its group, or as its owner"
        if os.path.exists(f"{self.path}-wal") and not os.path.exists(f"{self.path}-shm"):
            return f"{self.path}: the last run was cut off; start the agent, or run this as the owner of {directory}"
        return f"{self.path}: {error or 'it changes all the time'}"
