"""The picture that a camera puts into its own files, and what counts as a picture at all."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from syncagent.core.preview import embedded_thumbnail, is_picture_name, picture_type
from tests import pictures


def small(size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    pictures.drawing(size).save(file, "JPEG")
    return file.getvalue()


def with_thumbnail(order: str = "<", thumbnail: bytes | None = None) -> bytes:
    """A picture whose camera says that it lies on its side, with a thumbnail."""
    plain = pictures.exif(only_location=True, order=order)
    tags = Image.Exif()
    tags.load(plain)
    tags.endian = order
    tags[0x0112] = pictures.ORIENTATION
    data = pictures.with_thumbnail(tags.tobytes(), order, thumbnail if thumbnail is not None else small())
    file = io.BytesIO()
    pictures.drawing().save(file, "JPEG", exif=data)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_cameras_own_thumbnail_is_found_and_told_which_way_is_up(order: str) -> None:
    found = embedded_thumbnail(with_thumbnail(order))
    assert found is not None
    with Image.open(io.BytesIO(found)) as picture:
        picture.load()
        assert picture.size == (16, 12)
        assert picture.getexif()[0x0112] == pictures.ORIENTATION
    assert found[:2] + found[found.index(b"\xff\xe0") :] == small()


@pytest.mark.parametrize("thumbnail", [b"", b"<svg>", b"\xff\xd8"])
def test_what_is_no_thumbnail_is_none(thumbnail: bytes) -> None:
    assert embedded_thumbnail(with_thumbnail(thumbnail=thumbnail)) is None


def test_a_thumbnail_that_is_cut_off_is_none() -> None:
    head = with_thumbnail()
    assert embedded_thumbnail(head[: head.index(small()) + 100]) is None


def test_a_picture_without_one_has_none() -> None:
    assert embedded_thumbnail(small()) is None
    assert embedded_thumbnail(b"") is None
    assert embedded_thumbnail(b"II*\0" + bytes(100)) is None


@given(st.integers(0, 600), st.binary(min_size=1, max_size=6))
def test_a_damaged_header_never_raises(at: int, junk: bytes) -> None:
    head = bytearray(DAMAGED)
    head[at : at + len(junk)] = junk
    found = embedded_thumbnail(bytes(head))
    assert found is None or picture_type(found) == "image/jpeg"


DAMAGED = with_thumbnail()


def test_only_what_a_browser_shows_safely_is_a_picture() -> None:
    for format_, media_type in (("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif")):
        file = io.BytesIO()
        pictures.drawing((4, 4)).save(file, format_)
        assert picture_type(file.getvalue()) == media_type
    assert picture_type(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    for content in (
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html>",
        b"GIF8",
        b"\xff\xd8",
        b"RIFF----WAVE",
    ):
        assert picture_type(content) is None
    assert is_picture_name("a/B.JPG")
    assert not is_picture_name("a.svg")
    assert not is_picture_name("jpg")
