"""core/parts: what is written is read back, and no bytes lead to anything but a reading or a lie."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.parts import PARTS, Lying, Options
from syncagent.core.parts.clocks import decode_bcd, decode_celsius, decode_time, encode_bcd, encode_time
from syncagent.core.parts.gauges import decode_bus_v, decode_cell_v, decode_percent, decode_shunt_mv
from syncagent.core.parts.identity import decode_eui
from syncagent.core.parts.thermometers import decode_lm75, decode_tmp102
from tests import chips

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31, 23, 59, 58), timezones=st.just(UTC))


@given(MOMENTS)
def test_a_time_that_was_set_is_read_back_to_the_nearest_second(moment: datetime) -> None:
    back = decode_time(encode_time(moment), has_century=True)
    assert abs(back - moment) <= timedelta(seconds=0.5)


@given(MOMENTS)
def test_both_forms_of_the_hour_mean_the_same(moment: datetime) -> None:
    registers = bytearray(encode_time(moment))
    hour = decode_time(bytes(registers), has_century=True).hour
    registers[2] = 0x40 | (0x20 if hour >= 12 else 0) | encode_bcd((hour - 1) % 12 + 1)
    assert decode_time(bytes(registers), has_century=True) == decode_time(encode_time(moment), has_century=True)


@given(MOMENTS)
def test_a_bit_that_flips_in_the_time_gives_another_time_or_a_lie_and_never_the_same(moment: datetime) -> None:
    registers = encode_time(moment)
    right = decode_time(registers, has_century=True)
    for at in (0, 1, 2, 4, 5, 6):
        for bit in range(8):
            flipped = bytearray(registers)
            flipped[at] ^= 1 << bit
            with contextlib.suppress(Lying):
                # The form of the hour may change and mean the same.
                assert decode_time(bytes(flipped), has_century=True) != right or (at, bit) == (2, 6)


@given(st.integers(0, 99))
def test_decimal_digits_survive(number: int) -> None:
    assert decode_bcd(encode_bcd(number)) == number


@given(st.integers(-55 * 4, 125 * 4))
def test_every_quarter_degree_of_a_ds3231_is_read(quarters: int) -> None:
    raw = quarters & 0x3FF
    assert decode_celsius(raw >> 2, (raw & 3) << 6) == quarters / 4


@given(st.integers(0, 8191), st.integers(0, 7))
def test_the_flags_below_a_bus_voltage_do_not_change_it(steps: int, flags: int) -> None:
    assert decode_bus_v(steps << 3 | flags) == pytest.approx(steps * 0.004)


@given(st.integers(-32000, 32000))
def test_every_shunt_voltage_is_read_with_its_sign(steps: int) -> None:
    assert decode_shunt_mv(steps & 0xFFFF) == steps / 100


@given(st.integers(0, 0xFFFF))
def test_cells_and_charges_are_linear(register: int) -> None:
    assert round(decode_cell_v(register) / 78.125e-6) == register
    assert decode_percent(register) * 256 == register


@given(st.integers(9, 13), st.data())
def test_every_step_of_an_lm75_is_read_whatever_lies_below_it(bits: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(-55 << (bits - 8), 125 << (bits - 8)))
    below = data.draw(st.integers(0, (1 << (16 - bits)) - 1))
    assert decode_lm75((steps << (16 - bits)) & 0xFFFF | below, bits=bits) == steps / (1 << (bits - 8))


@given(st.integers(-55 * 16, 2047))
def test_every_step_of_a_tmp102_is_read_in_both_modes(steps: int) -> None:
    assert decode_tmp102((steps << 4) & 0xFFFF) == steps / 16
    assert decode_tmp102((steps << 3) & 0xFFFF | 1) == steps / 16


@given(st.floats(-55, 125), st.sampled_from(["lm75", "tmp102"]))
def test_a_thermometer_is_read_to_its_resolution(celsius: float, source: str) -> None:
    chip = chips.lm75(celsius) if source == "lm75" else chips.tmp102(celsius)
    part = PARTS[source]
    blocks = [chip[register][:length] for register, length in part.reads]
    assert abs(part.decode(blocks, Options()).values["celsius"] - celsius) <= 0.25


@given(st.binary(min_size=8, max_size=8))
def test_an_identity_is_six_or_eight_bytes_of_what_the_part_holds(block: bytes) -> None:
    with contextlib.suppress(Lying):
        eui = decode_eui(block)
        assert eui in (block.hex(), block[2:].hex())


@given(st.sampled_from(sorted(PARTS)), st.data())
def test_any_bytes_are_a_reading_or_a_lie(source: str, data: st.DataObject) -> None:
    part = PARTS[source]
    blocks = [data.draw(st.binary(min_size=length, max_size=length)) for _, length in part.reads]
    part.is_like(blocks)
    with contextlib.suppress(Lying):
        reading = part.decode(blocks, Options(shunt_ohm=0.1))
        assert set(reading.values) <= set(part.quantities)
