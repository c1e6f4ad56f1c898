"""Thermometers: LM75 and its many copies, and TMP102.

Neither has a check sum (no PEC, no CRC) or a register that names it: whoever reads compares two readings. Nothing is
ever written to them.

LM75 (Texas Instruments SNIS153, LM75A: NXP LM75A rev. 4): 00h temperature, 01h configuration (8 bits, 7 to 5 are 0),
02h THYST (4B00h, 75 degrees), 03h TOS (5000h, 80 degrees). The temperature is left-justified two's complement, its
high byte the degrees: 9 bits (half a degree) in an LM75, 11 in an LM75A, up to 13 in copies. What lies below is
undefined.

TMP102 (Texas Instruments SBOS397, tables 5 to 8): 00h temperature, 01h configuration (60A0h after power-on; R1 R0, bits
14 and 13, always 1; bits 3 to 0 always 0). Normal mode: 12 bits, bits 15 to 4. Extended mode: 13 bits, bits 15 to 3,
and bit 0 of the temperature says so. Either way 0.0625 degrees a bit.
"""

from __future__ import annotations

from syncagent.core.parts.base import Blocks, Lying, Options, Part, Reading, Role, check_alive, signed, within, word

STEP_C = 0.0625


def decode_lm75(register: int, *, bits: int = 9) -> float:
    """LM75, 00h, of which `bits` count: 1900h is +25 degrees, FF80h is -0.5. Raises: Lying."""
    kept = register & (0xFFFF << (16 - bits)) & 0xFFFF
    return within("a temperature", signed(kept, 16) / 256, -55, 125, "°C")


def decode_tmp102(register: int) -> float:
    """TMP102, 00h: 1900h is +25 degrees, 4B01h in extended mode +150. Raises: Lying."""
    if register & 0x01:
        return within("a temperature", signed(register >> 3, 13) * STEP_C, -55, 150, "°C")
    return within("a temperature", signed(register >> 4, 12) * STEP_C, -55, 128, "°C")


def _decode_lm75(blocks: Blocks, options: Options) -> Reading:
    check_alive(blocks)
    return Reading({"celsius": decode_lm75(word(blocks[-1]), bits=options.bits)})


def _is_like_lm75(blocks: Blocks) -> bool:
    tos, thyst, configuration = word(blocks[0]), word(blocks[1]), blocks[2][0]
    try:
        _decode_lm75(blocks, Options())
        limits = decode_lm75(tos), decode_lm75(thyst)
    except Lying:
        return False
    # The limits have nine bits in every copy.
    return limits[0] > limits[1] and not (tos | thyst) & 0x7F and not configuration & 0xE0


def _decode_tmp102(blocks: Blocks, _options: Options) -> Reading:
    check_alive(blocks)
    return Reading({"celsius": decode_tmp102(word(blocks[-1]))})


def _is_like_tmp102(blocks: Blocks) -> bool:
    configuration, register = (word(block) for block in blocks)
    try:
        _decode_tmp102(blocks, Options())
    except Lying:
        return False
    is_extended = bool(configuration & 0x10)
    return configuration & 0x600F == 0x6000 and is_extended == bool(register & 0x01)


LM75 = Part(
    source="lm75",
    role=Role.THERMOMETER,
    address=0x48,
    addresses=tuple(range(0x48, 0x50)),
    reads=((0x03, 2), (0x02, 2), (0x01, 1), (0x00, 2)),
    quantities=("celsius",),
    decode=_decode_lm75,
    is_like=_is_like_lm75,
)
TMP102 = Part(
    source="tmp102",
    role=Role.THERMOMETER,
    address=0x48,
    addresses=tuple(range(0x48, 0x4C)),
    reads=((0x01, 2), (0x00, 2)),
    quantities=("celsius",),
    decode=_decode_tmp102,
    is_like=_is_like_tmp102,
)
