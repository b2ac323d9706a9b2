"""Handwritten digits in coloured ink: `red three`. In ink, or in renditions never trained on.

The one idea: real pictures, few enough to ship. `digits.npz` holds greys of 8x8 pixels (values 0 to
16), their labels, and the `part` that each is for: one of these never shows what another shows.
Source: UCI Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0),
the writers' names unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

import numpy as np
from mmeb_harness.tasks.mini.makers.example import Example, Maker, Side, label
from mmeb_harness.tasks.mini.makers.labels import Words
from mmeb_harness.tasks.mini.pictures.drawing import PIGMENTS, SIDE, ground
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.style import (
    BUSY_TRAITS,
    OTHER_GROUNDS,
    PLAIN,
    Ground,
    Style,
    ground_trait,
)
from mmeb_harness.tasks.mini.pictures.words import NUMBERS, Colour
from PIL import Image, ImageChops, ImageDraw, ImageFilter

INKS = (Colour.RED, Colour.ORANGE, Colour.GREEN, Colour.BLUE, Colour.BLACK)
NUMERALS = ("zero", *NUMBERS)
WORDS = Words(first=INKS, second=NUMERALS)

DARKEST = 16
"""The value of full ink in the source."""

BREADTH = 48
"""Pixels of a drawn digit's side."""

FURTHEST_SHIFT = 3
"""Pixels by which a digit may lie off the middle."""


class Part(IntEnum):
    """What a stored digit is for: training, or one task's evaluation part."""

    TRAINING = 0
    FIRST = 1
    SECOND = 2
    THIRD = 3


class Rendition(StrEnum):
    """How a digit is rendered; all but `INK` are for an out-of-distribution task."""

    INK = "ink"
    CONTOUR = "contour"
    DISCS = "discs"
    HATCHING = "hatching"

    @property
    def trait(self) -> str:
        return f"digit in {self}"


TILTED = Style(grounds=OTHER_GROUNDS, tilt=24)
TILTED_TRAITS = BUSY_TRAITS | {"digit tilted"}

OTHER_RENDITIONS = (Rendition.CONTOUR, Rendition.DISCS, Rendition.HATCHING)
RENDITION_TRAITS = frozenset(rendition.trait for rendition in OTHER_RENDITIONS)


@dataclass(frozen=True, kw_only=True)
class Digit:
    """A digit's picture. `row` is its place in the source; `shift` is in pixels, `turn` degrees."""

    row: int
    colour: Colour
    ground: Ground
    grain: int = 0
    shift: tuple[int, int] = (0, 0)
    turn: int = 0
    rendition: Rendition = Rendition.INK

    @property
    def traits(self) -> frozenset[str]:
        tilted = frozenset({"digit tilted"} if self.turn else ())
        return tilted | {ground_trait(self.ground), self.rendition.trait}


class Stored(NamedTuple):
    """The shipped digits in the source's order."""

    images: np.ndarray
    labels: np.ndarray
    part: np.ndarray


@lru_cache(maxsize=1)
def stored() -> Stored:
    """Read the shipped digits."""
    path = files("mmeb_harness.tasks.mini.makers") / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
        return Stored(opened["images"], opened["labels"], opened["part"])


@lru_cache
def rows(part: Part, numeral: int) -> tuple[int, ...]:
    """Return the rows of one numeral, 0 to 9, that are for one part."""
    digits = stored()
    return tuple(np.flatnonzero((digits.part == part) & (digits.labels == numeral)).tolist())


def digit(
    part: Part,
    style: Style = PLAIN,
    renditions: tuple[Rendition, ...] = (Rendition.INK,),
) -> Maker:
    """Return what asks for the colour and the number of a digit of one part."""

    def make(rng: Random) -> Example:
        colour, numeral = rng.choice(INKS), rng.randrange(len(NUMERALS))
        shown = Digit(
            row=rng.choice(rows(part, numeral)),
            colour=colour,
            ground=style.ground(rng),
            grain=rng.getrandbits(16),
            shift=(_shift(rng), _shift(rng)),
            turn=style.turn(rng),
            rendition=rng.choice(renditions),
        )
        return Example(
            query=Side(picture=Picture(draw_digit, (shown,))),
            target=label(f"{colour} {NUMERALS[numeral]}"),
            rivals=WORDS.rivals(rng, colour, NUMERALS[numeral]),
            traits=shown.traits,
        )

    return make


def _shift(rng: Random) -> int:
    return rng.randint(-FURTHEST_SHIFT, FURTHEST_SHIFT)


def draw_digit(shown: Digit) -> Image.Image:
    """Return the picture of a digit."""
    image = ground((SIDE, SIDE), shown.ground, shown.grain)
    margin = (SIDE - BREADTH) // 2
    mask = Image.new("L", image.size)
    strokes = RENDERERS[shown.rendition](stored().images[shown.row])
    mask.paste(strokes, (margin + shown.shift[0], margin + shown.shift[1]))
    if shown.turn:
        mask = mask.rotate(shown.turn, Image.Resampling.BILINEAR)
    image.paste(PIGMENTS[shown.colour], (0, 0), mask)
    return image


def _ink(pixels: np.ndarray) -> Image.Image:
    """Return a mask of the digit's strokes: 255 where there is ink."""
    greys = (pixels.astype(np.int64) * 255 // DARKEST).astype(np.uint8)
    enlarged = Image.fromarray(greys).resize((BREADTH, BREADTH), Image.Resampling.BICUBIC)
    return enlarged.point(_STRONGER)


_STRONGER = [max(0, min(255, 2 * value - 96)) for value in range(256)]


def _contour(pixels: np.ndarray) -> Image.Image:
    """Return only the rim of the strokes."""
    filled = Image.new("L", (BREADTH + 4, BREADTH + 4))  # a border of nothing: no open ends
    filled.paste(_ink(pixels).point(_SHARP), (2, 2))
    rim = ImageChops.subtract(filled, filled.filter(ImageFilter.MinFilter(5)))
    return rim.crop((2, 2, 2 + BREADTH, 2 + BREADTH))


_SHARP = [255 * (value > 150) for value in range(256)]


def _discs(pixels: np.ndarray) -> Image.Image:
    """Return one disc for each dark pixel of the source."""
    mask = Image.new("L", (BREADTH, BREADTH))
    canvas = ImageDraw.Draw(mask)
    step = BREADTH / len(pixels)
    for row, column in np.argwhere(pixels >= DARKEST // 2).tolist():
        x, y = column * step + 1, row * step + 1
        canvas.ellipse((x, y, x + step - 2, y + step - 2), fill=255)
    return mask


def _hatching(pixels: np.ndarray) -> Image.Image:
    """Return the strokes as slanted lines."""
    return ImageChops.multiply(_ink(pixels), _lines())


@lru_cache(maxsize=1)
def _lines() -> Image.Image:
    mask = Image.new("L", (BREADTH, BREADTH))
    canvas = ImageDraw.Draw(mask)
    for x in range(-BREADTH, BREADTH, 5):
        canvas.line((x, BREADTH, x + BREADTH, 0), fill=255, width=2)
    return mask


RENDERERS = {
    Rendition.INK: _ink,
    Rendition.CONTOUR: _contour,
    Rendition.DISCS: _discs,
    Rendition.HATCHING: _hatching,
}
