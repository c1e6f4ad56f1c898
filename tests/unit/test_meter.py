"""How many bytes go, and when: the bucket over any course of time, and the timetable."""

from __future__ import annotations

from datetime import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.meter import (
    MAX_PIECE_BYTES,
    MIN_PIECE_BYTES,
    Meter,
    limit_at,
    parse_timetable,
    piece_bytes,
)


def transfer(meter: Meter, *, rate: int, begins_s: float, seconds: float, oversleep_s: float = 0.0) -> int:
    """What one greedy sender gets through in a stretch of time, waking a little late each time."""
    now_s, sent_bytes = begins_s, 0
    while now_s < begins_s + seconds:
        grant = meter.ask(1 << 20, rate=rate, now_s=now_s)
        sent_bytes += grant.size_bytes
        if not grant.size_bytes:
            assert grant.wait_s > 0
            now_s += grant.wait_s + oversleep_s
    return sent_bytes


@pytest.mark.parametrize("oversleep_s", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("rate", [20_000, 200_000, 5_000_000])
def test_ten_seconds_carry_ten_seconds_worth_within_five_percent(rate: int, oversleep_s: float) -> None:
    meter = Meter()
    transfer(meter, rate=rate, begins_s=0, seconds=5)
    sent_bytes = transfer(meter, rate=rate, begins_s=5, seconds=10, oversleep_s=oversleep_s)
    assert abs(sent_bytes - 10 * rate) <= 0.05 * 10 * rate


@given(
    rate=st.integers(1, 10_000_000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 1 << 20)), max_size=60),
)
def test_no_stretch_of_time_carries_more_than_its_worth_and_one_burst(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    meter, now_s = Meter(), 100.0
    given: list[tuple[float, int]] = []
    for passed_s, wanted_bytes in steps:
        now_s += passed_s
        grant = meter.ask(wanted_bytes, rate=rate, now_s=now_s)
        assert grant.size_bytes <= min(wanted_bytes, piece_bytes(rate))
        assert (grant.size_bytes > 0) != (grant.wait_s > 0)
        given.append((now_s, grant.size_bytes))
    burst_bytes = max(0.5 * rate, MIN_PIECE_BYTES + 0.25 * rate) + 2
    for first in range(len(given)):
        for last in range(first, len(given)):
            stretch_s = given[last][0] - given[first][0]
            assert sum(size for _, size in given[first : last + 1]) <= stretch_s * rate + burst_bytes


@given(rate=st.integers(1, 10_000_000), before=st.integers(1, 100))
def test_waiting_as_long_as_was_said_is_enough(rate: int, before: int) -> None:
    meter, now_s = Meter(), 7.0
    for _ in range(before):
        grant = meter.ask(1 << 20, rate=rate, now_s=now_s)
        if not grant.size_bytes:
            now_s += grant.wait_s * 1.000001
            assert meter.ask(1 << 20, rate=rate, now_s=now_s).size_bytes > 0


def test_without_a_rate_everything_goes_at_once() -> None:
    meter = Meter()
    assert meter.ask(10**9, rate=None, now_s=0.0).size_bytes == 10**9
    assert meter.ask(1000, rate=100, now_s=0.0).size_bytes == 1000
    assert meter.ask(1000, rate=100, now_s=0.0).size_bytes == 0
    assert meter.ask(10**9, rate=None, now_s=0.0).size_bytes == 10**9


def test_a_rate_that_is_lowered_waits_for_its_own_debt_only() -> None:
    meter = Meter()
    meter.ask(1 << 20, rate=10_000_000, now_s=0.0)
    grant = meter.ask(1 << 20, rate=1_000, now_s=0.0)
    assert grant.size_bytes == 0 and grant.wait_s <= piece_bytes(1_000) / 1_000
    # And one that is raised goes on at once at the new one.
    assert meter.ask(1 << 20, rate=10_000_000, now_s=0.001).size_bytes > 0


def test_a_clock_that_stands_still_gives_nothing_for_nothing() -> None:
    meter = Meter()
    total = sum(meter.ask(1 << 20, rate=100_000, now_s=3.0).size_bytes for _ in range(1000))
    assert total <= 50_000


@pytest.mark.parametrize(
    ("rate", "size_bytes"),
    [(1, MIN_PIECE_BYTES), (40_000, 10_000), (200_000, 50_000), (10**9, MAX_PIECE_BYTES)],
)
def test_a_piece_is_a_quarter_of_a_second_within_bounds(rate: int, size_bytes: int) -> None:
    assert piece_bytes(rate) == size_bytes


@pytest.mark.parametrize(
    ("moment", "limit"),
    [
        (time(7, 59, 59), 500_000),
        (time(8, 0), 100_000),
        (time(17, 59, 59), 100_000),
        (time(18, 0), 500_000),
        (time(22, 0), 500_000),  # the window allows more than the carrier does
        (time(23, 59), 500_000),
        (time(0, 0), 500_000),
        (time(5, 59), 500_000),
    ],
)
def test_the_smaller_of_window_and_maximum_holds(moment: time, limit: int) -> None:
    windows = parse_timetable({"08:00-18:00": 100_000, "22:00-06:00": 900_000})
    assert limit_at(moment, windows, max_bytes_per_s=500_000) == limit


def test_a_window_over_midnight_holds_on_both_sides_and_nothing_holds_outside() -> None:
    windows = parse_timetable({"22:00-06:00": 900})
    held = [hour for hour in range(24) if limit_at(time(hour), windows, max_bytes_per_s=None) == 900]
    assert held == [0, 1, 2, 3, 4, 5, 22, 23]
    assert limit_at(time(12), windows, max_bytes_per_s=None) is None
    whole = parse_timetable({"00:00-24:00": 7})
    assert {limit_at(time(hour), whole, max_bytes_per_s=None) for hour in range(24)} == {7}
    assert limit_at(time(12), (), max_bytes_per_s=5) == 5


def test_a_window_that_is_no_time_of_day_is_an_error() -> None:
    with pytest.raises(ValueError, match="8-18"):
        parse_timetable({"8-18": 1})
