"""Battery gauges: INA219 (voltage and current) and MAX17048 (voltage and charge).

Neither has a check sum (no PEC, no CRC): whoever reads compares two readings. Nothing is ever written to them.

INA219 (Texas Instruments SBOS448, section 8.6), registers of 16 bits, high byte first:
  00h  configuration: RST | 0 | BRNG | PG1-0 | BADC | SADC | MODE2-0; 399Fh after power-on; MODE 0 and 4 measure nothing
  01h  shunt voltage, signed, 10 uV a bit, at most 320 mV: +-32000
  02h  bus voltage in bits 15 to 3, 4 mV a bit; bit 2 is 0; CNVR (bit 1) a conversion is ready; OVF (bit 0) current
       and power are out of range, which the two voltages are not
The current is the shunt voltage by the shunt's resistance; the part's own current register needs a calibration that
would have to be written.

MAX17048/MAX17049 (Maxim 19-6171, "Register Summary"), registers of 16 bits, high byte first:
  02h  VCELL, 78.125 uV a bit            04h  SOC, 1/256 percent a bit
  08h  VERSION, 001xh
"""

from __future__ import annotations

from syncagent.core.parts.base import Blocks, Lying, Options, Part, Reading, Role, check_alive, signed, within, word

CNVR = 0x02
OVF = 0x01

#: Below this a battery gauge measures no battery; whoever reads it has power from somewhere.
LEAST_V = 0.5
MAX_SHUNT_STEPS = 32_000


def decode_bus_v(register: int) -> float:
    """INA219, 02h: 5D98h is 11.98 V."""
    return (register >> 3) * 4 / 1000


def decode_shunt_mv(register: int) -> float:
    """INA219, 01h: 8300h is -320 mV. Raises: Lying."""
    steps = signed(register, 16)
    if abs(steps) > MAX_SHUNT_STEPS:
        raise Lying(f"a shunt voltage of {steps / 100:g} mV is beyond 320")
    return steps / 100


def decode_cell_v(register: int) -> float:
    """MAX17048, 02h."""
    return register * 78.125e-6


def decode_percent(register: int) -> float:
    """MAX17048, 04h."""
    return register / 256


def _decode_ina219(blocks: Blocks, options: Options) -> Reading:
    check_alive(blocks)
    configuration, shunt, bus = (word(block) for block in blocks)
    if configuration & 0x4000 or bus & 0x04:
        raise Lying("bits that are always 0 are set")
    if configuration & 0x07 in (0, 4):
        raise Lying("it is switched off (MODE)")
    if bus >> 3 == 0 and not bus & CNVR:
        raise Lying("it has measured nothing yet (CNVR)")
    values = {"volts": within("a voltage", decode_bus_v(bus), LEAST_V, 32, "V")}
    shunt_mv = decode_shunt_mv(shunt)
    if options.shunt_ohm is not None:
        values["amps"] = shunt_mv / 1000 / options.shunt_ohm
    return Reading(values)


def _is_like_ina219(blocks: Blocks) -> bool:
    configuration, _, bus = (word(block) for block in blocks)
    try:
        _decode_ina219(blocks, Options())
    except Lying:
        return False
    return configuration & 0xC000 == 0 and configuration & 0x07 == 7 and bool(bus & CNVR) and not bus & OVF


def _decode_max17048(blocks: Blocks, _options: Options) -> Reading:
    check_alive(blocks)
    version, measured = word(blocks[0]), blocks[1]
    if version & 0xFFF0 != 0x0010:
        raise Lying(f"its version 0x{version:04x} is none of a MAX17048 or MAX17049")
    volts = within("a cell's voltage", decode_cell_v(word(measured)), 2, 4.6, "V")
    # The model may pass 100 a little; a flipped bit passes it by more.
    percent = min(100.0, within("a charge", decode_percent(word(measured, 2)), 0, 120, "%"))
    if (percent <= 5 and volts >= 4.0) or (percent >= 95 and volts <= 3.3):
        raise Lying(f"a cell with {volts:.2f} V is not charged to {percent:.0f} %")
    return Reading({"percent": percent, "volts": volts})


def _is_like_max17048(blocks: Blocks) -> bool:
    try:
        _decode_max17048(blocks, Options())
    except Lying:
        return False
    return True


INA219 = Part(
    source="ina219",
    role=Role.BATTERY,
    address=0x40,
    addresses=tuple(range(0x40, 0x50)),
    reads=((0x00, 2), (0x01, 2), (0x02, 2)),
    quantities=("volts", "amps"),
    decode=_decode_ina219,
    is_like=_is_like_ina219,
)
MAX17048 = Part(
    source="max17048",
    role=Role.BATTERY,
    address=0x36,
    addresses=(0x36,),
    reads=((0x08, 2), (0x02, 4)),
    quantities=("percent", "volts"),
    decode=_decode_max17048,
    is_like=_is_like_max17048,
)
