"""What every part of the I2C bus has in common: what is read of it, and what a reading is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

#: What was read, in the order of `Part.reads`.
Blocks = Sequence[bytes]


class Lying(ValueError):
    """The registers say what cannot be: another part, a bad contact, flipped bits."""


class Role(StrEnum):
    """What a part is for."""

    CLOCK = "clock"
    BATTERY = "battery"
    THERMOMETER = "thermometer"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Options:
    """What the registers do not tell: the owner does."""

    shunt_ohm: float | None = None
    bits: int = 9


@dataclass(frozen=True, slots=True)
class Reading:
    """What a part said. `doubt`: why its time is not to be trusted; empty when it is."""

    values: Mapping[str, float] = field(default_factory=dict)
    moment: datetime | None = None
    doubt: str = ""
    eui: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of part. `reads` are (register, bytes); the last one is where its pointer stays."""

    source: str
    role: Role
    address: int  # when the device file names none
    addresses: tuple[int, ...]  # that its pins can give it
    reads: tuple[tuple[int, int], ...]
    quantities: tuple[str, ...]
    decode: Callable[[Blocks, Options], Reading]  # raises Lying
    #: Whether registers of an unknown part look like this one's. Stricter than `decode`, which knows whom it reads.
    is_like: Callable[[Blocks], bool]
    #: What to write so that it has this time, given what was read of it. Clocks only.
    set_time: Callable[[datetime, Blocks], list[tuple[int, bytes]]] | None = None


def check_alive(blocks: Blocks) -> None:
    """A bus that floats high reads as ones, one that is held low as zeros. Raises: Lying."""
    for byte in (0xFF, 0x00):
        if all(each == byte for block in blocks for each in block):
            raise Lying(f"every register reads 0x{byte:02x}")


def word(block: bytes, at: int = 0) -> int:
    """A register of 16 bits, its high byte first, as all of these parts send it."""
    return int.from_bytes(block[at : at + 2], "big")


def signed(number: int, bits: int) -> int:
    """A two's complement number of so many bits."""
    return number - (1 << bits) if number >> (bits - 1) & 1 else number


def within(name: str, value: float, least: float, most: float, unit: str) -> float:
    """The value, if the part can measure it. Raises: Lying."""
    if not least <= value <= most:
        raise Lying(f"{name} of {value:g} {unit} is not between {least:g} and {most:g}")
    return value
