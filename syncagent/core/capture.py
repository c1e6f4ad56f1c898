"""When a picture was taken, read from its first bytes: EXIF in JPEG and in TIFF-based raw formats.

Source of the numbers: CIPA DC-008 (Exif 3.0), tags 0x8769, 0x9003 and 0x9011; TIFF 6.0, image file directories.
Anything malformed is "not known": a damaged header must never stop a picture.
"""

from __future__ import annotations

import re
import struct

#: Enough for the EXIF segment of a JPEG, which is at most 64 KiB and comes first.
HEAD_BYTES = 128 * 1024

_EXIF_DIRECTORY, _DATE_TIME, _DATE_TIME_ORIGINAL, _OFFSET_TIME_ORIGINAL = 0x8769, 0x0132, 0x9003, 0x9011
_ASCII = 2
_MAX_ENTRIES = 512
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


def capture_time(head: bytes) -> str | None:
    """The time of capture as "YYYY-MM-DDTHH:MM:SS", with its UTC offset where the camera says it; None if unknown."""
    try:
        tiff = tiff_of(head)
        return _read(tiff) if tiff is not None else None
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError):
        return None  # OverflowError: a place beyond 2 GiB, on a 32-bit system


def tiff_of(head: bytes) -> bytes | None:
    """The TIFF structure inside of a file."""
    if head[:4] in (b"II*\0", b"MM\0*"):
        return head
    if head[:2] != b"\xff\xd8":
        return None
    at = 2
    while head[at : at + 1] == b"\xff":
        marker, size = head[at + 1], struct.unpack_from(">H", head, at + 2)[0]
        if marker == 0xDA or size < 2:  # the picture itself begins
            return None
        if marker == 0xE1 and head[at + 4 : at + 10] == b"Exif\0\0":
            return head[at + 10 : at + 2 + size]
        at += 2 + size
    return None


def _read(tiff: bytes) -> str | None:
    order = "<" if tiff[:2] == b"II" else ">"
    first = entries_of(tiff, order, struct.unpack_from(order + "I", tiff, 4)[0])
    tags = dict(first)
    if _EXIF_DIRECTORY in first:
        tags |= entries_of(tiff, order, first[_EXIF_DIRECTORY][2])
    text = _text(tiff, tags.get(_DATE_TIME_ORIGINAL) or tags.get(_DATE_TIME))
    match = _TIME.fullmatch(text or "")
    if match is None or match[1] == "0000":
        return None
    year, month, day, hour, minute, second = match.groups()
    offset = _text(tiff, tags.get(_OFFSET_TIME_ORIGINAL)) or ""
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}{offset if _OFFSET.fullmatch(offset) else ''}"


def entries_of(tiff: bytes, order: str, at: int) -> dict[int, tuple[int, int, int]]:
    """tag -> (type, count, value or offset) of one directory."""
    count = min(struct.unpack_from(order + "H", tiff, at)[0], _MAX_ENTRIES)
    found = {}
    for number in range(count):
        tag, kind, length, value = struct.unpack_from(order + "HHII", tiff, at + 2 + 12 * number)
        found[tag] = (kind, length, value)
    return found


def _text(tiff: bytes, entry: tuple[int, int, int] | None) -> str | None:
    if entry is None or entry[0] != _ASCII or not 4 < entry[1] <= 64:
        return None
    return tiff[entry[2] : entry[2] + entry[1]].rstrip(b"\0 ").decode("ascii")
