"""The devices of a configuration: which part, where, and when it makes sending wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from syncagent.core.parts import PARTS, Options, Part

#: Keys of a device file that make sending wait: quantity -> (pause, resume).
LIMITS: Mapping[str, tuple[str, str]] = {
    "percent": ("pause_below_percent", "resume_above_percent"),
    "volts": ("pause_below_v", "resume_above_v"),
    "celsius": ("pause_above_c", "resume_below_c"),
}
UNITS = {"percent": "%", "volts": "V", "celsius": "°C", "amps": "A"}
#: How far beyond its limit a value must be for sending to go on, where the owner did not say.
RECOVERY = {"percent": 5.0, "celsius": 5.0}
RECOVERY_V = 0.03  # of the voltage


@dataclass(frozen=True, slots=True)
class Limit:
    """Sending waits from `pause` on, until `resume`: apart, so that a value at the edge does not flicker."""

    quantity: str
    pause: float
    resume: float

    @property
    def is_battery(self) -> bool:
        return self.quantity != "celsius"

    def is_beyond(self, value: float, *, was_beyond: bool) -> bool:
        """Whether sending waits. Between the two limits it stays as it was."""
        if self.is_battery:
            return value < self.pause or (was_beyond and value < self.resume)
        return value > self.pause or (was_beyond and value > self.resume)

    def words(self, value: float) -> str:
        """Why sending waits, as in: battery at 12 %, resumes above 20 %."""
        what, side = ("battery", "above") if self.is_battery else ("temperature", "below")
        unit = UNITS[self.quantity]
        return f"{what} at {round(value, 2):g} {unit}, resumes {side} {self.resume:g} {unit}"


@dataclass(frozen=True, slots=True)
class Device:
    """One part, as a device file names it."""

    name: str
    part: Part
    bus: int
    address: int
    attach: bool
    sample_s: float
    options: Options
    limits: tuple[Limit, ...]

    @property
    def place(self) -> str:
        return f"0x{self.address:02x} on bus {self.bus}"


def device_of(name: str, values: Mapping[str, Any]) -> Device:
    """The device of a checked file; every key has a value."""
    part = PARTS[values["source"]]
    address = part.address if values["address"] is None else values["address"]
    if part.source == "at24mac":
        address |= 0x08  # its memory's address is as good a name as its identity's
    limits = []
    for quantity, (pause_key, resume_key) in LIMITS.items():
        pause = values[pause_key]
        if pause is not None:
            resume = values[resume_key]
            limits.append(Limit(quantity, pause, _recovered(quantity, pause) if resume is None else resume))
    return Device(
        name=name,
        part=part,
        bus=values["bus"],
        address=address,
        attach=values["attach"],
        sample_s=values["sample_s"],
        options=Options(shunt_ohm=values["shunt_ohm"], bits=values["bits"]),
        limits=tuple(limits),
    )


def devices_of(devices: Mapping[str, Mapping[str, Any]]) -> list[Device]:
    """All devices of the settings."""
    return [device_of(name, values) for name, values in devices.items()]


def _recovered(quantity: str, pause: float) -> float:
    if quantity == "volts":
        return round(pause * (1 + RECOVERY_V), 3)
    if quantity == "percent":
        return min(100.0, pause + RECOVERY[quantity])
    return pause - RECOVERY[quantity]
