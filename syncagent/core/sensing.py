"""What is believed of one device: a value, or that it is not there. Decides also whether it makes sending wait.

Pure: readings and faults in, a face for the status out. Promises that a part which is missing or lies never makes
sending wait, not even by what it said before; that one missed sample is not yet a missing part; and that a value which
jumps impossibly is believed only when it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from syncagent.core.devices import Device
from syncagent.core.errors import Absence, NotThere
from syncagent.core.parts import Reading, jump

#: So many samples in a row without an answer, and the part is not there. What cannot be a passing fault counts at once.
MISSES = 3
#: So many samples in a row must say the same new thing for a jump to be believed.
JUMPS = 3
#: So many samples in a row of which none could be believed, and the part lies: what it said before is too old to hold.
DOUBTS = 3 * JUMPS
PASSING = frozenset({Absence.NO_ANSWER, Absence.STUCK, Absence.LYING})

ERRATIC = "check its wires, its power, and that it is the part that the device file names: syncagent i2c scan"

NOT_THERE = "not there"
OK, PAUSED, DOUBTFUL = "ok", "paused", "doubtful"


class Belief:
    """Of one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.reading: Reading | None = None
        self.fault: NotThere | None = None  # the last sample's; it may have been missed only
        self._misses = 0
        self._jumps = 0
        self._candidate: Reading | None = None
        self._doubt = ""
        self._doubts = 0
        self._is_erratic = False
        self._beyond: set[str] = set()

    @property
    def is_there(self) -> bool:
        return self.reading is not None

    def saw(self, reading: Reading) -> None:
        """A sample was read."""
        self._misses, self.fault = 0, None
        self._doubt = self._doubt_of(reading)
        if self._doubt:
            stays = self._candidate is not None and not jump(self._candidate.values, reading.values)
            self._jumps = self._jumps + 1 if stays else 1
            self._candidate = reading
            if self._jumps < JUMPS:
                self._count_doubt()
                return
            self._doubt = ""
        self._jumps, self._candidate, self.reading = 0, None, reading
        self._doubts, self._is_erratic = 0, False
        for limit in self.device.limits:
            was_beyond = limit.quantity in self._beyond
            if limit.is_beyond(reading.values[limit.quantity], was_beyond=was_beyond):
                self._beyond.add(limit.quantity)
            else:
                self._beyond.discard(limit.quantity)

    def missed(self, fault: NotThere) -> None:
        """A sample could not be read."""
        self._misses += 1
        self.fault = fault
        if fault.why not in PASSING or self._misses >= MISSES:
            self._candidate, self._jumps, self._doubts, self._is_erratic = None, 0, 0, False
            self._forget()
        elif self.reading is not None:
            self._count_doubt()

    def _doubt_of(self, reading: Reading) -> str:
        if self.reading is not None:
            return jump(self.reading.values, reading.values)
        return "it says something else each time" if self._is_erratic else ""

    def _count_doubt(self) -> None:
        self._doubts += 1
        if self._doubts >= DOUBTS:
            self._is_erratic = True
        if self._is_erratic:
            self.fault = self.fault or NotThere(
                f"{self.device.place}: it says something else each time", why=Absence.LYING, remedy=ERRATIC
            )
            self._forget()

    def _forget(self) -> None:
        self.reading, self._doubt = None, ""
        self._beyond.clear()

    def pauses(self) -> list[str]:
        """Why sending waits, one reason per limit; none when it does not."""
        values = self.reading.values if self.reading is not None else {}
        return [limit.words(values[limit.quantity]) for limit in self.device.limits if limit.quantity in self._beyond]

    @property
    def is_power_low(self) -> bool:
        """Whether it is a battery below its limit."""
        return any(limit.is_battery and limit.quantity in self._beyond for limit in self.device.limits)

    def verdict(self) -> tuple[bool, str, str]:
        """(whether the part works, state, reason). An empty battery is not the part's fault."""
        if self.reading is None:
            return False, NOT_THERE, str(self.fault) if self.fault is not None else "not read yet"
        pauses = self.pauses()
        if pauses:
            return True, PAUSED, "; ".join(pauses)
        if self.reading.doubt or self._doubt:
            return False, DOUBTFUL, self.reading.doubt or self._doubt
        return True, OK, f"missed {self._misses} of {MISSES}: {self.fault}" if self.fault is not None else ""

    def face(self, now: datetime) -> dict[str, Any]:
        """The device as the status shows it."""
        is_ok, state, reason = self.verdict()
        device, reading = self.device, self.reading
        face: dict[str, Any] = {
            "source": device.part.source,
            "role": str(device.part.role),
            "bus": device.bus,
            "address": f"0x{device.address:02x}",
            "ok": is_ok,
            "state": state,
            "reason": reason,
            "values": rounded(reading.values) if reading is not None else {},
        }
        if self.fault is not None:
            face["why"] = str(self.fault.why)
            face["remedy"] = self.fault.remedy
        if reading is not None and reading.moment is not None:
            face["time"] = f"{reading.moment:%Y-%m-%dT%H:%M:%SZ}"
            face["ahead_s"] = round((reading.moment - now).total_seconds(), 1)
        if reading is not None and reading.eui:
            face["eui"] = reading.eui
        return face


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """As people read them; no part is better than this."""
    return {quantity: round(value, 3) for quantity, value in values.items()}
