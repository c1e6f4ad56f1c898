"""Messages that were taken from the inbox: that each is acted on once, and what waits for its file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

from syncagent.core.model import Facts, State

from .arrivals import RECENT
from .base import JournalBase
from .rows import (
    DROPPED,
    FOR_FILE,
    LIVE,
    NEVER,
    ROWS,
    UNHANDLED,
    Ask,
    Row,
    is_expected,
    split_path,
)


class Messages(JournalBase):
    """The messages' part of the journal."""

    def take(self, messages: Sequence[tuple[bytes, str, Sequence[Ask]]]) -> int:
        """Act on messages, each (digest, type, what it asks for), in one transaction; durable.

        A message whose digest is known is not acted on again. One that was given up for some address is, but it asks
        nothing of those that did, or still do, what it wants. Returns how many were new.
        """

        def apply(connection: sqlite3.Connection) -> int:
            new = 0
            for digest, message_type, asks in messages:
                found = connection.execute(
                    "INSERT OR IGNORE INTO message VALUES (?, ?, ?)", (digest, message_type, self.time())
                )
                if found.rowcount:
                    new += 1
                    for ask in asks:
                        if not self._is_asked(connection, ask):
                            self._expect(connection, ask)
            return new

        return self._write(apply, durable=True)

    def _is_asked(self, connection: sqlite3.Connection, ask: Ask) -> bool:
        """Whether one of the latest rows of the file is this very message's, and not in vain."""
        head, name = split_path(ask.path)
        found = connection.execute(
            "SELECT 1 FROM (SELECT * FROM version INDEXED BY version_place WHERE directory = ? AND name = ?"
            f" ORDER BY id DESC LIMIT ?) v WHERE v.address = ? AND v.message = ? AND ({LIVE} OR v.state = 'removed')",
            (self._directory_id(connection, head), name, RECENT, self._addresses[ask.address], ask.message),
        )
        return found.fetchone() is not None

    def _expect(self, connection: sqlite3.Connection, ask: Ask) -> None:
        """A row of its own that waits for the file, whatever else waits for it or is READY.

        Another message may have another name for the file, may come when the first is about to be given up, or be of
        the next version. What turns out to be there already is not sent again.
        """
        head, name = split_path(ask.path)
        address, directory = self._addresses[ask.address], self._directory_id(connection, head)
        connection.execute(
            "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, reason, due,"
            " recorded, cloud_path, message) VALUES (?, ?, ?, 0, 0, 0, 0, ?, ?, ?, ?, ?, ?)",
            (
                *(address, directory, name, State.WAITING, FOR_FILE, NEVER),
                *(self.time(), ask.cloud_path, ask.message),
            ),
        )
        self._count(ask.address, State.WAITING, FOR_FILE, files=1, size=0)

    def expected(self, *, after: int = 0, limit: int) -> list[Row]:
        """Rows that wait for their files, in the order they were asked for."""
        return self.rows(
            f"{ROWS} WHERE v.state = 'waiting' AND v.reason = '{FOR_FILE}' AND v.id > ? ORDER BY v.id LIMIT ?",
            (after, limit),
        )

    def overdue(self, wait_s: float, *, after: int = 0, limit: int) -> list[Row]:
        """Rows that wait for their files longer than that."""
        return self.rows(
            f"{ROWS} WHERE v.state = 'waiting' AND v.reason = '{FOR_FILE}' AND v.id > ? AND v.recorded < ?"
            " ORDER BY v.id LIMIT ?",
            (after, self.time() - wait_s, limit),
        )

    def give_up(self, row: Row, reason: str, *, digest: bytes) -> None:
        """The file of a message, that of `digest`, did not come: it may be asked for again; durable."""

        def apply(connection: sqlite3.Connection) -> None:
            if is_expected(self._state(connection, row.id), self._reason(connection, row.id)):
                self._move(connection, row.id, State.GONE, reason=reason)
                # Whoever puts a rejected message back means it; see `take`.
                connection.execute("DELETE FROM message WHERE digest = ?", (digest,))

        self._write(apply, durable=True)

    def unhandled(self, address: str, *, limit: int) -> list[Row]:
        """READY rows of an address with a handler that has not seen them."""
        return self.rows(
            f"{ROWS} WHERE v.state = 'ready' AND NOT v.handled AND v.address = ? ORDER BY v.id LIMIT ?",
            (self._addresses[address], limit),
        )

    def handled(
        self,
        row: Row,
        *,
        said: str,
        said_key: str | None,
        body: str | None,
        body_bytes: int | None = None,
        further: Sequence[tuple[Ask, Facts]] = (),
    ) -> None:
        """What a handler made of a version: what it says of it, its bytes (None: its own), further objects; durable.

        What was asked for stays as it is: the next version, and a second call, begin with that.
        """

        def apply(connection: sqlite3.Connection) -> None:
            if self._state(connection, row.id) is not State.READY:
                return  # overtaken: its next version will be handled
            self._moving.append(row.id)  # it changed, though it stays READY
            connection.execute(
                "UPDATE version SET handled = 1, said = ?, said_key = ?, body = ?, body_size = ? WHERE id = ?",
                (said, said_key, None if body is None else os.fsencode(body), body_bytes, row.id),
            )
            for ask, facts in further:
                head, name = split_path(ask.path)
                connection.execute(
                    "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, due,"
                    " recorded, cloud_path, message, handled) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
                    (
                        *(self._addresses[ask.address], self._directory_id(connection, head), name),
                        *(facts.size_bytes, facts.mtime_ns, facts.ctime_ns, facts.inode),
                        *(State.READY, row.due, self.time(), ask.cloud_path, ask.message),
                    ),
                )
                self._count(ask.address, State.READY, "", files=1, size=facts.size_bytes)

        self._write(apply, durable=True)

    def needing_handled(self, row_id: int, directory: str) -> str | None:
        """The address that is still to send what its handler made of a version (it lies in `directory`), if it is."""
        owed = "v.state IN ('settling', 'ready', 'sending', 'waiting')"
        own = self._read(
            "SELECT a.name FROM version v JOIN address a ON a.id = v.address"
            f" WHERE v.id = ? AND {owed} AND v.body IS NOT NULL",
            (row_id,),
        )
        further = own or self._read(
            "SELECT a.name FROM directory d JOIN version v ON v.directory = d.id JOIN address a ON a.id = v.address"
            f" WHERE d.path = ? AND {owed} LIMIT 1",
            (os.fsencode(directory),),
        )
        return str(further[0][0]) if further else None

    def unhandle(self, row: Row) -> None:
        """What the handler made is lost: it has to see the version again."""

        def apply(connection: sqlite3.Connection) -> None:
            self._moving.append(row.id)
            connection.execute(f"UPDATE version SET {UNHANDLED} WHERE id = ?", (row.id,))

        self._write(apply)

    def drop(self, row: Row) -> None:
        """A version's handler wants it not to be sent."""

        def apply(connection: sqlite3.Connection) -> None:
            if self._state(connection, row.id) is State.READY:
                self._move(connection, row.id, State.GONE, reason=DROPPED)

        self._write(apply)
