"""Garments and notes on their style, to find the garment as the note has it: `FashionIQ`.

The one idea: an edit as in `edits`, of a kind of picture and in a form of words that no training
part has; the words themselves are known.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from random import Random
from typing import TypeAlias

from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.pictures.drawing import CELL, PIGMENTS, RADII, SIDE, ground
from mmeb_harness.tasks.mini.pictures.icons import OVERSAMPLING
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import CELLS, FURTHEST_SHIFT, Cell
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, Colour, Size
from PIL import Image, ImageChops, ImageDraw


class Kind(StrEnum):
    SHIRT = "shirt"
    DRESS = "dress"
    TROUSERS = "trousers"
    SKIRT = "skirt"
    SOCK = "sock"


NOVEL = frozenset(f"garment {kind}" for kind in Kind)

Polygon: TypeAlias = Sequence[tuple[float, float]]

_SLEEVED = ((-0.35, -0.9), (0.35, -0.9), (1, -0.45), (0.8, -0.05), (0.5, -0.3))

CUTS: Mapping[Kind, Polygon] = {
    Kind.SHIRT: (
        *_SLEEVED,
        *((0.5, 0.9), (-0.5, 0.9)),
        *((-x, y) for x, y in reversed(_SLEEVED[2:])),
    ),
    Kind.DRESS: (
        *((-0.3, -1), (-0.15, -0.7), (0.15, -0.7), (0.3, -1), (0.25, -0.15)),
        *((0.9, 0.95), (-0.9, 0.95), (-0.25, -0.15)),
    ),
    Kind.TROUSERS: (
        *((-0.55, -0.95), (0.55, -0.95), (0.75, 0.95), (0.25, 0.95)),
        *((0, -0.35), (-0.25, 0.95), (-0.75, 0.95)),
    ),
    Kind.SKIRT: ((-0.4, -0.6), (0.4, -0.6), (1, 0.7), (-1, 0.7)),
    Kind.SOCK: (
        *((-0.55, -0.95), (0.1, -0.95), (0.1, 0.1), (0.85, 0.4), (0.95, 0.75)),
        *((0.7, 0.95), (-0.3, 0.95), (-0.55, 0.6)),
    ),
}
"""Each kind's outline in a square of -1 to 1, y downwards."""

STRIPE = 2
"""Breadth in pixels of a stripe."""


@dataclass(frozen=True, kw_only=True)
class Garment:
    """A picture of one garment; `cell`, `shift`, `ground` and `grain` are as in a scene."""

    kind: Kind
    colour: Colour
    size: Size
    striped: bool
    cell: Cell
    ground: Ground
    shift: tuple[int, int] = (0, 0)
    grain: int = 0

    @property
    def target(self) -> Target:
        return Target(side=Side(picture=self.picture), meaning=self)

    @property
    def picture(self) -> Picture:
        return Picture(draw_garment, (self,))

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({f"garment {self.kind}", ground_trait(self.ground)})


def find_garment(rng: Random) -> Example:
    """Show a garment and say how another is: in a colour, or in a colour and a size.

    The rivals: the garment unchanged, in a wrong colour, and another garment as the note has it.
    """
    seen = _random_garment(rng)
    sized = rng.randrange(2) == 1
    colour, wrong = rng.sample([each for each in COLOURS if each is not seen.colour], 2)
    wanted = replace(seen, colour=colour, size=_other(seen.size) if sized else seen.size)
    kind = rng.choice([each for each in Kind if each is not seen.kind])
    rivals = [seen, replace(wanted, colour=wrong), replace(wanted, kind=kind)]

    def fits(meaning: Hashable) -> bool:
        return (
            isinstance(meaning, Garment)
            and (meaning.kind, meaning.colour) == (wanted.kind, wanted.colour)
            and (not sized or meaning.size is wanted.size)
        )

    note = f"is {wanted.size} and {colour}" if sized else f"is {colour}"
    return Example(
        query=Side(text=note, picture=seen.picture),
        target=_anew(rng, wanted).target,
        rivals=[_anew(rng, each).target for each in rivals],
        fits=fits,
        traits=frozenset({"form is-colour"}).union(*(each.traits for each in (seen, *rivals))),
    )


def draw_garment(garment: Garment) -> Image.Image:
    """Return the picture of a garment."""
    image = ground((SIDE, SIDE), garment.ground, garment.grain)
    radius = RADII[garment.size]
    x = garment.cell.column * CELL + CELL // 2 + garment.shift[0] - radius
    y = garment.cell.row * CELL + CELL // 2 + garment.shift[1] - radius
    image.paste(PIGMENTS[garment.colour], (x, y), _cut(garment.kind, radius))
    if garment.striped:
        image.paste((255, 255, 255), (x, y), _stripes(garment.kind, radius))
    return image


@lru_cache
def _cut(kind: Kind, radius: int) -> Image.Image:
    """Return a mask of 2 * radius pixels a side: 255 where the garment is."""
    side = 2 * radius * OVERSAMPLING
    mask = Image.new("L", (side, side))
    points = [(side * (x + 1) / 2, side * (y + 1) / 2) for x, y in CUTS[kind]]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return mask.reduce(OVERSAMPLING)


@lru_cache
def _stripes(kind: Kind, radius: int) -> Image.Image:
    """Return a mask of a garment's white stripes."""
    side = 2 * radius
    lines = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(lines)
    for y in range(STRIPE, side, 3 * STRIPE):
        canvas.rectangle((0, y, side, y + STRIPE - 1), fill=255)
    return ImageChops.multiply(lines, _cut(kind, radius))


def _random_garment(rng: Random) -> Garment:
    garment = Garment(
        kind=rng.choice(list(Kind)),
        colour=rng.choice(COLOURS),
        size=rng.choice(list(Size)),
        striped=rng.randrange(2) == 1,
        cell=rng.choice(CELLS),
        ground=PLAIN.ground(rng),
    )
    return _anew(rng, garment)


def _anew(rng: Random, garment: Garment) -> Garment:
    """Return the garment as it would be drawn another time, on the same ground."""
    shift = (rng.randint(-FURTHEST_SHIFT, FURTHEST_SHIFT) for _ in range(2))
    return replace(garment, shift=(next(shift), next(shift)), grain=rng.getrandbits(16))


def _other(size: Size) -> Size:
    return Size.LARGE if size is Size.SMALL else Size.SMALL
