"""edges/i2c/scan.py and the verb: who is there is found without writing, what the kernel owns is left alone."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from syncagent.cli import i2c as verb
from syncagent.core.errors import Absence, NotThere
from syncagent.core.parts import PARTS
from syncagent.core.settings_files import DeviceFile
from syncagent.edges.i2c import Buses, SmbusBus
from syncagent.edges.i2c.scan import FIRST, LAST, Found, bus_numbers, is_asked_by_reading, scan
from tests import chips
from tests.fakes import FakeBus

NOON = datetime(2027, 3, 4, 12, 5, 6, tzinfo=UTC)


def scanned(bus: FakeBus, number: int = 1) -> list[Found]:
    return list(scan(Buses(lambda each: SmbusBus(each, new=bus.open)), number))


@pytest.fixture
def full() -> FakeBus:
    return FakeBus(
        {
            0x20: {0: b"\x5a"},  # somebody whom the agent does not know
            0x36: chips.max17048(50, volts=3.75),
            0x40: chips.ina219(12.1),
            0x48: chips.tmp102(21.0),
            0x49: chips.lm75(22.0),
            0x50: {0: bytes(256)},
            0x58: chips.at24mac("fcc23d123456"),
            0x68: chips.ds3231(NOON),
        }
    )


def test_every_part_is_recognised_and_a_stranger_is_shown(full: FakeBus) -> None:
    assert {found.address: found.part.source if found.part else None for found in scanned(full)} == {
        0x20: None,
        0x36: "max17048",
        0x40: "ina219",
        0x48: "tmp102",
        0x49: "lm75",
        0x50: None,
        0x58: "at24mac",
        0x68: "ds3231",
    }


def test_a_ds1307_is_told_from_a_ds3231() -> None:
    (found,) = scanned(FakeBus({0x68: chips.ds1307(NOON)}))
    assert found.part is PARTS["ds1307"]


def test_no_byte_is_written_and_registers_are_read_only_where_our_parts_can_be(full: FakeBus) -> None:
    scanned(full)
    assert full.writes == []
    assert {name for name, _ in full.history} == {"read byte", "quick", "read"}
    ours = {address for part in PARTS.values() for address in part.addresses}
    assert {address for name, address in full.history if name == "read"} <= ours


def test_what_a_quick_write_could_harm_is_asked_by_reading_and_the_rest_is_not_read(full: FakeBus) -> None:
    scanned(full)
    quick = {address for name, address in full.history if name == "quick"}
    read = {address for name, address in full.history if name == "read byte"}
    assert quick | read == set(range(FIRST, LAST + 1))
    assert {*range(0x30, 0x38), *range(0x50, 0x60), 0x68} <= read
    assert 0x69 in quick, "a clock generator that is read holds the bus"
    assert all(is_asked_by_reading(address) for address in read)


def test_an_address_that_the_kernel_owns_is_shown_and_left_alone() -> None:
    bus = FakeBus({0x68: chips.ds3231(NOON)})
    bus.always[0x68] = errno.EBUSY
    assert scanned(bus) == [Found(0x68, True, None)]
    assert [name for name, address in bus.history if address == 0x68] == ["read byte"]


def test_the_write_protection_of_an_eeprom_is_never_sent_a_register() -> None:
    bus = FakeBus({0x36: {0: bytes(16)}, 0x56: {0: bytes(256)}, 0x5E: chips.at24mac("fcc23d123456")})
    assert [found.part.source if found.part else None for found in scanned(bus)] == [None, None, "at24mac"]
    assert ("read", 0x36) not in bus.history


def test_an_adapter_without_quick_writes_is_asked_only_what_it_can(full: FakeBus) -> None:
    full.funcs = 0x0002_0000
    assert 0x20 not in {found.address for found in scanned(full)}
    assert 0x68 in {found.address for found in scanned(full)}


@pytest.mark.parametrize(("opening", "why"), [(errno.ENOENT, Absence.NO_BUS), (errno.EACCES, Absence.DENIED)])
def test_a_bus_that_cannot_be_used_ends_the_scan(full: FakeBus, opening: int, why: Absence) -> None:
    full.opening = opening
    with pytest.raises(NotThere) as caught:
        scanned(full)
    assert caught.value.why is why


def test_a_stuck_bus_ends_the_scan_at_its_first_address(full: FakeBus) -> None:
    full.always[FIRST] = errno.ETIMEDOUT
    with pytest.raises(NotThere):
        scanned(full)
    assert len(full.history) == 1


def test_buses_are_counted_by_their_device_nodes(tmp_path: Path) -> None:
    for name in ("i2c-1", "i2c-20", "i2c-x", "spidev0.0"):
        (tmp_path / name).touch()
    assert bus_numbers(str(tmp_path)) == [1, 20]
    assert bus_numbers(os.path.join(tmp_path, "nowhere")) == []


# -- the verb ---------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, bus: FakeBus, *arguments: str) -> Any:
    monkeypatch.setattr(verb, "Buses", lambda: Buses(lambda number: SmbusBus(number, new=bus.open)))
    return CliRunner().invoke(verb.i2c, ["scan", *arguments])


def test_the_proposed_files_are_device_files(monkeypatch: pytest.MonkeyPatch, full: FakeBus) -> None:
    result = run(monkeypatch, full, "--bus", "3", "--json")
    assert result.exit_code == 0
    (found,) = json.loads(result.stdout)["buses"]
    files = [each["file"] for each in found["found"] if each["file"] is not None]
    assert found["bus"] == 3
    assert len(files) == 6
    for each in files:
        assert DeviceFile(**each).bus == 3
    clock = next(each for each in found["found"] if each["address"] == "0x68")
    assert clock["file"] == {"source": "ds3231", "bus": 3, "address": "0x68"}
    assert clock["values"]["time"] == "2027-03-04T12:05:06Z"


def test_a_person_reads_names_values_and_files(monkeypatch: pytest.MonkeyPatch, full: FakeBus) -> None:
    full.always[0x40] = errno.EBUSY
    result = run(monkeypatch, full)
    assert "0x40  in use by the kernel" in result.stdout
    assert "0x36  max17048: percent 50.0, volts 3.75" in result.stdout
    assert 'configs/devices/battery.json:  {"source": "max17048", "bus": 1, "address": "0x36"}' in result.stdout
    assert "configs/devices/thermometer_2.json" in result.stdout


def test_an_empty_bus_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, FakeBus())
    assert result.exit_code == 0
    assert "nobody answers" in result.stdout


def test_without_i2c_the_verb_says_how_to_enable_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = FakeBus()
    bus.opening = errno.ENOENT
    result = run(monkeypatch, bus, "--json")
    assert result.exit_code == 1
    assert "there is no /dev/i2c-1" in result.stderr
    assert "raspi-config" in result.stderr
    assert result.stdout == ""
