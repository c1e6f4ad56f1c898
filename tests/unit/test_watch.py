"""Hints stay small and never fail; roots that lie in one another are watched once."""

from __future__ import annotations

import threading

import pytest

from syncagent.edges.watch import Hints, outermost


def test_what_is_taken_is_given_once() -> None:
    hints = Hints()
    hints.add("/r/a")
    hints.add("/r/a")
    hints.suspect("/r", "first")
    hints.suspect("/r", "second")
    assert hints.take() == ({"/r/a"}, {"/r": "first"})
    assert hints.take() == (set(), {})


def test_a_full_set_becomes_one_rescan_flag_per_root_and_stays_empty_until_it_is_taken() -> None:
    hints = Hints(limit=10)
    hints.know(["/r", "/s"])
    for number in range(1000):
        hints.add(f"/r/{number}")
    paths, suspects = hints.take()
    assert paths == set()
    assert set(suspects) == {"/r", "/s"}
    hints.add("/r/next")
    assert hints.take() == ({"/r/next"}, {})


def test_a_set_that_runs_full_before_anybody_named_the_roots_asks_for_all() -> None:
    hints = Hints(limit=1)
    hints.add("/r/1")
    hints.add("/r/2")
    assert set(hints.take()[1]) == {""}


def test_only_the_first_news_rings() -> None:
    rings: list[int] = []
    hints = Hints(on_ring=lambda: rings.append(1))
    hints.add("/r/1")
    hints.add("/r/2")
    hints.suspect("/r", "why")
    assert len(rings) == 1
    hints.take()
    hints.suspect("/r", "why")
    assert len(rings) == 2


def test_an_error_of_whoever_is_rung_does_not_reach_whoever_hinted() -> None:
    def fail() -> None:
        raise RuntimeError("deaf")

    hints = Hints(on_ring=fail)
    hints.add("/r/1")
    assert hints.take()[0] == {"/r/1"}


def test_no_hint_is_lost_between_threads_that_add_and_one_that_takes() -> None:
    hints = Hints()

    def add_many(number: int) -> None:
        for one in range(2000):
            hints.add(f"/r/{number}/{one}")

    threads = [threading.Thread(target=add_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    taken: set[str] = set()
    while any(thread.is_alive() for thread in threads):
        taken |= hints.take()[0]
    taken |= hints.take()[0]
    assert len(taken) == 8000


@pytest.mark.parametrize(
    ("roots", "nest"),
    [
        (["/a/b", "/a"], {"/a": ("/a/b",)}),
        (["/a/", "/a"], {"/a": ()}),
        (["/a", "/ab"], {"/a": (), "/ab": ()}),
        (["/a/b/c", "/x", "/a", "/a/b"], {"/a": ("/a/b", "/a/b/c"), "/x": ()}),
        (["/", "/a"], {"/": ("/a",)}),
        ([], {}),
    ],
)
def test_a_root_in_a_root_is_not_watched_twice(roots: list[str], nest: dict[str, tuple[str, ...]]) -> None:
    assert outermost(roots) == nest
