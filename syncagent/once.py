"""When `run --once` is over: nothing is left to do, or nothing moves any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from syncagent.core.board import Board, Furthest
from syncagent.core.errors import JournalBroken, Stopping
from syncagent.core.model import OWED, State
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal
from syncagent.workers.firmware import FirmwareWorker
from syncagent.workers.intake import Intake
from syncagent.workers.postman import Postman
from syncagent.workers.pruner import Pruner
from syncagent.workers.rechecker import Rechecker
from syncagent.workers.uploader import Uploader


class Once:
    """Looks at the workers of one run. One thread calls it."""

    def __init__(
        self,
        *,
        timeout_s: float,
        journal: Journal,
        board: Board,
        clock: Clock,
        intake: Intake,
        postman: Postman,
        rechecker: Rechecker,
        pruner: Pruner,
        firmware: Sequence[FirmwareWorker],
        uploaders: Sequence[Uploader],
        ring_pruner: Callable[[], None],
    ) -> None:
        """`timeout_s`: so long nothing may move. `uploaders`: of each carrier the one that tidies."""
        self._timeout_s = timeout_s
        self._journal = journal
        self._board = board
        self._clock = clock
        self._intake = intake
        self._postman = postman
        self._rechecker = rechecker
        self._pruner = pruner
        self._firmware = firmware
        self._uploaders = uploaders
        self._ring_pruner = ring_pruner
        self._furthest = Furthest()
        self._seen: tuple[int, ...] = ()
        self._moved_at = clock.monotonic()
        self._is_done = False
        self._parked = 0

    def look(self) -> bool:
        """Whether the run is over."""
        now = self._clock.monotonic()
        self._is_done = self._is_idle() and self._is_all_sent()
        self._parked = self._journal.count_of(State.PARKED)
        seen = self._progress()
        if seen != self._seen:
            self._seen, self._moved_at = seen, now
        if self._is_done:
            with contextlib.suppress(JournalBroken, Stopping):  # the next run tries again
                for uploader in self._uploaders:
                    uploader.tidy()
        return self._is_done or now - self._moved_at >= self._timeout_s

    def is_whole(self) -> bool:
        """Whether nothing was left at the last look, also of what can never be sent or could not be read."""
        return self._is_done and not self._parked and self._intake.is_whole() and self._postman.is_whole()

    def _is_idle(self) -> bool:
        # Firmware first, whose receipts are messages; then messages: what they ask for settles afterwards.
        if not all(worker.is_idle() for worker in self._firmware):
            return False
        if not (self._postman.is_idle() and self._intake.is_idle() and self._rechecker.is_idle()):
            return False
        if self._pruner.is_idle():
            return True
        self._ring_pruner()  # something was confirmed since its last look
        return False

    def _is_all_sent(self) -> bool:
        """Whether nothing is left, also of what another process asked for; False when that cannot be told."""
        if self._journal.count_of(*OWED):
            return False
        try:
            self._journal.refresh()
        except JournalBroken:
            return False
        return self._journal.count_of(*OWED) == 0

    def _progress(self) -> tuple[int, ...]:
        """Changes whenever a file got nearer to the bucket."""
        ended = self._journal.count_of(State.CONFIRMED, State.REMOVED, State.SUPERSEDED, State.GONE, State.PARKED)
        moved = self._furthest.bytes_of(self._board.flights())
        return (ended, len(self._intake.settling), self._intake.full_scans, moved)
