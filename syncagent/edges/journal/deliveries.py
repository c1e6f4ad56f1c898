"""What the uploaders tell and ask: what to send next, under which key, and what became of it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from syncagent.core.errors import FileChanged, JournalBroken
from syncagent.core.model import Digest, ObjectFacts, State

from .base import JournalBase, Taken
from .rows import FOR_FILE, NEVER, ROWS, Row, join_path
from .uploads import end_upload

logger = logging.getLogger(__name__)

#: Ready rows looked at in one go; more than any sensible number of workers.
CLAIM_BATCH = 64
#: So many versions that were never sent and were overtaken are not worth looking through the whole journal for.
MANY = 1_000
#: Of them, so many are forgotten at one start: each costs the card some bytes.
MOST_FORGOTTEN = 20_000
#: Proofs that are remembered while the journal cannot be written. A kill would make their files be sent again.
MOST_PROVED = 10_000
#: States that a READY row can be moved to while a worker has it.
OVERTAKEN = frozenset({State.SUPERSEDED, State.GONE, State.LOST})


class Deliveries(JournalBase):
    """The uploaders' half of the journal."""

    def claim(
        self,
        addresses: Sequence[str],
        *,
        order: str = "oldest",
        largest_bytes: int | None = None,
        accepts: Callable[[str], bool] | None = None,
        until: Mapping[str, float] | None = None,
    ) -> Row | None:
        """Take the next READY row of these addresses (up to a size) for one worker; None when there is none.

        Taken in memory only, so a claim costs the card nothing. No two rows of one path are out at once for one
        address; another one may have a store that takes for ever. Fewest attempts first, so a poisoned file sinks;
        then by `order`. `accepts` judges paths: then all rows are looked at. `until`: of these addresses only rows
        that were READY by then (monotonic) go. A row of an address with a handler goes only when the handler has
        seen it.
        """
        with self._take_lock:
            out = self._out()
            for attempts in ("= 0", "> 0"):
                for address in addresses:
                    limit = -1 if accepts else CLAIM_BATCH
                    latest = until.get(address, NEVER) if until else NEVER
                    for row in self._candidates(address, attempts, order, largest_bytes, latest, limit=limit):
                        if row.id in self._taken or (address, row.path) in out:
                            continue
                        if accepts is not None and not accepts(row.path):
                            continue
                        if row.id in self._moved:  # since the batch was read: what it says may be old
                            row = self.row(row.id)
                            is_due = row.due <= latest and (row.is_handled or address not in self._handlers)
                            if row.state is not State.READY or not is_due:
                                continue
                        self._taken[row.id] = Taken(row)
                        return row
            for row_id in list(self._woken):
                row = self.row(row_id)
                if row.state is not State.WAITING:
                    del self._woken[row_id]
                    continue
                is_ours = row.address in addresses and (row.is_handled or row.address not in self._handlers)
                is_due = row.due <= (until.get(row.address, NEVER) if until else NEVER)
                is_small = largest_bytes is None or row.facts.size_bytes <= largest_bytes
                if not (is_ours and is_due and is_small) or (row.address, row.path) in out:
                    continue
                if accepts is None or accepts(row.path):
                    del self._woken[row_id]
                    self._taken[row_id] = Taken(row)
                    return row
        return None

    def _out(self) -> set[tuple[str, str]]:
        """(address, path) of what workers have; under the lock."""
        return {(taken.row.address, taken.row.path) for taken in self._taken.values()}

    def _candidates(
        self, address: str, attempts: str, order: str, largest_bytes: int | None, latest: float, *, limit: int
    ) -> Iterator[Row]:
        """READY rows in `order`, from a batch read earlier while it lasts: a claim must cost neither query nor sort."""
        batch = self._batches.setdefault((address, attempts, order, largest_bytes), []) if limit > 0 else []
        while batch:
            yield batch.pop()
        by = {"oldest": "v.mtime_ns", "smallest": "v.size"}.get(order, "v.mtime_ns DESC")
        if attempts == "> 0":
            by = f"v.attempts, {by}"
        query = (
            f"{ROWS} WHERE v.address = ? AND v.state = 'ready' AND v.attempts {attempts} AND v.size <= ?"
            f" AND v.due <= ?{' AND v.handled' if address in self._handlers else ''} ORDER BY {by} LIMIT ?"
        )
        largest = largest_bytes if largest_bytes is not None else 1 << 62
        if limit > 0:
            limit += len(self._taken)
        batch.extend(reversed(self.rows(query, (self._addresses.get(address, -1), largest, latest, limit))))
        while batch:
            yield batch.pop()

    def has_ready(
        self,
        addresses: Sequence[str],
        *,
        largest_bytes: int,
        accepts: Callable[[str], bool] | None = None,
        until: Mapping[str, float] | None = None,
    ) -> bool:
        """Whether `claim` would find a READY row up to a size; `accepts` and `until` as there."""
        with self._take_lock:
            taken, out = list(self._taken), self._out()
        for name in addresses:
            query = (
                "SELECT d.path, v.name FROM version v JOIN directory d ON d.id = v.directory"
                " WHERE v.address = ? AND v.state = 'ready' AND v.size <= ? AND v.due <= ?"
                f"{' AND v.handled' if name in self._handlers else ''}"
                f" AND v.id NOT IN ({', '.join('?' * len(taken))}) LIMIT ?"
            )
            latest = until.get(name, NEVER) if until else NEVER
            limit = -1 if accepts else CLAIM_BATCH
            for place in self._read(query, (self._addresses.get(name, -1), largest_bytes, latest, *taken, limit)):
                path = join_path(*place)
                if (name, path) not in out and (accepts is None or accepts(path)):
                    return True
        return False

    def let_go(self, row: Row) -> None:
        """The worker is done with the row, whatever became of it. One whose confirmation is not written stays taken."""
        with self._take_lock:
            if row.id not in self._proved:
                self._taken.pop(row.id, None)

    def reserve_key(self, row: Row, key: str) -> bool:
        """Whether no other worker sends to the same key of the same store right now; then it is ours until `let_go`."""
        name = f"{self._address_stores[row.address]}\n{key}"
        with self._take_lock:
            if any(taken.key == name for row_id, taken in self._taken.items() if row_id != row.id):
                return False
            self._taken[row.id] = Taken(row, name)
            return True

    def occupant(self, address: str, key: str) -> bytes | None:
        """SHA-256 of the bytes that this journal confirmed last under a key of the address's store.

        What was confirmed before an address was given another bucket lies in the old one.
        """
        found = self._last_under("v.sha256", address, key)
        return bytes(found[0][0]) if found else None

    def is_flagged(self, address: str, key: str) -> bool:
        """Whether the occupant was sent before it was finished, and says so."""
        found = self._last_under("v.unsettled", address, key)
        return bool(found and found[0][0])

    def _last_under(self, column: str, address: str, key: str) -> list[tuple[Any, ...]]:
        store = self._address_stores[address]
        return self._read(
            f"SELECT {column} FROM version v WHERE v.key = ? AND v.position IS NOT NULL"
            " AND ? = (SELECT r.store FROM residence r WHERE r.address = v.address AND r.since < v.position"
            " ORDER BY r.since DESC LIMIT 1) ORDER BY v.position DESC LIMIT 1",
            (key, store),
        )

    def note_foreign(self, address: str, objects: Sequence[ObjectFacts]) -> None:
        """Remember what a listing of the address's store found."""
        rows = [(self._address_stores[address], facts.key, facts.size_bytes, facts.etag) for facts in objects]

        def apply(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO foreign_object VALUES (?, ?, ?, ?)", rows)

        self._write(apply)

    def foreign(self, address: str, key: str) -> tuple[int, str] | None:
        """(bytes, ETag) of an object that was there before this journal, under a key of the address's store."""
        found = self._read(
            "SELECT size, etag FROM foreign_object WHERE store = ? AND key = ?", (self._address_stores[address], key)
        )
        return found[0] if found else None

    def _is_overtaken(self, connection: sqlite3.Connection, row: Row) -> bool:
        """Whether the intake found a later version, or no file, after a worker claimed the row: that stands.

        A row that was claimed when it could not be woken is READY from here on.
        """
        state = self._state(connection, row.id)
        if state is State.WAITING:
            self._move(connection, row.id, State.READY, due=0.0)
        return state in OVERTAKEN

    def sending(self, row: Row, key: str, digest: Digest) -> None:
        """A request for this key and these bytes may leave from now on. Raises: FileChanged."""

        def apply(connection: sqlite3.Connection) -> None:
            if self._is_overtaken(connection, row):
                raise FileChanged("a later version was recorded meanwhile")
            self._move(
                connection,
                row.id,
                State.SENDING,
                key=key,
                sha256=digest.sha256,
                md5=digest.md5,
                attempts=row.attempts + 1,
            )

        self._write(apply)

    def confirm(self, row: Row, *, key: str, digest: Digest, etag: str | None) -> None:
        """The store proved the digest: durable.

        What cannot be written down because the disk is full, read-only or broken is remembered (up to a bound) and
        not sent again, and the next file goes: it may be the last chance of all that lies on this card, or what makes
        room on it.

        Positions count confirmations from 1. Without an `etag` nothing was sent, because this journal had confirmed
        the same bytes under the same key before: that version keeps its position, and this row gets none.
        """

        def apply(connection: sqlite3.Connection) -> None:
            position = None
            overtaken = self._is_overtaken(connection, row)
            if etag is None and overtaken:
                return
            if etag is not None:
                self._position += 1
                position = self._position
            self._move(
                connection,
                row.id,
                State.REMOVED if overtaken else State.CONFIRMED,
                key=key,
                sha256=digest.sha256,
                md5=digest.md5,
                etag=etag,
                position=position,
                confirmed=self.time(),
                confirmed_at=self._clock.now().timestamp(),
            )
            if row.id in self._uploads:
                end_upload(connection, row.id)
                self._uploads.discard(row.id)

        try:
            self._write(apply, durable=True)
        except JournalBroken as error:
            with self._take_lock:
                self._proved[row.id] = (row, apply)
                is_much = len(self._proved) > MOST_PROVED
            logger.warning("confirmed, and not written down yet path=%s reason=%s", row.path, error)
            if is_much:
                raise

    def write_proved(self) -> None:
        """Write down what was proved while the journal could not be written. Raises: JournalBroken."""
        if not self._proved:
            return
        with self._proving:  # each once
            with self._take_lock:
                proved = list(self._proved.items())
            for row_id, (_, apply) in proved:
                self._write(apply, durable=True)
                with self._take_lock:
                    self._proved.pop(row_id, None)
                    self._taken.pop(row_id, None)

    def release(self, row: Row) -> None:
        """Back to READY without charging the attempt: it was not this file's fault, or it has more parts to send."""
        if row.id in self._proved:
            return
        try:
            self._write(lambda connection: self._release(connection, row))
        except JournalBroken:
            with self._take_lock:
                self._stranded[row.id] = row  # `wake_due` tries again, when there is room on the disk
            raise

    def _release_stranded(self) -> None:
        with self._take_lock:
            rows = [row for row in self._stranded.values() if row.id not in self._taken]
        for row in rows:
            self._write(lambda connection, row=row: self._release(connection, row))  # type: ignore[misc]
            with self._take_lock:
                self._stranded.pop(row.id, None)

    def _release(self, connection: sqlite3.Connection, row: Row) -> None:
        if self._state(connection, row.id) is State.SENDING:
            self._move(connection, row.id, State.READY, attempts=row.attempts)

    def defer(self, row: Row, *, reason: str, wait_s: float) -> None:
        """Try again in `wait_s` seconds; `reason` says why it waits."""
        due = self._clock.monotonic() + wait_s

        def apply(connection: sqlite3.Connection) -> None:
            if not self._is_overtaken(connection, row):
                self._move(connection, row.id, State.WAITING, reason=reason, due=due, attempts=row.attempts + 1)

        self._write(apply)

    def finish(self, row: Row, state: State, *, reason: str = "") -> None:
        """What else can become of a row that was not sent: PARKED, GONE, or SETTLING again because its file changed."""

        def apply(connection: sqlite3.Connection) -> None:
            if self._is_overtaken(connection, row):
                return
            if state is State.SETTLING and self._has_successor(connection, row):
                # The intake saw the change first: two rows of one version would send it twice.
                self._move(connection, row.id, State.SUPERSEDED)
            else:
                self._move(connection, row.id, state, reason=reason)

        self._write(apply)

    def _has_successor(self, connection: sqlite3.Connection, row: Row) -> bool:
        """Whether a later version of the row's file was recorded for its address and key."""
        return bool(
            connection.execute(
                "SELECT 1 FROM version later JOIN version own ON later.directory = own.directory"
                " AND later.name = own.name AND later.address = own.address AND later.cloud_path IS own.cloud_path"
                " AND later.id > own.id AND later.state NOT IN ('gone', 'superseded', 'lost') WHERE own.id = ? LIMIT 1",
                (row.id,),
            ).fetchone()
        )

    def wake_due(self, addresses: Sequence[str]) -> int:
        """Make the WAITING rows of these addresses READY whose time has come. Returns how many.

        Where that cannot be written down they are claimed all the same.
        """
        with contextlib.suppress(JournalBroken):
            self.write_proved()
            if self._stranded:
                self._release_stranded()
        return self._wake("due <= ?", (self._clock.monotonic(),), addresses, 1_000)

    def wake(self, reasons: Sequence[str], addresses: Sequence[str], *, limit: int = -1) -> int:
        """Make READY what waits for one of these reasons, its attempts forgiven. Returns how many."""
        marks = ", ".join("?" * len(reasons))
        return self._wake(f"reason IN ({marks})", tuple(reasons), addresses, limit, attempts=0)

    def _wake(
        self, where: str, values: tuple[object, ...], addresses: Sequence[str], limit: int, **changes: Any
    ) -> int:
        due = self._read(
            f"SELECT id FROM version WHERE state = 'waiting' AND {where} AND {self._within(addresses)} LIMIT ?",
            (*values, limit),
        )

        def apply(connection: sqlite3.Connection) -> int:
            still = [row_id for (row_id,) in due if self._state(connection, row_id) is State.WAITING]
            for row_id in still:
                self._move(connection, row_id, State.READY, due=0.0, **changes)
            return len(still)

        try:
            return self._write(apply) if due else 0
        except JournalBroken as error:
            logger.debug("woken, and not written down reason=%s", error)
            with self._take_lock:
                new = [row_id for (row_id,) in due if row_id not in self._woken and row_id not in self._taken]
                self._woken.update(dict.fromkeys(new))
            return len(new)

    def next_due_s(self, addresses: Sequence[str]) -> float | None:
        """Seconds until a WAITING row of these addresses is due, None when none waits."""
        rows = self._read(f"SELECT min(due) FROM version WHERE state = 'waiting' AND {self._within(addresses)}")
        return max(0.0, rows[0][0] - self._clock.monotonic()) if rows[0][0] is not None else None

    def _within(self, addresses: Sequence[str]) -> str:
        """A condition: only rows of these addresses."""
        return f"address IN ({', '.join(str(self._addresses.get(name, -1)) for name in addresses)})"

    def recover(self) -> int:
        """On start: what was SENDING or WAITING when the last run ended is READY again. Returns how many rows.

        Versions that were never sent and were overtaken are forgotten, when they are many.
        """

        def apply(connection: sqlite3.Connection) -> int:
            self._forget_overtaken(connection)
            rows = connection.execute(
                "SELECT id FROM version WHERE state = 'sending' OR (state = 'waiting' AND reason != ?)", (FOR_FILE,)
            ).fetchall()
            for (row_id,) in rows:
                self._move(connection, row_id, State.READY, due=0.0)
            # Monotonic times of another run mean nothing now: what was gathered in it goes.
            for name in self._timed:
                connection.execute(
                    "UPDATE version SET due = 0 WHERE address = ? AND state = 'ready' AND due > 0",
                    (self._addresses[name],),
                )
            return len(rows)

        return self._write(apply)

    def _forget_overtaken(self, connection: sqlite3.Connection) -> None:
        """At the start, when no worker holds a row. What was sent stays: its key is taken, and `follow` tells it."""
        words = ("superseded", "gone")
        if sum(cell[0] for (_, state, reason), cell in self._tally.items() if state in words and not reason) < MANY:
            return
        rows = connection.execute(
            "SELECT v.id, a.name, v.state, v.size FROM version v JOIN address a ON a.id = v.address"
            " WHERE v.state IN (?, ?) AND v.reason = '' AND v.position IS NULL AND EXISTS (SELECT 1 FROM version n"
            " WHERE n.directory = v.directory AND n.name = v.name AND n.address = v.address"
            " AND n.cloud_path IS v.cloud_path AND n.id > v.id)"
            " AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.version = v.id) LIMIT ?",
            (*words, MOST_FORGOTTEN),
        ).fetchall()
        for row_id, address, state, size in rows:
            connection.execute("DELETE FROM version WHERE id = ?", (row_id,))
            self._count(address, State(state), "", files=-1, size=-size)
