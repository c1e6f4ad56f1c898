"""What a carrier's traffic may cost: bytes counted as they leave, a limit by the hour, a budget by the month."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from syncagent.core.budget import LOOPBACK, Spent, is_allowed, is_metered, is_spent, leads_to_loopback
from syncagent.core.errors import JournalBroken
from syncagent.core.meter import limit_at, parse_timetable
from syncagent.core.settings import Carrier
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal
from syncagent.edges.network import default_interface, is_flagged_metered

#: The count goes to the card this often at most; a kill or a power cut forgets no more than this much of it.
KEEP_BYTES = 4 * 1024 * 1024
#: Of a budget that is being spent, no kill forgets more than one part in so many.
KEEP_PARTS = 100
KEEP_S = 300.0
#: Counting after every file would cost more than it tells.
ACCOUNT_S = 0.5
#: The default route is looked up this often.
ROUTE_S = 10.0


def note_of(carrier: str) -> str:
    """Under which name the journal keeps what a carrier has spent."""
    return f"wire {carrier}"


def day_of(moment: datetime) -> str:
    """The day as `Spent` writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d")


class Meter:
    """Of one carrier. `totals` gives the bytes sent and received so far; `store_time` the time, if the store told."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        journal: Journal,
        clock: Clock,
        totals: Callable[[], tuple[int, int]],
        store_time: Callable[[], datetime | None],
    ) -> None:
        self._carrier = carrier
        self._windows = parse_timetable(carrier.upload.timetable)
        self._journal = journal
        self._clock = clock
        self._totals = totals
        self._store_time = store_time
        self._lock = threading.Lock()
        self._note = note_of(carrier.name)
        self._spent = Spent.from_text(journal.note(self._note))
        self._counted = 0
        self._metered_in_run = 0
        self._unkept = 0
        self._is_aside = False
        self._has_news = False  # of `_unkept`, something is worth a write of its own
        self._kept_at = clock.monotonic()
        self._route_at = float("-inf")
        self._accounted_at = float("-inf")
        # Until the route was looked up: while one worker does, the others must not spend what may not be there.
        self._is_metered = carrier.upload.metered is not None
        self._interface: str | None = None

    def set_carrier(self, carrier: Carrier) -> None:
        """The owner edited the limits."""
        with self._lock:
            self._carrier = carrier
            self._windows = parse_timetable(carrier.upload.timetable)
            self._route_at = float("-inf")

    def limit(self) -> int | None:
        """Bytes per second that may go now, None for no limit. Asked before every chunk."""
        limit = self._carrier.upload.max_bytes_per_s
        if not self._windows:
            return limit
        return limit_at(self._now().astimezone().time(), self._windows, max_bytes_per_s=limit)

    def _now(self) -> datetime:
        """The time as the store has it, where that is known."""
        return self._store_time() or self._clock.now()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What goes over the wire meanwhile is counted, and remembered with the next files that go, or when it is much.

        For what an idle agent says of itself: that must not wear out the card.
        """
        self._step_aside(True)
        try:
            yield
        finally:
            self._step_aside(False)

    def _step_aside(self, is_aside: bool) -> None:
        with self._lock:
            self._accounted_at = float("-inf")
        self.account()
        with self._lock:
            self._is_aside = is_aside

    def account(self, *, is_last: bool = False) -> None:
        """Count what went over the wire since the last call; now and then, and at the end, remember it."""
        now = self._clock.monotonic()
        with self._lock:
            keep_bytes = self._keep_bytes()
            if now - self._accounted_at < ACCOUNT_S and not is_last and keep_bytes == KEEP_BYTES:
                return
            self._accounted_at = now
            must_look = self._carrier.upload.metered is not None and now - self._route_at >= ROUTE_S
            if must_look:
                self._route_at = now
        route = self._route() if must_look else None
        with self._lock:
            if route is not None:
                self._interface, self._is_metered = route
            # Read under the lock: a total that is older than the last one counted would be counted twice.
            total, store_time = sum(self._totals()), self._store_time()
            # Only the store's word is kept: a clock that is ahead would renew the budget now, and then not for years.
            if store_time is not None:
                self._spent.roll(day_of(store_time))
            count, self._counted = total - self._counted, total
            if count > 0:
                self._spent.add(count, is_metered=self._is_metered)
                self._metered_in_run += count if self._is_metered else 0
                self._unkept += count
                self._has_news = self._has_news or not self._is_aside
            is_due = self._has_news and now - self._kept_at >= KEEP_S
            must_keep = self._unkept > 0 and (is_last or self._unkept >= keep_bytes or is_due)
            if not must_keep:
                return
            self._unkept, self._has_news, self._kept_at = 0, False, now
            text = self._spent.to_text()
        with contextlib.suppress(JournalBroken):  # counted on in memory; what pays must not wait for a full disk
            self._journal.set_note(self._note, text)

    def _keep_bytes(self) -> int:
        metered = self._carrier.upload.metered
        budget = metered.budget_bytes_per_month if metered and self._is_metered else None
        return KEEP_BYTES if budget is None else min(KEEP_BYTES, budget // KEEP_PARTS)

    def _route(self) -> tuple[str | None, bool]:
        """The interface in use, and whether it costs money. Asks other programs: not under the lock."""
        interface = default_interface()
        flagged = interface is not None and is_flagged_metered(interface)
        metered = self._carrier.upload.metered
        if is_metered(metered, interface, is_flagged=flagged):
            return interface, True
        # A store on this machine, or the tunnel to one: no default route leads there, and its owner knows the cost.
        if leads_to_loopback(self._carrier.endpoint_url) and is_metered(metered, LOOPBACK, is_flagged=False):
            return LOOPBACK, True
        return interface, False

    def spent(self) -> Spent:
        """A copy, counted up to now."""
        self.account()
        return self._of_today()

    def _of_today(self) -> Spent:
        """Judged by the best time there is: before the store's first answer that is our clock's, and not kept.

        A device that was restarted in a new month must ask the store something to learn what time it is. What this run
        sent counts in any case, so that a store which never answers gets no endless budget from a clock that is ahead.
        """
        with self._lock:
            spent, of_this_run = Spent.from_text(self._spent.to_text()), self._metered_in_run
        spent.roll(day_of(self._now()))
        if self._store_time() is None:
            spent.metered_month_bytes = max(spent.metered_month_bytes, of_this_run)
        return spent

    def is_spent(self) -> bool:
        """Whether the month's budget is used up and the link in use costs money."""
        return self._is_metered and is_spent(self._carrier.upload.metered, self._of_today())

    def allows(self, path: str) -> bool:
        """Whether this file may go although the budget is spent."""
        return is_allowed(self._carrier.upload.metered, path)

    def words(self) -> str:
        metered = self._carrier.upload.metered
        budget = metered.budget_bytes_per_month if metered else None
        return f"the month's budget of {budget} bytes on {self._interface} is spent"
