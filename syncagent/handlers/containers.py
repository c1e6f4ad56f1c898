"""Files other than JPEG: whether they tell where they were taken. Nothing here changes them.

Promises: `location_in` says "" only for a file that holds no location in a place where its format keeps one, or whose
format keeps none. What is not understood counts as a location.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from typing import IO

from syncagent.handlers import jpeg, xmp
from syncagent.handlers.tiff import Damaged, Tiff

#: A larger one cannot be searched on a small board.
MOST_BYTES = 256 * 1024 * 1024
_MOST_METADATA_BYTES = 32 * 1024 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
#: Raw files of cameras, and the TIFF files above 4 GiB.
_UNKNOWN = (
    *(b"II+\0", b"MM\0+", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"),
    *(b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAP"),
)
#: Kinds of boxes, and words in them, by which videos tell a place.
#: In upper and lower case as they are: tables of a video are long enough to hold three given letters by chance.
_IN_BOXES = re.compile(rb"\xa9xyz|loci|location\.ISO6709|gpmd|camm|gps[ 0]|GPS[ 0]|G[Pp][Ss]L(?:at|on)|[Ll]atitude")
_VIDEO_BRANDS = re.compile(rb"isom|iso[2-9a]|mp4\d|avc1|qt  |M4V.|M4A.|3g[pr2].|MSNV|dash|f4v ")

_CANNOT_TELL = "it is of a kind in which strip_gps cannot search for a location"


def location_in(path: str) -> str:
    """Why this file may tell where it was taken, in words; "" when it does not."""
    with open(path, "rb") as file:
        head = file.read(16)
        if head.startswith(_UNKNOWN):
            return _CANNOT_TELL
        if head.startswith(_PNG):
            return _in_png(file)
        if head.startswith(_TIFF):
            return _in_tiff(file)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _in_webp(file)
        if head[4:8] == b"ftyp" or head[4:8] in (b"JXL ", b"jP  ", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _in_boxes(file)
        if head.startswith(b"GIF8"):
            return _in_gif(file)
    return ""


def _size_bytes(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _whole(file: IO[bytes]) -> bytearray:
    if _size_bytes(file) > MOST_BYTES:
        raise Damaged(f"it is larger than {MOST_BYTES} bytes and cannot be searched for a location")
    file.seek(0)
    return bytearray(file.read())


def _in_exif(data: bytes) -> str:
    data = data.removeprefix(b"Exif\0\0")
    with memoryview(bytearray(data)) as view:
        found = Tiff(view).find()
        if found.pointers:
            return "its EXIF holds a location"
        if any(xmp.mentions_place(bytes(view[start:end])) for start, end in found.xmp):
            return "its XMP holds a location"
        for start, end in found.thumbnails:
            preview = bytearray(view[start:end])
            if b"Exif\0" in preview and jpeg.erase_location(preview):
                return "the EXIF of its preview holds a location"
    return ""


def _in_tiff(file: IO[bytes]) -> str:
    return _in_exif(bytes(_whole(file)))


def _in_xmp(packet: bytes) -> str:
    return "its XMP holds a location" if xmp.mentions_place(packet) else ""


def _in_png(file: IO[bytes]) -> str:
    file.seek(len(_PNG))
    left = _size_bytes(file) - len(_PNG)
    while left >= 12:
        size_bytes, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        left -= 12 + size_bytes
        if left < 0:
            return "it is damaged"
        if kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            reason = _in_png_chunk(kind, _bounded(file, size_bytes))
            if reason:
                return reason
            file.seek(4, os.SEEK_CUR)
        else:
            file.seek(size_bytes + 4, os.SEEK_CUR)
        if kind == b"IEND":
            return ""
    return "it is damaged"


def _in_png_chunk(kind: bytes, data: bytes) -> str:
    if kind == b"eXIf":
        return _in_exif(data)
    name, _, text = data.partition(b"\0")
    if name.lower().startswith(b"raw profile type"):  # EXIF written as hexadecimal text
        return "it holds EXIF in a text, in which strip_gps cannot search for a location"
    if b"xmp" not in name.lower():
        return ""
    is_compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"iTXt":
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif kind == b"zTXt":
        text = text[1:]
    return _in_xmp(_inflated(text) if is_compressed else text)


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, _MOST_METADATA_BYTES)
    if not inflater.eof:
        raise Damaged("its XMP is damaged or too large to be searched for a location")
    return text


def _in_webp(file: IO[bytes]) -> str:
    file.seek(12)
    left = _size_bytes(file) - 12
    while left >= 8:
        kind, size_bytes = file.read(4), int.from_bytes(file.read(4), "little")
        padded = size_bytes + size_bytes % 2
        left -= 8 + padded
        if left < -1:  # some writers leave out the last byte of padding
            return "it is damaged"
        if kind not in (b"EXIF", b"XMP "):
            file.seek(padded, os.SEEK_CUR)
            continue
        data = _bounded(file, size_bytes)
        file.seek(padded - size_bytes, os.SEEK_CUR)
        reason = _in_exif(data) if kind == b"EXIF" else _in_xmp(data)
        if reason:
            return reason
    return ""


def _in_gif(file: IO[bytes]) -> str:
    data = bytes(_whole(file))
    at = data.find(b"XMP DataXMP")
    return _in_xmp(data[at:]) if at >= 0 else ""


def _in_boxes(file: IO[bytes]) -> str:
    """HEIC, AVIF, JPEG XL, JPEG 2000 and videos: boxes, each with its length and kind."""
    brand = b""
    for kind, size_bytes in _boxes(file):
        if kind == b"ftyp":
            brand = _bounded(file, min(size_bytes, 4))
        elif kind in (b"Exif", b"xml ", b"brob"):
            return _CANNOT_TELL
        elif kind in (b"moov", b"meta", b"moof", b"udta", b"uuid"):
            data = _bounded(file, size_bytes)
            if kind == b"uuid" and not _VIDEO_BRANDS.match(brand):
                return _CANNOT_TELL
            if kind == b"meta" and re.search(rb"infe.{8,10}(Exif|mime)", data, re.DOTALL):
                return "it holds EXIF or XMP, in which strip_gps cannot search for a location"
            if _IN_BOXES.search(data):
                return "it holds a location"
    return ""


def _boxes(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """(kind, bytes of content) of each box on the first level, the file standing at its content."""
    at, end = 0, _size_bytes(file)
    while at + 8 <= end:
        file.seek(at)
        size_bytes, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        head = 8
        if size_bytes == 1:
            size_bytes, head = int.from_bytes(file.read(8), "big"), 16
        elif size_bytes == 0:
            size_bytes = end - at
        if size_bytes < head or at + size_bytes > end:
            raise Damaged("it is damaged")
        yield kind, size_bytes - head
        at += size_bytes


def _bounded(file: IO[bytes], size_bytes: int) -> bytes:
    if size_bytes > _MOST_METADATA_BYTES:
        raise Damaged("its metadata is too large to be searched for a location")
    return file.read(size_bytes)
