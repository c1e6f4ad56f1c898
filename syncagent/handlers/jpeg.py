"""JPEG files: their segments, and what in those tells where the picture was taken.

Promises: `erase_location` changes bytes of EXIF and XMP segments only and moves none, so the picture's own data, and
whatever points by offset (maker notes, indexes of several pictures in one file), stay as they are.
Not searched: maker notes, comments, captions, and the names of places in IPTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from syncagent.handlers import xmp
from syncagent.handlers.tiff import Damaged, Tiff

_APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xDA, 0xD9
_START = b"\xff\xd8"
_EXIF = (b"Exif\0\0", b"Exif\0\xff")
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
#: Behind the name: GUID, length of the whole, place of this piece.
_MORE_XMP_HEAD = len(_MORE_XMP) + 32 + 8
#: In the picture's own data, 0xFF is followed by 0 or by a number of restart markers; what else is the next segment.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
#: What the camera of a Raspberry Pi appends: the sensor's raw data.
_SENSOR_DATA = b"BRCM"
_DEEPEST = 3

Segment = tuple[int, int, int]  # marker, and its payload's first byte and the one behind its last


def is_jpeg(head: bytes) -> bool:
    return head.startswith(b"\xff\xd8\xff")


def erase_location(data: bytearray) -> bool:
    """Take every location out of a JPEG file. False when there was none. Raises Damaged."""
    with memoryview(data) as view:
        return _erase(view, depth=0)


def _erase(data: memoryview, *, depth: int) -> bool:
    """The same for a stretch that begins with a picture, and for the pictures behind it."""
    if depth > _DEEPEST:
        raise Damaged("the pictures in this picture never end")
    found = False
    at = 0
    while at < len(data):
        segments = list(_segments(data, at))
        found = _erase_from(data, segments, depth) or found
        end = segments[-1][2]
        at = _next_picture(data, end)
    return found


def _segments(data: memoryview, at: int) -> Iterator[Segment]:
    """The segments of one picture; the last one is the end marker. Raises Damaged."""
    if bytes(data[at : at + 2]) != _START:
        raise Damaged("the picture has no beginning")
    at += 2
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == _END_OF_IMAGE:
            yield marker, at + 2, at + 2
            return
        start, at = at + 4, at + 2
        if marker != 0x01:
            size_bytes = int.from_bytes(data[at : at + 2], "big")
            at += size_bytes
            if size_bytes < 2 or at > len(data):
                raise Damaged("a segment of the picture is longer than the file")
            yield marker, start, at
        if marker == _START_OF_SCAN:
            match = _NEXT_MARKER.search(data, at)
            if match is None:
                break
            at = match.start()
    raise Damaged("the picture ends before its end marker")


def _next_picture(data: memoryview, end: int) -> int:
    """Where the next picture of a file of several begins; the end of the data when there is none. Raises Damaged."""
    rest = bytes(data[end:]).lstrip(b"\0\xff\r\n\t ")
    at = len(data) - len(rest)
    if not rest or rest.startswith(_SENSOR_DATA):
        return len(data)
    # Its own first byte looks like padding.
    if rest.startswith(_START[1:] + b"\xff") and at > end and data[at - 1] == 0xFF:
        return at - 1
    raise Damaged(f"{len(rest)} bytes behind the picture are of an unknown kind and may hold its location")


def _erase_from(data: memoryview, segments: list[Segment], depth: int) -> bool:
    found = False
    more_xmp: list[tuple[int, int]] = []
    for marker, start, end in segments:
        if marker != _APP1:
            continue
        payload = data[start:end]
        if bytes(payload[:6]) in _EXIF:
            found = _erase_from_exif(payload[6:], depth) or found
        elif bytes(payload[: len(_XMP)]) == _XMP:
            found = _erase_from_packet(payload[len(_XMP) :]) or found
        elif bytes(payload[: len(_MORE_XMP)]) == _MORE_XMP:
            more_xmp.append((min(start + _MORE_XMP_HEAD, end), end))
    # A word may be cut by the end of a segment.
    if xmp.mentions_place(b"".join(bytes(data[start:end]) for start, end in more_xmp)):
        found = True
        for start, end in more_xmp:
            data[start:end] = b" " * (end - start)
    return found


def _erase_from_exif(data: memoryview, depth: int) -> bool:
    tiff = Tiff(data)
    places = tiff.find()
    if places.pointers:
        tiff.erase_location(places)
    found = bool(places.pointers)
    for start, end in places.xmp:
        found = _erase_from_packet(data[start:end]) or found
    for start, end in places.thumbnails:
        thumbnail = data[start:end]
        if any(name in bytes(thumbnail) for name in (*_EXIF, _XMP, _MORE_XMP)):
            found = _erase(thumbnail, depth=depth + 1) or found
    return found


def _erase_from_packet(packet: memoryview) -> bool:
    if not xmp.mentions_place(bytes(packet)):
        return False
    packet[:] = xmp.without_place(bytes(packet))
    return True
