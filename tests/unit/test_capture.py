"""core/capture.py: the time of capture, and that no damaged header gets in the way."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from syncagent.core.capture import HEAD_BYTES, capture_time


def picture(tags: dict[int, str]) -> bytes:
    """The beginning of a JPEG whose EXIF directory holds `tags`."""
    image, target = Image.new("RGB", (8, 8)), io.BytesIO()
    exif = image.getexif()
    exif[0x8769] = tags  # what `get_ifd` gives, Debian 12's Pillow forgets
    image.save(target, "JPEG", exif=exif)
    return target.getvalue()[:HEAD_BYTES]


def test_the_time_of_capture_is_read_with_its_offset() -> None:
    head = picture({0x9003: "2026:11:22 07:08:09", 0x9011: "+02:00"})
    assert capture_time(head) == "2026-11-22T07:08:09+02:00"


def test_a_raw_picture_that_is_a_tiff_says_it_too() -> None:
    head = picture({0x9003: "2026:11:22 07:08:09"})
    tiff = head[head.index(b"Exif\0\0") + 6 :]
    assert capture_time(tiff) == "2026-11-22T07:08:09"


def test_without_an_offset_none_is_made_up() -> None:
    assert capture_time(picture({0x9003: "2026:11:22 07:08:09"})) == "2026-11-22T07:08:09"


@pytest.mark.parametrize("value", ["0000:00:00 00:00:00", "yesterday", "2026:11:22"])
def test_a_time_that_is_none_is_not_known(value: str) -> None:
    assert capture_time(picture({0x9003: value})) is None


def test_what_is_no_picture_has_no_time() -> None:
    assert capture_time(b"") is None
    assert capture_time(b"\xff\xd8") is None
    assert capture_time(b"\xff\xd8\xff\xe1\x00\x04ab") is None


@pytest.mark.parametrize("place", [(1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_a_directory_beyond_what_a_machine_can_address_is_not_known(place: int) -> None:
    assert capture_time(b"MM\0*" + struct.pack(">I", place) + bytes(100)) is None
    directory = struct.pack(">HHHIII", 1, 0x8769, 4, 1, place, 0)
    assert capture_time(b"MM\0*" + struct.pack(">I", 8) + directory + bytes(100)) is None


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_is_not_known_or_read_but_never_raises(at: int, junk: bytes) -> None:
    head = bytearray(picture({0x9003: "2026:11:22 07:08:09"}))
    head[at : at + len(junk)] = junk
    said = capture_time(bytes(head))
    assert said is None or len(said) >= 19
