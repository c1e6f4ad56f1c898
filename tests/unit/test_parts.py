"""core/parts: every decoder by the examples of its data sheet, and what cannot be is not believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncagent.core.parts import (
    PARTS,
    Lying,
    Options,
    Part,
    Reading,
    Role,
    agree,
    jump,
    likeliest,
)
from syncagent.core.parts.clocks import LATEST, decode_celsius, decode_time, encode_time
from syncagent.core.parts.gauges import decode_bus_v, decode_cell_v, decode_percent, decode_shunt_mv
from syncagent.core.parts.identity import decode_eui
from syncagent.core.parts.thermometers import decode_lm75, decode_tmp102
from syncagent.core.settings_files import DEVICE_SOURCES
from syncagent.core.skew import RELEASED_AT
from tests import chips
from tests.fakes import FakeBus

NOON = datetime(2027, 3, 4, 12, 5, 6, tzinfo=UTC)
PLAIN = Options()
DS3231, DS1307, INA219 = PARTS["ds3231"], PARTS["ds1307"], PARTS["ina219"]
MAX17048, LM75, TMP102 = PARTS["max17048"], PARTS["lm75"], PARTS["tmp102"]


def blocks_of(chip: chips.Chip, part: Part) -> list[bytes]:
    bus = FakeBus({part.address: chip})
    return [bytes(bus.read_i2c_block_data(part.address, *stretch)) for stretch in part.reads]


def decode(chip: chips.Chip, part: Part, options: Options = PLAIN) -> Reading:
    return part.decode(blocks_of(chip, part), options)


def test_every_source_of_a_device_file_has_its_part() -> None:
    assert set(PARTS) == set(DEVICE_SOURCES)
    assert all(part.address in part.addresses for part in PARTS.values())
    assert all((part.set_time is not None) == (part.role is Role.CLOCK) for part in PARTS.values())


# -- DS3231, DS1307 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registers", "moment"),
    [
        ("56 34 12 04 05 06 27", datetime(2027, 6, 5, 12, 34, 56, tzinfo=UTC)),
        ("00 00 00 06 01 01 00", datetime(2000, 1, 1, tzinfo=UTC)),
        ("59 59 23 05 31 12 99", datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("00 00 00 05 01 81 00", datetime(2100, 1, 1, tzinfo=UTC)),  # the century bit
        ("00 30 52 04 05 06 27", datetime(2027, 6, 5, 0, 30, tzinfo=UTC)),  # 12:30 AM
        ("00 30 72 04 05 06 27", datetime(2027, 6, 5, 12, 30, tzinfo=UTC)),  # 12:30 PM
        ("00 30 41 04 05 06 27", datetime(2027, 6, 5, 1, 30, tzinfo=UTC)),  # 1:30 AM
        ("00 30 71 04 05 06 27", datetime(2027, 6, 5, 23, 30, tzinfo=UTC)),  # 11:30 PM
        ("00 00 00 02 29 02 28", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_the_time_is_read_in_either_form_of_the_hour_and_either_century(registers: str, moment: datetime) -> None:
    assert decode_time(bytes.fromhex(registers), has_century=True) == moment


@pytest.mark.parametrize(
    "registers",
    [
        "5a 34 12 04 05 06 27",  # no decimal digit
        "60 34 12 04 05 06 27",
        "d6 34 12 04 05 06 27",  # a bit that is always 0
        "56 34 24 04 05 06 27",
        "56 34 53 04 05 06 27",  # hour 13 of twelve
        "56 34 40 04 05 06 27",  # hour 0 of twelve
        "56 34 12 00 05 06 27",  # day 0 of the week
        "56 34 12 08 05 06 27",
        "56 34 12 04 00 06 27",
        "56 34 12 04 31 06 27",  # June
        "56 34 12 04 05 13 27",
        "56 34 12 04 29 02 27",  # no leap year
    ],
)
def test_what_is_no_time_is_a_lie(registers: str) -> None:
    with pytest.raises(Lying):
        decode_time(bytes.fromhex(registers), has_century=True)


def test_a_ds1307_has_no_century() -> None:
    with pytest.raises(Lying):
        decode_time(bytes.fromhex("00 00 00 05 01 81 00"), has_century=False)


def test_a_time_is_set_to_the_nearest_second_and_a_year_without_room_is_refused() -> None:
    assert encode_time(NOON + timedelta(seconds=0.4)).hex(" ") == "06 05 12 04 04 03 27"
    assert encode_time(NOON + timedelta(seconds=0.6)).hex(" ") == "07 05 12 04 04 03 27"
    assert encode_time(datetime(2100, 1, 1, tzinfo=UTC)).hex(" ") == "00 00 00 05 01 81 00"
    with pytest.raises(ValueError, match="1999"):
        encode_time(datetime(1999, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("high", "low", "celsius"),
    [(0x19, 0x40, 25.25), (0x00, 0x00, 0.0), (0xFF, 0xC0, -0.25), (0xE7, 0x00, -25.0), (0x7D, 0x00, 125.0)],
)
def test_the_temperature_of_a_ds3231_has_ten_bits_of_a_quarter_degree(high: int, low: int, celsius: float) -> None:
    assert decode_celsius(high, low) == celsius


@pytest.mark.parametrize(("high", "low"), [(0x7F, 0x00), (0x80, 0x00), (0x19, 0x50)])
def test_a_temperature_that_the_ds3231_cannot_measure_is_a_lie(high: int, low: int) -> None:
    with pytest.raises(Lying):
        decode_celsius(high, low)


def test_a_ds3231_whose_oscillator_had_stopped_tells_no_time() -> None:
    good, stopped = decode(chips.ds3231(NOON), DS3231), decode(chips.ds3231(NOON, osf=True), DS3231)
    assert (good.moment, good.doubt, good.values) == (NOON, "", {"celsius": 21.5})
    assert stopped.moment is None
    assert "OSF" in stopped.doubt


def test_a_ds1307_that_is_halted_tells_no_time() -> None:
    assert decode(chips.ds1307(NOON), DS1307) == Reading({}, NOON)
    assert "CH" in decode(chips.ds1307(NOON, halted=True), DS1307).doubt


@pytest.mark.parametrize("at", [RELEASED_AT - timedelta(days=1), LATEST])
def test_a_clock_that_is_before_this_release_or_decades_ahead_is_not_trusted(at: datetime) -> None:
    assert decode(chips.ds3231(at), DS3231).doubt != ""
    assert decode(chips.ds1307(at), DS1307).doubt != ""


def test_setting_a_ds3231_clears_its_flag_last_and_nothing_else_of_the_status() -> None:
    blocks = blocks_of(chips.ds3231(NOON, osf=True), DS3231)
    assert DS3231.set_time is not None
    assert DS3231.set_time(NOON, blocks) == [(0x00, encode_time(NOON)), (0x0F, b"\x08")]


# -- INA219 -----------------------------------------------------------------------------------------------------------


def test_the_voltages_of_an_ina219_are_those_of_its_data_sheet() -> None:
    assert decode_bus_v(0x5D98) == pytest.approx(11.98)
    assert decode_bus_v(0x1F40) == pytest.approx(4.0)
    assert decode_shunt_mv(0x07D0) == 20.0
    assert decode_shunt_mv(0x8300) == -320.0
    assert decode_shunt_mv(0x7D00) == 320.0


def test_the_current_needs_the_shunt() -> None:
    chip = {0: b"\x39\x9f", 1: b"\x07\xd0", 2: b"\x5d\x9a"}
    assert decode(chip, INA219).values == {"volts": pytest.approx(11.98)}
    assert decode(chip, INA219, Options(shunt_ohm=0.002)).values["amps"] == pytest.approx(10.0)


def test_an_overflow_concerns_the_current_register_and_spoils_no_voltage() -> None:
    assert decode({0: b"\x39\x9f", 1: b"\0\0", 2: b"\x5d\x9b"}, INA219).values == {"volts": pytest.approx(11.98)}


@pytest.mark.parametrize(
    ("registers", "why"),
    [
        ({0: b"\x39\x9f", 1: b"\0\0", 2: b"\0\0"}, "measured nothing"),
        ({0: b"\x39\x98", 1: b"\0\0", 2: b"\x5d\x9a"}, "switched off"),
        ({0: b"\x39\x9c", 1: b"\0\0", 2: b"\x5d\x9a"}, "switched off"),
        ({0: b"\x39\x9f", 1: b"\x7d\x01", 2: b"\x5d\x9a"}, "beyond 320"),
        ({0: b"\x39\x9f", 1: b"\0\0", 2: b"\x5d\x9e"}, "always 0"),
        ({0: b"\x39\x9f", 1: b"\0\0", 2: b"\x00\x0a"}, "not between"),
        ({0: b"\xff\xff", 1: b"\xff\xff", 2: b"\xff\xff"}, "every register reads 0xff"),
        ({0: b"\0\0", 1: b"\0\0", 2: b"\0\0"}, "every register reads 0x00"),
    ],
)
def test_an_ina219_that_cannot_be_right_is_a_lie(registers: chips.Chip, why: str) -> None:
    with pytest.raises(Lying, match=why):
        decode(registers, INA219)


# -- MAX17048 ---------------------------------------------------------------------------------------------------------


def test_a_cell_is_counted_in_steps_of_78_microvolts_and_a_256th_percent() -> None:
    assert decode_cell_v(0xC000) == pytest.approx(3.84)
    assert decode_percent(0x3280) == 50.5
    reading = decode({2: b"\xc0\x00\x32\x80", 8: b"\x00\x12"}, MAX17048)
    assert reading.values == {"percent": 50.5, "volts": pytest.approx(3.84)}


def test_a_charge_a_little_above_100_is_100() -> None:
    assert decode(chips.max17048(103.0, volts=4.2), MAX17048).values["percent"] == 100


@pytest.mark.parametrize(
    ("chip", "why"),
    [
        ({2: b"\xc0\x00\x32\x80", 8: b"\x00\x03"}, "version"),  # a MAX17043
        (chips.max17048(50, volts=0.5), "not between"),
        (chips.max17048(50, volts=5.1), "not between"),
        (chips.max17048(178), "not between"),
        (chips.max17048(2, volts=4.1), "is not charged to 2 %"),
        (chips.max17048(99, volts=3.1), "is not charged to 99 %"),
        ({2: b"\xff\xff\xff\xff", 8: b"\xff\xff"}, "every register reads 0xff"),
        ({2: bytes(4), 8: bytes(2)}, "every register reads 0x00"),
    ],
)
def test_a_max17048_that_cannot_be_right_is_a_lie(chip: chips.Chip, why: str) -> None:
    with pytest.raises(Lying, match=why):
        decode(chip, MAX17048)


# -- LM75, TMP102 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register", "bits", "celsius"),
    [
        (0x0FA << 7, 9, 125.0),
        (0x032 << 7, 9, 25.0),
        (0x001 << 7, 9, 0.5),
        (0x000 << 7, 9, 0.0),
        (0x1FF << 7, 9, -0.5),
        (0x1CE << 7, 9, -25.0),
        (0x192 << 7, 9, -55.0),
        (0x0C8 << 5, 11, 25.0),
        (0x001 << 5, 11, 0.125),
        (0x7FF << 5, 11, -0.125),
        (0x738 << 5, 11, -25.0),
        (0x648 << 5, 11, -55.0),
        (0x0FA << 7 | 0x7F, 9, 125.0),  # what lies below is undefined
    ],
)
def test_the_temperatures_of_an_lm75_are_those_of_its_data_sheet(register: int, bits: int, celsius: float) -> None:
    assert decode_lm75(register, bits=bits) == celsius


@pytest.mark.parametrize(
    ("register", "celsius"),
    [
        (0x7FF << 4, 127.9375),
        (0x640 << 4, 100.0),
        (0x4B0 << 4, 75.0),
        (0x190 << 4, 25.0),
        (0x004 << 4, 0.25),
        (0x000 << 4, 0.0),
        (0xFFC << 4, -0.25),
        (0xE70 << 4, -25.0),
        (0xC90 << 4, -55.0),
        (0x0960 << 3 | 1, 150.0),
        (0x0800 << 3 | 1, 128.0),
        (0x0190 << 3 | 1, 25.0),
        (0x1FFC << 3 | 1, -0.25),
        (0x1C90 << 3 | 1, -55.0),
    ],
)
def test_the_temperatures_of_a_tmp102_are_those_of_its_data_sheet(register: int, celsius: float) -> None:
    assert decode_tmp102(register) == celsius


@pytest.mark.parametrize("celsius", [-56.0, 125.5])
def test_a_temperature_that_an_lm75_cannot_measure_is_a_lie(celsius: float) -> None:
    with pytest.raises(Lying):
        decode(chips.lm75(celsius), LM75)


@pytest.mark.parametrize("part", [LM75, TMP102])
@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_a_thermometer_whose_registers_are_all_the_same_is_a_lie(part: Part, byte: bytes) -> None:
    with pytest.raises(Lying, match="every register"):
        decode({0: byte * 2, 1: byte * 2, 2: byte * 2, 3: byte * 2}, part)


def test_a_tmp102_at_zero_degrees_is_none() -> None:
    assert decode(chips.tmp102(0.0), TMP102).values == {"celsius": 0.0}
    assert decode(chips.lm75(0.0), LM75).values == {"celsius": 0.0}


# -- AT24MAC ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "eui"),
    [
        ("0000fcc23d123456", "fcc23d123456"),
        ("fffffcc23d123456", "fcc23d123456"),
        ("fcc23d0102030405", "fcc23d0102030405"),
        ("0000d88039abcdef", "d88039abcdef"),
        ("1234a0b1c2d3e4f5", "a0b1c2d3e4f5"),  # a maker that we do not know
    ],
)
def test_an_eui_is_as_long_as_its_maker_stands(block: str, eui: str) -> None:
    assert decode_eui(bytes.fromhex(block)) == eui


@pytest.mark.parametrize("block", ["0000000000000000", "ffffffffffffffff", "1200ffffffffffff", "0000010203040506"])
def test_an_eui_of_nobody_or_of_a_group_is_a_lie(block: str) -> None:
    with pytest.raises(Lying):
        decode_eui(bytes.fromhex(block))


# -- all of them ------------------------------------------------------------------------------------------------------

SAMPLES: dict[str, tuple[chips.Chip, int]] = {
    "ds3231": (chips.ds3231(NOON), 0x68),
    "ds1307": (chips.ds1307(NOON), 0x68),
    "max17048": (chips.max17048(50), 0x36),
    "tmp102": (chips.tmp102(25.0), 0x48),
    "ina219": (chips.ina219(12.1), 0x48),
    "lm75": (chips.lm75(25.0), 0x48),
    "at24mac": (chips.at24mac("fcc23d123456"), 0x58),
}


@pytest.mark.parametrize("source", SAMPLES)
def test_each_part_is_told_from_the_others_at_its_address(source: str) -> None:
    chip, address = SAMPLES[source]
    like = [part.source for part in likeliest(address) if part.is_like(blocks_of(chip, part))]
    assert like[:1] == [source]


@pytest.mark.parametrize("source", SAMPLES)
@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_a_bus_that_is_held_low_or_floats_is_no_part_and_a_lie(source: str, byte: bytes) -> None:
    part = PARTS[source]
    blocks = [byte * length for _, length in part.reads]
    assert not part.is_like(blocks)
    with pytest.raises(Lying):
        part.decode(blocks, PLAIN)


@pytest.mark.parametrize(
    ("old", "new", "is_jump"),
    [
        ({"percent": 50.0}, {"percent": 41.0}, False),
        ({"percent": 50.0}, {"percent": 3.0}, True),
        ({"celsius": 20.0}, {"celsius": 84.0}, True),
        ({"volts": 12.0}, {"volts": 14.4}, False),
        ({"volts": 12.0}, {"volts": 5.0}, True),
        ({"volts": 3.7}, {"volts": 4.2}, False),
        ({"amps": 0.1}, {"amps": 3.0}, False),
        ({}, {"percent": 3.0}, False),
    ],
)
def test_a_jump_is_what_no_battery_and_no_air_can_do(
    old: dict[str, float], new: dict[str, float], is_jump: bool
) -> None:
    assert (jump(old, new) != "") == is_jump


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"values": {"celsius": 21.75}}, True),
        ({"values": {"celsius": 53.5}}, False),
        ({"moment": NOON + timedelta(seconds=1)}, True),
        ({"moment": NOON + timedelta(seconds=16)}, False),
        ({"moment": None, "doubt": "it stopped"}, False),
        ({"eui": "fcc23d123456"}, False),
        ({"values": {}}, False),
    ],
)
def test_two_readings_agree_when_they_can_be_of_one_moment(other: dict[str, Any], same: bool) -> None:
    one = Reading({"celsius": 21.5}, NOON)
    fields: dict[str, Any] = {"values": one.values, "moment": one.moment, **other}
    assert agree(one, Reading(**fields)) is same
