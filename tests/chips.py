"""Registers as the parts of the I2C bus hold them, for `FakeBus`: from the data sheets, not made by our encoders."""

from __future__ import annotations

from datetime import datetime

Chip = dict[int, bytes]


def _bcd(number: int) -> int:
    return int(str(number), 16)


def clock_registers(at: datetime) -> bytes:
    """Seven registers in the 24 hour form."""
    numbers = (at.second, at.minute, at.hour, at.isoweekday(), at.day, at.month, at.year % 100)
    return bytes(_bcd(number) for number in numbers)


def ds3231(at: datetime, *, osf: bool = False, celsius: float = 21.5) -> Chip:
    quarters = round(celsius * 4) & 0x3FF
    alarms, control, status = bytes(7), b"\x1c", bytes([0x88 if osf else 0x08])
    return {0: clock_registers(at) + alarms + control + status + b"\0" + bytes([quarters >> 2, (quarters & 3) << 6])}


def ds1307(at: datetime, *, halted: bool = False) -> Chip:
    time = bytearray(clock_registers(at))
    time[0] |= 0x80 if halted else 0
    return {0: bytes(time) + b"\x03" + bytes(56)}


def ina219(volts: float, *, shunt_mv: float = 0.0) -> Chip:
    shunt, bus = round(shunt_mv * 100) & 0xFFFF, round(volts / 0.004) << 3 | 2
    return {0: b"\x39\x9f", 1: shunt.to_bytes(2, "big"), 2: bus.to_bytes(2, "big"), 5: bytes(2)}


def max17048(percent: float, *, volts: float = 3.7) -> Chip:
    cell, charge = round(volts / 78.125e-6), round(percent * 256)
    return {2: cell.to_bytes(2, "big") + charge.to_bytes(2, "big"), 8: b"\x00\x12"}


def lm75(celsius: float) -> Chip:
    return {0: (round(celsius * 2) << 7 & 0xFFFF).to_bytes(2, "big"), 1: b"\0\0", 2: b"\x4b\0", 3: b"\x50\0"}


def tmp102(celsius: float) -> Chip:
    return {0: (round(celsius * 16) << 4 & 0xFFFF).to_bytes(2, "big"), 1: b"\x60\xa0", 2: b"\x4b\0", 3: b"\x50\0"}


def at24mac(eui: str) -> Chip:
    block = bytes.fromhex(eui)
    return {0x80: bytes(range(16)), 0x98: bytes(8 - len(block)) + block}
