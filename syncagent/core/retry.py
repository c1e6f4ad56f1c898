"""What to do about an error: the one place that turns a class of trouble into a wait.

The arithmetic of waiting is tenacity's; this module says which of it applies. The figures keep sending going on within
30 s of an outage's end, and a store that refuses everything from being asked more often than each half minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random

from syncagent.core.errors import (
    Blocked,
    FileChanged,
    FileVanished,
    Refused,
    SyncagentError,
    Transient,
    Trouble,
)

#: Troubles that may be the link's or the store's: several in a row, and the whole store is waited for.
SHARED = frozenset({Trouble.LINK, Trouble.STALLED, Trouble.THROTTLED, Trouble.STORE})
#: Troubles that are never one file's: one is enough.
EVERYBODYS = frozenset({Trouble.CREDENTIALS, Trouble.BUCKET, Trouble.CLOCK, Trouble.THROTTLED})
#: Troubles of one key that are its address's when several keys meet them.
ADDRESSES = frozenset({Trouble.FORBIDDEN, Trouble.REFUSED})
#: A link is asked again at least this often while it is down.
LINK_WAIT_S = 10.0
#: A store that refuses everything is asked again at least this often.
REFUSED_WAIT_S = 30.0
#: Requests that must fail in a row before trouble that could be one file's is taken for everybody's.
FAILURES_TO_CLOSE = 3
#: So often a file is refused again while others pass, and it is parked: the store's word names neither.
DOUBTS_TO_PARK = 3
#: Refused rows that are remembered.
MAX_REFUSED_ROWS = 1_000
#: A link that carried something this recently is not called down for one failure.
FRESH_S = 5.0


class Do(Enum):
    """What becomes of the row."""

    DEFER = "waiting"  # try this row again later
    RELEASE = "ready"  # nothing was wrong with it
    PARK = "parked"
    RESETTLE = "settling"
    FORGET = "gone"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error means for the row. `reason` is the word or phrase that the journal shows."""

    do: Do
    reason: str = ""
    wait_s: float = 0.0


def backoff_s(attempts: int, *, least_s: float, most_s: float) -> float:
    """Seconds before attempt `attempts` + 1: doubling from `least_s`, at most `most_s`, up to a fifth of jitter."""
    state = RetryCallState(Retrying(), None, (), {})
    # Bounded first: a device that waits for months would raise 2 to a power that no float holds.
    state.attempt_number = min(max(1, attempts), 64)
    wait_s = float(wait_exponential(multiplier=least_s, max=most_s)(state))
    return min(most_s, wait_s + float(wait_random(0, wait_s / 5)(state)))


def verdict(error: SyncagentError, attempts: int, *, least_s: float, most_s: float) -> Verdict:
    """What to do with the row whose attempt number `attempts` (from 1) met `error`."""
    if isinstance(error, FileChanged):
        return Verdict(Do.RESETTLE, str(error))
    if isinstance(error, FileVanished):
        return Verdict(Do.FORGET, str(error))
    if isinstance(error, Refused):
        return Verdict(Do.PARK, str(error))
    wait_s = backoff_s(attempts, least_s=least_s, most_s=most_s)
    if isinstance(error, Blocked):
        if error.trouble in EVERYBODYS:
            return Verdict(Do.RELEASE)
        return Verdict(Do.DEFER, error.trouble.value, wait_s)
    if isinstance(error, Transient):
        if error.trouble in EVERYBODYS:
            return Verdict(Do.RELEASE)
        if error.trouble in SHARED:
            return Verdict(Do.DEFER, error.trouble.value, wait_s)
        return Verdict(Do.DEFER, f"{error.trouble.value}: {error}", wait_s)
    return Verdict(Do.DEFER, f"{type(error).__name__}: {error}", wait_s)


def _asked_wait_s(error: Transient | Blocked) -> float:
    """What the store asked for, as far as it may hold up everything: one request each half minute throttles nobody."""
    wait_s = error.retry_after_s if isinstance(error, Transient) else None
    return min(REFUSED_WAIT_S, wait_s) if wait_s is not None and wait_s > 0 else 0.0


class Refusals:
    """Which rows of an address the store refuses, and whether others passed since: then it is about the row.

    Not thread-safe. What is not remembered any more is taken for refused the first time.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._rows: dict[int, tuple[int, int]] = {}  # row id -> (times, passes at its last refusal)

    def passed(self, row_id: int) -> None:
        """The store took a row whole."""
        self._passes += 1
        self._rows.pop(row_id, None)

    def refused(self, row_id: int) -> int:
        """How often the row was refused again after others had passed."""
        times, passes = self._rows.pop(row_id, (0, self._passes))
        times += passes < self._passes
        self._rows[row_id] = times, self._passes
        if len(self._rows) > MAX_REFUSED_ROWS:
            del self._rows[next(iter(self._rows))]
        return times


class Gate:
    """Whether a store, or one address of it, is worth asking. Closed, it lets one request through at a time.

    Not thread-safe: its owner holds a lock for the few lines that each call is. Times are monotonic seconds; `who`
    tells apart those who ask, so that a request from before the closing gives back nothing that is another's.
    """

    def __init__(self) -> None:
        self.trouble: Trouble | None = None  # why it is closed; None while it is open
        self.reason = ""
        self.remedy = ""
        self._ask_at = 0.0
        self._asker: int | None = None  # whose request is on its way, to find out
        self._failures = 0
        self._failed_rows: set[int] = set()  # whose failures are among those
        self._closed_waits = 0
        self._passed_at = float("-inf")

    @property
    def is_open(self) -> bool:
        return self.trouble is None

    def wait_s(self, now: float, who: int) -> float:
        """Seconds until a request may go; 0 takes the permission: `passed`, `failed` or `unused` gives it back."""
        if self.trouble is None:
            return 0.0
        if self._asker is not None:
            return 1.0
        if now < self._ask_at:
            return self._ask_at - now
        self._asker = who
        return 0.0

    def asks_in_s(self, now: float) -> float | None:
        """Seconds until the next request may go; None when one may go now, is on its way, or need not ask."""
        return None if self.trouble is None or now >= self._ask_at else self._ask_at - now

    def is_askable(self, now: float) -> bool:
        """Whether `wait_s` would give a permission now."""
        return self.trouble is None or (self._asker is None and now >= self._ask_at)

    def unused(self, who: int) -> None:
        """The permission, if there was one, was not needed."""
        if self._asker == who:
            self._asker = None

    def passed(self, now: float, who: int) -> bool:
        """A request succeeded, of whatever age. True when that opened the gate."""
        was_closed = self.trouble is not None
        self.trouble, self.reason, self.remedy = None, "", ""
        self._asker = None
        self._failures = self._closed_waits = 0
        self._failed_rows.clear()
        self._passed_at = now
        return was_closed

    def failed(self, error: Transient | Blocked, now: float, who: int, *, row_id: int | None = None) -> bool:
        """A request failed in a way that may be everybody's. True when that closed the gate.

        With a `row_id` it may be that row's own: then it takes several rows to close the gate.
        """
        was_open = self.trouble is None
        if not was_open and self._asker != who:
            # On its way since before the gate closed. That all workers met the same trouble is one piece of news:
            # counted each, they would make the first wait as long as the sixth.
            self._ask_at = max(self._ask_at, now + _asked_wait_s(error))
            return False
        self._asker = None
        if row_id not in self._failed_rows:
            self._failures += 1
        if row_id is not None:
            self._failed_rows.add(row_id)
        one_is_enough = error.trouble in EVERYBODYS or (
            error.trouble is Trouble.LINK and now - self._passed_at > FRESH_S
        )
        if was_open and not one_is_enough and self._failures < FAILURES_TO_CLOSE:
            return False
        self.trouble, self.reason = error.trouble, str(error)
        self.remedy = error.remedy if isinstance(error, Blocked) else ""
        self._closed_waits += 1
        most_s = LINK_WAIT_S if error.trouble in SHARED else REFUSED_WAIT_S
        wait_s = backoff_s(self._closed_waits, least_s=1.0, most_s=most_s)
        self._ask_at = now + max(wait_s, _asked_wait_s(error))
        return was_open
