"""Real-time clocks: DS3231 and DS1307.

Neither has a check sum (no PEC, no CRC): whoever reads compares two readings. Both keep UTC, written by us.

DS3231 (Maxim 19-5170, "Timekeeping Registers", figure 1):
  00h  0 | 10 seconds | seconds          04h  0 0 | 10 date | date
  01h  0 | 10 minutes | minutes          05h  century | 0 0 | 10 month | month
  02h  0 | 12/24 | AM/PM or 20 h | 10 h | hour
  03h  day of the week, 1 to 7           06h  10 year | year
  0Fh  OSF | 0 0 0 | EN32kHz | BSY | A2F | A1F: OSF is set when the oscillator had stopped, until 0 is written
  11h  temperature, signed degrees       12h  its quarters in bits 7 and 6
A read is latched at its START, and again when it passes 12h and goes on at 00h, so that no carry tears it. Writing 00h
restarts the second. The century bit toggles when the year passes 99: with it set we read 21xx. 0Fh: A1F and A2F can
only be cleared, so that writing 1 leaves them as they are.

DS1307 (Maxim "64 x 8, Serial, I2C Real-Time Clock", table 2): the same seven registers but no century; bit 7 of 00h
is CH, clock halt; 07h is OUT 0 0 SQWE 0 0 RS1 RS0; 08h to 3Fh are memory, where a DS3231 begins anew after 12h.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from syncagent.core.parts.base import Blocks, Lying, Options, Part, Reading, Role, check_alive, signed, within
from syncagent.core.skew import RELEASED_AT

OSF = 0x80
CH = 0x80
STATUS = 0x0F
#: No board runs this release for longer: a clock that says more has a flipped bit.
LATEST = RELEASED_AT + timedelta(days=20 * 365)

_CLOCK_BYTES = 7
_DS3231_BYTES = 0x13


def decode_bcd(byte: int) -> int:
    """Two decimal digits of four bits each. Raises: Lying."""
    tens, ones = byte >> 4, byte & 0x0F
    if tens > 9 or ones > 9:
        raise Lying(f"0x{byte:02x} is no decimal number")
    return tens * 10 + ones


def encode_bcd(number: int) -> int:
    return number // 10 << 4 | number % 10


def decode_time(registers: bytes, *, has_century: bool) -> datetime:
    """Registers 00h to 06h as a time in UTC, in either form of the hour. Raises: Lying."""
    second, minute, hour, weekday, day, month, year = registers[:_CLOCK_BYTES]
    if second & 0x80 or minute & 0x80 or hour & 0x80 or weekday & 0xF8 or day & 0xC0 or month & 0x60:
        raise Lying("bits of the time that are always 0 are set")
    if not has_century and month & 0x80:
        raise Lying("bits of the month that are always 0 are set")
    if weekday == 0:
        raise Lying("0 is no day of the week")
    if hour & 0x40:
        twelve = decode_bcd(hour & 0x1F)
        if not 1 <= twelve <= 12:
            raise Lying(f"{twelve} is no hour of twelve")
        hours = twelve % 12 + (12 if hour & 0x20 else 0)
    else:
        hours = decode_bcd(hour & 0x3F)
    years = (2100 if month & 0x80 else 2000) + decode_bcd(year)
    try:
        return datetime(
            years, decode_bcd(month & 0x1F), decode_bcd(day), hours, decode_bcd(minute), decode_bcd(second), tzinfo=UTC
        )
    except ValueError as error:
        raise error if isinstance(error, Lying) else Lying(f"no such time: {error}") from error


def encode_time(moment: datetime) -> bytes:
    """Registers 00h to 06h for a time: in UTC, 24 hours, the nearest whole second, CH and century clear before 2100."""
    at = (moment.astimezone(UTC) + timedelta(seconds=0.5)).replace(microsecond=0)
    if not 2000 <= at.year <= 2199:
        raise ValueError(f"{at.year} has no room in the clock")
    century = 0x80 if at.year >= 2100 else 0
    numbers = (at.second, at.minute, at.hour, at.isoweekday(), at.day, at.month, at.year % 100)
    registers = bytearray(encode_bcd(number) for number in numbers)
    registers[5] |= century
    return bytes(registers)


def decode_celsius(high: int, low: int) -> float:
    """DS3231, 11h and 12h: ten bits of a quarter degree; 19h 40h is +25.25 degrees. Raises: Lying."""
    if low & 0x3F:
        raise Lying("bits of the temperature that are always 0 are set")
    return within("a temperature", signed(high << 2 | low >> 6, 10) / 4, -55, 125, "°C")


def _judged(moment: datetime | None, doubt: str, celsius: dict[str, float]) -> Reading:
    if not doubt and moment is not None and not RELEASED_AT <= moment < LATEST:
        side = "before this release" if moment < RELEASED_AT else "decades ahead"
        doubt = f"it says {moment:%Y-%m-%d %H:%M}, which is {side}"
    return Reading(celsius, moment, doubt)


def _decode_ds3231(blocks: Blocks, _options: Options) -> Reading:
    check_alive(blocks)
    registers = blocks[0]
    celsius = {"celsius": decode_celsius(registers[0x11], registers[0x12])}
    if registers[STATUS] & OSF:
        # What its registers hold then may be no time at all.
        return _judged(None, "its oscillator had stopped (OSF)", celsius)
    return _judged(decode_time(registers, has_century=True), "", celsius)


def _decode_ds1307(blocks: Blocks, _options: Options) -> Reading:
    check_alive(blocks)
    if blocks[0][0] & CH:
        return _judged(None, "it is halted (CH)", {})
    return _judged(decode_time(blocks[0], has_century=False), "", {})


def _is_like_ds3231(blocks: Blocks) -> bool:
    registers = blocks[0]
    try:
        first = decode_time(registers, has_century=True)
        decode_celsius(registers[0x11], registers[0x12])
        again = decode_time(registers[_DS3231_BYTES:], has_century=True)
    except Lying:
        return False
    return not registers[STATUS] & 0x70 and abs((again - first).total_seconds()) <= 1


def _is_like_ds1307(blocks: Blocks) -> bool:
    registers = blocks[0]
    try:
        decode_time(bytes([registers[0] & 0x7F]) + registers[1:], has_century=False)
    except Lying:
        return False
    return not registers[7] & 0x6C


def _set_ds3231(moment: datetime, blocks: Blocks) -> list[tuple[int, bytes]]:
    # The time first: without it, a cleared OSF would be a lie.
    return [(0x00, encode_time(moment)), (STATUS, bytes([blocks[0][STATUS] & ~OSF & 0xFF]))]


def _set_ds1307(moment: datetime, _blocks: Blocks) -> list[tuple[int, bytes]]:
    return [(0x00, encode_time(moment))]


DS3231 = Part(
    source="ds3231",
    role=Role.CLOCK,
    address=0x68,
    addresses=(0x68,),
    reads=((0x00, _DS3231_BYTES + _CLOCK_BYTES),),
    quantities=("celsius",),
    decode=_decode_ds3231,
    is_like=_is_like_ds3231,
    set_time=_set_ds3231,
)
DS1307 = Part(
    source="ds1307",
    role=Role.CLOCK,
    address=0x68,
    addresses=(0x68,),
    reads=((0x00, 0x08),),
    quantities=(),
    decode=_decode_ds1307,
    is_like=_is_like_ds1307,
    set_time=_set_ds1307,
)
