"""Handler `thumbnail`: sends a small JPEG beside each picture.

Promises: the same picture gives the same bytes; the thumbnail stands upright and carries no metadata, hence no place;
what is no picture, or a broken one, is sent alone. A picture too large to be opened safely is refused.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError('Pillow is missing: install the extra "images" of syncagent') from error

LONGEST_SIDE = 320
QUALITY = 80
#: Not those that Pillow opens by starting other programs.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP")
_ENDING = ".thumb.jpg"
_BODY = "thumbnail.jpg"


def thumbnail(content: dict[str, object], path: str) -> list[dict[str, object]]:
    """The content as it was, and that of the thumbnail when there is one."""
    small = _small(path)
    if small is None:
        return [content]
    name = os.path.basename(path)
    small.save(_BODY, "JPEG", quality=QUALITY)
    thumb: dict[str, object] = {key: content[key] for key in ("id", "time") if key in content}
    thumb["file_name"] = _named(str(content.get("file_name") or name))
    if isinstance(content.get("cloud_path"), str):
        # Beside the picture; under the picture's own key it would take its place.
        thumb["cloud_path"] = _named(str(content["cloud_path"]))
    return [content, {**thumb, "thumbnail_of": content.get("file_name") or name, "disk_path": os.path.abspath(_BODY)}]


def _named(name: str) -> str:
    return os.path.splitext(name)[0] + _ENDING


def _small(path: str) -> Image.Image | None:
    """The picture, upright and small; None when it is none."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns where one picture would take all of a small board's memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                upright = ImageOps.exif_transpose(picture)
                # Pasted onto a new one: a picture takes its comments along into whatever it is saved as.
                clean = Image.new("RGB", upright.size, "white")
                clean.paste(*_pasted(upright))
                return clean
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombWarning as error:
        raise Image.DecompressionBombError(str(error)) from error
    except (OSError, OverflowError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the picture's
        return None


def _pasted(picture: Image.Image) -> tuple[Image.Image, tuple[int, int], Image.Image | None]:
    """What to paste, where, and through which mask."""
    if picture.mode.startswith("I"):
        # Sixteen bits of grey: converted as they are, everything would be white.
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if _shines_through(picture):
        picture = picture.convert("RGBA")
        return picture, (0, 0), picture.getchannel("A")
    return picture.convert("RGB"), (0, 0), None


def _shines_through(picture: Image.Image) -> bool:
    """Pillow's `has_transparency_data`, which Debian 12's Pillow does not have."""
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return True
    return picture.mode == "P" and picture.palette is not None and picture.palette.mode.endswith("A")
