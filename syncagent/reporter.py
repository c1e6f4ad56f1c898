"""The status of a running agent, or of one that is not: board, journal and meters in one object."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from syncagent import __version__
from syncagent.assembly import Directories
from syncagent.core.board import Board, Fact
from syncagent.core.budget import Spent
from syncagent.core.errors import Transient
from syncagent.core.model import OWED, State
from syncagent.core.settings import Settings
from syncagent.core.status import Cell, Snapshot, build
from syncagent.docks.meter import day_of, note_of
from syncagent.edges import files
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal, Tally

RATE_WINDOW_S = 60.0
#: Why rows stay that were recorded for an address which is not configured any more.
INACTIVE = "its address is not active"


def disk_fact(directories: Directories) -> Fact:
    """How full the disk under the data is."""
    try:
        free, total, inodes = files.space_of(directories.data_dir)
    except Transient as error:
        return Fact(False, "away", str(error))
    percent = 100.0 * free / total if total else 100.0
    more = {"free_bytes": free, "free_percent": round(percent, 1), "free_inodes_percent": round(inodes, 1)}
    if free == 0 or inodes == 0:
        return Fact(False, "full", "no space left: recording stops", more)
    return Fact(True, "ok", "", more)


class Reporter:
    """Builds the status of a running agent, or of one that is not."""

    def __init__(
        self,
        *,
        settings: Settings,
        journal: Journal,
        clock: Clock,
        board: Board,
        pid: int | None,
        spent: Callable[[], list[Spent]] = list,
    ) -> None:
        """`spent`: what the running agent's meters say."""
        self._settings = settings
        self._journal = journal
        self._clock = clock
        self._board = board
        self._pid = pid
        self._spent = spent
        self._started = clock.monotonic()
        self._samples: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])
        self._samples_lock = threading.Lock()  # several may ask at once

    def set_settings(self, settings: Settings) -> None:
        """The owner edited the configuration."""
        self._settings = settings

    def status(self, *, settling: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """`settling`: how many files, and bytes, are not recorded because they are not finished."""
        now = self._clock.monotonic()
        names = [address.name for address in self._settings.addresses]
        tally = self._journal.tally()
        cells = [
            Cell(address, state, reason if address in names else INACTIVE, count.files, count.bytes)
            for (address, state, reason), count in tally.items()
        ]
        if settling[0]:
            cells.append(Cell("", State.SETTLING, "", *settling))
        ready = {address: count for (address, state, _), count in tally.items() if state is State.READY}
        for flight in self._board.flights():
            left = ready.get(flight.address)
            # On its way in a single request, of which the journal makes no note until it is over: it may be by now.
            if not flight.is_recorded and left and left.files > 0 and left.bytes >= flight.size_bytes:
                ready[flight.address] = Tally(left.files - 1, left.bytes - flight.size_bytes)
                cells.append(Cell(flight.address, State.READY, "", -1, -flight.size_bytes))
                cells.append(Cell(flight.address, State.SENDING, "", 1, flight.size_bytes))
        owed = self._journal.count_of(*OWED) > 0
        return build(
            Snapshot(
                version=__version__,
                system_id=self._settings.system.id,
                time=self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
                is_running=self._pid is not None,
                pid=self._pid,
                uptime_s=round(now - self._started, 1) if self._pid is not None else None,
                max_unsent_s=self._settings.system.health.max_unsent_s,
                cells=cells,
                facts=self._board.facts(),
                addresses=names,
                oldest_unsent_s=self._journal.oldest_owed() if owed else None,
                oldest_by_address={name: self._journal.oldest_owed(name) if owed else None for name in names},
                complaints=self._board.complaints(),
                monotonic=now,
                rates=self._rates(now),
                wire=self._wire(),
                warnings=self._settings.warnings,
                devices=self._board.devices(),
            )
        )

    def _wire(self) -> dict[str, int]:
        """Bytes over the wire today and this month, of all carriers."""
        names = {address.carrier.name for address in self._settings.addresses}
        spent = self._spent()
        if not spent:
            spent = [Spent.from_text(self._journal.note(note_of(name))) for name in names]
            for each in spent:
                each.roll(day_of(self._clock.now()))
        return {
            "bytes_today": sum(each.day_bytes for each in spent),
            "bytes_month": sum(each.month_bytes for each in spent),
        }

    def _rates(self, now: float) -> dict[str, float]:
        """Files and bytes per second over the last minute or so."""
        sent = (now, self._board.count("sent_files"), self._board.count("sent_bytes"))
        with self._samples_lock:
            while len(self._samples) > 1 and self._samples[1][0] <= now - RATE_WINDOW_S:
                self._samples.popleft()
            if now - self._samples[-1][0] >= 1.0:
                self._samples.append(sent)
            first = self._samples[0]
        span_s = max(now - first[0], 1.0)
        return {
            "files_per_s": round((sent[1] - first[1]) / span_s, 3),
            "bytes_per_s": round((sent[2] - first[2]) / span_s, 1),
        }
