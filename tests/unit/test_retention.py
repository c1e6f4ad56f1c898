"""The owner's rules as sums."""

from __future__ import annotations

from itertools import pairwise

from syncagent.core.model import Facts, State
from syncagent.core.retention import (
    BEYOND,
    DAY_S,
    Claim,
    Need,
    Space,
    confirmed_version,
    droppable_version,
    due_until,
    is_out_of_room,
    lacking,
    shared,
    surplus,
    thinned,
)
from syncagent.core.settings import Retention

GB = 1_000_000_000
FACTS = Facts(1, 2, 3, 4)


def space(free_bytes: int, free_inodes: int = 900) -> Space:
    return Space(free_bytes, 100 * GB, free_inodes, 1000)


def claim(address: str, state: State, facts: Facts = FACTS, *, is_unsettled: bool = False) -> Claim:
    return Claim(1, address, state, facts, is_unsettled)


def test_without_rules_nothing_goes() -> None:
    rules = Retention()
    assert due_until(rules, 1e9) is None
    assert not surplus(rules, 10**6, 10**12)
    assert not lacking(rules, space(0, 0), is_under=False)


def test_null_is_no_limit_and_0_removes_as_soon_as_confirmed() -> None:
    assert due_until(Retention(keep_days=2), 3 * DAY_S) == DAY_S
    for rules in (Retention(keep_days=0), Retention(keep_files=0), Retention(keep_bytes=0)):
        assert due_until(rules, 123.0) == 123.0


def test_more_than_the_kept_files_or_bytes_is_surplus() -> None:
    assert surplus(Retention(keep_files=3), 5, 100) == Need(0, 2)
    assert surplus(Retention(keep_bytes=30), 5, 100) == Need(70, 0)
    assert not surplus(Retention(keep_files=5, keep_bytes=100), 5, 100)


def test_below_a_minimum_so_much_must_go_that_it_is_passed_by_a_tenth() -> None:
    rules = Retention(min_free_percent=10)
    assert not lacking(rules, space(10 * GB), is_under=False)
    assert lacking(rules, space(10 * GB - 1), is_under=False).size_bytes >= 1 * GB
    # Once it was below, a tenth more than the minimum must be free.
    assert lacking(rules, space(int(10.5 * GB)), is_under=True).size_bytes >= GB // 2
    assert not lacking(rules, space(int(10 * GB * BEYOND) + 1), is_under=True)


def test_the_largest_minimum_of_bytes_counts_and_inodes_have_their_own() -> None:
    rules = Retention(min_free_percent=1, min_free_bytes=5 * GB, min_free_inodes_percent=10)
    assert lacking(rules, space(4 * GB), is_under=False).size_bytes >= GB
    need = lacking(rules, space(50 * GB, 99), is_under=False)
    assert need.size_bytes == 0 and need.inodes == 12
    unlimited = Space(50 * GB, 100 * GB, 0, 0)
    assert not lacking(rules, unlimited, is_under=False)
    assert not is_out_of_room(unlimited)


def test_who_may_drop_unsent_files_keeps_room_for_the_journal() -> None:
    rules = Retention(when_full="drop_unsent")
    assert lacking(rules, space(1_000_000), is_under=False)
    assert not lacking(Retention(), space(1_000_000), is_under=False)
    assert is_out_of_room(space(1_000_000))


def test_carriers_that_share_a_directory_keep_what_one_of_them_keeps() -> None:
    first = Retention(keep_days=1, keep_files=10, min_free_percent=5, when_full="drop_unsent")
    assert shared([first]) == first
    both = shared([first, Retention(keep_days=3, min_free_percent=10, remove_empty_directories=True)])
    assert (both.keep_days, both.keep_files, both.min_free_percent, both.when_full) == (3, None, 10, "stop")
    assert not both.remove_empty_directories


def test_a_file_that_one_address_still_owes_is_not_confirmed() -> None:
    a, b = claim("a", State.CONFIRMED), claim("b", State.CONFIRMED)
    assert confirmed_version([a, b], wanting=frozenset("ab")) == FACTS
    for state in set(State) - {State.CONFIRMED, State.GONE}:
        assert confirmed_version([a, claim("b", state)], wanting=frozenset("a")) is None
    # An address that was added since, and has no row yet.
    assert confirmed_version([a], wanting=frozenset("ab")) is None
    assert confirmed_version([a, claim("b", State.GONE)], wanting=frozenset("ab")) == FACTS
    assert confirmed_version([claim("b", State.GONE)], wanting=frozenset("b")) is None
    assert confirmed_version([], wanting=frozenset()) is None


def test_what_was_sent_unsettled_or_in_two_versions_is_not_confirmed() -> None:
    unsettled = claim("a", State.CONFIRMED, is_unsettled=True)
    assert confirmed_version([unsettled], wanting=frozenset("a")) is None
    two = [claim("a", State.CONFIRMED), claim("b", State.CONFIRMED, Facts(1, 2, 9, 4))]
    assert confirmed_version(two, wanting=frozenset("ab")) is None


def test_only_what_is_neither_sent_nor_settling_can_be_dropped() -> None:
    for state in (State.READY, State.WAITING, State.PARKED):
        assert droppable_version([claim("a", state), claim("b", State.CONFIRMED)]) == FACTS
    for state in (State.SETTLING, State.SENDING):
        assert droppable_version([claim("a", state), claim("b", State.READY)]) is None


def test_thinning_keeps_an_even_time_lapse() -> None:
    times = {number: float(number) for number in range(101)}
    order = thinned(times)
    assert sorted(order) == list(range(1, 100))
    left = sorted(set(times) - set(order[:80]))
    gaps = [after - before for before, after in pairwise(left)]
    assert len(left) == 21 and max(gaps) <= 2 * min(gaps), left


def test_thinning_begins_where_files_are_dense() -> None:
    burst = {100 + number: 50.0 + number / 100 for number in range(10)}
    times = {number: float(number * 10) for number in range(12)} | burst
    assert set(thinned(times)[:8]) <= set(burst)
