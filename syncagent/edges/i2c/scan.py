"""What is on a bus: asks every address whether somebody is there, and looks whether it is a part that we know.

Nothing is stored in any part. Who is there is asked as `i2cdetect` does, with no byte written: by reading one byte at
0x30 to 0x37 and 0x50 to 0x5F, where a "quick write" is the beginning of a command (write-protect registers of EEPROMs,
and the AT24RF08, whose contents it spoils), and where our own parts may be, which all allow it; by a quick write
elsewhere, where reading makes some write-only chips hold the bus. An address that a driver of the kernel owns is not
touched: the kernel refuses before anything goes over the wires.

Which part it is can only be told from registers. To read one, its number is sent, which a chip of another kind could
take for a command. So that is done only where one of our parts can be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from syncagent.core.errors import Absence, NotThere
from syncagent.core.parts import PARTS, Part, likeliest
from syncagent.edges.i2c import DEVICES, Buses

#: Beyond these, addresses are reserved by the bus itself.
FIRST, LAST = 0x08, 0x77
_READ_ONLY = (*range(0x30, 0x38), *range(0x50, 0x60))
_OURS = frozenset(address for part in PARTS.values() for address in part.addresses)
#: An EEPROM's write-protect register answers here when the EEPROM itself is 0x20 above: that is no gauge.
_PROTECT = range(0x30, 0x38)


@dataclass(frozen=True, slots=True)
class Found:
    """Somebody at an address; `part` is None when it is none of ours, or when the kernel uses it."""

    address: int
    is_busy: bool
    part: Part | None


def bus_numbers(directory: str = DEVICES) -> list[int]:
    """The buses that there are."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(int(name[4:]) for name in names if name.startswith("i2c-") and name[4:].isdigit())


def is_asked_by_reading(address: int) -> bool:
    """Whether an address is asked by reading one byte; see the module for why."""
    return address in _READ_ONLY or address in _OURS


def scan(buses: Buses, number: int, *, on_address: Callable[[int], None] = lambda _: None) -> Iterator[Found]:
    """Everybody on a bus, lowest address first. Raises: NotThere when the bus itself cannot be used."""
    there: list[tuple[int, bool]] = []
    for address in range(FIRST, LAST + 1):
        on_address(address)
        try:
            buses.touch(number, address, by_reading=is_asked_by_reading(address))
        except NotThere as error:
            if error.why is Absence.BUSY:
                there.append((address, True))
            elif error.why is not Absence.NO_ANSWER:
                raise
        else:
            there.append((address, False))
    taken = {address for address, _ in there}
    for address, is_busy in there:
        is_protection = address in _PROTECT and address + 0x20 in taken
        part = None if is_busy or is_protection else _recognise(buses, number, address)
        yield Found(address, is_busy, part)


def _recognise(buses: Buses, number: int, address: int) -> Part | None:
    for part in likeliest(address):
        try:
            if part.is_like(buses.look(number, address, part)):
                return part
        except NotThere:
            continue  # it does not have these registers
    return None
