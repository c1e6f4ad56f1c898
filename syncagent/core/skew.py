"""How far our clock is off the store's, and what to sign with.

Pure: whoever asks brings the times. Promises: a clock that is right within five minutes is left alone; once it is
not, the store's time is carried on by the monotonic clock, so that setting the wall clock later spoils nothing;
and the correction goes when the wall clock is right again. Leaves to others: which answers to believe
(edges/answers.py), and reading clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: S3 refuses a signature that is 15 minutes off; a third of that is left to a slow link and to drift.
WRONG_S = 300.0
#: Below this a wall clock is right again. Apart from WRONG_S, so that one at the edge does not flicker.
RIGHT_S = 60.0
#: A Date has whole seconds and is as old as its answer is slow: a correction follows only what is more than that.
MOVED_S = 60.0
#: No copy of this release ran earlier: a clock that says less is wrong. Raised with each release.
RELEASED_AT = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Anchor:
    """One moment on two clocks: the store's, and our monotonic one."""

    store_time: datetime
    monotonic_s: float

    def at(self, monotonic_s: float) -> datetime:
        """The store's time at another moment of the monotonic clock."""
        return self.store_time + timedelta(seconds=monotonic_s - self.monotonic_s)


def correct(correction: Anchor | None, seen: Anchor, *, wall: datetime) -> Anchor | None:
    """The correction to sign with from now on, after an answer was `seen` while the wall clock said `wall`."""
    off_s = abs((seen.store_time - wall).total_seconds())
    if correction is None:
        return seen if off_s > WRONG_S else None
    if off_s <= RIGHT_S:
        return None
    # Kept where it still fits: an answer that was long on its way would move it back by as much.
    drift_s = (seen.store_time - correction.at(seen.monotonic_s)).total_seconds()
    return seen if abs(drift_s) > MOVED_S else correction


def is_worth_repeating(signed_at: datetime, now: datetime) -> bool:
    """Whether a request that was refused for its time may go again: only if what we sign with has moved since.

    `signed_at` is the time it carried, moved on by the monotonic clock; both are what the store should read.
    Without this an agent that corrects its clock at each 403 asks for ever.
    """
    return abs((now - signed_at).total_seconds()) > MOVED_S


def is_doubtful(wall: datetime, *, is_synchronised: bool) -> bool:
    """Whether the wall clock may be wrong, so that a certificate's dates cannot be judged by it."""
    return wall < RELEASED_AT or not is_synchronised


def is_valid_at(moment: datetime, *, not_before: datetime, not_after: datetime) -> bool:
    """Whether a certificate holds at a moment that the store told; a moment before this release is a lie."""
    return moment >= RELEASED_AT and not_before <= moment <= not_after
