"""What the intake tells and asks: which files are known, which versions have arrived, which are gone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence

from syncagent.core.model import Facts, State

from .base import JournalBase
from .rows import DROPPED, FOR_FILE, LIVE, Arrival, Known, is_expected, split_path


class Arrivals(JournalBase):
    """The intake's half of the journal."""

    def known_among(self, directory: str, names: Sequence[str]) -> dict[str, list[Known]]:
        """Live rows of some files of one directory, by name (one per address); a scan compares the disk with these."""
        marks = ", ".join("?" * len(names))
        values = (os.fsencode(directory), *(os.fsencode(name) for name in names))
        return self._known(f"d.path = ? AND v.name IN ({marks}) AND {LIVE}", values)

    def count_live(self, directory: str) -> int:
        """How many names of one directory have live rows."""
        query = (
            "SELECT count(DISTINCT v.name) FROM directory d JOIN version v ON v.directory = d.id"
            f" WHERE d.path = ? AND {LIVE}"
        )
        return int(self._read(query, (os.fsencode(directory),))[0][0])

    def live_names(self, directory: str, *, after: str, limit: int) -> list[tuple[str, int]]:
        """(name, row id) of live rows of one directory in the order of their bytes, from behind `after`."""
        query = (
            "SELECT v.name, v.id FROM directory d JOIN version v ON v.directory = d.id"
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
        return next(iter(self._known("d.path = ? AND v.name = ? AND " + LIVE, (head, name)).values()), [])

    def _known(self, where: str, values: Sequence[object]) -> dict[str, list[Known]]:
        found: dict[str, list[Known]] = {}
        query = (
            "SELECT v.id, a.name, v.name, v.size, v.mtime_ns, v.ctime_ns, v.inode, v.state, v.reason, v.unsettled"
            " FROM directory d"
            f" JOIN version v ON v.directory = d.id JOIN address a ON a.id = v.address WHERE {where} ORDER BY v.id"
        )
        for row_id, address, name, *numbers, state, reason, unsettled in self._read(query, values):
            rows = found.setdefault(os.fsdecode(name), [])
            rows[:] = [known for known in rows if known.address != address]  # the newest row of an address speaks
            rows.append(Known(row_id, address, Facts(*numbers), State(state), reason, bool(unsettled)))
        return found

    def directories_below(self, directory: str) -> list[str]:
        """Every directory at or below `directory` that has live rows; finds those that vanished whole."""
        path = os.fsencode(directory)
        low, high = path + b"/", path + b"0"  # "0" follows "/" in ASCII
        query = (
            "SELECT d.path FROM directory d WHERE (d.path = ? OR (d.path >= ? AND d.path < ?))"
            f" AND EXISTS (SELECT 1 FROM version v WHERE v.directory = d.id AND {LIVE})"
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
        older = connection.execute(
            "SELECT id, size, mtime_ns, ctime_ns, inode, state, reason, cloud_path, message, unsettled FROM version"
            " WHERE directory = ? AND name = ? AND address = ? ORDER BY id DESC",
            (directory, name, address),
        )
        ready = 0
        # A key that somebody asked for does not stand for the one that the address gives: each has rows of its own.
        seen: set[str | None] = set()
        known: set[str | None] = set()
        owed: dict[str | None, str | None] = {None: None} if arrival.is_wanted else {}  # key -> message
        due = self._clock.monotonic() if arrival.address in self._timed else 0.0
        for row_id, size, mtime_ns, ctime_ns, inode, word, reason, cloud_path, message, unsettled in older.fetchall():
            # The finished version follows an unsettled one, although nothing may have been written since.
            follows = bool(unsettled) and not arrival.is_unsettled
            state, same = State(word), Facts(size, mtime_ns, ctime_ns, inode) == facts and not follows
            is_newest = cloud_path not in seen
            seen.add(cloud_path)
            if is_expected(state, reason):
                # Asked for, or found changed while it was sent: these are the facts it finished with.
                connection.execute(
                    "UPDATE version SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, unsettled = ?,"
                    " sha256 = NULL, md5 = NULL, handled = 0, body = NULL,"
                    " body_size = NULL WHERE id = ?",
                    (*_columns(facts), arrival.is_unsettled, row_id),
                )
                self._count(arrival.address, state, reason, files=0, size=facts.size_bytes - size)
                # What a person asks for goes now; what a message asks for goes when its address sends.
                self._move(connection, row_id, State.READY, due=due if message is not None else 0.0)
                known.add(cloud_path)
                ready += 1
            elif same and is_newest:
                known.add(cloud_path)
                if state in (State.SUPERSEDED, State.GONE, State.LOST) and reason != DROPPED:
                    self._move(connection, row_id, State.READY, attempts=0, due=due)
                    ready += 1
                elif state is State.REMOVED:
                    self._move(connection, row_id, State.CONFIRMED)
            elif not same and state in (State.READY, State.WAITING, State.PARKED):
                self._move(connection, row_id, State.SUPERSEDED)
                owed[cloud_path] = message
            elif not same and state is State.CONFIRMED:
                self._move(connection, row_id, State.REMOVED)  # its bytes are not on the disk any more
            if follows and state in (State.SENDING, State.CONFIRMED):
                owed[cloud_path] = message
        for cloud_path in sorted(owed.keys() - known, key=lambda path: path or ""):
            connection.execute(
                "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, due, recorded,"
                " unsettled, cloud_path, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(address, directory, name, *_columns(facts)),
                    *(State.READY, due, self.time(), arrival.is_unsettled, cloud_path, owed[cloud_path]),
                ),
            )
            self._count(arrival.address, State.READY, "", files=1, size=facts.size_bytes)
            ready += 1
        return ready

    def ask(self, address: str, path: str, *, cloud_path: str | None = None, facts: Facts | None = None) -> int:
        """Queue one file for one address because somebody asked for it; durable. Returns the row's id.

        The row is SETTLING until the intake finds the file finished. A version that is already on its way under the
        same key (with the file's `facts` of now, where they are given) is not queued twice: its row is returned.
        """

        def apply(connection: sqlite3.Connection) -> int:
            head, name = split_path(path)
            address_id, directory = self._address_id(connection, address), self._directory_id(connection, head)
            same = " AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?" if facts else ""
            row = connection.execute(
                "SELECT id FROM version WHERE directory = ? AND name = ? AND address = ? AND cloud_path IS ? AND"
                f" (state = 'settling' OR (state IN ('ready', 'sending', 'waiting'){same})) ORDER BY id DESC LIMIT 1",
                (directory, name, address_id, cloud_path, *(_columns(facts) if facts else ())),
            ).fetchone()
            if row:
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


def _columns(facts: Facts) -> tuple[int, int, int, int]:
    return facts.size_bytes, facts.mtime_ns, facts.ctime_ns, facts.inode
