"""What the pruner tells and asks: which confirmed files are oldest, which unsent ones were dropped, what to report."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from syncagent.core.model import Facts, State
from syncagent.core.retention import DROPPABLE, Claim

from .base import JournalBase
from .rows import FOR_FILE, LIVE, ROWS, Row, join_path, split_path

#: Unsent rows that are compared with one another at once, to thin them; of more, every second or third is looked at.
MOST_TIMES = 50_000
#: What could be dropped: it has a file, and no request is under way for it.
_UNSENT = f"(v.state IN ('ready', 'waiting', 'parked') AND v.reason != '{FOR_FILE}')"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that may go, and where it stands in the order."""

    id: int
    path: str
    at: float  # journal time: confirmed, or recorded
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A version that was dropped unsent."""

    id: int
    path: str
    address: str
    size_bytes: int
    mtime_ns: int
    reason: str
    lost_at: float  # UTC


class Removals(JournalBase):
    """The pruner's part of the journal."""

    def confirmed_below(self, directory: str, *, until: float, after: tuple[float, int], limit: int) -> list[Candidate]:
        """Confirmed versions at or below a directory, the longest confirmed first, from behind (time, row id)."""
        within, values = _within(directory)
        found = self._read(
            "SELECT v.id, d.path, v.name, v.confirmed, v.size FROM version v INDEXED BY version_confirmed"
            f" JOIN directory d ON d.id = v.directory WHERE v.state = 'confirmed' AND v.confirmed <= ?"
            f" AND (v.confirmed, v.id) > (?, ?) AND {within} ORDER BY v.confirmed, v.id LIMIT ?",
            (until, *after, *values, limit),
        )
        return [Candidate(row_id, join_path(head, name), at, size) for row_id, head, name, at, size in found]

    def confirmed_total(self, directory: str, without: Sequence[str]) -> tuple[int, int]:
        """(files, bytes) that are confirmed for somebody at or below a directory, but not in those others below it."""
        within, values = _within(directory)
        for other in without:
            not_within, more = _within(other)
            within += f" AND NOT {not_within}"
            values += more
        found = self._read(
            "SELECT count(*), coalesce(sum(size), 0) FROM (SELECT max(v.size) AS size FROM version v"
            f" JOIN directory d ON d.id = v.directory WHERE v.state = 'confirmed' AND {within}"
            " GROUP BY v.directory, v.name)",
            values,
        )
        return int(found[0][0]), int(found[0][1])

    def claims_on(self, path: str) -> list[Claim]:
        """Every live row of a file; one whose confirmation could not be written yet counts as confirmed."""
        head, name = split_path(path)
        proved = self.proved()
        found = self._read(
            "SELECT v.id, a.name, v.state, v.unsettled, v.size, v.mtime_ns, v.ctime_ns, v.inode FROM directory d"
            f" JOIN version v ON v.directory = d.id JOIN address a ON a.id = v.address"
            f" WHERE d.path = ? AND v.name = ? AND {LIVE}",
            (head, name),
        )
        return [
            Claim(
                row_id,
                address,
                State.CONFIRMED if row_id in proved else State(state),
                Facts(*numbers),
                bool(unsettled),
            )
            for row_id, address, state, unsettled, *numbers in found
        ]

    def row_if_any(self, row_id: int) -> Row | None:
        return next(iter(self.rows(f"{ROWS} WHERE v.id = ?", (row_id,))), None)

    def proved(self) -> dict[int, str]:
        """Row id -> path of what the store proved and this journal could not write down yet."""
        with self._take_lock:
            return {row_id: row.path for row_id, (row, _) in self._proved.items()}

    def is_taken(self, path: str) -> bool:
        """Whether a worker has a row of that file."""
        with self._take_lock:
            return any(taken.row.path == path for taken in self._taken.values())

    def removed(self, ids: Iterable[int]) -> None:
        """The files of these confirmed rows were removed."""
        ids = list(ids)

        def apply(connection: sqlite3.Connection) -> None:
            for row_id in ids:
                if self._state(connection, row_id) is State.CONFIRMED:
                    self._move(connection, row_id, State.REMOVED)

        if ids:
            self._write(apply)

    # -- what is dropped unsent ---------------------------------------------------------------------------------------

    def unsent_below(self, directory: str, *, newest_first: bool, after: int, limit: int) -> list[Candidate]:
        """Unsent versions that no request is under way for, by the order in which they were recorded."""
        within, values = _within(directory)
        beyond, order = ("<", "DESC") if newest_first else (">", "ASC")
        found = self._read(
            "SELECT v.id, d.path, v.name, v.recorded, v.size FROM version v JOIN directory d ON d.id = v.directory"
            f" WHERE {_UNSENT} AND v.id {beyond} ? AND {within}"
            f" ORDER BY v.id {order} LIMIT ?",
            (after, *values, limit),
        )
        return [Candidate(row_id, join_path(head, name), at, size) for row_id, head, name, at, size in found]

    def unsent_times(self, directory: str) -> dict[int, float]:
        """Row id -> when it was recorded, of as many unsent versions as fit into memory, evenly taken."""
        within, values = _within(directory)
        joined = f"version v JOIN directory d ON d.id = v.directory WHERE {_UNSENT} AND {within}"
        (count,) = self._read(f"SELECT count(*) FROM {joined}", values)[0]
        step = -(-count // MOST_TIMES) or 1
        return dict(self._read(f"SELECT v.id, v.recorded FROM {joined} AND v.id % ? = 0", (*values, step)))

    def candidate(self, row_id: int) -> Candidate | None:
        row = self.row_if_any(row_id)
        return None if row is None else Candidate(row_id, row.path, row.recorded, row.facts.size_bytes)

    def lose(self, ids: Sequence[int], reason: str) -> set[int]:
        """These versions are about to be dropped unsent: durable, before anything is removed.

        Returns which: what is not unsent any more stays what it is.
        """
        now = self._clock.now().timestamp()

        def apply(connection: sqlite3.Connection) -> set[int]:
            found = {row_id for row_id in ids if self._state(connection, row_id) in DROPPABLE}
            for row_id in found:
                self._move(connection, row_id, State.LOST, reason=reason, lost_at=now)
            return found

        return self._write(apply, durable=True)

    def regain(self, ids: Sequence[int]) -> None:
        """They were not dropped after all."""

        def apply(connection: sqlite3.Connection) -> None:
            for row_id in ids:
                if self._state(connection, row_id) is State.LOST:
                    self._move(connection, row_id, State.READY, due=0.0)

        self._write(apply)

    def total_of(self, wanted: State, addresses: Collection[str]) -> tuple[int, int]:
        """(rows, bytes) of some addresses in a state, as far as this process knows."""
        cells = [cell for (name, state, _), cell in self._tally.copy().items() if state is wanted and name in addresses]
        return sum(cell[0] for cell in cells), sum(cell[1] for cell in cells)

    def losses(self, addresses: Sequence[str], *, limit: int) -> list[Loss]:
        """The last versions that were dropped unsent, the newest last."""
        ids = [self._addresses[name] for name in addresses if name in self._addresses]
        found = self._read(
            "SELECT v.id, d.path, v.name, a.name, v.size, v.mtime_ns, v.reason, v.lost_at FROM version v"
            " INDEXED BY version_lost JOIN directory d ON d.id = v.directory JOIN address a ON a.id = v.address"
            f" WHERE v.state = 'lost' AND v.address IN ({', '.join('?' * len(ids))}) ORDER BY v.id DESC LIMIT ?",
            (*ids, limit),
        )
        return [
            Loss(row_id, join_path(head, name), address, size, mtime_ns, reason, at or 0.0)
            for row_id, head, name, address, size, mtime_ns, reason, at in reversed(found)
        ]

    def send_own(self, address: str, path: str, facts: Facts, *, key: str) -> None:
        """Queue a file of the agent's own under a key of its own; what is queued of it and not sent goes first.

        Durable. No handler sees it.
        """
        head, name = split_path(path)

        def apply(connection: sqlite3.Connection) -> None:
            address_id, directory = self._address_id(connection, address), self._directory_id(connection, head)
            older = connection.execute(
                "SELECT id, state FROM version WHERE directory = ? AND name = ? AND address = ?",
                (directory, name, address_id),
            ).fetchall()
            for row_id, word in older:
                if State(word) in (State.READY, State.WAITING, State.PARKED):
                    self._move(connection, row_id, State.SUPERSEDED)
                elif State(word) is State.CONFIRMED:
                    self._move(connection, row_id, State.REMOVED)
            connection.execute(
                "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, recorded,"
                " cloud_path, handled) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
                (
                    *(address_id, directory, name, facts.size_bytes, facts.mtime_ns, facts.ctime_ns, facts.inode),
                    *(State.READY, self.time(), key),
                ),
            )
            self._count(address, State.READY, "", files=1, size=facts.size_bytes)

        self._write(apply, durable=True)


def _within(directory: str) -> tuple[str, tuple[object, ...]]:
    """A condition on d.path: at or below a directory."""
    path = os.fsencode(directory)
    return "(d.path = ? OR (d.path >= ? AND d.path < ?))", (path, path + b"/", path + b"0")  # "0" follows "/"
