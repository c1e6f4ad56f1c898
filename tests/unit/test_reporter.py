"""The status is made of what journal, board and meters say at slightly different moments, and still adds up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.board import Board, Fact, Flight
from syncagent.core.model import Digest, Facts
from syncagent.core.settings import Carrier, SendAddress, Settings, System
from syncagent.core.settle import Pending
from syncagent.docks.meter import note_of
from syncagent.edges.journal import Arrival, Journal, Row
from syncagent.reporter import Reporter
from tests.fakes import FakeClock

DIGEST = Digest(hashlib.md5(b"x").digest(), hashlib.sha256(b"x").digest())


class World:
    def __init__(self, state_dir: Path, clock: FakeClock) -> None:
        self.journal = Journal(str(state_dir), clock)
        self.journal.set_stores({"a": "s", "b": "s"})
        self.board = Board(clock.monotonic)
        carrier = Carrier(name="c", path="camera")
        addresses = tuple(
            SendAddress(name=n, configured_name=n, message_type="t", carrier=carrier, duration="on_change", sub_path=n)
            for n in "ab"
        )
        settings = Settings(system=System(id="pi"), addresses=addresses)
        self.reporter = Reporter(settings=settings, journal=self.journal, clock=clock, board=self.board, pid=1)

    def claimed(self, name: str, *, address: str = "a", size: int = 10) -> Row:
        """A row that a worker sends in a single request."""
        self.journal.record([Arrival(address, f"generated_data/{name}", Facts(size, 1, 1, 1))])
        row = self.journal.claim((address,))
        assert row is not None
        self.board.fly(f"upload-{name}", Flight(row.path, address, size))
        return row

    def queue(self, address: str | None = None) -> dict[str, tuple[int, int]]:
        status: dict[str, Any] = self.reporter.status()
        if address is not None:
            status = status["addresses"][address]
        return {state: (entry["files"], entry["bytes"]) for state, entry in status["queue"].items() if entry["files"]}


@pytest.fixture
def world(tmp_path: Path, clock: FakeClock) -> Iterator[World]:
    made = World(tmp_path, clock)
    yield made
    made.journal.close()


def test_a_file_in_a_single_request_is_shown_as_being_sent(world: World) -> None:
    world.claimed("1")
    world.journal.record([Arrival("a", "generated_data/2", Facts(5, 1, 1, 1))])
    assert world.queue() == {"ready": (1, 5), "sending": (1, 10)}


def test_a_flight_whose_row_is_confirmed_or_waits_by_now_takes_nothing_from_what_is_ready(world: World) -> None:
    row = world.claimed("1")
    world.journal.defer(world.claimed("2", address="b"), reason="link", wait_s=9)
    world.journal.confirm(row, key="k", digest=DIGEST, etag="e")
    assert world.queue() == {"confirmed": (1, 10), "waiting": (1, 10)}
    assert world.queue("a") == {"confirmed": (1, 10)}
    world.journal.record([Arrival("a", "generated_data/smaller", Facts(5, 1, 1, 1))])
    assert world.queue("a") == {"confirmed": (1, 10), "ready": (1, 5)}


def test_bytes_of_a_stopped_agent_are_todays_only_if_they_went_today(world: World, clock: FakeClock) -> None:
    world.journal.set_note(note_of("c"), f"{clock.now():%Y-%m-%d} 5 70 0")
    assert world.reporter.status()["wire"] == {"bytes_today": 5, "bytes_month": 70}
    clock.advance(86_400)
    assert world.reporter.status()["wire"] == {"bytes_today": 0, "bytes_month": 70}
    clock.advance(40 * 86_400)
    assert world.reporter.status()["wire"] == {"bytes_today": 0, "bytes_month": 0}


def test_the_headline_is_the_age_of_the_oldest_file_whether_it_is_finished_or_not(
    world: World, clock: FakeClock
) -> None:
    def oldest(**settling: Pending) -> tuple[float | None, float | None, float | None]:
        status = world.reporter.status(settling=settling)
        return (status["oldest_unsent_s"], *(status["addresses"][name]["oldest_unsent_s"] for name in "ab"))

    assert oldest() == (None, None, None)
    now = clock.monotonic()
    open_file = Pending(1, 10, now - 50.0)
    assert oldest(a=open_file) == (50.0, 50.0, None)
    world.journal.record([Arrival("b", "generated_data/1", Facts(5, 1, 1, 1))])
    clock.advance(20.0)
    assert oldest() == (20.0, None, 20.0)
    assert oldest(a=open_file, b=Pending(1, 1, now)) == (70.0, 70.0, 20.0)
    status = world.reporter.status(settling={"a": Pending(2, 30, now - 4000.0), "b": Pending(1, 5, now)})
    assert status["queue"]["settling"] == {"files": 3, "bytes": 35, "reasons": {}}
    assert status["addresses"]["a"]["queue"]["settling"] == {"files": 2, "bytes": 30, "reasons": {}}
    assert not status["healthy"]


def test_an_inbox_that_nobody_can_read_is_a_warning_and_stops_nothing(world: World) -> None:
    world.board.set_fact("inbox", Fact(False, "unreadable", "1 cannot be read, generated_data/messages/x: denied"))
    status = world.reporter.status()
    assert "inbox: 1 cannot be read, generated_data/messages/x: denied" in status["reason"]
    assert "inbox: 1 cannot be read, generated_data/messages/x: denied" in status["warnings"]
    world.board.set_fact("inbox", Fact(True, "ok"))
    assert "inbox" not in world.reporter.status()["reason"]
