"""The heartbeat tells the bucket how the agent is; it waits where files wait, and its failures are nobody else's."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.errors import Blocked, Transient, Trouble
from syncagent.core.ticks import Ticks
from syncagent.docks.dock import Dock, Ways
from syncagent.workers.heartbeat import FIRST_S, LOOK_S, RETRY_MOST_S, Heartbeat
from tests.fakes import FakeClock, Script
from tests.unit.test_uploader import World

PERIOD_S = 900.0
KEY = "camera/default/.syncagent/status.json"


class Heart:
    """A heartbeat over the world of the uploader's tests."""

    def __init__(self, base: Path, clock: FakeClock) -> None:
        self.world = World(base, clock)
        self.status: dict[str, Any] = {"state": "ok", "path": "\udcff"}
        self.rings = 0
        self.heartbeat = self.beating([self.world.dock])

    def beating(self, docks: list[Dock], period_s: float = PERIOD_S) -> Heartbeat:
        world = self.world
        self.heartbeat = Heartbeat(
            docks,
            status=lambda: self.status,
            period_s=period_s,
            board=world.board,
            clock=world.clock,
            ring=self.ring,
        )
        return self.heartbeat

    def ring(self) -> None:
        self.rings += 1

    def pass_once(self) -> float:
        return self.heartbeat.pass_once(self.world.stop)

    def next_pass(self) -> float:
        """The pass after the wait that this one asks for."""
        self.world.clock.advance(self.pass_once())
        return self.pass_once()

    @property
    def puts(self) -> int:
        return len(self.world.store.calls("put"))

    def fails(self, error: Callable[[], BaseException]) -> None:
        self.world.store.scripts.append(Script(error, name="put"))


@pytest.fixture
def heart(tmp_path: Path, clock: FakeClock) -> Iterator[Heart]:
    made = Heart(tmp_path, clock)
    yield made
    made.world.journal.close()


def test_the_status_goes_soon_after_the_start_and_then_at_every_period_under_one_key(heart: Heart) -> None:
    assert heart.pass_once() == FIRST_S
    assert heart.puts == 0
    assert heart.next_pass() == PERIOD_S
    stored = heart.world.store.objects[KEY]
    assert json.loads(stored.body) == heart.status, "also what UTF-8 cannot carry"
    assert stored.content_type == "application/json"
    heart.status = {"state": "degraded"}
    assert heart.next_pass() == PERIOD_S
    assert json.loads(heart.world.store.objects[KEY].body) == heart.status
    assert list(heart.world.store.objects) == [KEY]
    assert heart.world.journal.listing() == [], "never in the journal"


def test_a_period_shorter_than_the_first_wait_begins_with_itself(heart: Heart) -> None:
    assert heart.beating([heart.world.dock], 2.0).pass_once(heart.world.stop) == 2.0


def test_carriers_of_one_bucket_and_path_have_one_object(heart: Heart) -> None:
    heart.beating([heart.world.dock, heart.world.dock])
    heart.next_pass()
    assert heart.puts == 1


def test_a_failure_is_told_once_and_tried_again_ever_more_seldom(
    heart: Heart, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "syncagent.workers.heartbeat")
    heart.fails(lambda: Transient("nothing answers", trouble=Trouble.LINK))
    waits = [heart.next_pass()] + [heart.next_pass() for _ in range(5)]
    assert waits == sorted(waits)
    assert waits[0] < PERIOD_S
    assert waits[-1] == RETRY_MOST_S
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    (complaint,) = heart.world.board.complaints()
    assert (complaint.path, complaint.what, complaint.reason) == (KEY, "heartbeat", "nothing answers")
    assert heart.world.dock.permission()[0] == 0.0, "files go all the same"
    heart.world.dock.unused(["a", "b"])

    heart.world.store.scripts.clear()
    assert heart.next_pass() == PERIOD_S
    assert heart.world.board.complaints() == []
    assert caplog.records[-1].getMessage() == "heartbeat goes again"


def test_a_trouble_that_stays_is_logged_once_an_hour(heart: Heart, caplog: pytest.LogCaptureFixture) -> None:
    heart.fails(lambda: Blocked("access denied", trouble=Trouble.FORBIDDEN, remedy="allow it"))
    for _ in range(60):  # five hours
        heart.next_pass()
    assert 4 <= len(caplog.records) <= 6
    assert heart.world.board.complaints()[0].remedy == "allow it"


def test_while_power_is_short_nothing_is_told(heart: Heart) -> None:
    reason = "power: battery at 12 %"
    heart.world.dock.ways = Ways(Ticks({}, 0.0), held=lambda: reason)
    assert heart.next_pass() == LOOK_S
    reason = ""
    assert heart.next_pass() == PERIOD_S
    assert heart.puts == 1


def test_a_spent_budget_is_for_no_heartbeat(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart.world.dock, "is_paused", lambda: True)
    assert heart.next_pass() == LOOK_S
    assert heart.puts == 0


def test_a_store_that_is_away_is_not_asked_by_a_heartbeat(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart.world.dock, "is_away", lambda: True)
    assert heart.next_pass() == LOOK_S
    assert heart.puts == 0


def test_before_its_first_pass_nobody_can_make_it_tell(heart: Heart) -> None:
    heart.heartbeat.tell_now(wait_s=60)
    assert heart.rings == 0


def test_who_asks_waits_until_it_is_told(heart: Heart) -> None:
    heart.pass_once()
    asking = threading.Thread(target=heart.heartbeat.tell_now, kwargs={"wait_s": 60})
    asking.start()
    while not heart.rings:
        pass
    assert heart.puts == 0
    assert heart.pass_once() == PERIOD_S
    asking.join(30)
    assert not asking.is_alive()
    assert heart.puts == 1


def test_who_asks_waits_no_longer_than_it_wants(heart: Heart) -> None:
    heart.pass_once()
    heart.heartbeat.tell_now(wait_s=0.01)
    assert heart.rings == 1
