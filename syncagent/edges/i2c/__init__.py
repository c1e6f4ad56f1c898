"""The I2C buses of this machine: smbus2, opened only when somebody asks, and every error of it in our words.

Promises: a call ends within `CALL_S` even if the kernel's does not; an address that a driver of the kernel owns is
left alone; nothing is written but the number of the register to read, and what `write` is given. A bus is opened for
each call and closed after it, so that an adapter may be unplugged and come back. What a reading means is left to
`core.parts`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from syncagent.core.errors import Absence, NotThere
from syncagent.core.parts import Lying, Options, Part, Reading, agree
from syncagent.core.parts.base import Blocks

T = TypeVar("T")

DEVICES = "/dev"
#: Longer than the kernel takes to give up on a stuck bus: i2c-bcm2835 waits a second for each transfer.
CALL_S = 4.0
#: A part that is busy for a moment does not acknowledge; one that was disturbed does at the next try.
TRIES = 3
RETRY_S = 0.02
#: Two readings must agree; a flipped bit may spoil one, and a second that ends another.
READINGS = 4

_ABSENCE = {
    errno.ENXIO: Absence.NO_ANSWER,  # most adapters
    errno.EREMOTEIO: Absence.NO_ANSWER,  # the Raspberry Pi's
    errno.ENODEV: Absence.NO_ANSWER,  # i2c-stub, and an adapter that was unplugged
    errno.EBUSY: Absence.BUSY,
    errno.ETIMEDOUT: Absence.STUCK,
    errno.EIO: Absence.STUCK,
    errno.EAGAIN: Absence.STUCK,  # lost arbitration
}
_WORDS = {
    Absence.NO_ANSWER: "nothing answers",
    Absence.BUSY: "a driver of the kernel uses it",
    Absence.STUCK: "the bus is stuck",
}
_REMEDY = {
    Absence.NO_ANSWER: "check its wires and its power, and the address: syncagent i2c scan",
    Absence.BUSY: "leave it to the kernel and remove the device file, or remove its dtoverlay from config.txt",
    Absence.STUCK: "check that SDA and SCL are not short-circuited and have pull-ups; power the part off and on",
    Absence.NO_BUS: "switch I2C on: sudo raspi-config nonint do_i2c 0",
    Absence.DENIED: "let the agent's user open it: sudo adduser syncagent i2c",
    Absence.LYING: "check that it is the part that the device file names: syncagent i2c scan",
}

# Of <linux/i2c.h>.
_QUICK = 0x0001_0000
_READ_BYTE = 0x0002_0000


class Bus(Protocol):
    """One open bus. Every method raises NotThere and nothing else."""

    def read(self, address: int, register: int, length: int) -> bytes: ...
    def write(self, address: int, register: int, data: bytes) -> None: ...
    def touch(self, address: int, *, by_reading: bool) -> None: ...
    def close(self) -> None: ...


def fault(why: Absence, what: str) -> NotThere:
    """A NotThere with the usual remedy."""
    return NotThere(what, why=why, remedy=_REMEDY[why])


def translate(error: OSError, number: int, address: int) -> NotThere:
    """What the kernel's answer to a transfer means."""
    why = _ABSENCE.get(error.errno or 0, Absence.STUCK)
    reason = os.strerror(error.errno) if error.errno else str(error)
    return fault(why, f"0x{address:02x} on bus {number}: {_WORDS[why]} ({reason})")


def open_smbus(path: str) -> Any:
    """smbus2's bus. Imported here: without a device file nobody needs it."""
    import smbus2

    return smbus2.SMBus(path)


class SmbusBus:
    """One bus through smbus2."""

    def __init__(self, number: int, *, new: Callable[[str], Any] = open_smbus) -> None:
        """Raises: NotThere."""
        self._number = number
        path = f"{DEVICES}/i2c-{number}"
        try:
            self._smbus = new(path)
        except ImportError as error:
            raise NotThere("smbus2 is not installed", why=Absence.NO_BUS, remedy="install python3-smbus2") from error
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise fault(Absence.DENIED, f"{path}: {os.strerror(error.errno)}") from error
            if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                raise fault(Absence.NO_BUS, f"there is no {path}") from error
            raise translate(error, number, 0) from error

    def read(self, address: int, register: int, length: int) -> bytes:
        """So many bytes from a register on. Raises: NotThere."""
        try:
            read = bytes(self._smbus.read_i2c_block_data(address, register, length))
        except OSError as error:
            raise translate(error, self._number, address) from error
        if len(read) != length:
            raise fault(Absence.LYING, f"0x{address:02x} on bus {self._number}: {len(read)} bytes came of {length}")
        return read

    def write(self, address: int, register: int, data: bytes) -> None:
        """Raises: NotThere."""
        try:
            self._smbus.write_i2c_block_data(address, register, list(data))
        except OSError as error:
            raise translate(error, self._number, address) from error

    def touch(self, address: int, *, by_reading: bool) -> None:
        """See whether something acknowledges; no byte is written. Raises: NotThere."""
        needed = _READ_BYTE if by_reading else _QUICK
        if not int(self._smbus.funcs) & needed:
            raise fault(Absence.NO_ANSWER, f"0x{address:02x} on bus {self._number}: the adapter cannot ask")
        try:
            if by_reading:
                self._smbus.read_byte(address)
            else:
                self._smbus.write_quick(address)
        except OSError as error:
            raise translate(error, self._number, address) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # nothing was written that could be lost
            self._smbus.close()


class Buses:
    """Every bus, for one caller at a time.

    A call that the kernel does not end leaves its thread behind, and its bus is stuck until that comes back.
    """

    def __init__(
        self,
        open_bus: Callable[[int], Bus] = SmbusBus,
        *,
        wait: Callable[[float], object] | None = None,
        call_s: float = CALL_S,
    ) -> None:
        """`wait` is how to wait between two tries."""
        self._open_bus = open_bus
        self._wait = wait or threading.Event().wait
        self._call_s = call_s
        self._calls: dict[int, threading.Thread] = {}  # the last of each bus

    def sample(self, number: int, address: int, part: Part, options: Options) -> tuple[Reading, Blocks]:
        """What a part says, in two readings that agree; and its registers. Raises: NotThere."""

        def act(bus: Bus) -> tuple[Reading, Blocks]:
            before: Reading | None = None
            reason = "two readings never agree"
            for _ in range(READINGS):
                blocks = [self._tried(bus, address, register, length) for register, length in part.reads]
                try:
                    reading = part.decode(blocks, options)
                except Lying as error:
                    before, reason = None, str(error)
                    continue
                if before is not None and agree(before, reading):
                    return reading, blocks
                before = reading
            raise fault(Absence.LYING, f"0x{address:02x} on bus {number}: this is no {part.source}: {reason}")

        return self._do(number, address, act)

    def look(self, number: int, address: int, part: Part) -> Blocks:
        """The registers of a part that may be another. Raises: NotThere."""
        return self._do(number, address, lambda bus: [bus.read(address, *stretch) for stretch in part.reads])

    def write(self, number: int, address: int, writes: Sequence[tuple[int, bytes]]) -> None:
        """Write registers, in this order, once each. Raises: NotThere."""

        def act(bus: Bus) -> None:
            for register, data in writes:
                bus.write(address, register, data)

        self._do(number, address, act)

    def touch(self, number: int, address: int, *, by_reading: bool) -> None:
        """See whether something acknowledges. Raises: NotThere."""
        self._do(number, address, lambda bus: bus.touch(address, by_reading=by_reading))

    def _tried(self, bus: Bus, address: int, register: int, length: int) -> bytes:
        for left in reversed(range(TRIES)):
            try:
                return bus.read(address, register, length)
            except NotThere as error:
                if left == 0 or error.why not in (Absence.NO_ANSWER, Absence.STUCK):
                    raise
                self._wait(RETRY_S)
        raise AssertionError("unreachable")

    def _do(self, number: int, address: int, act: Callable[[Bus], T]) -> T:
        """Act on an open bus in a thread of its own, and give up on it after a while. Raises: NotThere."""
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                bus = self._open_bus(number)
                try:
                    results.append(act(bus))
                finally:
                    bus.close()
            except BaseException as error:
                errors.append(error)

        last = self._calls.get(number)
        if last is not None and last.is_alive():
            raise fault(Absence.STUCK, f"0x{address:02x} on bus {number}: a call of the kernel has not come back")
        thread = self._calls[number] = threading.Thread(target=run, name=f"i2c-{number}", daemon=True)
        thread.start()
        thread.join(self._call_s)
        if thread.is_alive():
            what = f"0x{address:02x} on bus {number}: the kernel does not come back within {self._call_s:g} s"
            raise fault(Absence.STUCK, what)
        if errors:
            raise errors[0]
        return results[0]
