"""What every part of the journal stands on: its time, its counts, its places, and the one way to move a row."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from syncagent.core.model import OWED, TRANSITIONS, State
from syncagent.edges.clock import Clock

from .confirmations import Confirmations
from .database import Database
from .rows import FOR_FILE, ROWS, Row, row_of

T = TypeVar("T")

#: What a transaction changes in memory: tally, position, uploads, addresses.
_Memory = tuple[dict[tuple[str, State, str], list[int]], int, set[int], dict[str, int]]
#: Marks of moved rows that are kept, before all batches are read anew.
MAX_MOVED = 5_000
#: A year: more than a device is switched off between two visits. A jump beyond it is a wrong clock.
PLAUSIBLE_GAP_S = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What one worker has: a row, and, once it is known, the key of a store that it sends to."""

    row: Row
    key: str = ""


class JournalBase(Database):
    """See the module."""

    def __init__(self, state_dir: str, clock: Clock, *, is_read_only: bool = False) -> None:
        """Raises: JournalBroken. `is_read_only`: for those who only look, and may not be allowed more."""
        self._clock = clock
        self._taken: dict[int, Taken] = {}  # by row id, under _take_lock
        self._take_lock = threading.Lock()
        self._stranded: dict[int, Row] = {}  # SENDING, because the disk was full when they were to be released
        #: What the store proved and the journal could not write down: the row, and the change. Under _take_lock.
        self._proved: dict[int, tuple[Row, Callable[[sqlite3.Connection], None]]] = {}
        self._proving = threading.Lock()
        #: WAITING rows that are to be tried, while the journal cannot be written to make them READY. Under _take_lock.
        self._woken: dict[int, None] = {}
        self._addresses: dict[str, int] = {}
        self._address_stores: dict[str, str] = {}  # as this process was told, whatever others write
        self._active: frozenset[str] = frozenset()
        self._timed: frozenset[str] = frozenset()  # addresses that send every so many seconds
        self._handlers: frozenset[str] = frozenset()  # addresses whose versions go through a handler first
        self._directories: dict[bytes, int] = {}
        self._batches: dict[tuple[str, str, str, int | None], list[Row]] = {}  # claims to come; _take_lock
        self._moved: set[int] = set()  # rows that moved since those batches were read
        self._moving: list[int] = []  # those of the transaction at hand
        self._owing: list[int] = []  # those of them that are owed now
        self._owed_since: dict[str, int] = {}  # address -> a row id before which nothing is owed; _owed_lock
        self._owed_moves = 0  # transactions that made rows owed again; _owed_lock
        self._owed_lock = threading.Lock()
        self._position = 0  # of the last confirmation
        self._uploads: set[int] = set()  # rows that have a multipart upload on its way
        self._tally: dict[tuple[str, State, str], list[int]] = {}
        self._offset = 0.0
        self._before: _Memory = ({}, 0, set(), {})
        super().__init__(state_dir, is_read_only=is_read_only)
        self.confirmations = Confirmations(self._position)

    def _last_time(self, connection: sqlite3.Connection) -> float:
        """Journal time at this start: the last one written, and the wall clock's word on how long ago that was."""
        last, wall = 0.0, None
        row = connection.execute("SELECT recorded FROM version ORDER BY id DESC LIMIT 1").fetchone()
        if row:
            last = row[0]
        row = connection.execute(
            "SELECT confirmed, confirmed_at FROM version WHERE position IS NOT NULL ORDER BY position DESC LIMIT 1"
        ).fetchone()
        if row and row[0] is not None:
            last, wall = max(last, row[0]), row[1] + max(0.0, last - row[0])
        gap = self._clock.now().timestamp() - wall if wall is not None else 0.0
        return float(last + (gap if 0.0 < gap < PLAUSIBLE_GAP_S else 0.0))

    def time(self) -> float:
        """Journal time in seconds."""
        return self._clock.monotonic() + self._offset

    def _forget(self, connection: sqlite3.Connection) -> None:
        if not self._offset:
            self._offset = self._last_time(connection) - self._clock.monotonic()
        self._directories.clear()
        (last,) = connection.execute("SELECT max(position) FROM version WHERE position IS NOT NULL").fetchone()
        self._position = last or 0
        self._uploads = {row_id for (row_id,) in connection.execute("SELECT version FROM upload")}
        self._batches = {}
        with self._owed_lock:
            self._owed_moves += 1
            self._owed_since.clear()
        self._recount(connection)

    def _committed(self) -> None:
        # Not before: a batch that is read between the move and its commit shows the row as it was.
        self._moved.update(self._moving)
        self._moving.clear()
        if self._owing:
            first = min(self._owing)
            self._owing.clear()
            with self._owed_lock:
                self._owed_moves += 1
                self._owed_since = {name: min(row_id, first) for name, row_id in self._owed_since.items()}
        # Not before either: who is told of a confirmation looks for it in the file.
        self.confirmations.tell(self._position)

    def _begun(self) -> None:
        # A few cells. To count all rows anew after a commit that failed would take seconds, again and again.
        tally = {key: cell.copy() for key, cell in self._tally.items()}
        self._before = (tally, self._position, self._uploads.copy(), self._addresses.copy())

    def _rolled_back(self) -> None:
        self._moving.clear()
        self._owing.clear()
        self._tally, self._position, self._uploads, self._addresses = self._before
        self._directories.clear()
        self._batches = {}

    def _write(self, apply: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        result = super()._write(apply, durable=durable)
        if len(self._moved) > MAX_MOVED:
            # Here and not when a batch is read: while the store is away nobody claims, and rows move on.
            with self._take_lock:
                self._moved.clear()
                for batch in self._batches.values():
                    batch.clear()  # they would need the marks that were just forgotten
        return result

    def _recount(self, connection: sqlite3.Connection) -> None:
        # Not GROUP BY: without an index SQLite sorts all rows, in 100 MB of memory for a million of them.
        cells: dict[tuple[int, str, str], list[int]] = {}
        for address, state, reason, size in connection.execute("SELECT address, state, reason, size FROM version"):
            cell = cells.get((address, state, reason))
            if cell is None:
                cells[address, state, reason] = [1, size]
            else:
                cell[0] += 1
                cell[1] += size
        names = dict(connection.execute("SELECT id, name FROM address"))
        self._tally = {(names[address], State(state), reason): cell for (address, state, reason), cell in cells.items()}
        self._addresses = dict(connection.execute("SELECT name, id FROM address"))

    def _count(self, address: str, state: State, reason: str, *, files: int, size: int) -> None:
        cell = self._tally.setdefault((address, state, reason), [0, 0])
        cell[0] += files
        cell[1] += size
        if not cell[0]:
            del self._tally[(address, state, reason)]

    def address_names(self) -> list[str]:
        """Every address that has or had rows, active or not."""
        return sorted(self._addresses)

    def set_active(self, names: Iterable[str]) -> None:
        """Say which addresses are active; rows of others do not count as owed."""
        self._active = frozenset(names)

    def set_stores(self, stores: Mapping[str, str]) -> None:
        """Say which store each active address sends to; rows of other addresses stay as they are.

        Only for the process that sends: what is confirmed from here on is taken to lie there.
        """

        def apply(connection: sqlite3.Connection) -> None:
            (last,) = connection.execute("SELECT max(position) FROM version WHERE position IS NOT NULL").fetchone()
            known = dict(connection.execute("SELECT name, store FROM address"))
            for name, store in stores.items():
                if known.get(name) == store:
                    continue
                connection.execute(
                    "INSERT INTO address(name, store) VALUES (?, ?)"
                    " ON CONFLICT(name) DO UPDATE SET store = excluded.store",
                    (name, store),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO residence SELECT id, ?, store FROM address WHERE name = ?",
                    (last or 0, name),
                )
            self._recount(connection)

        self.set_active(stores)
        self._address_stores = dict(stores)
        known = dict(self._read("SELECT name, store FROM address"))
        if any(known.get(name) != store for name, store in stores.items()):
            self._write(apply)

    def set_ways(self, *, timed: Iterable[str], handlers: Iterable[str]) -> None:
        """Say which addresses send every so many seconds, and which have a handler.

        READY rows of the first remember since when they are; those of the second are not claimed before the handler
        has seen them.
        """
        self._timed, self._handlers = frozenset(timed), frozenset(handlers)

    def _address_id(self, connection: sqlite3.Connection, name: str) -> int:
        """Of an address that may be new: until its agent runs, nothing was sent to it, so its store has no name."""
        if name not in self._addresses:
            connection.execute("INSERT OR IGNORE INTO address(name, store) VALUES (?, '')", (name,))
            self._addresses = dict(connection.execute("SELECT name, id FROM address"))
        return self._addresses[name]

    def _directory_id(self, connection: sqlite3.Connection, path: bytes) -> int:
        found = self._directories.get(path)
        if found is None:
            row = connection.execute("SELECT id FROM directory WHERE path = ?", (path,)).fetchone()
            if row is None:
                row = connection.execute("INSERT INTO directory(path) VALUES (?) RETURNING id", (path,)).fetchone()
            if len(self._directories) > 4096:
                self._directories.clear()
            found = self._directories[path] = int(row[0])
        return found

    def count_of(self, *states: State) -> int:
        """How many rows of active addresses are in these states, as far as this process knows; never waits."""
        tally = self._tally.copy()
        return sum(cell[0] for (name, state, _), cell in tally.items() if state in states and name in self._active)

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        return [row_of(values) for values in self._read(query, values)]

    def row(self, row_id: int) -> Row:
        return self.rows(f"{ROWS} WHERE v.id = ?", (row_id,))[0]

    def _state(self, connection: sqlite3.Connection, row_id: int) -> State:
        return State(connection.execute("SELECT state FROM version WHERE id = ?", (row_id,)).fetchone()[0])

    def _reason(self, connection: sqlite3.Connection, row_id: int) -> str:
        return str(connection.execute("SELECT reason FROM version WHERE id = ?", (row_id,)).fetchone()[0])

    def _move(
        self, connection: sqlite3.Connection, row_id: int, state: State, *, reason: str = "", **values: Any
    ) -> None:
        address, old_state, old_reason, size = connection.execute(
            "SELECT a.name, v.state, v.reason, v.size FROM version v JOIN address a ON a.id = v.address WHERE v.id = ?",
            (row_id,),
        ).fetchone()
        if state not in TRANSITIONS[State(old_state)]:
            raise ValueError(f"row {row_id} cannot go from {old_state} to {state}")
        self._moving.append(row_id)
        if state in OWED and (State(old_state) not in OWED or old_reason == FOR_FILE):
            self._owing.append(row_id)
        if "sha256" in values:
            values["room"] = None
        names = "".join(f", {name} = ?" for name in values)
        connection.execute(
            f"UPDATE version SET state = ?, reason = ?{names} WHERE id = ?",
            (state, reason, *values.values(), row_id),
        )
        self._count(address, State(old_state), old_reason, files=-1, size=-size)
        self._count(address, state, reason, files=1, size=size)
