"""The parts that may sit on the I2C bus: what to read of each, and what it means. Pure; nothing here touches a bus.

Registers and formulas come from the data sheets that each module names. None of these parts protects what it sends
with a check sum, so plausibility, and two readings that agree, have to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncagent.core.parts.base import Blocks, Lying, Options, Part, Reading, Role
from syncagent.core.parts.clocks import DS1307, DS3231
from syncagent.core.parts.gauges import INA219, MAX17048
from syncagent.core.parts.identity import AT24MAC
from syncagent.core.parts.thermometers import LM75, TMP102

__all__ = ["PARTS", "Blocks", "Lying", "Options", "Part", "Reading", "Role", "agree", "jump", "likeliest"]

#: By the name that a device file gives them. Of parts at one address, those that are surer to recognise come first.
PARTS: Mapping[str, Part] = {part.source: part for part in (DS3231, DS1307, MAX17048, TMP102, INA219, LM75, AT24MAC)}

#: How far two readings of a clock, made at once, may be apart: a second may end between them.
TICK_S = 2.0


def jump(old: Mapping[str, float], new: Mapping[str, float]) -> str:
    """Which quantity changed more than it can from one sample to the next, in words; empty when none did.

    A current may change at once. A voltage falls and rises with its load, but not by a quarter.
    """
    for quantity, most in (("percent", 10.0), ("celsius", 10.0), ("volts", max(0.5, old.get("volts", 0.0) / 4))):
        if quantity in old and quantity in new and abs(new[quantity] - old[quantity]) > most:
            return f"{quantity} went from {old[quantity]:.4g} to {new[quantity]:.4g} at once"
    return ""


def agree(one: Reading, other: Reading) -> bool:
    """Whether two readings made at once say the same, as far as the part lets them."""
    if (one.eui, one.doubt != "", one.values.keys()) != (other.eui, other.doubt != "", other.values.keys()):
        return False
    if one.moment is not None and other.moment is not None:
        if abs((other.moment - one.moment).total_seconds()) > TICK_S:
            return False
    elif one.moment is not other.moment:
        return False
    return not jump(one.values, other.values)


def likeliest(address: int) -> list[Part]:
    """The parts that can be at an address, in the order to try them."""
    return [part for part in PARTS.values() if address in part.addresses]
