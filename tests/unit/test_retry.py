"""What each error means, how long it waits, and a gate that always opens again."""

from __future__ import annotations

import pytest

from syncagent.core.errors import (
    Blocked,
    FileChanged,
    FileVanished,
    JournalBroken,
    KeyTaken,
    Refused,
    SyncagentError,
    Transient,
    Trouble,
    UploadGone,
)
from syncagent.core.keys import KeyTooLong
from syncagent.core.retry import EVERYBODYS, SHARED, Do, Gate, backoff_s, verdict

LINK = Transient("refused", trouble=Trouble.LINK)
ME, OTHER = 1, 2
KEYS = Blocked("bad key", trouble=Trouble.CREDENTIALS, remedy="write the right one")


def test_the_wait_doubles_from_the_least_to_the_most_with_at_most_a_fifth_of_jitter() -> None:
    for attempts, expected in ((0, 1), (1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (11, 300)):
        for _ in range(20):
            wait_s = backoff_s(attempts, least_s=1.0, most_s=300.0)
            assert expected <= wait_s <= min(300.0, expected * 1.2)


@pytest.mark.parametrize("attempts", [1_024, 1_025, 5_000, 2**63, 2**1024])
def test_the_wait_is_bounded_however_often_it_was_tried(attempts: int) -> None:
    assert backoff_s(attempts, least_s=1.0, most_s=300.0) == 300.0


def test_waits_differ_so_that_devices_do_not_come_back_together() -> None:
    assert len({backoff_s(3, least_s=1.0, most_s=300.0) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("error", "do", "reason"),
    [
        (FileChanged("changed after it was recorded"), Do.RESETTLE, "changed after it was recorded"),
        (FileVanished("removed by its writer"), Do.FORGET, "removed by its writer"),
        (Refused("too large"), Do.PARK, "too large"),
        (KeyTooLong("key too long"), Do.PARK, "key too long"),
        (KeyTaken("taken"), Do.PARK, "taken"),
        (UploadGone("no upload"), Do.PARK, "no upload"),
        (Transient("t", trouble=Trouble.LINK), Do.DEFER, "link"),
        (Transient("t", trouble=Trouble.STALLED), Do.DEFER, "stalled"),
        (Transient("t", trouble=Trouble.STORE), Do.DEFER, "store"),
        (Transient("t", trouble=Trouble.THROTTLED), Do.RELEASE, ""),
        (Transient("t", trouble=Trouble.CLOCK), Do.RELEASE, ""),
        (Transient("cannot read", trouble=Trouble.DISK), Do.DEFER, "disk: cannot read"),
        (Transient("cannot open", trouble=Trouble.FILE), Do.DEFER, "file: cannot open"),
        (Blocked("b", trouble=Trouble.CREDENTIALS), Do.RELEASE, ""),
        (Blocked("b", trouble=Trouble.BUCKET), Do.RELEASE, ""),
        (Blocked("b", trouble=Trouble.CLOCK), Do.RELEASE, ""),
        (Blocked("b", trouble=Trouble.FORBIDDEN), Do.DEFER, "forbidden"),
        (Blocked("b", trouble=Trouble.REFUSED), Do.DEFER, "refused"),
        (JournalBroken("full"), Do.DEFER, "JournalBroken: full"),
    ],
)
def test_each_class_of_error_means_one_thing_for_its_row(error: SyncagentError, do: Do, reason: str) -> None:
    said = verdict(error, 3, least_s=1.0, most_s=300.0)
    assert (said.do, said.reason) == (do, reason)
    assert (said.wait_s > 0) is (do is Do.DEFER)
    assert said.wait_s <= 300.0


@pytest.mark.parametrize("trouble", list(Trouble))
def test_no_outage_ever_parks_a_row_however_often_it_was_tried(trouble: Trouble) -> None:
    for error in (Transient("t", trouble=trouble), Blocked("b", trouble=trouble)):
        assert verdict(error, 10_000, least_s=1.0, most_s=300.0).do in (Do.DEFER, Do.RELEASE)


def closed(error: Transient | Blocked = KEYS, now: float = 0.0) -> Gate:
    gate = Gate()
    for _ in range(3):
        gate.failed(error, now, ME)
    assert not gate.is_open
    return gate


def test_an_open_gate_lets_everybody_through() -> None:
    gate = Gate()
    assert [gate.wait_s(0.0, ME) for _ in range(5)] == [0.0] * 5
    assert gate.is_open


@pytest.mark.parametrize("trouble", sorted(EVERYBODYS))
def test_one_error_that_is_everybodys_closes_the_gate_at_once(trouble: Trouble) -> None:
    gate = Gate()
    gate.passed(99.9, ME)
    assert gate.failed(Transient("t", trouble=trouble), 100.0, ME)
    assert gate.trouble is trouble


def test_a_link_that_just_carried_something_is_not_down_for_one_failure() -> None:
    gate = Gate()
    gate.passed(100.0, ME)
    assert not gate.failed(LINK, 101.0, ME)
    assert not gate.failed(LINK, 101.0, ME)
    assert gate.failed(LINK, 101.0, ME)
    idle = Gate()
    idle.passed(100.0, ME)
    assert idle.failed(LINK, 200.0, ME)
    assert Gate().failed(LINK, 0.0, ME)


@pytest.mark.parametrize("trouble", sorted((SHARED - EVERYBODYS) - {Trouble.LINK} | {Trouble.FORBIDDEN}))
def test_trouble_that_may_be_one_files_closes_the_gate_only_when_it_is_met_in_a_row(trouble: Trouble) -> None:
    gate = Gate()
    error = Transient("t", trouble=trouble)
    assert [gate.failed(error, 0.0, ME) for _ in range(3)] == [False, False, True]
    gate = Gate()
    for now in range(10):
        gate.failed(error, now, ME)
        gate.failed(error, now, ME)
        assert gate.is_open
        assert not gate.passed(now, ME)


def test_a_closed_gate_says_why_until_something_passes() -> None:
    gate = closed(now=7.0)
    assert (gate.trouble, gate.reason, gate.remedy) == (Trouble.CREDENTIALS, "bad key", "write the right one")
    assert gate.wait_s(9.0, ME) == 0.0
    gate.failed(LINK, 9.0, ME)
    assert (gate.trouble, gate.remedy) == (Trouble.LINK, "")
    assert gate.passed(10.0, ME)
    assert (gate.trouble, gate.reason, gate.remedy) == (None, "", "")
    assert not gate.passed(10.0, ME)


def test_a_closed_gate_lets_one_request_through_at_a_time() -> None:
    gate = closed()
    assert gate.wait_s(0.0, ME) > 0
    assert gate.wait_s(60.0, ME) == 0.0
    assert gate.wait_s(60.0, ME) > 0
    assert gate.wait_s(600.0, ME) > 0
    gate.unused(ME)
    assert gate.wait_s(600.0, ME) == 0.0
    gate.failed(KEYS, 600.0, ME)
    assert 0 < gate.wait_s(600.0, ME) <= 30.0


@pytest.mark.parametrize("news", ["unused", "failed"])
def test_who_comes_back_from_before_the_closing_lets_nobody_through_beside_the_one_who_asks(news: str) -> None:
    gate = closed()
    assert gate.wait_s(60.0, ME) == 0.0
    if news == "unused":
        gate.unused(OTHER)
    else:
        assert not gate.failed(LINK, 61.0, OTHER)
    assert gate.wait_s(62.0, OTHER) > 0
    gate.failed(KEYS, 62.0, ME)
    assert 0 < gate.wait_s(62.0, OTHER) <= 30.0


def test_who_asked_before_the_gate_opened_and_closed_again_does_not_give_back_what_another_took() -> None:
    gate = closed()
    assert gate.wait_s(60.0, ME) == 0.0
    assert gate.passed(61.0, OTHER)  # by an old request: the store is back
    gate.failed(KEYS, 62.0, OTHER)
    assert gate.wait_s(100.0, OTHER) == 0.0
    gate.unused(ME)
    assert gate.wait_s(100.0, ME) > 0


@pytest.mark.parametrize(
    ("error", "most_s"),
    [
        (LINK, 10.0),
        (KEYS, 30.0),
        (Transient("t", trouble=Trouble.THROTTLED, retry_after_s=5.0), 10.0),
        (Transient("t", trouble=Trouble.THROTTLED, retry_after_s=20.0), 30.0),
        (Transient("t", trouble=Trouble.THROTTLED, retry_after_s=86_400.0), 30.0),
        (Transient("t", trouble=Trouble.STORE, retry_after_s=float("inf")), 30.0),
        (Transient("t", trouble=Trouble.STORE, retry_after_s=float("nan")), 30.0),
    ],
)
def test_a_closed_gate_is_asked_at_most_thirty_seconds_apart_however_long_it_is_closed(
    error: Transient | Blocked, most_s: float
) -> None:
    gate = closed(error)
    now = 0.0
    for _ in range(2_000):
        wait_s = gate.wait_s(now, ME)
        assert wait_s <= most_s + 1e-6
        now += wait_s + 1e-6
        assert gate.wait_s(now, ME) == 0.0
        gate.failed(error, now, ME)


def test_what_a_store_asks_for_is_waited_for() -> None:
    gate = Gate()
    gate.failed(Transient("t", trouble=Trouble.THROTTLED, retry_after_s=20.0), 0.0, ME)
    assert gate.wait_s(0.0, ME) == 20.0


def test_the_first_question_after_an_outage_began_comes_within_seconds() -> None:
    gate = closed(LINK)
    assert gate.wait_s(0.0, ME) <= 5.0


def test_requests_that_were_on_their_way_when_the_gate_closed_do_not_lengthen_the_wait() -> None:
    gate = closed(LINK)
    for number in range(8):
        gate.failed(LINK, 0.01 * number, ME)
    assert gate.wait_s(0.1, ME) <= 1.2
    gate.failed(Transient("t", trouble=Trouble.THROTTLED, retry_after_s=20.0), 0.1, ME)
    assert gate.wait_s(0.1, ME) == pytest.approx(20.0)  # but what they were asked for counts


def test_a_closed_gate_tells_when_it_may_be_asked_without_letting_anybody_through() -> None:
    assert Gate().asks_in_s(0.0) is None
    gate = closed(now=7.0)
    assert gate.asks_in_s(7.0) == gate.wait_s(7.0, ME) > 0
    # Due, and nobody asked: there is nothing to ask with, so that an idle worker must not look again and again.
    assert gate.asks_in_s(60.0) is None
    assert gate.wait_s(60.0, ME) == 0.0
