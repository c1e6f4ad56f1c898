"""Pictures of an orchard that is not there: real JPEG files with capture time and frame number. Values only."""

from __future__ import annotations

import io
import math
import random
from datetime import datetime

from PIL import Image, ImageDraw, ImageFont

SIZE = (1280, 960)
#: From dawn to dusk in so many pictures.
FRAMES_PER_DAY = 96
_HORIZON = 520
_EXIF_IFD, _MAKE, _MODEL, _DATE_TIME = 0x8769, 0x010F, 0x0110, 0x0132
_DATE_TIME_ORIGINAL, _OFFSET_TIME_ORIGINAL = 0x9003, 0x9011

Colour = tuple[int, int, int]


def draw_jpeg(frame: int, when: datetime, *, note: str = "", quality: int = 82) -> bytes:
    """One picture as the bytes of a JPEG file. `when` is UTC; `note` is written below the time."""
    phase = (frame % FRAMES_PER_DAY) / FRAMES_PER_DAY
    noon = math.sin(math.pi * min(max(phase, 0.03), 0.97))
    picture = _sky(noon)
    draw = ImageDraw.Draw(picture)
    sun = (int(SIZE[0] * phase), int(_HORIZON - 400 * noon))
    draw.ellipse((sun[0] - 55, sun[1] - 55, sun[0] + 55, sun[1] + 55), fill=_mix((255, 140, 60), (255, 246, 200), noon))
    _clouds(draw, frame, noon)
    _ground(draw, noon)
    _trees(draw, frame, noon)
    _grain(picture, frame)
    _caption(draw, f"#{frame:05d}", when, note)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, exif=_exif(when))
    return file.getvalue()


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _sky(noon: float) -> Image.Image:
    top, bottom = _mix((24, 20, 62), (70, 140, 220), noon), _mix((240, 130, 70), (205, 228, 245), noon)
    slope = Image.linear_gradient("L").resize(SIZE)
    return Image.composite(Image.new("RGB", SIZE, bottom), Image.new("RGB", SIZE, top), slope)


def _clouds(draw: ImageDraw.ImageDraw, frame: int, noon: float) -> None:
    dice = random.Random(11)  # noqa: S311 - the same clouds in every picture, a little further on
    white = _mix((230, 150, 130), (250, 250, 252), noon)
    for _ in range(5):
        left = (dice.randrange(SIZE[0]) + frame * dice.randrange(3, 9)) % (SIZE[0] + 300) - 300
        top = dice.randrange(60, 330)
        for puff in range(5):
            rise = dice.randrange(-18, 18)
            draw.ellipse((left + puff * 42, top + rise, left + puff * 42 + 95, top + rise + 52), fill=white)


def _ground(draw: ImageDraw.ImageDraw, noon: float) -> None:
    hills = [(x, _HORIZON - 60 + 40 * math.sin(x / 170) + 18 * math.sin(x / 61)) for x in range(0, SIZE[0] + 21, 20)]
    draw.polygon([(0, SIZE[1]), *hills, (SIZE[0], SIZE[1])], fill=_mix((30, 48, 50), (86, 130, 110), noon))
    draw.rectangle((0, _HORIZON, *SIZE), fill=_mix((38, 58, 30), (112, 160, 72), noon))
    for line in range(-14, 15):  # rows that meet at the horizon
        draw.line(
            (640 + line * 16, _HORIZON, 640 + line * 190, SIZE[1]),
            fill=_mix((30, 46, 24), (96, 140, 60), noon),
            width=5,
        )


def _trees(draw: ImageDraw.ImageDraw, frame: int, noon: float) -> None:
    ripe = _mix((150, 190, 60), (214, 40, 36), (frame % 400) / 400)
    for row in range(4):
        dice = random.Random(row)  # noqa: S311 - the same trees in every picture
        size, ground = 34 + row * 30, _HORIZON + 24 + row * row * 34
        for left in range(-20, SIZE[0], size * 3):
            middle, crown = left + dice.randrange(-8, 9) + size, ground - size * 2
            draw.rectangle(
                (middle - size // 9, crown, middle + size // 9, ground), fill=_mix((34, 24, 18), (96, 70, 48), noon)
            )
            for _ in range(7):
                x, y = middle + dice.randrange(-size, size) * 2 // 3, crown + dice.randrange(-size, size) // 2
                green = _mix((20, 40, 24), (58 + dice.randrange(30), 120 + dice.randrange(30), 52), noon)
                draw.ellipse((x - size // 2, y - size // 2, x + size // 2, y + size // 2), fill=green)
            for _ in range(6):
                x, y = middle + dice.randrange(-size, size) * 3 // 4, crown + dice.randrange(-size, size) // 2
                fruit = max(2, size // 12)
                draw.ellipse((x - fruit, y - fruit, x + fruit, y + fruit), fill=ripe)


def _grain(picture: Image.Image, frame: int) -> None:
    """What every sensor adds: without it no two cameras would make files of such different sizes."""
    noise = Image.effect_noise((SIZE[0] // 2, SIZE[1] // 2), 22 + frame % 17).resize(SIZE)
    picture.paste(Image.blend(picture, Image.merge("RGB", (noise, noise, noise)), 0.06))


def _caption(draw: ImageDraw.ImageDraw, number: str, when: datetime, note: str) -> None:
    large, small = ImageFont.load_default(size=96), ImageFont.load_default(size=44)
    lines = [(number, large, 24), (f"{when:%Y-%m-%d %H:%M:%S.%f}"[:-4] + " UTC", small, 142), (note, small, 200)]
    for text, font, top in lines:
        draw.text((36, top), text, font=font, fill="white", stroke_width=4, stroke_fill="black")


def _exif(when: datetime) -> Image.Exif:
    exif = Image.Exif()
    stamp = f"{when:%Y:%m:%d %H:%M:%S}"
    exif[_MAKE], exif[_MODEL], exif[_DATE_TIME] = "syncagent", "demo camera", stamp
    exif.get_ifd(_EXIF_IFD).update({_DATE_TIME_ORIGINAL: stamp, _OFFSET_TIME_ORIGINAL: "+00:00"})
    return exif
