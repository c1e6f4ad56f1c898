"""Time, and waiting: the only place that reads a clock.

Owns `Clock` (what time it is), `Stop` (the wish that the agent ends) and `Bell` (wakes one worker early).
Intervals, ages and backoff use `monotonic`; `now` is for people, metadata and signatures, because a board
without a battery-backed clock boots in the past and jumps when it finds the network.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from syncagent.core.errors import Stopping


class Clock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Wall-clock time in UTC. May jump; may be decades off."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment of this boot; never goes back."""
        return time.monotonic()


class Bell:
    """Wakes the one worker that waits for it; a ring that comes before the wait is not lost."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        self._event.set()

    def wait(self, wait_s: float) -> bool:
        """Wait for a ring at most `wait_s` seconds; True when it rang."""
        rang = self._event.wait(wait_s)
        self._event.clear()
        return rang


class Stop:
    """The wish that the agent ends; set once, never cleared. Setting it rings every bell."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._bells: list[Bell] = []

    def bell(self) -> Bell:
        """A new bell that also rings when the agent is to stop."""
        bell = Bell()
        self._bells.append(bell)
        return bell

    def set(self) -> None:
        self._event.set()
        for bell in self._bells:
            bell.ring()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """For long work to call now and then. Raises: Stopping."""
        if self.is_set():
            raise Stopping

    def wait(self, wait_s: float) -> bool:
        """Wait at most `wait_s` seconds for the wish to stop; True when it came."""
        return self._event.wait(wait_s)
