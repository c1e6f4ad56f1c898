"""What was spent this month, on which links it counts, and what may go when it is used up."""

from __future__ import annotations

import pytest

from syncagent.core.budget import Spent, is_allowed, is_metered, is_spent
from syncagent.core.settings import Metered


def metered(*interfaces: str, budget: int | None = 1_000, allow: tuple[str, ...] = ()) -> Metered:
    return Metered(interfaces=interfaces, budget_bytes_per_month=budget, allow=allow)


def spent(day: str = "2026-11-24") -> Spent:
    return Spent(day, 5, 50, 40)


def figures(of: Spent) -> tuple[str, int, int, int]:
    return of.day, of.day_bytes, of.month_bytes, of.metered_month_bytes


def test_bytes_count_for_the_day_and_the_month_and_for_the_budget_only_on_a_metered_link() -> None:
    count = spent()
    count.add(10, is_metered=True)
    count.add(3, is_metered=False)
    assert figures(count) == ("2026-11-24", 18, 63, 50)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("2026-11-24", ("2026-11-24", 5, 50, 40)),
        ("2026-11-25", ("2026-11-25", 0, 50, 40)),
        ("2026-12-01", ("2026-12-01", 0, 0, 0)),
        ("2027-11-24", ("2027-11-24", 0, 0, 0)),
        # A clock that went back renews nothing, now or when it goes on.
        ("2026-11-23", ("2026-11-24", 5, 50, 40)),
        ("2026-10-31", ("2026-11-24", 5, 50, 40)),
    ],
)
def test_a_new_day_begins_with_nothing_and_so_does_a_new_month(day: str, expected: tuple[str, int, int, int]) -> None:
    count = spent()
    count.roll(day)
    assert figures(count) == expected


def test_a_day_that_can_only_have_come_from_a_wrong_clock_is_corrected_and_what_was_counted_stays() -> None:
    count = spent("2083-10-17")
    count.roll("2026-11-24")
    assert figures(count) == ("2026-11-24", 5, 50, 40)
    count.roll("2026-12-01")
    assert figures(count) == ("2026-12-01", 0, 0, 0)


def test_what_was_counted_before_any_day_was_known_belongs_to_the_first() -> None:
    count = Spent()
    count.add(7, is_metered=True)
    count.roll("2026-11-24")
    assert figures(count) == ("2026-11-24", 7, 7, 7)


def test_what_is_remembered_is_read_as_it_was_written_and_nonsense_is_nothing() -> None:
    for count in (Spent(), spent(), Spent("", 1, 2, 3)):
        assert Spent.from_text(count.to_text()) == count
    for text in (None, "", "nonsense", "2026-11-24 1 2", "2026-11-24 1 2 -3", "2026-11-24 1 2 3 4", "gestern 1 2 3"):
        assert Spent.from_text(text) == Spent()


@pytest.mark.parametrize(
    ("limits", "interface", "is_flagged", "costs"),
    [
        (None, "wwan0", True, False),
        (metered("wwan*"), "wwan0", False, True),
        (metered("wwan*"), "eth0", False, False),
        (metered("wwan*"), "eth0", True, False),  # the owner's list counts more than the system's flag
        (metered("wwan*"), None, False, False),
        (metered(), "eth0", True, True),
        (metered(), "eth0", False, False),
    ],
)
def test_a_link_costs_money_if_it_is_listed_or_with_none_listed_if_the_system_says_so(
    limits: Metered | None, interface: str | None, is_flagged: bool, costs: bool
) -> None:
    assert is_metered(limits, interface, is_flagged=is_flagged) is costs


@pytest.mark.parametrize(("budget", "is_used_up"), [(None, False), (41, False), (40, True), (39, True)])
def test_a_budget_is_spent_when_as_much_went_over_metered_links(budget: int | None, is_used_up: bool) -> None:
    assert is_spent(metered(budget=budget), spent()) is is_used_up
    assert not is_spent(None, spent())


@pytest.mark.parametrize(
    ("path", "may_go"),
    [
        ("generated_data/camera/note.txt", True),
        ("generated_data/alarms/a/b.jpg", True),
        ("generated_data/camera/img.jpg", False),
        ("note.txt.jpg", False),
    ],
)
def test_what_is_allowed_is_told_by_name_or_by_path(path: str, may_go: bool) -> None:
    assert is_allowed(metered(allow=("*.txt", "generated_data/alarms/*")), path) is may_go
    assert not is_allowed(metered(), path)
    assert not is_allowed(None, path)
