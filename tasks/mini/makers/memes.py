"""Memes: a word over a face, or over a thing; is it hateful? (HatefulMemes)

The one idea: it is, where an unkind word stands over a face. The same word over a thing is not, and
a kind word over a face is not, so that both parts of the picture have to be looked at; either
alone is right three times out of four, which is the least that two balanced answers allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.pictures.drawing import CELL, PIGMENTS, RADII, SIDE, ground, set_down
from mmeb_harness.tasks.mini.pictures.lettering import Lettering, lettering, write
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Cell, Figure, Look, place
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait, pair_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, SEEN, THINGS, Colour, Size, Thing
from PIL import Image, ImageDraw

UNKIND = ("pig", "dog", "fox", "yak", "nut", "rug")
KIND = ("sun", "sky", "tea", "jam", "cat", "hat")

LABELS = (label("yes"), label("no"))

OVERSAMPLING = 8


@dataclass(frozen=True, kw_only=True)
class Face:
    """A smiling face, and its place."""

    colour: Colour
    cell: Cell
    shift: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Meme:
    """A word, and what it stands over. `grain` seeds what is random about the ground."""

    word: Lettering
    below: Face | Figure
    ground: Ground
    grain: int

    @property
    def hateful(self) -> bool:
        return self.word.text in UNKIND and isinstance(self.below, Face)

    @property
    def traits(self) -> frozenset[str]:
        below = (
            "face"
            if isinstance(self.below, Face)
            else pair_trait(self.below.look.colour, self.below.look.thing)
        )
        return frozenset({self.word.trait, ground_trait(self.ground), "layout meme", below})


def draw(meme: Meme) -> Image.Image:
    """Return the picture of a meme."""
    image = ground((SIDE, SIDE), meme.ground, meme.grain)
    write(image, meme.word, (0, 0))
    below = meme.below
    x = below.cell.column * CELL + CELL // 2 + below.shift[0]
    y = below.cell.row * CELL + CELL // 2 + below.shift[1]
    if isinstance(below, Figure):
        set_down(image, below, (x, y))
    else:
        radius = RADII[Size.LARGE]
        box = (x - radius, y - radius, x + radius, y + radius)
        image.paste(PIGMENTS[below.colour], box, face_mask(radius))
    return image


@cache
def face_mask(radius: int) -> Image.Image:
    """Return a mask of 2 * radius pixels a side: a disc without its eyes and its mouth."""
    side = 2 * radius * OVERSAMPLING
    mask = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(mask)

    def box(left: float, top: float, right: float, bottom: float) -> list[float]:
        return [side * (1 + at) / 2 for at in (left, top, right, bottom)]

    canvas.ellipse(box(-0.97, -0.97, 0.97, 0.97), fill=255)
    for middle in (-0.38, 0.38):
        canvas.ellipse(box(middle - 0.19, -0.52, middle + 0.19, -0.08), fill=0)
    canvas.chord(box(-0.6, -0.2, 0.6, 0.7), 10, 170, fill=0)
    return mask.reduce(OVERSAMPLING)


def hateful_or_not(rng: Random) -> Example:
    """Make a meme: hateful every second time, else for one of two reasons not."""
    unkind, over_face = rng.choice(((True, True), (True, True), (True, False), (False, True)))
    cell = Cell(1, rng.randrange(2))
    colour = rng.choice(COLOURS)
    figure = place(rng, Look(Size.LARGE, colour, rng.choice(_things(colour))), cell)
    meme = Meme(
        word=lettering(rng, rng.choice(UNKIND if unkind else KIND), rng.choice(COLOURS)),
        below=Face(colour=colour, cell=cell, shift=figure.shift) if over_face else figure,
        ground=PLAIN.ground(rng),
        grain=rng.getrandbits(16),
    )
    answer, other = LABELS if meme.hateful else LABELS[::-1]
    return Example(
        query=Side(picture=Picture(draw, (meme,))),
        target=answer,
        rivals=[other],
        traits=meme.traits,
    )


@cache
def _things(colour: Colour) -> Sequence[Thing]:
    """Return what may be shown in a colour."""
    return [thing for thing in THINGS if (colour, thing) in SEEN]
