"""What `thumbnail` adds, and when it adds nothing."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from syncagent.handlers.thumbnail import LONGEST_SIDE, thumbnail
from tests import pictures


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    return scratch


def made(tmp_path: Path, data: bytes, name: str = "frame.jpg") -> bytes | None:
    """The bytes of the thumbnail of a file; None when it is sent alone."""
    (tmp_path / name).write_bytes(data)
    content: dict[str, object] = {"id": 7, "file_name": name}
    original, *thumbs = thumbnail(dict(content), str(tmp_path / name))
    assert original == content
    if not thumbs:
        assert os.listdir() == []
        return None
    (thumb,) = thumbs
    path = str(thumb["disk_path"])
    assert os.path.dirname(path) == os.getcwd()
    with open(path, "rb") as file:
        return file.read()


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def test_the_thumbnail_is_small_and_upright_and_knows_no_place(tmp_path: Path) -> None:
    data = made(tmp_path, pictures.jpeg(comment=b"at the north gate"))
    assert data is not None
    small = opened(data)
    assert small.format == "JPEG"
    assert max(small.size) == LONGEST_SIDE
    assert small.size == (240, 320)  # 400 x 300, turned by its orientation
    assert not small.getexif()
    assert b"Exif" not in data
    assert b"gate" not in data
    wanted = pictures.drawing().transpose(Image.Transpose.ROTATE_270).resize(small.size)
    for x, y in ((5, 5), (234, 5), (5, 314), (234, 314)):
        found, asked = small.getpixel((x, y)), wanted.getpixel((x, y))
        assert isinstance(found, tuple)
        assert isinstance(asked, tuple)
        assert all(abs(one - other) < 16 for one, other in zip(found, asked, strict=True))


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    assert made(tmp_path, pictures.jpeg()) == made(tmp_path, pictures.jpeg(), "another.jpg")


def test_its_content_has_the_id_and_a_name_beside_the_picture(tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "17.jpg"
    path.write_bytes(pictures.jpeg())
    content: dict[str, object] = {
        "id": "a",
        "time": 5,
        "file_name": "cam1/17.jpg",
        "cloud_path": "x/17.jpg",
        "plot": 3,
        "disk_path": str(path),
    }
    assert thumbnail(dict(content), str(path)) == [
        content,
        {
            "id": "a",
            "time": 5,
            "file_name": "cam1/17.thumb.jpg",
            "cloud_path": "x/17.thumb.jpg",
            "thumbnail_of": "cam1/17.jpg",
            "disk_path": str(scratch / "thumbnail.jpg"),
        },
    ]


def test_without_a_file_name_the_path_gives_it(tmp_path: Path) -> None:
    (tmp_path / "17.jpg").write_bytes(pictures.jpeg())
    _, thumb = thumbnail({}, str(tmp_path / "17.jpg"))
    assert thumb["file_name"] == "17.thumb.jpg"
    assert "id" not in thumb


@pytest.mark.parametrize("tag", [0x0110, 0x8769])
def test_exif_that_points_beyond_what_a_machine_can_address_is_no_fault_of_the_handler(
    tmp_path: Path, tag: int
) -> None:
    made(tmp_path, pictures.with_far_exif(pictures.jpeg(), tag))


def test_a_small_picture_is_not_blown_up(tmp_path: Path) -> None:
    assert opened(made(tmp_path, saved(pictures.drawing((20, 10)), "PNG"), "a.png")).size == (20, 10)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_other_formats_have_thumbnails_too(tmp_path: Path, kind: str) -> None:
    assert opened(made(tmp_path, saved(pictures.drawing(), kind), "a.x")).size == (320, 240)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_a_colour_picture(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        grey = Image.frombytes("I;16", (64, 64), struct.pack("<H", 0x8000) * 64 * 64)
        small = opened(made(tmp_path, saved(grey, "TIFF"), "a.tif"))
        assert small.getpixel((9, 9)) == (128, 128, 128)
    else:
        picture = pictures.drawing().convert(mode)
        small = opened(made(tmp_path, saved(picture, "TIFF" if mode == "CMYK" else "PNG"), "a.x"))
        assert small.size == (320, 240)
    assert small.mode == "RGB"


def test_what_shines_through_is_white(tmp_path: Path) -> None:
    glass = Image.new("RGBA", (50, 50), (0, 0, 0, 0))
    assert opened(made(tmp_path, saved(glass, "PNG"), "a.png")).getpixel((25, 25)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("log.txt", b"no picture"),
        ("empty.jpg", b""),
        ("cut.jpg", pictures.jpeg()[:3000]),
        ("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
    ],
)
def test_what_is_no_picture_is_sent_alone(tmp_path: Path, name: str, data: bytes) -> None:
    assert made(tmp_path, data, name) is None


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, side: int) -> None:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(Image.DecompressionBombError, match="decompression bomb"):
        made(tmp_path, b"\x89PNG\r\n\x1a\n" + chunk + bytes(4) + b"IDAT", "bomb.png")


def test_a_disk_that_cannot_be_read_is_not_taken_for_a_broken_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        thumbnail({}, str(tmp_path / "gone.jpg"))
