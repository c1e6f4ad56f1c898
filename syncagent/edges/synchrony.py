"""Whether the kernel says that our wall clock is synchronised. Reads only; the clock is never set."""

from __future__ import annotations

import ctypes
import os

_TIME_ERROR = 5  # of <sys/timex.h>: the clock is not synchronised
_TIMEX_BYTES = 512  # more than any struct timex; all zero asks and changes nothing
#: Written by systemd-timesyncd. Seen also where a sandbox (ProtectClock=) forbids the system call.
TIMESYNC_MARK = "/run/systemd/timesync/synchronized"


def is_synchronised(*, mark: str = TIMESYNC_MARK) -> bool:
    """True once NTP disciplines the clock. What cannot be told counts as no: it only makes us ask the store."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        state = -1
    if 0 <= state < _TIME_ERROR:
        return True
    return state < 0 and os.path.exists(mark)
