"""What `strip_gps` takes out, what it leaves, and what it refuses."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from syncagent.handlers import jpeg, xmp
from syncagent.handlers.strip_gps import strip_gps
from syncagent.handlers.tiff import Damaged
from tests import pictures

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'exif:GPSLatitude="47,22.1845N" xmp:Rating="4"><exif:GPSLongitude>8,32.6838E</exif:GPSLongitude>'
    "<xmp:Label>north field</xmp:Label></rdf:Description></rdf:RDF></x:xmpmeta>"
)

Strip = Callable[..., bytes | None]


@pytest.fixture
def strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Strip:
    """What is sent instead of a file of these bytes; None for the file itself."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)

    def run(picture: bytes, name: str = "a picture.jpg") -> bytes | None:
        (tmp_path / name).write_bytes(picture)
        content: dict[str, object] = {"id": 7, "file_name": name, "disk_path": name}
        returned = strip_gps(dict(content), str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == picture
        if returned == content:
            assert os.listdir(scratch) == []
            return None
        assert returned == {**content, "disk_path": str(scratch / name)}
        return (scratch / name).read_bytes()

    return run


def tags_of(picture: bytes) -> dict[int, str]:
    """Everything but the location, as Pillow reads it."""
    with Image.open(io.BytesIO(picture)) as opened:
        tags = opened.getexif()
        found = {**tags, **tags.get_ifd(ExifTags.IFD.Exif), **tags.get_ifd(ExifTags.IFD.IFD1)}
    return {tag: repr(value) for tag, value in found.items() if tag != ExifTags.IFD.GPSInfo}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_location_is_gone_and_nothing_else(strip: Strip, *, progressive: bool, order: str) -> None:
    picture = pictures.jpeg(progressive=progressive, order=order)
    assert pictures.location_of(picture)
    assert any(rational in picture for rational in pictures.rationals())
    stripped = strip(picture)
    assert stripped is not None
    assert not pictures.location_of(stripped)
    assert not any(rational in stripped for rational in pictures.rationals())
    assert pictures.scan_of(stripped) == pictures.scan_of(picture)
    with Image.open(io.BytesIO(picture)) as before, Image.open(io.BytesIO(stripped)) as after:
        assert after.tobytes() == before.tobytes()
    tags = tags_of(stripped)
    assert tags == tags_of(picture)
    assert tags[ExifTags.Base.Orientation] == repr(pictures.ORIENTATION)
    assert tags[ExifTags.Base.MakerNote] == repr(pictures.MAKER_NOTE)
    assert tags[ExifTags.Base.DateTimeOriginal] == repr("2024:05:17 06:07:08")


def test_no_byte_moves_so_that_offsets_stay_right(strip: Strip) -> None:
    picture = pictures.jpeg()
    stripped = strip(picture)
    assert stripped is not None
    assert len(stripped) == len(picture)
    for kept in (pictures.MAKER_NOTE, pictures.THUMBNAIL, b"Maker of cameras"):
        assert stripped.index(kept) == picture.index(kept)


def test_the_time_of_the_file_stays(strip: Strip, tmp_path: Path) -> None:
    (tmp_path / "old.jpg").write_bytes(pictures.jpeg())
    os.utime(tmp_path / "old.jpg", ns=(1, 1_500_000_000_000_000_007))
    strip_gps({}, str(tmp_path / "old.jpg"))
    assert os.stat("old.jpg").st_mtime_ns == 1_500_000_000_000_000_007


def test_stripping_twice_changes_nothing_more(strip: Strip) -> None:
    stripped = strip(pictures.jpeg())
    assert stripped is not None
    os.unlink("a picture.jpg")
    assert strip(stripped, "again.jpg") is None


def test_a_picture_without_a_location_is_sent_as_it_is(strip: Strip) -> None:
    assert strip(pictures.jpeg(location=False)) is None


def test_exif_of_nothing_but_a_location_becomes_empty(strip: Strip) -> None:
    file = io.BytesIO()
    pictures.drawing().save(file, "JPEG", exif=pictures.exif(only_location=True))
    stripped = strip(file.getvalue())
    assert stripped is not None
    assert not pictures.location_of(stripped)
    assert tags_of(stripped) == {}


def test_an_empty_gps_directory_is_a_location_too(strip: Strip) -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Maker"
    tags[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSVersionID: b"\2\3\0\0"}
    file = io.BytesIO()
    pictures.drawing().save(file, "JPEG", exif=tags)
    assert strip(file.getvalue()) is not None


def test_a_location_in_xmp_is_blanked_and_the_rest_of_the_packet_stays(strip: Strip) -> None:
    picture = pictures.with_segment(pictures.jpeg(location=False), pictures.XMP_HEAD + XMP.encode())
    stripped = strip(picture)
    assert stripped is not None
    assert len(stripped) == len(picture)
    assert b"GPS" not in stripped
    assert b"47,22" not in stripped
    assert b"8,32" not in stripped
    assert b'xmp:Rating="4"' in stripped
    assert b"<xmp:Label>north field</xmp:Label>" in stripped
    assert pictures.XMP_HEAD + b"<x:xmpmeta" in stripped
    with Image.open(io.BytesIO(stripped)) as opened:
        opened.load()


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-be"])
def test_an_xmp_packet_of_wide_characters_is_emptied(strip: Strip, encoding: str) -> None:
    packet = pictures.XMP_HEAD + XMP.encode(encoding)
    stripped = strip(pictures.with_segment(pictures.jpeg(location=False), packet))
    assert stripped is not None
    assert "GPSLatitude".encode(encoding) not in stripped
    assert "47,22".encode(encoding) not in stripped


def test_an_xmp_place_in_an_unknown_vocabulary_empties_the_packet() -> None:
    packet = b'<rdf xmlns:g="http://www.w3.org/2003/01/geo/wgs84_pos#" g:lat="47.1"/>' + b" " * 500
    emptied = xmp.without_place(packet)
    assert len(emptied) == len(packet)
    assert b"47.1" not in emptied
    assert b"<x:xmpmeta" in emptied


def test_extended_xmp_is_emptied_also_when_a_segment_cuts_the_word(strip: Strip) -> None:
    head = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + bytes(8)
    picture = pictures.with_segment(pictures.jpeg(location=False), head + b"PSLatitude>47.1234</")
    picture = pictures.with_segment(picture, head + b"<exif:G")
    stripped = strip(picture)
    assert stripped is not None
    assert b"47.1234" not in stripped


def test_a_location_in_the_thumbnail_is_taken_out_too(strip: Strip) -> None:
    small = io.BytesIO()
    pictures.drawing((32, 24)).save(small, "JPEG", exif=pictures.exif())
    outer = Image.Exif()
    outer[ExifTags.Base.Make] = "Maker"
    file = io.BytesIO()
    exif = pictures.with_thumbnail(outer.tobytes(), ">", small.getvalue())
    pictures.drawing().save(file, "JPEG", exif=exif)
    stripped = strip(file.getvalue())
    assert stripped is not None
    assert not any(rational in stripped for rational in pictures.rationals())


def test_every_picture_of_a_file_of_several_is_stripped(strip: Strip) -> None:
    two = pictures.jpeg(location=False) + bytes(3) + b"\xff" + bytes(9) + pictures.jpeg()
    stripped = strip(two)
    assert stripped is not None
    assert not any(rational in stripped for rational in pictures.rationals())
    assert len(stripped) == len(two)


def test_the_raw_data_of_a_raspberry_pi_camera_stays(strip: Strip) -> None:
    raw = b"BRCM" + bytes(range(256)) * 40
    assert strip(pictures.jpeg(location=False) + raw) is None
    stripped = strip(pictures.jpeg() + raw, "b.jpg")
    assert stripped is not None
    assert stripped.endswith(raw)


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (pictures.jpeg()[:-2], "ends before its end marker"),
        (pictures.jpeg()[:300], "longer than the file"),
        (pictures.jpeg() + b"\0\0\0\x18ftypmp42" + bytes(range(1, 99)), "bytes behind the picture"),
        (pictures.jpeg().replace(b"Exif\0\0II*\0", b"Exif\0\0IIx\0"), "header of a TIFF"),
        (b"", "named like a JPEG"),
        (b"not a picture", "named like a JPEG"),
    ],
    ids=["cut", "cut early", "video behind", "no header", "empty", "text"],
)
def test_a_broken_jpeg_is_refused_rather_than_sent(strip: Strip, picture: bytes, why: str) -> None:
    with pytest.raises(Damaged, match=why):
        strip(picture)


def test_a_location_that_shares_its_place_with_another_tag_is_refused() -> None:
    picture = bytearray(pictures.jpeg())
    tiff = picture.index(b"II*\0")
    entry = picture.index(struct.pack("<HH", 0x8825, 4), tiff)
    own = picture.index(struct.pack("<HH", 0x0110, 2), tiff)  # the model's name is where the GPS directory is
    picture[own + 8 : own + 12] = picture[entry + 8 : entry + 12]
    with pytest.raises(Damaged, match="same place"):
        jpeg.erase_location(picture)


def test_exif_that_points_beyond_what_a_machine_can_address_is_refused_or_stripped(strip: Strip) -> None:
    try:
        stripped = strip(pictures.with_far_exif(pictures.jpeg(), ExifTags.Base.Model))
    except Damaged:
        return
    assert stripped is not None
    assert not any(rational in stripped for rational in pictures.rationals())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_damaged_it_is_refused_or_no_byte_of_the_picture_changes(data: st.DataObject) -> None:
    picture = bytearray(pictures.jpeg())
    scan = len(picture) - len(pictures.scan_of(bytes(picture)))
    for _ in range(data.draw(st.integers(1, 4))):
        picture[data.draw(st.integers(2, scan - 1))] = data.draw(st.integers(0, 255))
    before = bytes(picture)
    try:
        jpeg.erase_location(picture)
    except Damaged:
        return
    assert picture[scan:] == before[scan:]
    assert len(picture) == len(before)


def png(*, exif: bytes = b"", packet: str = "", compressed: bool = False, profile: bool = False) -> bytes:
    texts = PngImagePlugin.PngInfo()
    if packet:
        texts.add_itxt("XML:com.adobe.xmp", packet, zip=compressed)
    if profile:
        texts.add_text("Raw profile type exif", "\nexif\n 4\n00000000")
    file = io.BytesIO()
    pictures.drawing().save(file, "PNG", exif=exif, pnginfo=texts)
    return file.getvalue()


def saved(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    pictures.drawing().save(file, kind, **options)
    return file.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def infe(kind: bytes) -> bytes:
    return box(b"infe", b"\2\0\0\0" + b"\0\1" + b"\0\0" + kind + b"\0")


def heic(kind: bytes) -> bytes:
    meta = box(b"meta", bytes(4) + box(b"iinf", bytes(6) + infe(b"hvc1") + infe(kind)))
    return box(b"ftyp", b"heic\0\0\0\0mif1heic") + meta + box(b"mdat", bytes(100))


def video(inside: bytes) -> bytes:
    return box(b"ftyp", b"isom\0\0\2\0isom") + box(b"mdat", bytes(9)) + box(b"moov", box(b"udta", inside))


LOCATED = {
    "eXIf.png": png(exif=pictures.exif()),
    "xmp.png": png(packet=XMP),
    "zipped.png": png(packet=XMP, compressed=True),
    "profile.png": png(profile=True),
    "exif.webp": saved("WEBP", exif=pictures.exif()),
    "xmp.webp": saved("WEBP", xmp=XMP.encode()),
    "exif.tif": pictures.exif().removeprefix(b"Exif\0\0"),
    "phone.heic": heic(b"Exif"),
    "xmp.heic": heic(b"mime"),
    "film.mp4": video(box(b"\xa9xyz", b"\0\x12\x15\xc7+47.3697+008.5447/")),
    "fuji.raf": b"FUJIFILMCCD-RAW 0201",
    "container.jxl": box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ") + box(b"Exif", bytes(20)),
    "xmp.gif": b"GIF89a" + bytes(7) + b"!\xff\x0bXMP DataXMP" + XMP.encode() + b";",
}
UNLOCATED = {
    "plain.png": png(exif=pictures.exif(location=False), packet="<x:xmpmeta/>"),
    "plain.webp": saved("WEBP", exif=pictures.exif(location=False)),
    "plain.tif": saved("TIFF"),
    "plain.gif": saved("GIF"),
    "plain.bmp": saved("BMP"),
    "plain.heic": heic(b"hvc1"),
    "plain.mp4": video(box(b"name", b"gate")),
    "plain.jxl": box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ") + box(b"jxlc", bytes(20)),
    "table.csv": b"latitude,longitude\n47.1,8.5\n",
    "empty.bin": b"",
}


@pytest.mark.parametrize("name", LOCATED)
def test_another_format_with_a_location_is_refused_by_what_it_is_and_not_by_its_name(strip: Strip, name: str) -> None:
    for given_name in (name, "data.bin"):
        with pytest.raises(Damaged, match=r"location|strip_gps"):
            strip(LOCATED[name], given_name)


@pytest.mark.parametrize("name", UNLOCATED)
def test_another_format_without_a_location_is_sent_as_it_is(strip: Strip, name: str) -> None:
    assert strip(UNLOCATED[name], name) is None


def test_a_small_text_that_unfolds_without_end_is_refused(strip: Strip) -> None:
    bomb = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(64 * 1024 * 1024))
    chunk = struct.pack(">I", len(bomb)) + b"iTXt" + bomb + bytes(4)
    with pytest.raises(Damaged, match="too large"):
        strip(b"\x89PNG\r\n\x1a\n" + chunk, "bomb.png")
