"""Handler `strip_gps`: sends JPEG files without the place where they were taken.

Promises: the picture's own data is the same byte for byte, and so is the EXIF but for the location (date,
orientation, maker notes and thumbnail stay); a file without a location is sent as it is; one that may hold a location
that cannot be taken out is refused, whatever it is named.
Other formats are searched and not changed; formats that keep no location pass. `jpeg` says what is not searched.
"""

from __future__ import annotations

import io
import os
import re
import struct

from syncagent.handlers import jpeg
from syncagent.handlers.containers import MOST_BYTES, location_in
from syncagent.handlers.tiff import GPS, Damaged

try:
    from PIL import ExifTags, Image
except ImportError as error:
    raise ImportError('Pillow is missing: install the extra "images" of syncagent') from error

_XMP = 0x02BC
_JPEG_NAME = re.compile(r"\.(jpe?g|jpe|jfif|mpo)$", re.IGNORECASE)


def strip_gps(content: dict[str, object], path: str) -> dict[str, object]:
    """The content with the stripped file, or as it was when there is nothing to strip."""
    with open(path, "rb") as file:
        if not jpeg.is_jpeg(file.read(3)):
            if _JPEG_NAME.search(path):
                raise Damaged("it is named like a JPEG file and is none")
            reason = location_in(path)
            if reason:
                raise Damaged(f"sent nothing, because {reason}")
            return content
        status = os.fstat(file.fileno())
        if status.st_size > MOST_BYTES:
            raise Damaged(f"it is larger than {MOST_BYTES} bytes and cannot be searched for a location")
        file.seek(0)
        original = file.read()
    data = bytearray(original)
    is_located = jpeg.erase_location(data)
    before = _tags(original)
    if not is_located:
        if GPS in before:
            raise Damaged("it holds a location in an unknown place")
        return content
    after = _tags(data)
    if GPS in after or any(after.get(tag) != value for tag, value in before.items() if tag not in (GPS, _XMP)):
        raise Damaged("its EXIF cannot be read alike without its location")
    name = os.path.basename(path)
    with open(name, "wb") as stripped:
        stripped.write(data)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))
    # Absolute: a relative one might be the very path that the file itself was announced by.
    return {**content, "disk_path": os.path.abspath(name)}


def _tags(data: bytes | bytearray) -> dict[int, str]:
    """What the imaging library reads: tags and their values as text, as not every value equals itself (0/0)."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            exif = picture.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
            if exif.get_ifd(ExifTags.IFD.GPSInfo):
                tags[GPS] = True
    except (OSError, OverflowError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        raise Damaged(f"Pillow cannot read it ({type(error).__name__})") from error
    return {tag: repr(value) for tag, value in tags.items()}
