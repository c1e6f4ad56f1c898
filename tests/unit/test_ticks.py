"""Addresses that send every so many seconds."""

from __future__ import annotations

from syncagent.core.ticks import Ticks


def test_what_came_since_the_last_tick_waits_for_the_next() -> None:
    ticks = Ticks({"a": 10.0}, 1000.0)
    assert ticks.until(1009.9) == {"a": 0.0}  # only what an earlier run gathered
    assert ticks.until(1010.0) == {"a": 1010.0}
    assert ticks.until(1019.9) == {"a": 1010.0}
    assert ticks.next_in_s(1019.0) == 1.0


def test_ticks_that_were_slept_through_are_one_and_shift_nothing() -> None:
    ticks = Ticks({"a": 10.0}, 0.0)
    assert ticks.until(57.0) == {"a": 57.0}
    assert ticks.next_in_s(57.0) == 3.0


def test_each_address_has_its_own_period_and_the_others_none() -> None:
    ticks = Ticks({"a": 10.0, "b": 3.0}, 0.0)
    assert ticks.until(4.0) == {"a": 0.0, "b": 4.0}
    assert Ticks({}, 0.0).next_in_s(5.0) is None


def test_a_run_that_ends_by_itself_waits_for_no_tick() -> None:
    assert Ticks({"a": 10.0}, 0.0, is_always=True).until(1.0) == {}
