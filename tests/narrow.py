"""Whether the C library's time has 32 bits here, as on Debian 12's armhf."""

from __future__ import annotations

from datetime import UTC, datetime


def _is_narrow() -> bool:
    try:
        datetime.fromtimestamp(1 << 31, UTC)
    except OverflowError:
        return True
    return False


IS_NARROW = _is_narrow()
