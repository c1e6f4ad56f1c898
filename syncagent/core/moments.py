"""Moments: seconds since 1970 as a date, on every machine the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(seconds: float) -> datetime:
    """That many seconds after 1970 began, in UTC. Raises OverflowError or ValueError when no calendar has it.

    `datetime.fromtimestamp` would ask the C library, whose time on a 32-bit Debian 12 ends in January 2038.
    """
    return _EPOCH + timedelta(seconds=seconds)
