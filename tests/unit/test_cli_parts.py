"""cli/parts.py: a command believes what the agent does, and reads the parts where none runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from syncagent.cli.parts import Parts
from syncagent.core.settings import Settings, System
from syncagent.core.settings_files import DeviceFile
from syncagent.edges.control import Control
from syncagent.edges.i2c import Buses, SmbusBus
from tests import chips
from tests.fakes import FakeBus, FakeClock

NOON = datetime(2027, 3, 4, 12, 5, 6, tzinfo=UTC)
DEVICES = {
    "battery": DeviceFile(source="max17048", pause_below_percent=15.0, resume_above_percent=20.0),
    "clock": DeviceFile(source="ds3231"),
}


def settings(*names: str) -> Settings:
    return Settings(system=System(id="x"), devices={name: attrs.asdict(DEVICES[name]) for name in names})


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Any], None]]:
    """An agent that answers so when it is asked for its parts."""
    controls: list[Control] = []

    def serve(answer: Any) -> None:
        control = Control(str(tmp_path), {"parts": lambda: answer} if answer else {})
        control.open()
        threading.Thread(target=control.serve, daemon=True).start()
        controls.append(control)

    yield serve
    for control in controls:
        control.close()


def parts(tmp_path: Path, bus: FakeBus, *names: str, is_synchronised: bool = False) -> Parts:
    buses = Buses(lambda number: SmbusBus(number, new=bus.open), wait=lambda _: None, call_s=30)
    clock = FakeClock(datetime(1970, 1, 1, tzinfo=UTC))
    return Parts(settings(*names), str(tmp_path), clock=clock, buses=buses, is_synchronised=lambda: is_synchronised)


def on_the_bus(percent: float = 50) -> FakeBus:
    return FakeBus({0x36: chips.max17048(percent), 0x68: chips.ds3231(NOON)})


def test_without_an_agent_the_parts_are_read_and_no_clock_is_set(tmp_path: Path) -> None:
    bus = on_the_bus(12)
    beside = parts(tmp_path, bus, "battery", "clock")
    assert (beside.lower_bound(), beside.is_power_low()) == (NOON, True)
    assert parts(tmp_path, on_the_bus(16), "battery").is_power_low() is False
    assert parts(tmp_path, bus, "battery", "clock", is_synchronised=True).lower_bound() is None
    assert bus.chips[0x68] == chips.ds3231(NOON)


@pytest.mark.parametrize("is_low", [True, False])
def test_an_agent_is_believed_and_the_bus_left_alone(
    tmp_path: Path, serve: Callable[[Any], None], is_low: bool
) -> None:
    serve({"is_power_low": is_low, "least": NOON.isoformat()})
    bus = on_the_bus(50 if is_low else 5)
    beside = parts(tmp_path, bus, "battery", "clock")
    assert (beside.lower_bound(), beside.is_power_low(), bus.opened) == (NOON, is_low, [])


def test_an_agent_that_does_not_know_the_question_is_done_without(tmp_path: Path, serve: Callable[[Any], None]) -> None:
    serve(None)
    assert parts(tmp_path, on_the_bus(12), "battery").is_power_low()


def test_without_a_device_file_nobody_is_asked(tmp_path: Path) -> None:
    bus = on_the_bus(12)
    beside = parts(tmp_path, bus)
    assert (beside.lower_bound(), beside.is_power_low(), bus.opened) == (None, False, [])
