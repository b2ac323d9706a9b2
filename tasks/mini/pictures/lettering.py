"""Words written into pictures, large: three letters fill two cells.

The one idea: a word is a mask drawn eight times too large and averaged down, so that its pixels do
not depend on the version of FreeType, and writing it is one paste. The fonts are Pillow's own two:
Aileron, an outline font, and a bitmap font.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from random import Random

from mmeb_harness.tasks.mini.pictures.drawing import CELL, PIGMENTS, Pixel
from mmeb_harness.tasks.mini.pictures.words import Colour
from PIL import Image, ImageDraw, ImageFont

ROOM = 2 * CELL
"""Pixels that a word may be wide."""

OVERSAMPLING = 8
HEIGHT = 24
"""Height of Aileron's type in pixels: the widest word is 51 wide, in bold, and 23 high."""

BASELINE = 21
"""Pixels from the top of a word's room to where its letters stand."""

STROKE = 4
"""What bold adds all around, in pixels of the large mask."""

SLANT = 0.28
"""Pixels to the right for every pixel up."""

BITMAP_TOP, BITMAP_HEIGHT, BITMAP_SCALE = 2, 9, 3
"""The rows of the bitmap font that its letters use; it is drawn 8 / 3 times as large."""

FURTHEST_SHIFT = (2, 1)
"""How far in pixels a word may lie off the middle of its room, across and down: none is cut."""


class Font(StrEnum):
    AILERON = "aileron"
    BOLD = "aileron-bold"
    SLANTED = "aileron-slanted"
    BITMAP = "bitmap"


PLAIN_FONTS = (Font.AILERON, Font.BOLD)
"""What is trained on."""

OTHER_FONTS = (Font.SLANTED, Font.BITMAP)


@dataclass(frozen=True, kw_only=True)
class Lettering:
    """A written word (or digit): its font, its ink, and pixels off the middle of its room."""

    text: str
    ink: Colour | None
    font: Font = Font.AILERON
    shift: tuple[int, int] = (0, 0)

    @property
    def trait(self) -> str:
        return f"font {self.font}"

    @property
    def pixel(self) -> Pixel:
        """The ink as a pixel: white where it has no name."""
        return (255, 255, 255) if self.ink is None else PIGMENTS[self.ink]


def lettering(
    rng: Random, text: str, ink: Colour | None, fonts: Sequence[Font] = PLAIN_FONTS
) -> Lettering:
    """Return a word in one of the fonts, a little off the middle."""
    across, down = (rng.randint(-furthest, furthest) for furthest in FURTHEST_SHIFT)
    return Lettering(text=text, ink=ink, font=rng.choice(fonts), shift=(across, down))


def write(image: Image.Image, word: Lettering, corner: tuple[int, int], room: int = ROOM) -> None:
    """Write a word into a room of `room` x `CELL` pixels whose upper left corner is given."""
    place = (corner[0] + word.shift[0], corner[1] + word.shift[1])
    image.paste(word.pixel, (*place, place[0] + room, place[1] + CELL), mask(word, room))


def mask(word: Lettering, room: int = ROOM) -> Image.Image:
    """Return a mask of `room` x `CELL` pixels: 255 where the letters are."""
    return _mask(word.text, word.font, room)


@lru_cache(maxsize=1024)
def _mask(text: str, font: Font, room: int) -> Image.Image:
    large = Image.new("L", (room * OVERSAMPLING, CELL * OVERSAMPLING))
    if font is Font.BITMAP:
        letters = _bitmap(text)
        margins = (large.width - letters.width, large.height - letters.height)
        large.paste(letters, (margins[0] // 2, margins[1] // 2))
        return large.reduce(OVERSAMPLING)
    baseline = BASELINE * OVERSAMPLING
    ImageDraw.Draw(large).text(
        (large.width // 2, baseline),
        text,
        fill=255,
        font=_aileron(),
        anchor="ms",
        stroke_width=STROKE if font is Font.BOLD else 0,
    )
    if font is Font.SLANTED:
        middle = CELL * OVERSAMPLING // 2
        moved = (1, SLANT, -SLANT * middle, 0, 1, 0)
        large = large.transform(large.size, Image.Transform.AFFINE, moved)
    return large.reduce(OVERSAMPLING)


@cache
def _aileron() -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(HEIGHT * OVERSAMPLING)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow has no FreeType: install one of the published wheels")
    return font


def _bitmap(text: str) -> Image.Image:
    """Return the word in the bitmap font, large, as wide as it is and as high as its font."""
    font = ImageFont.load_default_imagefont()
    width = int(font.getlength(text))
    small = Image.new("L", (width, BITMAP_TOP + BITMAP_HEIGHT))
    ImageDraw.Draw(small).text((0, 0), text, fill=255, font=font)
    letters = small.crop((0, BITMAP_TOP, *small.size))
    scale = OVERSAMPLING * OVERSAMPLING // BITMAP_SCALE
    size = (letters.width * scale, letters.height * scale)
    return letters.resize(size, Image.Resampling.NEAREST)
