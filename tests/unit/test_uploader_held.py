"""The uploader while power is short: not one request, nothing lost, and on from where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.core.errors import HeadersTooLarge, Trouble
from syncagent.core.model import State
from syncagent.core.ticks import Ticks
from syncagent.docks.dock import IDLE_S, Ways
from syncagent.edges.orders import PutRequest
from syncagent.edges.payload import Body
from tests.fakes import FakeClock
from tests.unit.test_uploader import MIB, World


class Power:
    """A world whose sending somebody may hold."""

    def __init__(self, base: Path, clock: FakeClock) -> None:
        self.world = World(base, clock, multipart_bytes=5 * MIB, part_bytes=5 * MIB)
        self.reason = ""
        self.readings: dict[str, str] = {}
        self.world.dock.ways = Ways(Ticks({}, 0.0), held=lambda: self.reason, attached=lambda: self.readings)


@pytest.fixture
def power(tmp_path: Path, clock: FakeClock) -> Iterator[Power]:
    made = Power(tmp_path, clock)
    yield made
    made.world.journal.close()


def test_while_power_is_short_not_one_request_is_made_and_files_are_recorded(power: Power) -> None:
    power.reason = "power: battery at 12 %"
    power.world.write("a.jpg")
    power.world.run(600)
    power.world.write("b.jpg")
    power.world.run(600, worker=1)
    assert power.world.store.history == []
    assert power.world.store.probes == []
    assert power.world.states() == [State.READY, State.READY]
    assert power.world.workers[0].pass_once(power.world.stop) == IDLE_S


def test_when_power_is_back_everything_goes(power: Power) -> None:
    power.reason = "power: battery at 12 %"
    power.world.write("a.jpg")
    power.world.run(60)
    power.reason = ""
    power.world.run(60)
    assert power.world.states() == [State.CONFIRMED]


def test_a_large_file_stops_between_two_parts_and_goes_on_there(power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    world = power.world
    world.write("a.mp4", bytes(16 * MIB))
    put_part = world.store.put_part

    def falls(key: str, **more: object) -> object:
        power.reason = "power: battery at 12 %"
        return put_part(key, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.store, "put_part", falls)
    world.run(60)
    assert len(world.store.calls("put_part")) == 1
    assert world.states() == [State.READY]
    assert world.store.calls("abort") == []
    monkeypatch.setattr(world.store, "put_part", put_part)
    power.reason = ""
    world.run(60)
    assert world.states() == [State.CONFIRMED]
    assert len(world.store.calls("put_part")) == 4, "no part was sent twice"


def test_a_request_on_its_way_is_ended_and_its_file_confirmed(power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    world = power.world
    world.write("a.jpg")
    world.write("b.jpg")
    put = world.store.put

    def falls(request: PutRequest, body: Body) -> str:
        power.reason = "power: battery at 12 %"
        return put(request, body)

    monkeypatch.setattr(world.store, "put", falls)
    world.run(60)
    assert sorted(world.states()) == [State.CONFIRMED, State.READY]


def test_what_devices_measured_travels_with_the_object(power: Power) -> None:
    power.readings = {"syncagent-battery-percent": "75.5"}
    power.world.write("a.jpg")
    power.world.run(60)
    assert power.world.store.objects["camera/a/a.jpg"].metadata["syncagent-battery-percent"] == "75.5"


def test_readings_that_have_no_room_are_left_out_and_the_object_goes(power: Power) -> None:
    power.readings = {f"syncagent-device-{n}-percent": "75.5" for n in range(200)}
    power.world.write("a.jpg")
    power.world.run(60)
    metadata = power.world.store.objects["camera/a/a.jpg"].metadata
    assert sum(len(name) + len(text) for name, text in metadata.items()) <= 2048
    assert "syncagent-sha256" in metadata


def test_a_store_that_takes_no_such_headers_gets_the_object_without_readings(power: Power) -> None:
    power.readings = {"syncagent-battery-percent": "75.5"}
    power.world.fails(lambda: HeadersTooLarge("the store answered 431", trouble=Trouble.STORE), name="put", times=1)
    power.world.write("a.jpg")
    power.world.run(60)
    assert power.world.states() == [State.CONFIRMED]
    assert "syncagent-battery-percent" not in power.world.store.objects["camera/a/a.jpg"].metadata
    assert "syncagent-sidecar" not in power.world.store.objects["camera/a/a.jpg"].metadata
