"""Pictures that know where they were taken, made with Pillow."""

from __future__ import annotations

import io
import struct

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

MAKER_NOTE = b"MAKER\0" + bytes(range(256))
THUMBNAIL = b"\xff\xd8\xff\xdb\0\4\0\0\xff\xd9"
ORIENTATION = 6
#: 47° 22' 11.07" N, 8° 32' 41.03" E: numbers that stand nowhere else.
LATITUDE = ((4700019, 100000), (2200031, 100000), (1107007, 100000))
LONGITUDE = ((800047, 100000), (3200059, 100000), (4103083, 100000))
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


def rationals() -> list[bytes]:
    """The coordinates as they stand in a file, in both byte orders."""
    pairs = [*LATITUDE, *LONGITUDE]
    return [struct.pack(order + "II", *pair) for order in "<>" for pair in pairs]


def drawing(size: tuple[int, int] = (400, 300)) -> Image.Image:
    """No two of its corners are alike."""
    gradient = Image.linear_gradient("L")
    parts = (gradient, gradient.rotate(90), gradient.rotate(180))
    return Image.merge("RGB", parts).resize(size)


def exif(*, location: bool = True, only_location: bool = False, order: str = "<") -> bytes:
    """EXIF with a maker note, a thumbnail directory, and where it was taken."""
    tags = Image.Exif()
    tags.endian = order
    if not only_location:
        tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "Maker of cameras", "Model 7"
        tags[ExifTags.Base.Orientation], tags[ExifTags.Base.Software] = ORIENTATION, "software, version 1"
        # Directories are put in as they are: what `get_ifd` gives, Debian 12's Pillow forgets.
        tags[ExifTags.IFD.Exif] = {
            ExifTags.Base.DateTimeOriginal: "2024:05:17 06:07:08",
            ExifTags.Base.MakerNote: MAKER_NOTE,
            ExifTags.Base.SubjectDistance: IFDRational(0, 0),  # not known, hence not equal to itself
        }
    if location:
        tags[ExifTags.IFD.GPSInfo] = {
            ExifTags.GPS.GPSVersionID: b"\2\3\0\0",
            ExifTags.GPS.GPSLatitudeRef: "N",
            ExifTags.GPS.GPSLatitude: tuple(IFDRational(*pair) for pair in LATITUDE),
            ExifTags.GPS.GPSLongitudeRef: "E",
            ExifTags.GPS.GPSLongitude: tuple(IFDRational(*pair) for pair in LONGITUDE),
            ExifTags.GPS.GPSDateStamp: "2024:05:17",
        }
    return tags.tobytes() if only_location else with_thumbnail(tags.tobytes(), order)


def with_thumbnail(data: bytes, order: str, thumbnail: bytes = THUMBNAIL) -> bytes:
    """The EXIF with a second directory, which holds a thumbnail."""
    tiff = bytearray(data.removeprefix(b"Exif\0\0"))
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, first)
    struct.pack_into(order + "I", tiff, first + 2 + 12 * count, len(tiff))
    behind = len(tiff) + 2 + 3 * 12 + 4
    directory = struct.pack(order + "H", 3)
    directory += struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
    directory += struct.pack(order + "HHII", 0x0201, 4, 1, behind)
    directory += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail))
    return b"Exif\0\0" + bytes(tiff) + directory + bytes(4) + thumbnail


def jpeg(*, location: bool = True, progressive: bool = False, order: str = "<", comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    drawing().save(
        file, "JPEG", quality=90, exif=exif(location=location, order=order), progressive=progressive, comment=comment
    )
    return file.getvalue()


def with_segment(picture: bytes, payload: bytes, marker: int = 0xE1) -> bytes:
    """A JPEG file with one more segment, right behind the start."""
    head = bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big")
    return picture[:2] + head + payload + picture[2:]


def with_far_exif(picture: bytes, tag: int, place: int = 0xFFFF_FFF0) -> bytes:
    """The JPEG file with the value of a tag where no 32-bit system can look."""
    entry = picture.index(struct.pack("<H", tag), picture.index(b"Exif\0\0II"))
    return picture[: entry + 8] + struct.pack("<I", place) + picture[entry + 12 :]


def scan_of(picture: bytes) -> bytes:
    """From the first quantization table on: everything that makes pixels."""
    return picture[picture.rindex(b"\xff\xdb", 0, picture.index(b"\xff\xc4")) :]


def location_of(picture: bytes) -> dict[int, object]:
    """As Pillow reads it."""
    with Image.open(io.BytesIO(picture)) as opened:
        return dict(opened.getexif().get_ifd(ExifTags.IFD.GPSInfo))
