"""The journal on a real disk: every move of a row, what it remembers, and what it refuses."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.errors import FileChanged, JournalBroken
from syncagent.core.model import TRANSITIONS, Digest, Facts, ObjectFacts, Part, State
from syncagent.edges.journal import Arrival, Ask, Journal, Row, Tally, schema
from syncagent.edges.journal.arrivals import RECENT
from syncagent.edges.journal.base import MAX_MOVED
from syncagent.edges.journal.deliveries import MANY
from syncagent.edges.journal.schema import PAGE_BYTES, STEPS
from tests.fakes import FakeClock
from tests.servers import program

STORES = {"a": "s3 one", "b": "s3 one", "c": "s3 two"}
PATH = "generated_data/x.jpg"


def facts(number: int = 1, *, size: int = 10) -> Facts:
    return Facts(size, number, number, 7)


def digest(text: str = "x") -> Digest:
    return Digest(hashlib.md5(text.encode()).digest(), hashlib.sha256(text.encode()).digest())


@pytest.fixture
def open_journal(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., Journal]]:
    """Opens the journal of this test, as often as it is asked to; all are closed at the end."""
    opened: list[Journal] = []

    def open_one(with_clock: FakeClock = clock) -> Journal:
        journal = Journal(str(tmp_path), with_clock)
        journal.set_stores(STORES)
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_journal: Callable[..., Journal]) -> Journal:
    return open_journal()


def add(
    journal: Journal, path: str = "generated_data/x.jpg", number: int = 1, *, address: str = "a", size: int = 10
) -> Row:
    journal.record([Arrival(address, path, facts(number, size=size))])
    return journal.listing()[-1]


def confirm(journal: Journal, row: Row, key: str = "k", text: str = "x") -> Row:
    journal.sending(row, key, digest(text))
    journal.confirm(row, key=key, digest=digest(text), etag="e")
    journal.let_go(row)
    return journal.row(row.id)


def states(journal: Journal) -> list[State]:
    return [row.state for row in journal.listing()]


def recounted(journal: Journal) -> dict[tuple[str, State, str], Tally]:
    files: Counter[tuple[str, State, str]] = Counter()
    sizes: Counter[tuple[str, State, str]] = Counter()
    for row in journal.listing():
        files[row.address, row.state, row.reason] += 1
        sizes[row.address, row.state, row.reason] += row.facts.size_bytes
    return {cell: Tally(files[cell], sizes[cell]) for cell in files}


# -- arrivals ---------------------------------------------------------------------------------------------------------


def test_a_finished_version_is_a_ready_row_and_recording_it_again_changes_nothing(journal: Journal) -> None:
    arrival = Arrival("a", "generated_data/x.jpg", facts())
    assert journal.record([arrival, arrival]) == 1
    assert journal.record([arrival]) == 0
    (row,) = journal.listing()
    assert (row.address, row.path, row.facts, row.state) == ("a", "generated_data/x.jpg", facts(), State.READY)
    assert (row.key, row.digest, row.position, row.attempts, row.message, row.cloud_path) == (
        None,
        None,
        None,
        0,
        None,
        None,
    )


def test_a_row_whose_file_changed_while_it_was_sent_gives_way_to_the_one_that_was_recorded_meanwhile(
    journal: Journal,
) -> None:
    first = add(journal, number=1)
    journal.sending(first, "k", digest())
    add(journal, number=2)
    journal.finish(first, State.SETTLING)  # the worker found out later than the intake
    journal.record([Arrival("a", "generated_data/x.jpg", facts(2))])
    assert states(journal) == [State.SUPERSEDED, State.READY]


@pytest.mark.parametrize("state", [State.SENDING, State.CONFIRMED, State.WAITING, State.PARKED])
def test_a_version_that_is_known_stays_what_it_is(journal: Journal, state: State) -> None:
    row = add(journal)
    if state is State.SENDING:
        journal.sending(row, "k", digest())
    elif state is State.CONFIRMED:
        confirm(journal, row)
    elif state is State.WAITING:
        journal.defer(row, reason="link", wait_s=9)
    else:
        journal.finish(row, State.PARKED, reason="no")
    before = journal.listing()
    assert journal.record([Arrival("a", row.path, row.facts)]) == 0
    assert journal.listing() == before


@pytest.mark.parametrize("change", [(11, 1, 1, 7), (10, 2, 1, 7), (10, 1, 2, 7), (10, 1, 1, 8)])
def test_any_other_fact_is_a_later_version_and_the_unsent_one_is_superseded(
    journal: Journal, change: tuple[int, int, int, int]
) -> None:
    row = add(journal)
    assert journal.record([Arrival("a", row.path, Facts(*change))]) == 1
    assert states(journal) == [State.SUPERSEDED, State.READY]


def test_a_later_version_supersedes_waiting_and_parked_ones_and_leaves_one_that_is_being_sent(journal: Journal) -> None:
    waiting, parked, sending = (add(journal, f"generated_data/{n}") for n in range(3))
    journal.defer(waiting, reason="link", wait_s=9)
    journal.finish(parked, State.PARKED, reason="no")
    journal.sending(sending, "k", digest())
    for n in range(3):
        journal.record([Arrival("a", f"generated_data/{n}", facts(2))])
    assert states(journal)[:3] == [State.SUPERSEDED, State.SUPERSEDED, State.SENDING]
    assert states(journal)[3:] == [State.READY] * 3


def test_a_confirmed_version_whose_bytes_were_replaced_is_removed_from_the_disk(journal: Journal) -> None:
    row = confirm(journal, add(journal))
    journal.record([Arrival("a", row.path, facts(2))])
    assert states(journal) == [State.REMOVED, State.READY]


@pytest.mark.parametrize("state", [State.GONE, State.SUPERSEDED])
def test_a_version_that_comes_back_is_ready_again(journal: Journal, state: State) -> None:
    row = add(journal)
    journal.finish(row, state)
    assert journal.record([Arrival("a", row.path, row.facts)]) == 1
    assert states(journal) == [State.READY]


def test_a_confirmed_file_whose_disk_was_away_is_confirmed_again_and_not_sent(journal: Journal) -> None:
    row = confirm(journal, add(journal))
    journal.vanished([row.id])
    assert states(journal) == [State.REMOVED]
    assert journal.record([Arrival("a", row.path, row.facts)]) == 0
    assert states(journal) == [State.CONFIRMED]


def test_what_vanished_is_gone_when_it_was_owed_and_removed_when_it_was_confirmed(journal: Journal) -> None:
    rows = [add(journal, f"generated_data/{n}") for n in range(6)]
    journal.defer(rows[1], reason="link", wait_s=9)
    journal.finish(rows[2], State.PARKED, reason="no")
    confirm(journal, rows[3])
    journal.sending(rows[4], "k", digest())
    journal.finish(rows[5], State.SETTLING)
    for _ in range(2):
        journal.vanished(row.id for row in rows)
        assert states(journal) == [State.GONE, State.GONE, State.GONE, State.REMOVED, State.SENDING, State.GONE]
    journal.vanished([])


def test_each_address_has_a_row_of_its_own(journal: Journal) -> None:
    journal.record([Arrival(name, "generated_data/x", facts()) for name in "ab"])
    confirm(journal, journal.listing()[0])
    assert [(known.address, known.state) for known in journal.known_at("generated_data/x")] == [
        ("a", State.CONFIRMED),
        ("b", State.READY),
    ]


def test_the_newest_row_of_an_address_speaks_for_a_name(journal: Journal) -> None:
    row = confirm(journal, add(journal))
    journal.ask("a", row.path, cloud_path="elsewhere")
    (known,) = journal.known_at(row.path)
    assert known.state is State.SETTLING
    assert journal.known_among("generated_data", ["x.jpg", "y.jpg"]) == {"x.jpg": [known]}
    assert journal.known_among("generated_data", []) == {}
    assert journal.count_live("generated_data") == 1


def test_names_of_dead_rows_are_not_live(journal: Journal) -> None:
    for state in (State.GONE, State.SUPERSEDED):
        journal.finish(add(journal, f"generated_data/{state}"), state)
    journal.vanished([confirm(journal, add(journal, "generated_data/removed")).id])
    live = add(journal, "generated_data/live")
    assert journal.live_names("generated_data", after="", limit=9) == [("live", live.id)]
    assert journal.count_live("generated_data") == 1
    assert journal.known_at("generated_data/gone") == []


def test_live_names_can_be_read_in_chunks_that_never_part_the_rows_of_one_name(journal: Journal) -> None:
    for name in ("c", "\udcff", "a", "é", "b"):
        for address in ("a", "b"):
            add(journal, f"generated_data/{name}", address=address)
    found, after = [], ""
    while chunk := journal.live_names("generated_data", after=after, limit=3):
        found += chunk
        after = chunk[-1][0]
    assert Counter(name for name, _ in found) == dict.fromkeys(("a", "b", "c", "é", "\udcff"), 2)
    assert len({row_id for _, row_id in found}) == 10


def test_directories_below_are_found_by_whole_names(journal: Journal) -> None:
    for path in (
        "generated_data/a/x",
        "generated_data/a/b/x",
        "generated_data/ab/x",
        "generated_data/a.b/x",
        "/mnt/a/x",
    ):
        add(journal, path)
    journal.finish(add(journal, "generated_data/a/dead/x"), State.GONE)
    assert sorted(journal.directories_below("generated_data/a")) == ["generated_data/a", "generated_data/a/b"]
    assert len(journal.directories_below("generated_data")) == 4


@pytest.mark.parametrize(
    "path",
    [
        "generated_data/caf\udce9.jpg",
        "generated_data/\udcff\udcfe/\udc80",
        "generated_data/größe/\U0001f4f7.jpg",
        "generated_data/new\nline",
        "generated_data/'; DROP TABLE version; --",
        "/absolute/x",
        "/x",
        "generated_data/" + "d/" * 300 + "x",
    ],
)
def test_paths_are_the_bytes_of_the_disk(open_journal: Callable[..., Journal], path: str) -> None:
    journal = open_journal()
    add(journal, path)
    assert journal.listing()[0].path == path
    assert len(journal.known_at(path)) == 1
    journal.close()
    again = open_journal()
    assert again.listing()[0].path == path
    assert os.fsencode(again.listing()[0].path) == os.fsencode(path)


def test_a_chmod_gives_the_row_new_facts_and_nothing_else(journal: Journal) -> None:
    row = confirm(journal, add(journal))
    journal.reface([])
    journal.reface([(row.id, Facts(10, 1, 99, 8))])
    assert journal.row(row.id) == Row(**{**{f: getattr(row, f) for f in Row.__slots__}, "facts": Facts(10, 1, 99, 8)})


# -- asked for --------------------------------------------------------------------------------------------------------


def test_a_file_that_is_asked_for_settles_and_is_ready_with_the_facts_it_finished_with(journal: Journal) -> None:
    row_id = journal.ask("a", "/mnt/x.jpg", cloud_path="k/x.jpg")
    assert [row.id for row in journal.asked()] == [row_id]
    assert journal.record([Arrival("a", "/mnt/x.jpg", facts(5, size=50), is_wanted=False)]) == 1
    row = journal.row(row_id)
    assert (row.state, row.facts, row.cloud_path) == (State.READY, facts(5, size=50), "k/x.jpg")
    assert journal.asked() == []
    assert journal.tally() == recounted(journal)


def test_asking_again_for_what_is_on_its_way_gives_the_same_row(journal: Journal) -> None:
    first = journal.ask("a", "generated_data/x")
    assert journal.ask("a", "generated_data/x") == first
    assert journal.ask("a", "generated_data/x", cloud_path="k") != first
    assert journal.ask("b", "generated_data/x") != first
    journal.record([Arrival("a", "generated_data/x", facts())])
    assert journal.ask("a", "generated_data/x") == first


def test_a_file_that_changed_while_it_was_sent_forgets_the_digest_of_its_old_bytes(journal: Journal) -> None:
    row = add(journal)
    journal.sending(row, "k", digest("old"))
    journal.release(row)
    journal.finish(row, State.SETTLING)
    journal.record([Arrival("a", row.path, facts(2, size=20))])
    now = journal.row(row.id)
    assert (now.state, now.facts, now.digest) == (State.READY, facts(2, size=20), None)


def test_an_unsettled_version_says_so_and_the_finished_one_follows(journal: Journal) -> None:
    journal.record([Arrival("a", "generated_data/log", facts(1), is_unsettled=True)])
    (row,) = journal.listing()
    assert row.is_unsettled
    confirm(journal, row)
    journal.record([Arrival("a", "generated_data/log", facts(2))])
    assert not journal.listing()[-1].is_unsettled


@pytest.mark.parametrize(
    ("state", "then"),
    [
        (State.READY, State.SUPERSEDED),
        (State.WAITING, State.SUPERSEDED),
        (State.PARKED, State.SUPERSEDED),
        (State.GONE, State.GONE),
        (State.SENDING, State.SENDING),
        (State.CONFIRMED, State.REMOVED),
    ],
)
@pytest.mark.parametrize("cloud_path", [None, "k/log"])
def test_the_finished_version_follows_although_its_facts_are_those_of_the_unsettled_one(
    journal: Journal, state: State, then: State, cloud_path: str | None
) -> None:
    unsettled = Arrival("a", "generated_data/log", facts(), is_unsettled=True, is_wanted=cloud_path is None)
    finished = Arrival("a", "generated_data/log", facts(), is_wanted=cloud_path is None)
    if cloud_path is not None:
        journal.ask("a", "generated_data/log", cloud_path=cloud_path)
    journal.record([unsettled])
    (row,) = journal.listing()
    if state is State.SENDING:
        journal.sending(row, "k", digest())
    elif state is State.CONFIRMED:
        confirm(journal, row)
    elif state is State.WAITING:
        journal.defer(row, reason="link", wait_s=9)
    elif state is not State.READY:
        journal.finish(row, state)
    is_owed = cloud_path is None or state is not State.GONE
    assert journal.record([finished]) == is_owed
    assert states(journal) == [then, State.READY][: 1 + is_owed]
    assert (journal.listing()[-1].is_unsettled, journal.listing()[-1].cloud_path) == (not is_owed, cloud_path)
    if is_owed:
        assert journal.record([unsettled, finished]) == 0
        assert journal.tally() == recounted(journal)


def test_what_a_worker_confirms_after_the_finished_version_was_recorded_does_not_stand_for_it(journal: Journal) -> None:
    journal.record([Arrival("a", "generated_data/log", facts(), is_unsettled=True)])
    row = journal.claim(("a",))
    assert row is not None
    journal.record([Arrival("a", row.path, facts())])
    journal.confirm(row, key="k", digest=digest(), etag="e")
    journal.let_go(row)
    assert states(journal) == [State.REMOVED, State.READY]
    assert (journal.occupant("a", "k"), journal.is_flagged("a", "k")) == (digest().sha256, True)
    confirm(journal, journal.listing()[-1])
    assert (journal.occupant("a", "k"), journal.is_flagged("a", "k")) == (digest().sha256, False)
    assert not journal.is_flagged("a", "other")


# -- claims -----------------------------------------------------------------------------------------------------------


def drain(journal: Journal, addresses: tuple[str, ...] = ("a",), **how: Any) -> list[str]:
    taken = []
    while (row := journal.claim(addresses, **how)) is not None:
        taken.append(row.path.rpartition("/")[2])
    return taken


def take(journal: Journal) -> Row:
    row = journal.claim(("a",))
    assert row is not None
    return row


def drain_one(journal: Journal) -> str:
    return take(journal).path.rpartition("/")[2]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("oldest", ["old", "mid", "new"]),
        ("newest", ["new", "mid", "old"]),
        ("newest_first_with_backfill", ["new", "mid", "old"]),
        ("smallest", ["mid", "old", "new"]),
    ],
)
def test_claims_come_in_the_order_that_is_asked_for(journal: Journal, order: str, expected: list[str]) -> None:
    for name, number, size in (("mid", 2, 10), ("new", 3, 30), ("old", 1, 20)):
        add(journal, f"generated_data/{name}", number, size=size)
    assert drain(journal, order=order) == expected
    assert drain(journal, order=order) == []


def test_a_file_can_be_recorded_while_another_thread_reads_anew_what_is_remembered(journal: Journal) -> None:
    add(journal, "generated_data/1")
    assert journal.claim(("a",), order="newest") is not None

    class Batches(dict[Any, Any]):
        """Whoever looks at them gets the old ones, and the journal new ones."""

        def __iter__(self) -> Iterator[Any]:
            keys = list(super().__iter__())
            journal._batches = {}
            return iter(keys)

    journal._batches = Batches(journal._batches)
    add(journal, "generated_data/2")
    assert drain(journal, order="newest") == ["2"]


@pytest.mark.parametrize("order", ["newest", "newest_first_with_backfill", "smallest"])
def test_a_file_that_arrives_later_is_put_where_it_belongs(journal: Journal, order: str) -> None:
    for number in range(10):
        add(journal, f"generated_data/{number}", number, size=100)
    assert journal.claim(("a",), order=order) is not None
    add(journal, "generated_data/late", 99, size=1)
    row = journal.claim(("a",), order=order)
    assert row is not None and row.path.endswith("/late")


def test_a_file_that_failed_comes_after_all_that_did_not(journal: Journal) -> None:
    for number in range(200):
        add(journal, f"generated_data/{number:03}", number)
    for _ in range(3):
        poison = journal.claim(("a",))
        assert poison is not None
        journal.defer(poison, reason="x", wait_s=0)
        journal.let_go(poison)
    journal.wake_due(("a",))
    assert drain(journal) == [f"{n:03}" for n in (*range(3, 200), 0, 1, 2)]


def test_a_size_limit_leaves_larger_files_to_others(journal: Journal) -> None:
    add(journal, "generated_data/big", 1, size=100)
    add(journal, "generated_data/small", 2, size=10)
    assert journal.has_ready(("a",), largest_bytes=50)
    assert drain(journal, largest_bytes=50) == ["small"]
    assert not journal.has_ready(("a",), largest_bytes=50)
    assert journal.has_ready(("a",), largest_bytes=100)
    assert drain(journal) == ["big"]


def test_only_the_addresses_that_are_named_are_served_in_their_order(journal: Journal) -> None:
    for name in "abc":
        add(journal, f"generated_data/{name}", address=name)
    assert drain(journal, ("c", "a")) == ["c", "a"]
    assert drain(journal, ("unknown",)) == []


def test_a_path_is_never_out_twice_for_one_address(journal: Journal) -> None:
    journal.ask("a", "generated_data/x", cloud_path="under/another/key")
    journal.record([Arrival("a", "generated_data/x", facts())])
    journal.record([Arrival("a", "generated_data/y", facts(2))])
    assert journal.count_of(State.READY) == 3
    first = journal.claim(("a", "b"))
    assert first is not None
    second = journal.claim(("a", "b"))
    assert second is not None and second.path == "generated_data/y"
    assert journal.claim(("a", "b")) is None
    journal.let_go(first)
    third = journal.claim(("a", "b"))
    assert third is not None and third.path == "generated_data/x"


def test_a_path_may_be_out_for_two_addresses(journal: Journal) -> None:
    journal.record([Arrival(name, "generated_data/x", facts()) for name in "ab"])
    for address in "ab":
        row = journal.claim((address,))
        assert row is not None and row.address == address
    assert journal.is_taken("generated_data/x")


def test_a_later_version_waits_until_the_one_that_is_being_sent_is_done(journal: Journal) -> None:
    add(journal)
    row = journal.claim(("a",))
    assert row is not None
    journal.sending(row, "k", digest())
    journal.record([Arrival("a", row.path, facts(2))])
    assert journal.claim(("a",)) is None
    journal.confirm(row, key="k", digest=digest(), etag="e")
    journal.let_go(row)
    later = journal.claim(("a",))
    assert later is not None and later.facts == facts(2)


def test_many_threads_never_claim_the_same_row_and_miss_none(journal: Journal) -> None:
    journal.record([Arrival("a", f"generated_data/{n}", facts(n)) for n in range(300)])
    taken: list[int] = []

    def work() -> None:
        while (row := journal.claim(("a",))) is not None:
            taken.append(row.id)
            journal.sending(row, f"k{row.id}", digest())
            journal.confirm(row, key=f"k{row.id}", digest=digest(), etag="e")
            journal.let_go(row)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == [row.id for row in journal.listing()]
    positions = [row.position for row in journal.listing()]
    assert sorted(p or 0 for p in positions) == list(range(1, 301))
    assert journal.tally() == recounted(journal)


def test_one_key_of_one_store_is_reserved_by_one_row_at_a_time(journal: Journal) -> None:
    rows = {name: add(journal, f"generated_data/{name}", address=name) for name in "abc"}
    for name in "abc":
        assert journal.claim((name,)) is not None
    assert journal.reserve_key(rows["a"], "k")
    assert journal.reserve_key(rows["a"], "k")
    assert not journal.reserve_key(rows["b"], "k")  # the same store
    assert journal.reserve_key(rows["c"], "k")  # another store
    assert journal.reserve_key(rows["a"], "other")
    assert journal.reserve_key(rows["b"], "k")
    journal.let_go(rows["b"])
    assert journal.reserve_key(rows["a"], "k")


# -- deliveries -------------------------------------------------------------------------------------------------------


def test_a_confirmation_keeps_key_digest_etag_time_and_position(journal: Journal, clock: FakeClock) -> None:
    row = add(journal)
    journal.sending(row, "k", digest())
    assert (journal.row(row.id).state, journal.row(row.id).attempts, journal.row(row.id).key) == (State.SENDING, 1, "k")
    journal.confirm(row, key="k", digest=digest(), etag="e")
    done = journal.row(row.id)
    assert (done.state, done.key, done.digest, done.etag, done.position) == (State.CONFIRMED, "k", digest(), "e", 1)
    assert done.confirmed_at == clock.now().timestamp()


def test_positions_only_grow_and_one_that_was_there_already_gets_none(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    confirm(journal, add(journal, "generated_data/1"))
    copy = add(journal, "generated_data/2")
    journal.confirm(copy, key="k", digest=digest(), etag=None)
    assert journal.row(copy.id).position is None
    assert journal.row(copy.id).state is State.CONFIRMED
    journal.vanished([1])
    journal.close()
    journal = open_journal()
    confirm(journal, add(journal, "generated_data/3"), "k3")
    assert [row.position for row in journal.listing()] == [1, None, 2]


def test_the_occupant_of_a_key_is_what_was_confirmed_last_in_that_store(journal: Journal) -> None:
    assert journal.occupant("a", "k") is None
    row = add(journal)
    journal.sending(row, "k", digest("1"))
    assert journal.occupant("a", "k") is None
    journal.confirm(row, key="k", digest=digest("1"), etag="e")
    assert journal.occupant("a", "k") == digest("1").sha256
    assert journal.occupant("b", "k") == digest("1").sha256  # the same store
    assert journal.occupant("c", "k") is None
    confirm(journal, add(journal, "generated_data/y"), "k", "2")
    assert journal.occupant("a", "k") == digest("2").sha256
    journal.vanished([1, 2])
    assert journal.occupant("a", "k") == digest("2").sha256


def test_an_address_that_moves_to_another_store_finds_no_occupants_there(journal: Journal) -> None:
    confirm(journal, add(journal))
    journal.set_stores({**STORES, "a": "s3 three"})
    assert journal.occupant("a", "k") is None
    confirm(journal, add(journal, "generated_data/y"), "k", "there")
    assert journal.occupant("a", "k") == digest("there").sha256
    assert journal.occupant("b", "k") == digest().sha256
    journal.set_stores(STORES)
    assert journal.occupant("a", "k") == digest().sha256
    confirm(journal, add(journal, "generated_data/z"), "k", "back")
    assert journal.occupant("a", "k") == journal.occupant("b", "k") == digest("back").sha256


def test_a_deferred_row_is_due_by_the_monotonic_clock(journal: Journal, clock: FakeClock) -> None:
    row = add(journal)
    assert journal.next_due_s(("a",)) is None
    journal.defer(row, reason="link", wait_s=10)
    now = journal.row(row.id)
    assert (now.state, now.reason, now.attempts) == (State.WAITING, "link", 1)
    clock.jump(1e9)
    assert journal.wake_due(("a",)) == 0
    clock.jump(-2e9)
    clock.advance(9)
    assert (journal.wake_due(("a",)), journal.next_due_s(("a",))) == (0, 1.0)
    clock.advance(2)
    assert (journal.next_due_s(("a",)), journal.wake_due(("a",)), journal.next_due_s(("a",))) == (0.0, 1, None)
    assert (journal.row(row.id).state, journal.row(row.id).reason, journal.row(row.id).attempts) == (State.READY, "", 1)


def test_rows_that_wait_for_the_store_wake_together_or_some_at_a_time_with_their_attempts_forgiven(
    journal: Journal,
) -> None:
    for number, reason in enumerate(["link", "link", "store", "file: x"]):
        journal.defer(add(journal, f"generated_data/{number}"), reason=reason, wait_s=99)
    assert journal.wake(["link", "store"], ("a",), limit=1) == 1
    assert journal.wake(["link", "store"], ("a",)) == 2
    assert journal.wake(["link", "store"], ("a",)) == 0
    assert [(row.state, row.attempts) for row in journal.listing()] == [(State.READY, 0)] * 3 + [(State.WAITING, 1)]


def test_rows_of_other_addresses_go_on_waiting(journal: Journal) -> None:
    for number, address in enumerate("ab"):
        journal.defer(add(journal, f"generated_data/{number}", address=address), reason="link", wait_s=10 * number)
    assert journal.wake(["link"], ("b",)) == 1
    assert [(row.state, row.attempts) for row in journal.listing()] == [(State.WAITING, 1), (State.READY, 0)]
    assert (journal.next_due_s(("a",)), journal.next_due_s(("b", "c")), journal.next_due_s(("a", "b"))) == (0, None, 0)
    assert (journal.wake_due(("b",)), journal.wake_due(("a", "b"))) == (0, 1)


def test_a_released_row_is_not_charged_with_the_attempt(journal: Journal) -> None:
    row = add(journal)
    journal.release(row)  # it was not sent yet: nothing to do
    journal.sending(row, "k", digest())
    journal.release(row)
    assert (journal.row(row.id).state, journal.row(row.id).attempts) == (State.READY, 0)


def test_the_next_run_sends_again_what_was_being_sent_or_waited(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    journal.sending(add(journal, "generated_data/1"), "k", digest())
    journal.defer(add(journal, "generated_data/2"), reason="link", wait_s=1e9)
    journal.finish(add(journal, "generated_data/3"), State.PARKED, reason="no")
    journal.ask("a", "generated_data/4")
    confirm(journal, add(journal, "generated_data/5"), "k5")
    journal.close()
    journal = open_journal()
    assert journal.recover() == 2
    assert states(journal) == [State.READY, State.READY, State.PARKED, State.SETTLING, State.CONFIRMED]
    assert journal.recover() == 0
    assert journal.tally() == recounted(journal)


def test_retry_releases_parked_and_waiting_rows_of_some_paths_or_of_all(journal: Journal) -> None:
    for number in range(4):
        row = add(journal, f"generated_data/{number}")
        if number % 2:
            journal.defer(row, reason="link", wait_s=1e9)
        else:
            journal.finish(row, State.PARKED, reason="no")
    confirm(journal, add(journal, "generated_data/done"))
    assert journal.retry(["generated_data/0", "generated_data/done", "generated_data/none"]) == 1
    assert journal.retry() == 3
    assert [(row.state, row.reason, row.attempts) for row in journal.listing()][:4] == [(State.READY, "", 0)] * 4
    assert journal.retry() == 0


# -- a row that is overtaken while a worker has it --------------------------------------------------------------------


@pytest.mark.parametrize("fate", [State.SUPERSEDED, State.GONE])
def test_what_the_intake_found_while_a_worker_had_the_row_stands(journal: Journal, fate: State) -> None:
    add(journal)
    row = journal.claim(("a",))
    assert row is not None
    if fate is State.GONE:
        journal.vanished([row.id])
    else:
        journal.record([Arrival("a", row.path, facts(2))])
    with pytest.raises(FileChanged):
        journal.sending(row, "k", digest())
    journal.finish(row, State.GONE)
    journal.finish(row, State.SETTLING)
    journal.finish(row, State.PARKED, reason="no")
    journal.defer(row, reason="link", wait_s=1)
    journal.release(row)
    journal.confirm(row, key="k", digest=digest(), etag=None)
    now = journal.row(row.id)
    assert (now.state, now.reason, now.key) == (fate, "", None)
    assert journal.tally() == recounted(journal)


# -- illegal moves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.READY, State.CONFIRMED, State.LOST])
def test_a_move_that_the_model_does_not_have_is_refused_and_changes_nothing(journal: Journal, state: State) -> None:
    row = confirm(journal, add(journal))
    with pytest.raises(ValueError, match="cannot go from confirmed"):
        journal.finish(row, state)
    with pytest.raises(ValueError, match="cannot go from confirmed"):
        journal.confirm(row, key="other", digest=digest("other"), etag="e")
    assert journal.row(row.id) == row
    assert journal.tally() == recounted(journal)


def test_every_state_has_its_moves() -> None:
    assert set(TRANSITIONS) == set(State)


def test_what_is_lost_is_sent_again_only_when_its_file_is_there_after_all() -> None:
    # REMOVED: a request was on its way when the file was dropped, and it succeeded.
    assert TRANSITIONS[State.LOST] == {State.REMOVED, State.READY}
    assert TRANSITIONS[State.CONFIRMED] == {State.REMOVED}
    assert all(State.CONFIRMED not in TRANSITIONS[state] for state in (State.SETTLING, State.WAITING, State.PARKED))


# -- commits ----------------------------------------------------------------------------------------------------------


def test_threads_that_write_together_share_commits_and_a_change_that_fails_is_rolled_back_alone(
    journal: Journal,
) -> None:
    rows = [add(journal, f"generated_data/{n}") for n in range(40)]
    confirm(journal, rows[39])
    begun, commits = threading.Event(), 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    def hold(connection: sqlite3.Connection) -> None:
        begun.set()
        deadline = threading.Event()
        while len(journal._queue) < 41 and not deadline.wait(0.005):
            pass

    journal._writer.set_trace_callback(count)
    holder = threading.Thread(target=lambda: journal._write(hold))
    holder.start()
    assert begun.wait(30)
    errors: list[Exception] = []

    def write(row: Row) -> None:
        try:
            journal.sending(row, f"k{row.id}", digest())
        except ValueError as error:
            errors.append(error)

    def write_and_fail() -> None:
        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO note VALUES ('half', 'done')")
            raise ValueError("after a write")

        with pytest.raises(ValueError, match="after a write"):
            journal._write(apply)

    threads = [threading.Thread(target=write, args=(row,)) for row in rows]
    threads.append(threading.Thread(target=write_and_fail))
    for thread in threads:
        thread.start()
    for thread in (*threads, holder):
        thread.join(60)
        assert not thread.is_alive()
    assert commits == 2
    assert len(errors) == 1
    assert journal.note("half") is None
    assert states(journal) == [State.SENDING] * 39 + [State.CONFIRMED]
    assert journal.tally() == recounted(journal)


class Commits:
    """What `synchronous` stands at when each commit is made. In WAL mode FULL is the one that fsyncs."""

    def __init__(self, journal: Journal) -> None:
        (level,) = journal._writer.execute("PRAGMA synchronous").fetchone()
        self.mode = {1: "NORMAL", 2: "FULL"}[level]
        self.modes: list[str] = []
        journal._writer.set_trace_callback(self._hear)

    def _hear(self, statement: str) -> None:
        if statement.startswith("PRAGMA synchronous="):
            self.mode = statement.partition("=")[2]
        elif statement == "COMMIT":
            self.modes.append(self.mode)


def test_a_durable_write_is_synced_to_the_card_and_others_are_not(journal: Journal) -> None:
    assert journal._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    row = add(journal)
    commits = Commits(journal)
    for _ in range(2):
        commits.modes.clear()
        row = add(journal, number=row.facts.mtime_ns + 1)
        journal.sending(row, "k", digest())
        journal.upload_begun(row, "u", key="k", sha256=digest().sha256, part_bytes=5)
        journal.part_done(row, Part(1, 5, "e"), digest().md5)
        journal.release(row)
        journal.sending(row, "k", digest())
        journal.confirm(row, key="k", digest=digest(), etag="e")
        journal.ask("a", f"generated_data/{row.id}")
        journal.retry()
        journal.set_note("n", "v")
        assert commits.modes == ["NORMAL"] * 2 + ["FULL"] * 2 + ["NORMAL"] * 2 + ["FULL"] * 3 + ["NORMAL"]


def test_a_durable_write_that_shares_its_commit_makes_the_whole_commit_durable(journal: Journal) -> None:
    rows = [add(journal, f"generated_data/{n}") for n in range(2)]
    for row in rows:
        journal.sending(row, f"k{row.id}", digest())
    begun = threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        begun.set()
        pause = threading.Event()
        while len(journal._queue) < 2:
            pause.wait(0.005)

    commits = Commits(journal)
    threads = [
        threading.Thread(target=lambda: journal._write(hold)),
        threading.Thread(target=lambda: journal.release(rows[0])),
        threading.Thread(target=lambda: journal.confirm(rows[1], key="k", digest=digest(), etag="e")),
    ]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert commits.modes == ["NORMAL", "FULL"]


# -- what is remembered in memory ---------------------------------------------------------------------------------


class Full:
    """A connection to a disk on which no commit finds room."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *values)


def test_what_a_full_disk_rolled_back_leaves_no_mark_behind(journal: Journal) -> None:
    rows = [add(journal, f"generated_data/{n}") for n in range(3)]
    writer = journal._writer
    journal._writer = Full(writer)  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(JournalBroken):
            journal.vanished(row.id for row in rows)
    journal._writer = writer
    assert (journal._moving, journal._moved) == ([], set())
    assert drain(journal) == ["0", "1", "2"]


def test_what_waits_is_tried_also_while_it_cannot_be_written_down_that_it_is(
    journal: Journal, clock: FakeClock
) -> None:
    add(journal, "generated_data/a")
    add(journal, "generated_data/b")
    for _ in range(2):
        row = take(journal)
        journal.defer(row, reason="store: away", wait_s=10)
        journal.let_go(row)
    clock.advance(11)
    writer = journal._writer
    journal._writer = Full(writer)  # type: ignore[assignment]
    assert journal.wake_due(["a"]) == 2
    assert journal.wake_due(["a"]) == 0, "they were woken already"
    assert journal.claim(["a"], largest_bytes=9) is None
    assert journal.claim(["b"]) is None
    assert journal.claim(["a"], accepts=lambda path: "x" in path) is None
    assert journal.claim(["a"], until={"a": clock.monotonic() - 2}) is None
    first = take(journal)
    assert journal.wake_due(["a"]) == 0, "a worker has it"
    second = take(journal)
    assert journal.claim(["a"]) is None
    journal.confirm(first, key="a", digest=digest(), etag="e")
    with pytest.raises(JournalBroken):
        journal.defer(second, reason="store: away", wait_s=10)
    for row in (first, second):
        journal.let_go(row)
    assert journal.wake_due(["a"]) == 1, "what failed is tried again"
    second = take(journal)
    journal._writer = writer
    journal.finish(second, State.SETTLING)
    journal.let_go(second)
    journal.write_proved()
    assert [(row.id, row.state) for row in journal.listing()] == [
        (first.id, State.CONFIRMED),
        (second.id, State.SETTLING),
    ]
    assert journal.claim(["a"]) is None


def test_what_waits_and_was_woken_twice_is_claimed_once(journal: Journal, clock: FakeClock) -> None:
    add(journal, "generated_data/a")
    row = take(journal)
    journal.defer(row, reason="store: away", wait_s=10)
    journal.let_go(row)
    clock.advance(11)
    writer = journal._writer
    journal._writer = Full(writer)  # type: ignore[assignment]
    assert journal.wake_due(["a"]) == 1
    journal._writer = writer
    assert journal.wake_due(["a"]) == 1
    take(journal)
    assert journal.claim(["a"]) is None


def test_marks_of_rows_that_moved_do_not_pile_up_while_nobody_claims(journal: Journal) -> None:
    count = 2 * MAX_MOVED
    journal.record([Arrival("a", f"generated_data/{n}", facts(n)) for n in range(count)])
    assert drain_one(journal) == "0"  # from a batch that is old by now
    for first in range(0, count - 10, 1_000):
        journal.vanished(range(first + 1, min(first + 1_001, count - 9)))
        assert len(journal._moved) <= MAX_MOVED
    assert drain(journal) == [str(n) for n in range(count - 10, count)]


def test_an_upload_that_ended_is_not_remembered(journal: Journal) -> None:
    for number in range(2):
        row = add(journal, f"generated_data/{number}")
        journal.upload_begun(row, "u", key="k", sha256=digest().sha256, part_bytes=5)
        if number:
            journal.upload_ended(row.id)
        else:
            confirm(journal, row)
    assert journal._uploads == set()


# -- multipart --------------------------------------------------------------------------------------------------------


def test_an_upload_is_remembered_with_its_parts_until_it_is_confirmed(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    row = add(journal)
    assert journal.upload_of(row) is None
    journal.sending(row, "k", digest())
    journal.upload_begun(row, "u", key="k", sha256=digest().sha256, part_bytes=5)
    for number in (2, 1, 10, 2):
        journal.part_done(row, Part(number, 5, f"e{number}"), digest(str(number)).md5)
    journal.close()
    journal = open_journal()
    journal.recover()
    upload = journal.upload_of(row)
    assert upload is not None
    assert (upload.upload_id, upload.key, upload.sha256, upload.part_bytes) == ("u", "k", digest().sha256, 5)
    assert upload.parts == tuple((Part(n, 5, f"e{n}"), digest(str(n)).md5) for n in (1, 2, 10))
    confirm(journal, row)
    assert journal.upload_of(row) is None


def test_an_upload_that_begins_anew_has_no_parts(journal: Journal) -> None:
    row = add(journal)
    for upload_id in ("u1", "u2"):
        journal.upload_begun(row, upload_id, key="k", sha256=digest().sha256, part_bytes=5)
        upload = journal.upload_of(row)
        assert upload is not None and (upload.upload_id, upload.parts) == (upload_id, ())
        journal.part_done(row, Part(1, 5, "e"), digest().md5)
    journal.upload_ended(row.id)
    assert journal.upload_of(row) is None


def test_orphans_are_our_own_uploads_that_nobody_will_complete(journal: Journal) -> None:
    fates = [State.SUPERSEDED, State.GONE, State.PARKED, State.READY]
    for number, fate in enumerate(fates):
        row = add(journal, f"generated_data/{number}")
        journal.upload_begun(row, f"u{number}", key=f"k{number}", sha256=digest().sha256, part_bytes=5)
        if fate is not State.READY:
            journal.finish(row, fate)
    assert journal.orphans(("a", "b")) == [(1, "k0", "u0"), (2, "k1", "u1"), (3, "k2", "u2")]
    assert journal.orphans(("b",)) == []


# -- counts, ages, notes ----------------------------------------------------------------------------------------------


def test_the_tally_notices_what_another_process_wrote(open_journal: Callable[..., Journal]) -> None:
    ours, theirs = open_journal(), open_journal()
    add(ours)
    theirs.ask("b", "generated_data/y")
    assert ours.tally() == theirs.tally() == recounted(ours)
    assert ours.tally()[("b", State.SETTLING, "")] == Tally(1, 0)
    theirs.finish(theirs.row(1), State.PARKED, reason="no")
    add(ours, "generated_data/z")
    assert ours.tally() == recounted(ours)
    assert ours.count_of(State.PARKED) == 1


def test_an_address_that_only_another_process_knew_can_be_asked_and_counted(
    open_journal: Callable[..., Journal],
) -> None:
    ours, theirs = open_journal(), open_journal()
    theirs.set_stores({**STORES, "new": "s3 four"})
    add(theirs, address="new")
    assert ours.tally()[("new", State.READY, "")].files == 1


def test_where_a_process_sends_to_is_what_it_was_told_whatever_another_one_writes(
    open_journal: Callable[..., Journal],
) -> None:
    ours, theirs = open_journal(), open_journal()
    confirm(ours, add(ours))
    theirs.set_stores({**STORES, "a": "s3 three"})
    ours.refresh()
    assert ours.occupant("a", "k") == digest().sha256
    ours.note_foreign("a", [ObjectFacts("f", 1, "e")])
    assert (ours.foreign("a", "f"), theirs.foreign("a", "f")) == ((1, "e"), None)


def test_a_file_can_be_asked_for_before_the_agent_knows_its_address(
    open_journal: Callable[..., Journal], tmp_path: Path, clock: FakeClock
) -> None:
    asking = Journal(str(tmp_path), clock)
    asking.set_active(["new"])
    row_id = asking.ask("new", "generated_data/x")
    assert asking.tally() == {("new", State.SETTLING, ""): Tally(1, 0)}
    assert asking.count_of(State.SETTLING) == 1
    asking.close()
    agent = open_journal()
    agent.set_stores({**STORES, "new": "s3 four"})
    assert [row.id for row in agent.asked()] == [row_id]
    confirm(agent, add(agent, address="new"))
    assert agent.occupant("new", "k") == digest().sha256


def test_the_age_of_the_oldest_owed_file_counts_by_journal_time(journal: Journal, clock: FakeClock) -> None:
    assert journal.oldest_owed() is None
    first = add(journal, "generated_data/1")
    clock.advance(100)
    add(journal, "generated_data/2", address="b")
    clock.advance(10)
    assert (journal.oldest_owed(), journal.oldest_owed("b"), journal.oldest_owed("c")) == (110, 10, None)
    clock.jump(-1e9)
    assert journal.oldest_owed() == 110
    journal.finish(first, State.PARKED, reason="no")
    assert journal.oldest_owed() == 10


def test_the_oldest_owed_file_is_found_without_reading_what_went_before_it(journal: Journal, clock: FakeClock) -> None:
    early = add(journal, "generated_data/early")
    journal.finish(early, State.PARKED, reason="no")
    clock.advance(100)
    journal.record([Arrival("a", f"generated_data/{number}", facts()) for number in range(2_000)])
    assert journal.oldest_owed() == 0
    for row in journal.listing():
        if row.state is State.READY:
            confirm(journal, row, row.path)
    clock.advance(10)
    add(journal, "generated_data/late")
    assert journal.oldest_owed() == 0
    steps: list[int] = []
    journal._reader.set_progress_handler(lambda: steps.append(1), 100)
    clock.advance(1)
    assert journal.oldest_owed() == 1
    journal._reader.set_progress_handler(None, 0)
    assert len(steps) < 5  # of 2,000 rows that would be more than a hundred
    assert journal.retry() == 1
    assert journal.oldest_owed() == 111  # what was parked is owed again


def reopen_after(open_journal: Callable[..., Journal], wall: datetime, *, owed_age_s: float) -> float | None:
    """Age of a file that was `owed_age_s` old when the power went, in a run that begins at `wall`."""
    clock = FakeClock(datetime(2025, 6, 1, tzinfo=UTC), monotonic=5_000)
    journal = open_journal(clock)
    add(journal, "generated_data/owed")
    clock.advance(owed_age_s)
    confirm(journal, add(journal, "generated_data/done"))
    journal.close()
    return open_journal(FakeClock(wall, monotonic=3)).oldest_owed()


@pytest.mark.parametrize(
    ("wall", "age_s"),
    [
        (datetime(2025, 6, 1, 1, tzinfo=UTC), 3_600),  # half an hour off
        (datetime(1970, 1, 1, tzinfo=UTC), 1_800),  # a board without a clock
        (datetime(2025, 5, 1, tzinfo=UTC), 1_800),  # set back
        (datetime(2035, 1, 1, tzinfo=UTC), 1_800),  # far ahead
        (datetime(2025, 9, 1, tzinfo=UTC), 92 * 86_400),  # a season in a drawer
    ],
)
def test_an_age_survives_a_reboot_whatever_the_wall_clock_says_then(
    open_journal: Callable[..., Journal], wall: datetime, age_s: float
) -> None:
    assert reopen_after(open_journal, wall, owed_age_s=1_800) == pytest.approx(age_s)


def test_runs_that_all_begin_in_1970_still_add_up(open_journal: Callable[..., Journal]) -> None:
    for run in range(4):
        clock = FakeClock(datetime(1970, 1, 1, tzinfo=UTC), monotonic=1)
        journal = open_journal(clock)
        if run == 0:
            add(journal, "generated_data/owed")
        clock.advance(600)
        confirm(journal, add(journal, f"generated_data/{run}"), f"k{run}")
        age_s = journal.oldest_owed()
        journal.close()
        assert age_s == pytest.approx(600 * (run + 1))


def test_notes_are_kept_and_replaced(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    assert journal.note("store") is None
    journal.set_note("store", "1")
    journal.set_note("store", "2")
    journal.close()
    assert open_journal().note("store") == "2"


# -- the file itself --------------------------------------------------------------------------------------------------


def test_an_empty_database_is_brought_to_the_newest_schema(
    tmp_path: Path, open_journal: Callable[..., Journal]
) -> None:
    sqlite3.connect(tmp_path / "journal.db").close()
    journal = open_journal()
    add(journal)
    (version,) = journal._read("PRAGMA user_version")[0]
    assert version >= 1
    journal.close()
    assert len(open_journal().listing()) == 1


def test_a_journal_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("CREATE TABLE future(x)")
        connection.execute("PRAGMA user_version = 1000")
    with pytest.raises(JournalBroken, match="schema 1000"):
        Journal(str(tmp_path), clock)
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (1,)


@pytest.mark.parametrize("content", [b"not a database, but long enough to have a header of its own" * 40, b"\0" * 4096])
def test_a_file_that_is_no_journal_is_reported_by_its_name(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    (tmp_path / "journal.db").write_bytes(content)
    with pytest.raises(JournalBroken, match=r"journal\.db"):
        Journal(str(tmp_path), clock)


def test_a_state_directory_that_is_missing_is_reported(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(JournalBroken):
        Journal(str(tmp_path / "missing"), clock)


# -- looked at, not used ----------------------------------------------------------------------------------------------

#: Whoever reads may neither write the journal nor make anything beside it.
READ = """
import sys
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal

journal = Journal(sys.argv[1], Clock(), is_read_only=True)
print(*(row.path for row in journal.listing()), *(key[1] for key in journal.tally()))
"""


WRITE = """
import sys
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal

Journal(sys.argv[1], Clock())
"""


def read_as_a_stranger(state_dir: Path, script: str = READ) -> subprocess.CompletedProcess[str]:
    """What a user who may only read finds in the journal."""
    root = str(Path(__file__).parents[2])
    # Rights that root has whatever the modes say are given up, those of the owner follow from the modes below.
    drop = [program("setpriv"), "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*drop, sys.executable, "-c", script, str(state_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        check=False,
    )


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory that only its owner's rights keep from being written; restored at the end."""
    directory = tmp_path / "state"
    directory.mkdir()
    yield directory
    directory.chmod(0o755)


def lock_up(directory: Path) -> None:
    for path in directory.iterdir():
        path.chmod(0o444)
    directory.chmod(0o555)


@pytest.mark.parametrize("is_in_use", [True, False])
def test_a_journal_is_read_by_who_may_not_write_it_while_an_agent_uses_it_and_after_it(
    state_dir: Path, clock: FakeClock, is_in_use: bool
) -> None:
    journal = Journal(str(state_dir), clock)
    journal.set_stores(STORES)
    add(journal)
    if not is_in_use:
        journal.close()
    names = sorted(os.listdir(state_dir))
    lock_up(state_dir)
    done = read_as_a_stranger(state_dir)
    assert done.stdout.split() == ["generated_data/x.jpg", "ready"], done.stderr
    assert sorted(os.listdir(state_dir)) == names
    if is_in_use:
        journal.close()


def test_a_journal_that_is_read_is_not_made_and_nothing_is_made_beside_it(state_dir: Path, clock: FakeClock) -> None:
    for directory in (state_dir, state_dir / "missing"):
        journal = Journal(str(directory), clock, is_read_only=True)
        assert (journal.listing(), journal.tally(), journal.oldest_owed(), journal.note("x")) == ([], {}, None, None)
        journal.close()
    sqlite3.connect(state_dir / "journal.db").close()  # made by an agent that died before its first table
    assert Journal(str(state_dir), clock, is_read_only=True).listing() == []
    written = Journal(str(state_dir), clock)
    written.set_stores(STORES)
    add(written)
    written.close()
    assert len(Journal(str(state_dir), clock, is_read_only=True).listing()) == 1
    assert os.listdir(state_dir) == ["journal.db"]


def test_a_journal_that_may_not_be_read_says_who_may(state_dir: Path, clock: FakeClock) -> None:
    Journal(str(state_dir), clock).close()
    (state_dir / "journal.db").chmod(0)
    assert "run this as the agent's user or as root" in read_as_a_stranger(state_dir).stderr
    (state_dir / "journal.db").chmod(0o644)
    state_dir.chmod(0)
    assert "run this as the agent's user or as root" in read_as_a_stranger(state_dir).stderr


def test_a_journal_that_may_not_be_written_says_who_may(state_dir: Path, clock: FakeClock) -> None:
    Journal(str(state_dir), clock).close()
    lock_up(state_dir)
    only_read = read_as_a_stranger(state_dir, WRITE).stderr
    assert f"{state_dir}: this user may not write it; run this as the agent's user or as root" in only_read
    state_dir.chmod(0)
    assert "may not write it; run this as the agent's user or as root" in read_as_a_stranger(state_dir, WRITE).stderr


def test_a_journal_of_another_release_is_not_read(
    state_dir: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(str(state_dir), clock).close()
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, "CREATE TABLE later(x)"))
    with pytest.raises(JournalBroken, match="start the agent"):
        Journal(str(state_dir), clock, is_read_only=True)
    monkeypatch.setattr(schema, "STEPS", ())
    with pytest.raises(JournalBroken, match="this release knows 0"):
        Journal(str(state_dir), clock, is_read_only=True)


FULL_DISK = """
import resource, sys
from syncagent.core.errors import JournalBroken
from syncagent.core.model import Facts, State
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Arrival, Journal
sys.path.insert(0, {root!r})
from tests.integration.test_journal import digest, recounted

journal = Journal(sys.argv[1], Clock())
journal.set_stores({{"a": "s"}})
def arrivals(first):
    return [Arrival("a", f"generated_data/{{'n' * 200}}{{n}}", Facts(1, n, n, n)) for n in range(first, first + 50)]
journal.record(arrivals(0))
victim = journal.listing()[0]
journal.sending(victim, "k", digest())
before = journal.tally()
journal.tally()
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
failures, first = 0, 1000
while failures < 3:
    counted = journal.tally()
    try:
        journal.record(arrivals(first))
        first += 50
        assert first < 100_000
    except JournalBroken as error:
        failures += 1
        assert "journal.db" in str(error), error
        assert journal.tally() == counted == recounted(journal), "a failed write left something behind"
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
try:
    journal.release(victim)
    print("released while full")
except JournalBroken:
    print("stranded")
assert journal.row(1).path == victim.path
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert journal.record(arrivals(200_000)) == 50
journal.wake_due(("a",))
assert journal.row(victim.id).state is State.READY, journal.row(victim.id).state
assert journal.tally() == recounted(journal)
journal.close()
again = Journal(sys.argv[1], Clock())
assert again.tally() == recounted(again)
print("works again")
"""


OLD_ROWS = {
    "removed": "x.jpg",
    "confirmed": "y.jpg",
    "ready": "z.jpg",
    "sending": "caf\udce9.jpg",
    "parked": "p.jpg",
    "settling": "s.jpg",
}


def test_a_journal_of_the_first_schema_is_brought_to_the_newest_with_every_row_kept(
    tmp_path: Path, open_journal: Callable[..., Journal]
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as first:
        first.execute(f"PRAGMA page_size={PAGE_BYTES}")
        first.executescript(STEPS[0])
        first.execute("PRAGMA user_version = 1")
        first.execute("INSERT INTO directory(path) VALUES (?)", (b"generated_data/camera",))
        first.execute("INSERT INTO address(name, store) VALUES ('a', 's3 one')")
        first.execute("INSERT INTO residence VALUES (1, 0, 's3 one')")
        for number, (state, name) in enumerate(OLD_ROWS.items(), start=1):
            sent = state in ("removed", "confirmed")
            first.execute(
                "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, recorded, key,"
                " sha256, md5, position, confirmed, confirmed_at)"
                " VALUES (1, 1, ?, 10, ?, ?, 7, ?, 5, ?, ?, ?, ?, ?, ?)",
                (
                    *(os.fsencode(name), number, number, state, f"k/{number}" if sent else None),
                    *((digest().sha256, digest().md5, number, 6.0, 7.0) if sent else (None,) * 5),
                ),
            )
        first.execute("INSERT INTO upload VALUES (4, 'id', 'k/4', ?, 5, 5)", (digest().sha256,))
        first.execute("INSERT INTO part VALUES (4, 1, 5, ?, 'e')", (digest().md5,))
        first.execute("INSERT INTO note VALUES ('probe', 'x')")
        first.commit()
    journal = open_journal()
    assert journal._read("PRAGMA user_version") == [(len(STEPS),)]
    assert [(row.state, row.path) for row in journal.listing()] == [
        (state, f"generated_data/camera/{name}") for state, name in OLD_ROWS.items()
    ]
    assert journal.occupant("a", "k/1") == journal.occupant("a", "k/2") == digest().sha256
    assert journal.note("probe") == "x"
    upload = journal.upload_of(journal.row(4))
    assert upload is not None and upload.upload_id == "id" and len(upload.parts) == 1
    assert journal.tally() == recounted(journal)
    assert journal.recover() == 1
    row = add(journal, "generated_data/camera/new.jpg")
    assert confirm(journal, row, "k/new").position == 3
    names = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
    found = journal._read(names)
    journal.close()
    new = tmp_path / "new"
    new.mkdir()
    with contextlib.closing(Journal(str(new), FakeClock())) as fresh:
        assert fresh._read(names) == found


def steps_of(journal: Journal, work: Callable[[], object]) -> int:
    """How many instructions of SQLite's machine some work takes, in tens."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    for connection in (journal._writer, journal._reader):
        connection.set_progress_handler(tick, 10)
    work()
    for connection in (journal._writer, journal._reader):
        connection.set_progress_handler(None, 10)
    return count


def overwrite(journal: Journal, count: int) -> None:
    """A name that was sent, overwritten and sent again, so many times."""
    if not journal.listing(limit=1):
        add(journal, "generated_data/camera/live.jpg", 99)

    def apply(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, recorded, key,"
            " sha256, md5, position) SELECT address, directory, name, size, ?, ?, inode, 'removed', 0, 'k' || ?,"
            " zeroblob(32), zeroblob(16), ? FROM version WHERE id = 1",
            ((number, number, number, number) for number in range(100, 100 + count)),
        )

    journal._write(apply)


@pytest.mark.parametrize("other", ["", "a key of its own"])
def test_a_name_that_is_overwritten_ten_thousand_times_costs_no_more_than_one_that_is_a_hundred_times(
    tmp_path: Path, clock: FakeClock, other: str
) -> None:
    path, costs = "generated_data/camera/live.jpg", []
    for count in (100, 10_000):
        directory = tmp_path / str(count)
        directory.mkdir()
        with contextlib.closing(Journal(str(directory), clock)) as journal:
            journal.set_stores(STORES)
            overwrite(journal, count)
            costs.append(
                {
                    "record": steps_of(journal, lambda: journal.record([Arrival("a", path, facts(10**6))])),
                    "known": steps_of(journal, lambda: journal.known_at(path)),
                    "scan": steps_of(journal, lambda: journal.known_among("generated_data/camera", ["live.jpg"])),
                    "vanished": steps_of(journal, lambda: journal.directories_below("generated_data")),
                    "ask": steps_of(journal, lambda: journal.ask("a", path, cloud_path=other or None)),
                    "expect": steps_of(
                        journal,
                        lambda: journal.take([(b"m", "image_info", [Ask("a", path, other or None, "{}")])]),
                    ),
                }
            )
            assert journal.occupant("a", "k100") == bytes(32)
    few, many = costs
    assert all(many[what] <= few[what] + 20 for what in few), (few, many)


def test_old_bytes_that_come_back_under_a_name_are_known_and_a_live_row_is_found_behind_any_number_of_old_ones(
    journal: Journal,
) -> None:
    path = "generated_data/camera/live.jpg"
    old = add(journal, path, 1)
    journal.defer(old, reason="link", wait_s=1.0)
    overwrite(journal, 2 * RECENT)
    newest = confirm(journal, add(journal, path, 10**6))
    assert journal.row(old.id).state is State.SUPERSEDED
    journal.vanished([newest.id])
    assert journal.record([Arrival("a", path, newest.facts)]) == 0
    assert journal.row(newest.id).state is State.CONFIRMED


def test_versions_that_were_never_sent_and_were_overtaken_are_forgotten_at_a_start_when_they_are_many(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    path = "generated_data/camera/live.jpg"
    sent = confirm(journal, add(journal, path, 1))
    for number in range(2, MANY + 10):
        add(journal, path, number)
    uploading = add(journal, path, MANY + 10)
    journal.upload_begun(uploading, "id", key="k", sha256=digest().sha256, part_bytes=5)
    last = add(journal, path, MANY + 11)
    gone = add(journal, "generated_data/camera/gone.jpg")
    journal.vanished([gone.id])
    journal.close()
    journal = open_journal()
    journal.recover()
    left = [row.id for row in journal.listing()]
    assert left == [sent.id, uploading.id, last.id, gone.id]
    assert journal.tally() == recounted(journal)
    assert journal.occupant("a", "k") == digest().sha256
    assert add(journal, path, MANY + 12).id > max(left)


def test_a_full_disk_breaks_a_write_leaves_nothing_behind_and_the_journal_works_again_after_it(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(root=root), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["stranded", "works again"]


def test_a_second_process_that_writes_holds_up_nobody(tmp_path: Path, journal: Journal) -> None:
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=lambda: add(journal))
    thread.start()
    assert journal.listing() == []  # reading goes on
    other.execute("COMMIT")
    thread.join(30)
    assert states(journal) == [State.READY]
    other.close()


def test_a_kill_in_the_middle_of_a_transaction_leaves_the_rows_as_they_were(tmp_path: Path, journal: Journal) -> None:
    row = add(journal)
    child = (
        "import os, sys; from syncagent.edges.clock import Clock; from syncagent.edges.journal import Journal\n"
        "journal = Journal(sys.argv[1], Clock())\n"
        "def apply(connection):\n"
        "    connection.execute(\"UPDATE version SET state = 'lost'\"); os.kill(os.getpid(), 9)\n"
        "journal._write(apply)\n"
    )
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -9
    assert journal.row(row.id) == row
    assert journal.tally() == recounted(journal)
    confirm(journal, row)


# -- messages and handlers --------------------------------------------------------------------------------------------


def message(number: int = 1) -> str:
    return f'{{"msg_content":{{"id":{number}}},"msg_type":"image_info"}}'


def expect(journal: Journal, *numbers: int, cloud_path: str | None = None) -> list[Row]:
    """Messages that ask for a file which is not there yet."""
    asks = [(b"%d" % number, "image_info", [Ask("a", PATH, cloud_path, message(number))]) for number in numbers]
    assert journal.take(asks) == len(numbers)
    return journal.listing()[-len(numbers) :]


def test_what_a_handler_says_stands_beside_what_was_asked_for(journal: Journal) -> None:
    expect(journal, 1, cloud_path="asked/x.jpg")
    journal.record([Arrival("a", PATH, facts(1), is_wanted=False)])
    row = journal.listing()[-1]
    journal.handled(row, said=message(2), said_key="said/x.jpg", body="1/made", body_bytes=3)
    row = journal.row(row.id)
    assert (row.message, row.cloud_path) == (message(1), "asked/x.jpg")
    assert (row.wording, row.wanted_key, row.body) == (message(2), "said/x.jpg", "1/made")
    journal.unhandle(row)
    row = journal.row(row.id)
    assert (row.wording, row.wanted_key, row.body) == (message(1), "asked/x.jpg", None)


def test_the_next_version_begins_with_what_was_asked_for(journal: Journal) -> None:
    expect(journal, 1, cloud_path="asked/x.jpg")
    journal.record([Arrival("a", PATH, facts(1), is_wanted=False)])
    journal.handled(journal.listing()[-1], said=message(2), said_key="said/x.jpg", body=None)
    journal.record([Arrival("a", PATH, facts(2), is_wanted=False)])
    row = journal.listing()[-1]
    assert (row.state, row.wording, row.wanted_key) == (State.READY, message(1), "asked/x.jpg")
    assert states(journal) == [State.SUPERSEDED, State.READY]


def test_a_file_that_changed_after_its_handler_saw_it_is_shown_again_as_it_was_asked_for(journal: Journal) -> None:
    row = add(journal, PATH, 1)
    journal.handled(row, said=message(2), said_key="said/x.jpg", body=None)
    journal.finish(row, State.SETTLING)
    journal.record([Arrival("a", PATH, facts(2))])
    (row,) = journal.listing()
    assert (row.state, row.is_handled, row.wording, row.wanted_key) == (State.READY, False, None, None)


def test_each_message_waits_for_its_file_by_itself_and_goes_when_it_comes(journal: Journal) -> None:
    expect(journal, 1, 2)
    expect(journal, 3, cloud_path="k")
    journal.record([Arrival("a", PATH, facts(1), is_wanted=False)])
    assert [(row.state, row.message, row.cloud_path) for row in journal.listing()] == [
        (State.READY, message(1), None),
        (State.READY, message(2), None),
        (State.READY, message(3), "k"),
    ]


def test_a_second_message_is_waited_for_as_long_as_the_first_was(journal: Journal, clock: FakeClock) -> None:
    (first,) = expect(journal, 1)
    clock.advance(8)
    (second,) = expect(journal, 2)
    clock.advance(3)
    assert [row.id for row in journal.overdue(10, limit=9)] == [first.id]
    journal.give_up(first, "rejected: no file", digest=b"1")
    assert [row.id for row in journal.expected(limit=9)] == [second.id]


def test_a_message_that_was_taken_is_not_acted_on_again(journal: Journal) -> None:
    expect(journal, 1)
    assert journal.take([(b"1", "image_info", [Ask("a", PATH, None, message(1))])]) == 0
    assert len(journal.listing()) == 1


def test_a_message_that_was_given_up_is_acted_on_again(journal: Journal) -> None:
    (row,) = expect(journal, 1)
    journal.give_up(row, "rejected: no file", digest=b"1")
    assert journal.take([(b"1", "image_info", [Ask("a", PATH, None, message(1))])]) == 1
    assert [each.state for each in journal.listing()] == [State.GONE, State.WAITING]


def test_a_message_that_was_given_up_for_one_address_asks_nothing_again_of_those_that_have_or_await_its_file(
    journal: Journal,
) -> None:
    again = (b"1", "image_info", [Ask(name, f"generated_data/{name}/x.jpg", None, message(1)) for name in "abc"])
    journal.take([again])
    sent, late, waiting = journal.listing()
    journal.record([Arrival("a", sent.path, facts(1), is_wanted=False)])
    confirm(journal, sent)
    journal.vanished([sent.id])  # the rules of retention removed it
    journal.give_up(late, "rejected: no file", digest=b"1")
    assert journal.take([again]) == 1
    assert [row.id for row in journal.expected(limit=9)][:-1] == [waiting.id]
    assert [(row.address, row.state) for row in journal.listing()] == [
        ("a", State.REMOVED),
        ("b", State.GONE),
        ("c", State.WAITING),
        ("b", State.WAITING),
    ]


def test_every_message_of_an_unsent_version_asks_for_the_next_one(journal: Journal) -> None:
    expect(journal, 1, 2)
    for number in (1, 2, 3):
        journal.record([Arrival("a", PATH, facts(number), is_wanted=False)])
        journal.record([Arrival("a", PATH, facts(number), is_wanted=False)])
    owed = [row for row in journal.listing() if row.state is State.READY]
    assert [(row.message, row.facts) for row in owed] == [(message(1), facts(3)), (message(2), facts(3))]
    assert states(journal).count(State.SUPERSEDED) == 4


def test_a_watched_file_that_a_message_asked_for_too_goes_under_its_key_once_in_each_version(journal: Journal) -> None:
    expect(journal, 1)
    for number in (1, 2):
        journal.record([Arrival("a", PATH, facts(number))])
        journal.record([Arrival("a", PATH, facts(number))])
    assert [(row.state, row.message) for row in journal.listing()] == [
        (State.SUPERSEDED, message(1)),
        (State.READY, message(1)),
    ]


@pytest.fixture
def timed(journal: Journal) -> Journal:
    """A journal whose address "a" sends every so many seconds."""
    journal.set_ways(timed=["a"], handlers=[])
    return journal


def test_what_an_address_gathered_is_due_now_when_somebody_asks_for_it(timed: Journal, clock: FakeClock) -> None:
    clock.advance(5)
    row = add(timed, PATH, 1)
    other = add(timed, "generated_data/y.jpg", 1)
    gathered = clock.monotonic() - 1
    assert timed.claim(["a"], until={"a": gathered}) is None
    assert timed.ask("a", PATH, facts=facts(1)) == row.id
    found = timed.claim(["a"], until={"a": gathered})
    assert found is not None and found.id == row.id
    assert timed.claim(["a"], until={"a": gathered}) is None
    timed.let_go(found)
    assert timed.retry(["generated_data/y.jpg"]) == 1
    found = timed.claim(["a"], until={"a": gathered}, order="newest_first")
    assert found is not None and timed.row(other.id).due == 0.0


def test_a_row_that_waits_for_its_file_is_not_due_because_somebody_asks_for_the_file(journal: Journal) -> None:
    (row,) = expect(journal, 1)
    assert journal.ask("a", PATH) == row.id
    journal.wake_due(["a"])
    assert (journal.row(row.id).state, journal.row(row.id).reason) == (State.WAITING, "file")


def test_a_message_travels_with_the_version_that_was_there_before_it_and_is_not_sent_yet(timed: Journal) -> None:
    row = add(timed, PATH, 1)
    timed.handled(row, said=message(9), said_key="k", body=None)
    expect(timed, 1, 2)
    timed.record([Arrival("a", PATH, facts(1))])
    gathered, joined, other = timed.listing()
    assert (gathered.id, gathered.message, gathered.is_handled) == (row.id, message(1), False)
    assert (joined.state, other.state, other.message) == (State.SUPERSEDED, State.READY, message(2))
    assert timed.tally() == recounted(timed)
    for number in (1, 2, 2):
        timed.record([Arrival("a", PATH, facts(number))])
    owed = [(each.message, each.facts) for each in timed.listing() if each.state is State.READY]
    assert owed == [(message(1), facts(2)), (message(2), facts(2))]


@pytest.mark.parametrize("is_claimed", [True, False])
def test_a_message_does_not_join_a_version_that_is_on_its_way_or_has_another_key(
    journal: Journal, *, is_claimed: bool
) -> None:
    row = add(journal, PATH, 1)
    if is_claimed:
        assert journal.claim(["a"]) is not None
    expect(journal, 1, cloud_path=None if is_claimed else "k")
    journal.record([Arrival("a", PATH, facts(1))])
    assert journal.row(row.id).message is None
    assert states(journal) == [State.READY, State.READY]
