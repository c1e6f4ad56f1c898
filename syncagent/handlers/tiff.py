"""The structure that TIFF files and EXIF share: directories of tags that point into the same stretch of bytes.

Promises: `erase_location` changes no offset and no length, so what points by offset (maker notes do) stays right;
every byte that held a position is zero afterwards. What cannot be read is Damaged, never "has none".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

GPS = 0x8825
_XMP = 0x02BC
#: EXIF, interoperability, and the pictures within a picture.
_POINTERS = (0x8769, 0xA005, 0x014A)
_THUMBNAIL, _THUMBNAIL_SIZE = 0x0201, 0x0202
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MOST_DIRECTORIES = 1024

Span = tuple[int, int]  # first byte, and the one behind the last


class Damaged(ValueError):
    """Not what it says it is: whether it holds a location cannot be told."""


@dataclass(slots=True)
class Findings:
    """What one walk over all directories met. Places are relative to the header."""

    pointers: list[tuple[int, int]] = field(default_factory=list)  # (directory, index of its entry) of each GPS tag
    gps: list[Span] = field(default_factory=list)  # what the GPS directories occupy
    rest: list[Span] = field(default_factory=list)  # what all others occupy
    xmp: list[Span] = field(default_factory=list)
    thumbnails: list[Span] = field(default_factory=list)


class Tiff:
    """Directories of tags in `data`, which begins with the header and is changed in place."""

    def __init__(self, data: memoryview) -> None:
        """Raises Damaged."""
        self._data = data
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
        if order is None:
            raise Damaged("EXIF does not begin with the header of a TIFF file")
        self._order = order

    def find(self) -> Findings:
        """Raises Damaged."""
        found = Findings()
        seen: set[int] = set()
        waiting = [self._number(4, 4)]
        while waiting:
            at = waiting.pop()
            if at == 0 or at in seen:
                continue
            seen.add(at)
            if len(seen) > _MOST_DIRECTORIES:
                raise Damaged("EXIF has too many directories")
            waiting += self._take(at, found)
        return found

    def erase_location(self, found: Findings) -> None:
        """Zero what the GPS directories occupy, and take out the tags that point there. Raises Damaged."""
        for start, end in found.gps:
            if any(start < their_end and their_start < end for their_start, their_end in found.rest):
                raise Damaged("EXIF keeps its location and other tags in the same place")
        for start, end in found.gps:
            self._data[start:end] = bytes(end - start)
        for directory, index in sorted(found.pointers, reverse=True):
            count = self._number(directory, 2)
            entry, end = directory + 2 + 12 * index, directory + 2 + 12 * count
            # The entries behind it move up, and with them the pointer to the next directory.
            end = min(end + 4, len(self._data))
            self._data[entry : end - 12] = bytes(self._data[entry + 12 : end])
            self._data[end - 12 : end] = bytes(12)
            struct.pack_into(self._order + "H", self._data, directory, count - 1)

    def _take(self, at: int, found: Findings) -> Iterator[int]:
        """Note what one directory holds; the directories that it leads to."""
        count = self._number(at, 2)
        behind = at + 2 + 12 * count
        self._check(behind)
        found.rest.append((at, min(behind + 4, len(self._data))))
        thumbnail = [0, 0]
        for index in range(count):
            tag, kind, values, entry = self._entry(at, index)
            start, end = self._span(kind, values, entry)
            if tag == GPS:
                found.pointers.append((at, index))
                found.gps += self._location(self._number(entry + 8, 4))
                continue
            if end - start > 4:
                found.rest.append((start, end))
            if tag in _POINTERS:
                yield from (self._number(place, 4) for place in range(start, end - 3, 4))
            elif tag == _XMP:
                found.xmp.append((start, end))
            elif tag in (_THUMBNAIL, _THUMBNAIL_SIZE):
                thumbnail[tag - _THUMBNAIL] = self._number(entry + 8, 4)
        start, size_bytes = thumbnail
        if size_bytes and start + size_bytes <= len(self._data):
            found.thumbnails.append((start, start + size_bytes))
            found.rest.append((start, start + size_bytes))
        if behind + 4 <= len(self._data):
            yield self._number(behind, 4)

    def _location(self, at: int) -> Iterator[Span]:
        """What a GPS directory occupies."""
        count = self._number(at, 2)
        behind = at + 2 + 12 * count
        self._check(behind)
        yield at, behind
        for index in range(count):
            _, kind, values, entry = self._entry(at, index)
            if kind not in _SIZES:
                raise Damaged("EXIF has a location of an unknown type")
            start, end = self._span(kind, values, entry)
            if end - start > 4:
                yield start, end

    def _entry(self, directory: int, index: int) -> tuple[int, int, int, int]:
        """(tag, type, number of values, place) of an entry."""
        entry = directory + 2 + 12 * index
        return self._number(entry, 2), self._number(entry + 2, 2), self._number(entry + 4, 4), entry

    def _span(self, kind: int, values: int, entry: int) -> Span:
        """Where the values of an entry are, as far as there is anything."""
        size_bytes = _SIZES.get(kind, 0) * values
        start = entry + 8 if size_bytes <= 4 else self._number(entry + 8, 4)
        return min(start, len(self._data)), min(start + size_bytes, len(self._data))

    def _number(self, at: int, size_bytes: int) -> int:
        self._check(at + size_bytes)
        (number,) = struct.unpack_from(self._order + {2: "H", 4: "I"}[size_bytes], self._data, at)
        return int(number)

    def _check(self, end: int) -> None:
        if end > len(self._data):
            raise Damaged("EXIF points behind its own end")
