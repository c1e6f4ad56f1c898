"""The least that the time can be, told by clocks that run while nobody knows the time.

Thread-safe. It is a floor, not a clock: a real-time clock drifts, and its last second is not over. Nothing sets the
system's clock from it.
"""

from __future__ import annotations

import threading
from datetime import datetime

from syncagent.core.skew import Anchor

#: No clock gains as much between two samples: one that does was disturbed, and what it said before still holds.
GAIN_S = 60.0


class Floor:
    """Of the clocks that are trusted, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._anchors: dict[str, Anchor] = {}

    def note(self, name: str, moment: datetime, monotonic_s: float) -> None:
        """A clock said this, at this moment of the monotonic clock. One that leaps ahead is not followed."""
        anchor = Anchor(moment, monotonic_s)
        with self._lock:
            known = self._anchors.get(name)
            if known is None or (moment - known.at(monotonic_s)).total_seconds() <= GAIN_S:
                self._anchors[name] = anchor

    def forget(self, name: str) -> None:
        """A clock is not to be trusted. One that is merely gone told the truth: its time goes on here."""
        with self._lock:
            self._anchors.pop(name, None)

    def at(self, monotonic_s: float) -> datetime | None:
        """The least time at a moment of the monotonic clock; of several clocks, the one that says least."""
        with self._lock:
            return min((anchor.at(monotonic_s) for anchor in self._anchors.values()), default=None)
