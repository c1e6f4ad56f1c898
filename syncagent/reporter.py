"""The status of a running agent, or of one that is not: board, journal and meters in one object."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from syncagent import __version__
from syncagent.assembly import Directories
from syncagent.core.board import Board, Fact
from syncagent.core.budget import Spent
from syncagent.core.errors import Transient
from syncagent.core.messages import all_addresses
from syncagent.core.model import State
from syncagent.core.release import component_of, firmware_carriers
from syncagent.core.settings import Settings
from syncagent.core.settle import Pending
from syncagent.core.status import Cell, Snapshot, build
from syncagent.docks.meter import day_of, note_of
from syncagent.edges import files, machine
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal, Tally

RATE_WINDOW_S = 60.0
#: What is said of a component before the first look for it led to anything.
NEVER_LOOKED = {"release": None, "state": "idle", "reason": ""}
#: Why rows stay that were recorded for an address which is not configured any more.
INACTIVE = "its address is not active"
#: Facts of what files do not need on their way; what an inbox cannot read is no file's trouble, either.
_BESIDES = ("inbox", "heartbeat", "page")
_NONE: Mapping[str, Pending] = {}
_TORN_REMEDY = "a new one is made from disk and bucket; check the card, then `syncagent retry --all` ends this warning"


def disk_fact(directories: Directories) -> Fact:
    """How full the disk under the data is, and whether it takes anything at all."""
    try:
        free, total, inodes = files.space_of(directories.data_dir)
    except Transient as error:
        return Fact(False, "away", str(error))
    percent = 100.0 * free / total if total else 100.0
    more = {"free_bytes": free, "free_percent": round(percent, 1), "free_inodes_percent": round(inodes, 1)}
    if machine.is_read_only(directories.data_dir):
        return Fact(False, "read-only", f"no file can be recorded: {machine.READ_ONLY_REMEDY}", more)
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

    def status(self, *, settling: Mapping[str, Pending] = _NONE) -> dict[str, Any]:
        """`settling`: by address, the files that are not recorded because they are not finished."""
        now = self._clock.monotonic()
        names = [address.name for address in self._settings.addresses]
        active = {address.name for address in all_addresses(self._settings)}
        tally = self._journal.tally()
        cells = [
            Cell(address, state, reason if address in active else INACTIVE, count.files, count.bytes)
            for (address, state, reason), count in tally.items()
        ]
        for address, pending in settling.items():
            cells.append(Cell(address, State.SETTLING, "", pending.files, pending.size_bytes))
        ready = {address: count for (address, state, _), count in tally.items() if state is State.READY}
        for flight in self._board.flights():
            left = ready.get(flight.address)
            # On its way in a single request, of which the journal makes no note until it is over: it may be by now.
            if not flight.is_recorded and left and left.files > 0 and left.bytes >= flight.size_bytes:
                ready[flight.address] = Tally(left.files - 1, left.bytes - flight.size_bytes)
                cells.append(Cell(flight.address, State.READY, "", -1, -flight.size_bytes))
                cells.append(Cell(flight.address, State.SENDING, "", 1, flight.size_bytes))
        oldest, by_address = self._oldest(names, {name: now - each.first for name, each in settling.items()})
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
                oldest_unsent_s=oldest,
                oldest_by_address=by_address,
                complaints=self._board.complaints(),
                monotonic=now,
                rates=self._rates(now),
                wire=self._wire(),
                warnings=(*self._settings.warnings, *self._torn(), *self._besides()),
                firmware={
                    component: self._journal.firmware_face(component) or NEVER_LOOKED
                    for component in map(component_of, firmware_carriers(self._settings))
                },
                devices=self._board.devices(),
            )
        )

    def _oldest(
        self, names: Sequence[str], settling_s: Mapping[str, float]
    ) -> tuple[float | None, dict[str, float | None]]:
        """(age of the oldest file that the bucket does not have, that of each address's), finished or not."""

        def oldest(recorded_s: float | None, *unfinished_s: float) -> float | None:
            return max((*unfinished_s, recorded_s) if recorded_s is not None else unfinished_s, default=None)

        by_address = {
            name: oldest(
                self._journal.oldest_owed(name),
                *([settling_s[name]] if name in settling_s else []),
            )
            for name in names
        }
        return oldest(self._journal.oldest_owed(), *settling_s.values()), by_address

    def _torn(self) -> list[str]:
        """That a torn journal was set aside, or one was lost."""
        name = self._journal.torn()
        if name is None:
            return []
        where = os.path.join(os.path.dirname(self._journal.path), name)
        what = f"was torn and is kept as {where}" if name else "was lost: its file was gone or empty"
        return [f"the journal {what}; {_TORN_REMEDY}"]

    def _besides(self) -> list[str]:
        """What is wrong with things that files do not need on their way."""
        facts = [(name, self._board.fact(name)) for name in _BESIDES]
        return [f"{name}: {fact.reason}" for name, fact in facts if fact is not None and not fact.ok]

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
