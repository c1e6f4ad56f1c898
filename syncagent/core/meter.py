"""How many bytes may go now: a token bucket, and the timetable that says how fast it fills.

Pure: whoever asks brings the time. Promises: over any stretch of t seconds at most t + 0.5 s worth of the rate
goes, whoever shares the bucket; a rate that changes counts from the next byte on. Leaves to others: waiting, and
what to send.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time

#: What is not used may be caught up for this long. With a piece on top, a burst is at most half a second's worth.
BURST_S = 0.25
#: One piece is this long at the rate in force: long enough to sleep well, short enough to be cut off soon.
PIECE_S = 0.25
MIN_PIECE_BYTES = 1024
MAX_PIECE_BYTES = 256 * 1024

_WINDOW = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY_MIN = 24 * 60


def piece_bytes(rate: int) -> int:
    """How much to send at once at `rate` bytes per second."""
    return max(MIN_PIECE_BYTES, min(MAX_PIECE_BYTES, int(rate * PIECE_S)))


@dataclass(frozen=True, slots=True)
class Grant:
    """So many bytes may go now; or none, and asking again makes sense after `wait_s`."""

    size_bytes: int
    wait_s: float = 0.0


class Meter:
    """A bucket of bytes. A piece is given while there is anything in it, and paid for afterwards."""

    def __init__(self) -> None:
        self._level_bytes = 0.0
        self._at_s: float | None = None

    def ask(self, wanted_bytes: int, *, rate: int | None, now_s: float) -> Grant:
        """What of `wanted_bytes` may go at the monotonic time `now_s`; everything without a rate."""
        if rate is None:
            self._at_s = None
            return Grant(wanted_bytes)
        rate = max(1, rate)
        largest = piece_bytes(rate)
        if self._at_s is None:
            self._level_bytes, self._at_s = 1.0, now_s
        passed_s = max(0.0, now_s - self._at_s)
        # A rate that was lowered does not have to wait for what the old one borrowed.
        level = max(self._level_bytes, -float(largest)) + passed_s * rate
        self._level_bytes, self._at_s = min(level, max(1.0, rate * BURST_S)), now_s
        if self._level_bytes <= 0:
            return Grant(0, max(0.001, -self._level_bytes / rate))
        granted = min(wanted_bytes, largest)
        self._level_bytes -= granted
        return Grant(granted)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the day, in minutes; one that ends before it begins goes over midnight."""

    begins_min: int
    ends_min: int
    bytes_per_s: int

    def holds(self, moment: time) -> bool:
        now_min = moment.hour * 60 + moment.minute
        if self.begins_min < self.ends_min:
            return self.begins_min <= now_min < self.ends_min
        return now_min >= self.begins_min or now_min < self.ends_min


def parse_timetable(windows: Mapping[str, int]) -> tuple[Window, ...]:
    """The windows of `upload.timetable`, which the configuration has checked."""
    parsed = []
    for text, bytes_per_s in windows.items():
        match = _WINDOW.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no time of day")
        hour, minute, end_hour, end_minute = (int(group) for group in match.groups())
        parsed.append(Window((hour * 60 + minute) % _DAY_MIN, end_hour * 60 + end_minute, bytes_per_s))
    return tuple(parsed)


def limit_at(moment: time, windows: tuple[Window, ...], *, max_bytes_per_s: int | None) -> int | None:
    """Bytes per second at a local time of day: the smallest of what holds then; None: as fast as it goes."""
    held = [window.bytes_per_s for window in windows if window.holds(moment)]
    return min([*held, *([] if max_bytes_per_s is None else [max_bytes_per_s])], default=None)
