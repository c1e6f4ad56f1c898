"""What the intake tells and asks: which files are known, which versions have arrived, which are gone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from syncagent.core.model import Facts, State

from .base import JournalBase
from .rows import DROPPED, FOR_FILE, LIVE, LIVE_VERSIONS, UNHANDLED, Arrival, Known, is_expected, split_path

#: Rows of a name that are read beside the live ones: old bytes that come back under it are known that far back.
RECENT = 50
_VALUES = "v.id, v.size, v.mtime_ns, v.ctime_ns, v.inode, v.state, v.reason, v.cloud_path, v.message, v.unsettled"
_OLDER = (
    f"SELECT {_VALUES} FROM (SELECT * FROM version INDEXED BY version_place WHERE directory = ? AND name = ?"
    f" ORDER BY id DESC LIMIT ?) v WHERE v.address = ? UNION SELECT {_VALUES} FROM {LIVE_VERSIONS}"
    f" WHERE v.directory = ? AND v.name = ? AND {LIVE} AND v.address = ? ORDER BY 1 DESC"
)
#: What a confirmation adds to a row, beside a key about as long as its path: digests, ETag, position and two times.
PROOF_BYTES = 104
_STATES = {str(state): state for state in State}
#: The key that somebody asked for, and the message that did; neither for a file that an address sends by itself.
Wish = tuple[str | None, str | None]
OWN: Wish = (None, None)


class Arrivals(JournalBase):
    """The intake's half of the journal."""

    def known_among(self, directory: str, names: Sequence[str]) -> dict[str, list[Known]]:
        """Live rows of some files of one directory, by name (one per address); a scan compares the disk with these."""
        if not names:
            return {}
        marks = ", ".join("?" * len(names))
        values = (os.fsencode(directory), *(os.fsencode(name) for name in names))
        return self._known(f"d.path = ? AND v.name IN ({marks})", values)

    def count_live(self, directory: str) -> int:
        """How many names of one directory have live rows."""
        query = (
            f"SELECT count(DISTINCT v.name) FROM directory d JOIN {LIVE_VERSIONS} ON v.directory = d.id"
            f" WHERE d.path = ? AND {LIVE}"
        )
        return int(self._read(query, (os.fsencode(directory),))[0][0])

    def live_names(self, directory: str, *, after: str, limit: int) -> list[tuple[str, int]]:
        """(name, row id) of live rows of one directory in the order of their bytes, from behind `after`."""
        query = (
            f"SELECT v.name, v.id FROM directory d JOIN {LIVE_VERSIONS} ON v.directory = d.id"
            f" WHERE d.path = ? AND v.name > ? AND {LIVE} ORDER BY v.name LIMIT ?"
        )
        rows = self._read(query, (os.fsencode(directory), os.fsencode(after), limit))
        if len(rows) == limit:  # rows of one name stay together
            last = rows[-1][0]
            rows = [row for row in rows if row[0] != last] or rows
        return [(os.fsdecode(name), row_id) for name, row_id in rows]

    def known_at(self, path: str) -> list[Known]:
        """Live rows of one path, one per address."""
        head, name = split_path(path)
        return next(iter(self._known("d.path = ? AND v.name = ?", (head, name)).values()), [])

    def _known(self, where: str, values: Sequence[object]) -> dict[str, list[Known]]:
        found: dict[str, list[Known]] = {}
        query = (
            "SELECT v.id, a.name, v.name, v.size, v.mtime_ns, v.ctime_ns, v.inode, v.state, v.reason, v.unsettled"
            f" FROM directory d JOIN {LIVE_VERSIONS} ON v.directory = d.id JOIN address a ON a.id = v.address"
            f" WHERE {where} AND {LIVE}"
        )
        # Once for every file of a scan: no sorting, and nothing looked up twice.
        for row_id, address, name, size, mtime_ns, ctime_ns, inode, state, reason, unsettled in self._read(
            query, values
        ):
            facts = Facts(size, mtime_ns, ctime_ns, inode)
            rows = found.setdefault(os.fsdecode(name), [])
            rows.append(Known(row_id, address, facts, _STATES[state], reason, bool(unsettled)))
            if len(rows) > 1:
                # The newest row of an address speaks.
                rows[:] = {row.address: row for row in sorted(rows)}.values()
        return found

    def directories_below(self, directory: str) -> list[str]:
        """Every directory at or below `directory` that has live rows; finds those that vanished whole."""
        path = os.fsencode(directory)
        low, high = path + b"/", path + b"0"  # "0" follows "/" in ASCII
        query = (
            "SELECT d.path FROM directory d WHERE (d.path = ? OR (d.path >= ? AND d.path < ?))"
            f" AND EXISTS (SELECT 1 FROM {LIVE_VERSIONS} WHERE v.directory = d.id AND {LIVE})"
        )
        return [os.fsdecode(row[0]) for row in self._read(query, (path, low, high))]

    def record(self, arrivals: Sequence[Arrival]) -> int:
        """Make each finished version a READY row; older versions of its name that were not sent are SUPERSEDED.

        Idempotent: a version that is already known stays as it is. Returns how many rows became ready.
        """
        ready = self._write(lambda connection: sum(self._record_one(connection, arrival) for arrival in arrivals))
        with self._take_lock:
            # The oldest file is rarely the one that just came; every other order must look again.
            for batch in [batch for batch in self._batches if batch[2] != "oldest"]:
                self._batches.pop(batch, None)  # they may just have been read anew
        return ready

    def _record_one(self, connection: sqlite3.Connection, arrival: Arrival) -> int:
        head, name = split_path(arrival.path)
        address, directory = self._addresses[arrival.address], self._directory_id(connection, head)
        facts = arrival.facts
        older = connection.execute(_OLDER, (directory, name, RECENT, address, directory, name, address))
        ready = 0
        # What was asked for, by key and message, does not stand for another: each has rows of its own.
        seen: set[Wish] = set()
        known: set[Wish] = set()
        owed: set[Wish] = {OWN} if arrival.is_wanted else set()
        due = self._clock.monotonic() if arrival.address in self._timed else 0.0
        rows = older.fetchall()
        joining = self._joining(rows, facts)
        for row_id, size, mtime_ns, ctime_ns, inode, word, reason, cloud_path, message, unsettled in rows:
            # The finished version follows an unsettled one, although nothing may have been written since.
            follows = bool(unsettled) and not arrival.is_unsettled
            state, same = State(word), Facts(size, mtime_ns, ctime_ns, inode) == facts and not follows
            wish = (cloud_path, message)
            is_newest = wish not in seen
            seen.add(wish)
            if row_id in joining:
                # The version is there and was not sent yet: what the message says travels with it.
                self._moving.append(joining[row_id])
                connection.execute(
                    f"UPDATE version SET message = ?, {UNHANDLED} WHERE id = ?", (message, joining[row_id])
                )
                self._move(connection, row_id, State.SUPERSEDED)
                known.add(wish)
                ready += 1
            elif is_expected(state, reason):
                # Asked for, or found changed while it was sent: these are the facts it finished with.
                connection.execute(
                    "UPDATE version SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, unsettled = ?,"
                    f" sha256 = NULL, md5 = NULL, {UNHANDLED} WHERE id = ?",
                    (*_columns(facts), arrival.is_unsettled, row_id),
                )
                self._count(arrival.address, state, reason, files=0, size=facts.size_bytes - size)
                # What a person asks for goes now; what a message asks for goes when its address sends.
                self._move(connection, row_id, State.READY, due=due if message is not None else 0.0)
                known.add(wish)
                ready += 1
            elif same and is_newest:
                known.add(wish)
                if state in (State.SUPERSEDED, State.GONE, State.LOST) and reason != DROPPED:
                    self._move(connection, row_id, State.READY, attempts=0, due=due)
                    ready += 1
                elif state is State.REMOVED:
                    self._move(connection, row_id, State.CONFIRMED)
            elif not same and state in (State.READY, State.WAITING, State.PARKED):
                self._move(connection, row_id, State.SUPERSEDED)
                owed.add(wish)
            elif not same and state is State.CONFIRMED:
                self._move(connection, row_id, State.REMOVED)  # its bytes are not on the disk any more
            if follows and state in (State.SENDING, State.CONFIRMED):
                owed.add(wish)
        if any(cloud_path is None for cloud_path, _ in (known | owed) - {OWN}):
            owed.discard(OWN)  # a message asks for the very key that the file would go to by itself
        for cloud_path, message in sorted(owed - known, key=lambda wish: (wish[0] or "", wish[1] or "")):
            connection.execute(
                "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, due, recorded,"
                " unsettled, cloud_path, message, room) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, zeroblob(?))",
                (
                    *(address, directory, name, *_columns(facts)),
                    *(State.READY, due, self.time(), arrival.is_unsettled, cloud_path, message),
                    PROOF_BYTES + len(os.fsencode(arrival.path)),
                ),
            )
            self._count(arrival.address, State.READY, "", files=1, size=facts.size_bytes)
            ready += 1
        return ready

    def _joining(self, rows: Sequence[tuple[Any, ...]], facts: Facts) -> dict[int, int]:
        """Rows that wait for this version and have a message, each with the unsent row that nobody gave one to."""
        free: dict[str | None, int] = {}
        joining: dict[int, int] = {}
        for row_id, *numbers, word, reason, cloud_path, message, unsettled in reversed(rows):  # oldest first
            if message is None and word in (State.READY, State.WAITING) and reason != FOR_FILE:
                # One that a worker has goes without: its request may have left.
                if Facts(*numbers) == facts and not unsettled and row_id not in self._taken:
                    free[cloud_path] = row_id
            elif message is not None and is_expected(State(word), reason) and cloud_path in free:
                joining[row_id] = free.pop(cloud_path)
        return joining

    def ask(self, address: str, path: str, *, cloud_path: str | None = None, facts: Facts | None = None) -> int:
        """Queue one file for one address because somebody asked for it; durable. Returns the row's id.

        The row is SETTLING until the intake finds the file finished. A version that is already on its way under the
        same key (with the file's `facts` of now, where they are given) is not queued twice: its row is returned, due
        now, whatever its address would have it wait for.
        """

        def apply(connection: sqlite3.Connection) -> int:
            head, name = split_path(path)
            address_id, directory = self._address_id(connection, address), self._directory_id(connection, head)
            same = " AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?" if facts else ""
            row = connection.execute(
                f"SELECT id FROM {LIVE_VERSIONS} WHERE directory = ? AND name = ? AND {LIVE} AND address = ?"
                f" AND cloud_path IS ? AND (state = 'settling' OR (state IN ('ready', 'sending', 'waiting'){same}))"
                " ORDER BY id DESC LIMIT 1",
                (directory, name, address_id, cloud_path, *(_columns(facts) if facts else ())),
            ).fetchone()
            if row:
                self._moving.append(row[0])
                # Not of one that waits for its file: only that ends the waiting.
                connection.execute("UPDATE version SET due = 0 WHERE id = ? AND reason != ?", (row[0], FOR_FILE))
                return int(row[0])
            (row_id,) = connection.execute(
                "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, recorded,"
                " cloud_path) VALUES (?, ?, ?, 0, 0, 0, 0, ?, ?, ?) RETURNING id",
                (address_id, directory, name, State.SETTLING, self.time(), cloud_path),
            ).fetchone()
            self._count(address, State.SETTLING, "", files=1, size=0)
            return int(row_id)

        return self._write(apply, durable=True)

    def vanished(self, ids: Iterable[int]) -> None:
        """The files of these rows are not on the disk any more: what was owed is GONE, what was confirmed REMOVED."""
        ids = list(ids)

        def apply(connection: sqlite3.Connection) -> None:
            for row_id in ids:
                state = self._state(connection, row_id)
                if state is State.CONFIRMED:
                    self._move(connection, row_id, State.REMOVED)
                    continue
                reason = self._reason(connection, row_id)
                owes = state in (State.READY, State.WAITING, State.PARKED, State.SETTLING)
                # What waits for its file never had one.
                if (owes and reason != FOR_FILE) or (state is State.GONE and reason == DROPPED):
                    self._move(connection, row_id, State.GONE)

        if ids:
            self._write(apply)

    def reface(self, pairs: Sequence[tuple[int, Facts]]) -> None:
        """New facts, same digest: a `chmod` or a new link. The row stays what it is."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE version SET mtime_ns = ?, ctime_ns = ?, inode = ? WHERE id = ?",
                [(facts.mtime_ns, facts.ctime_ns, facts.inode, row_id) for row_id, facts in pairs],
            )

        if pairs:
            self._write(apply)

    def reface_twins(self, twins: Mapping[Facts, Facts]) -> None:
        """Of files that lost one of several names: what confirmed rows of the others say -> what is true of them."""
        inodes = sorted({facts.inode for facts in twins})
        found = self._read(
            "SELECT v.id, v.size, v.mtime_ns, v.ctime_ns, v.inode FROM version v INDEXED BY version_confirmed"
            f" WHERE v.state = 'confirmed' AND v.inode IN ({', '.join('?' * len(inodes))})",
            inodes,
        )
        known = [(row_id, Facts(*numbers)) for row_id, *numbers in found]
        changes = [(twins[facts].ctime_ns, row_id, *_columns(facts)) for row_id, facts in known if facts in twins]

        def apply(connection: sqlite3.Connection) -> None:
            # Whoever hashed one meanwhile knows better.
            connection.executemany(
                "UPDATE version SET ctime_ns = ? WHERE id = ? AND state = 'confirmed'"
                " AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?",
                changes,
            )

        if changes:
            self._write(apply)


def _columns(facts: Facts) -> tuple[int, int, int, int]:
    return facts.size_bytes, facts.mtime_ns, facts.ctime_ns, facts.inode
