"""Small pictures for the page, without decoding any: the one that a camera puts into its own files.

Source of the numbers: CIPA DC-008 (Exif 3.0), tags 0x0112, 0x0201 and 0x0202; the first bytes of each format.
Anything malformed is "none": a damaged header must never stop the page.
"""

from __future__ import annotations

import struct

from syncagent.core.capture import entries_of, tiff_of

#: Names of files that a browser shows.
ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp")
#: EXIF has no room for more.
MAX_EMBEDDED_BYTES = 64 * 1024

_ORIENTATION, _OFFSET, _LENGTH = 0x0112, 0x0201, 0x0202
_SHORT = 3


def is_picture_name(path: str) -> bool:
    return path.lower().endswith(ENDINGS)


def picture_type(head: bytes) -> str | None:
    """The media type by a file's first bytes, whatever its name; None for anything that is not shown."""
    if head[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def embedded_thumbnail(head: bytes) -> bytes | None:
    """The JPEG within the EXIF header of a JPEG, told which way is up; None when there is none."""
    if head[:2] != b"\xff\xd8":
        return None
    try:
        tiff = tiff_of(head)
        return _thumbnail(tiff) if tiff is not None else None
    except (struct.error, IndexError):
        return None


def _thumbnail(tiff: bytes) -> bytes | None:
    order = "<" if tiff[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, first)
    (second,) = struct.unpack_from(order + "I", tiff, first + 2 + 12 * count)
    if not second:
        return None
    tags = entries_of(tiff, order, second)
    if _OFFSET not in tags or _LENGTH not in tags:
        return None
    start, size = tags[_OFFSET][2], tags[_LENGTH][2]
    found = tiff[start : start + size]
    if not 0 < size <= MAX_EMBEDDED_BYTES or len(found) != size or picture_type(found) != "image/jpeg":
        return None
    kind, _, value = entries_of(tiff, order, first).get(_ORIENTATION, (0, 0, 0))
    turn = (value >> 16 if order == ">" else value & 0xFFFF) if kind == _SHORT else 0
    return found[:2] + _turned(turn) + found[2:] if 1 < turn <= 8 else found


def _turned(turn: int) -> bytes:
    """An EXIF segment that says nothing but which way is up: browsers turn the picture, and a camera's own
    thumbnail lies as its sensor does."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, _SHORT, 1, turn, 0, 0)
    payload = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
