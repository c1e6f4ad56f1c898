"""Identity: AT24MAC402 (EUI-48) and AT24MAC602 (EUI-64).

AT24MAC402/602 (Atmel 8807E, sections 9 to 11): the memory that anyone may write answers at 1010 A2 A1 A0 (0x50 to
0x57); beside it, at 1011 A2 A1 A0 (0x58 to 0x5F), a block that is read-only for ever: a serial number of 128 bits from
80h on, an EUI-48 at 9Ah to 9Fh in an AT24MAC402, an EUI-64 at 98h to 9Fh in an AT24MAC602. An EUI begins with the 24
bits of its maker, Atmel's FC-C2-3D or one of Microchip's. No check sum (no PEC, no CRC): whoever reads compares two
readings.
"""

from __future__ import annotations

from syncagent.core.parts.base import Blocks, Lying, Options, Part, Reading, Role, check_alive

#: Atmel's, then those of Microchip, who bought it.
MAKERS = frozenset(
    bytes.fromhex(maker)
    for maker in ("fcc23d", "000425", "0004a3", "001ec0", "049162", "5410ec", "682719", "801f12", "803428", "d88039")
)
EUI64_BYTES = 8
EUI48_BYTES = 6
_GROUP = 0x01


def decode_eui(block: bytes) -> str:
    """98h to 9Fh as hexadecimal digits: all of it if it begins as an EUI-64 does, else the EUI-48 at its end.

    Raises: Lying.
    """
    check_alive([block])
    is_eui64 = block[:3] in MAKERS and block[2:5] not in MAKERS
    eui = block if is_eui64 else block[EUI64_BYTES - EUI48_BYTES :]
    check_alive([eui])
    if eui[0] & _GROUP:
        raise Lying(f"{eui.hex()} is the address of a group, not of a part")
    return eui.hex()


def _decode(blocks: Blocks, _options: Options) -> Reading:
    return Reading(eui=decode_eui(blocks[0]))


def _is_like(blocks: Blocks) -> bool:
    block = blocks[0]
    return block[:3] in MAKERS or block[2:5] in MAKERS


AT24MAC = Part(
    source="at24mac",
    role=Role.IDENTITY,
    address=0x58,
    addresses=tuple(range(0x58, 0x60)),
    reads=((0x98, EUI64_BYTES),),
    quantities=(),
    decode=_decode,
    is_like=_is_like,
)
