"""The journal: what this device has promised to deliver, and how far each promise got.

A method that returns has its change in the database; one marked *durable* has it on the card as well (fsynced).
What is not durable may be lost by a power cut, never by a kill, and every loss of that kind is repaired from the
disk: an unrecorded file is found by the scan, a claim that is forgotten is made again.
On a disk that takes no change, a confirmation is held in memory until it does: see `confirm` and `write_proved`.
Rows move only along `model.TRANSITIONS`. Nothing here touches the network or the watched tree.

Journal time counts the seconds this journal was in use, and, where the wall clock went on plausibly, those between:
ages by it survive a board that boots in 1970.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from syncagent.core.model import OWED, State

from .arrivals import Arrivals
from .database import FILE_NAME
from .deliveries import Deliveries
from .holdings import Holdings, Sent
from .messages import Messages
from .reading import JournalReader
from .releases import Release, Releases, Step
from .removals import Candidate, Loss, Removals
from .rows import FOR_FILE, OWED_WORDS, ROWS, Arrival, Ask, Known, Row, Tally, Upload, join_path
from .uploads import Uploads
from .wreckage import is_missing, set_aside, wrecks

__all__ = [
    "FILE_NAME",
    "FOR_FILE",
    "Arrival",
    "Ask",
    "Candidate",
    "Journal",
    "JournalReader",
    "Known",
    "Loss",
    "Release",
    "Row",
    "Sent",
    "Step",
    "Tally",
    "Upload",
    "is_missing",
    "set_aside",
    "wrecks",
]

#: The note of torn journals: which are known, the one to tell of, and since when (null: not any more).
_TORN = "torn"
#: So long a torn journal is told of.
TOLD_S = 7 * 86400.0

#: So far back `newest` looks: with files that are removed soon, all the others would be looked at.
NEWEST_WINDOW = 4_000
_ON_DISK = (State.READY, State.SENDING, State.CONFIRMED, State.WAITING, State.PARKED)
_ON_DISK_WORDS = ", ".join(f"'{state}'" for state in _ON_DISK)

#: The note of a run that has not ended.
_IN_USE = "in use"


class Journal(Arrivals, Deliveries, Holdings, Messages, Releases, Removals, Uploads):
    """One SQLite file. Thread-safe; writes of several threads share a commit.

    Counts, addresses and the next rows to claim are remembered in memory. What another process wrote is not in them
    before `refresh` (or `tally`): whoever must not miss it calls that, as the intake does each second.
    """

    def listing(self, states: Sequence[State] = (), *, limit: int = -1) -> list[Row]:
        """Rows in the order they were recorded, of the given states or of all."""
        marks = ", ".join("?" * len(states)) or "state"
        return self.rows(f"{ROWS} WHERE v.state IN ({marks}) ORDER BY v.id LIMIT ?", (*states, limit))

    def newest(self, *, limit: int) -> list[Row]:
        """Of the last few thousand rows those whose files may be there, the last recorded first."""
        return self.rows(
            f"{ROWS} WHERE v.id > (SELECT max(id) FROM version) - ? AND v.state IN ({_ON_DISK_WORDS})"
            " ORDER BY v.id DESC LIMIT ?",
            (NEWEST_WINDOW, limit),
        )

    def asked(self) -> list[Row]:
        """Rows that somebody asked for and that are not finished yet."""
        return self.rows(f"{ROWS} WHERE v.state = 'settling'")

    def retry(self, paths: Sequence[str] | None = None) -> int:
        """Release PARKED rows, and make due now what waits or is gathered: of `paths`, or all. Durable; how many."""

        def apply(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT v.id, v.state, d.path, v.name FROM version v JOIN directory d ON d.id = v.directory"
                " WHERE v.state = 'parked' OR (v.state = 'waiting' AND v.reason != ?)"
                " OR (v.state = 'ready' AND v.due > 0)",
                (FOR_FILE,),
            ).fetchall()
            chosen = [(row_id, state) for row_id, state, *path in rows if paths is None or join_path(*path) in paths]
            for row_id, state in chosen:
                if state == State.READY:  # gathered by an address that sends every so many seconds
                    self._moving.append(row_id)
                    connection.execute("UPDATE version SET due = 0 WHERE id = ?", (row_id,))
                else:
                    self._move(connection, row_id, State.READY, attempts=0, due=0.0)
            connection.execute("UPDATE note SET value = json_set(value, '$.since', NULL) WHERE name = ?", (_TORN,))
            return len(chosen)

        return self._write(apply, durable=True)

    def refresh(self) -> None:
        """Look whether another process wrote; what is remembered in memory is read anew then."""
        with self._lock:
            self._guard(lambda: self._refresh(self._writer))

    def tally(self) -> dict[tuple[str, State, str], Tally]:
        """(address, state, reason) -> how many files and bytes."""
        with self._lock:
            self._guard(lambda: self._refresh(self._writer))
            return {key: Tally(*cell) for key, cell in self._tally.items()}

    def oldest_owed(self, address: str | None = None) -> float | None:
        """Age in seconds, by journal time, of the oldest version that the bucket does not have yet.

        A message whose file is not there yet owes nothing so far.
        Of one address, or of all that are active.
        """
        names = self._active if address is None else {address}
        owing = {name for name, state, reason in self._tally.copy() if state in OWED and reason != FOR_FILE}
        recorded = [self._oldest_recorded(name) for name in names & owing]
        oldest = min((each for each in recorded if each is not None), default=None)
        return max(0.0, self.time() - oldest) if oldest is not None else None

    def _oldest_recorded(self, name: str) -> float | None:
        """When the oldest version that an address owes was recorded: rows are in the order of that time.

        It is looked for from where the last look found it: a status must not read a million rows that went.
        """
        with self._owed_lock:
            since, moves = self._owed_since.get(name, 0), self._owed_moves
        found = self._read(
            "SELECT id, recorded FROM version NOT INDEXED WHERE id >= ? AND address = ?"
            f" AND state IN ({OWED_WORDS}) AND reason != '{FOR_FILE}' ORDER BY id LIMIT 1",
            (since, self._addresses.get(name, -1)),
        )
        if not found:
            return None
        with self._owed_lock:
            if moves == self._owed_moves:
                self._owed_since[name] = found[0][0]
        return float(found[0][1])

    def begin(self) -> bool:
        """A run begins. False when the last one's log is lost or torn, so that the journal is an older one than it was.

        What the bucket holds has to be looked at anew then. Before anything is written, which makes the log longer.
        """
        frames = self.fold_log()
        is_lost = self.note(_IN_USE) is not None and (not self.log_frames or frames < self.log_frames)
        if is_lost:
            self._write(lambda connection: connection.execute("DELETE FROM note WHERE name LIKE 'listed %'"))
        self.set_note(_IN_USE, "")
        self.fold_log()  # where it outlives the log
        return not is_lost

    def end(self) -> None:
        """The run ends, and leaves no log."""
        self._write(lambda connection: connection.execute("DELETE FROM note WHERE name = ?", (_IN_USE,)))

    def note(self, name: str) -> str | None:
        rows = self._read("SELECT value FROM note WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def set_note(self, name: str, value: str) -> None:
        """Remember a small fact, such as what a store was found to support."""
        self._write(lambda connection: connection.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value)))

    def know_torn(self, names: Sequence[str], *, is_lost: bool = False) -> None:
        """Names of the torn journals that lie beside this one; `torn` tells of one that is new, or was lost."""
        said = self._torn()
        new = [name for name in names if name not in said.get("known", ())]
        if new or is_lost:
            name = new[-1] if new else ""
            self.set_note(_TORN, json.dumps({"known": list(names), "name": name, "since": self.time()}))

    def torn(self) -> str | None:
        """The name of a journal that was set aside because it was torn: for a week, or until `retry`.

        "" of one that was lost, of which nothing is left.
        """
        said = self._torn()
        since = said.get("since")
        return str(said["name"]) if since is not None and self.time() - since < TOLD_S else None

    def _torn(self) -> dict[str, Any]:
        return dict(json.loads(self.note(_TORN) or "{}"))
