"""Waiting for the next confirmation: the newest committed position, and those who wait for a newer one."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: A waiter looks this often whether it is still wanted.
LOOK_S = 1.0


class Confirmations:
    """Thread-safe. The journal tells, after the commit; whoever waits reads the rows from the journal then."""

    def __init__(self, position: int) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._position = position
        self._is_closed = False

    @property
    def position(self) -> int:
        """The newest position that is committed, 0 before the first."""
        return self._position

    def tell(self, position: int) -> None:
        if position == self._position:
            return  # most commits confirm nothing
        with self._condition:
            self._position = position
            self._condition.notify_all()

    def wait(self, after: int, wait_s: float, go_on: Callable[[], bool] = lambda: True) -> int:
        """The newest position: as soon as it is beyond `after`, after `wait_s`, or when `go_on` says no."""
        left_s = wait_s
        while True:
            slice_s = min(left_s, LOOK_S)
            with self._condition:
                is_over = self._condition.wait_for(lambda: self._is_closed or self._position > after, slice_s)
                position = self._position
            left_s -= slice_s
            if is_over or left_s <= 0 or not go_on():
                return position

    def close(self) -> None:
        """Nobody waits any longer, now or later."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
