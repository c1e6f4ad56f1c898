"""Addresses that send every so many seconds: what was gathered by a tick goes, what comes after it waits.

Times are monotonic seconds. What an earlier run gathered goes at once: a board that wakes for less than its period
would otherwise never send.
"""

from __future__ import annotations

from collections.abc import Mapping


class Ticks:
    """The ticks of some addresses. Not thread-safe."""

    def __init__(self, periods_s: Mapping[str, float], now: float, *, is_always: bool = False) -> None:
        """`is_always`: nothing waits, for a run that ends by itself."""
        self._periods_s = {} if is_always else dict(periods_s)
        self._last = dict.fromkeys(self._periods_s, 0.0)  # what was READY by then may go
        self._next = {name: now + period_s for name, period_s in self._periods_s.items()}

    def until(self, now: float) -> Mapping[str, float]:
        """Of each address, since when a version must be READY to go now."""
        for name, due in self._next.items():
            if now >= due:
                self._last[name] = now
                # By whole periods, so that a busy moment does not shift the ticks; those slept through are one.
                period_s = self._periods_s[name]
                self._next[name] = due + period_s * (1 + (now - due) // period_s)
        return self._last

    def next_in_s(self, now: float) -> float | None:
        """Seconds until the next tick; None when no address has any."""
        return max(0.0, min(self._next.values()) - now) if self._next else None
