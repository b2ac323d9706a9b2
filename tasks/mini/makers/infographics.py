"""Rows of a thing and its number, and questions about them (InfographicsVQA).

The one idea: a number is a printed digit or as many dots, so that `four` has two looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.makers.questions import Asked, answers
from mmeb_harness.tasks.mini.pictures.drawing import CELL, ground, set_down
from mmeb_harness.tasks.mini.pictures.lettering import Lettering, lettering, write
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Cell, Figure, place, random_looks
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait, pair_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, NUMBERS, READ, THINGS
from PIL import Image, ImageDraw

ROWS = 3
OVERSAMPLING = 8
PITCH, RADIUS = 8, 3
"""Of the dots, in pixels: they fill a square of three times three, row by row."""


class Notation(StrEnum):
    DIGIT = "digit"
    DOTS = "dots"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A thing, and beside it in the same colour a digit from 1 to 9."""

    figure: Figure
    digit: Lettering

    @property
    def number(self) -> int:
        return int(self.digit.text)


@dataclass(frozen=True, kw_only=True)
class Infographic:
    """The rows from top to bottom, all numbers in one notation. `grain` seeds the ground."""

    rows: tuple[Row, ...]
    notation: Notation
    ground: Ground
    grain: int

    @property
    def traits(self) -> frozenset[str]:
        looks = [row.figure.look for row in self.rows]
        pairs = frozenset(pair_trait(look.colour, look.thing) for look in looks)
        fonts = {row.digit.trait for row in self.rows if self.notation is Notation.DIGIT}
        shared = {ground_trait(self.ground), "layout infographic", f"notation {self.notation}"}
        return pairs | fonts | shared


def draw(graphic: Infographic) -> Image.Image:
    """Return the picture: 56 x 84 pixels."""
    image = ground((2 * CELL, ROWS * CELL), graphic.ground, graphic.grain)
    for at, row in enumerate(graphic.rows):
        across, down = row.figure.shift
        set_down(image, row.figure, (CELL // 2 + across, at * CELL + CELL // 2 + down))
        if graphic.notation is Notation.DIGIT:
            write(image, row.digit, (CELL, at * CELL), room=CELL)
        else:
            image.paste(
                row.digit.pixel, (CELL, at * CELL, 2 * CELL, (at + 1) * CELL), dots(row.number)
            )
    return image


@lru_cache(maxsize=16)
def dots(number: int) -> Image.Image:
    """Return a mask of one cell with so many dots, nine at most."""
    large = Image.new("L", (CELL * OVERSAMPLING, CELL * OVERSAMPLING))
    canvas = ImageDraw.Draw(large)
    for at in range(number):
        x, y = (CELL // 2 + PITCH * (step - 1) for step in (at % 3, at // 3))
        box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
        canvas.ellipse([OVERSAMPLING * side for side in box], fill=255)
    return large.reduce(OVERSAMPLING)


def question(rng: Random) -> Example:
    """Ask for a number, or for the thing that has it."""
    graphic = _infographic(rng)
    asked, about = _asked(rng, graphic)
    others = [row for row in graphic.rows if row is not about]
    rivals = [
        _named(row) if asked.form == "how-many-for" else row.figure.look.thing for row in others
    ]
    return Example(
        query=Side(text=asked.question, picture=Picture(draw, (graphic,))),
        target=label(str(asked.answer)),
        rivals=[label(str(rival)) for rival in rivals],
        traits=graphic.traits | {f"form {asked.form}"},
    )


def _infographic(rng: Random) -> Infographic:
    looks = random_looks(rng, ROWS, things=THINGS)
    numbers = rng.sample(range(1, len(NUMBERS) + 1), ROWS)
    rows = tuple(
        Row(figure=place(rng, look, Cell(at, 0)), digit=lettering(rng, str(number), look.colour))
        for at, (look, number) in enumerate(zip(looks, numbers, strict=True))
    )
    return Infographic(
        rows=rows,
        notation=rng.choice(list(Notation)),
        ground=PLAIN.ground(rng),
        grain=rng.getrandbits(16),
    )


def _asked(rng: Random, graphic: Infographic) -> tuple[Asked, Row]:
    """Return a question, and the row that answers it."""
    kind = rng.choices(("number", "thing", "most", "fewest"), (8, 6, 3, 3))[0]
    if kind in ("most", "fewest"):
        row = (max if kind == "most" else min)(graphic.rows, key=lambda row: row.number)
        return Asked(f"Which has the {kind}?", row.figure.look.thing, f"which-has-{kind}"), row
    row = rng.choice(graphic.rows)
    thing = row.figure.look.thing
    if kind == "number":
        return Asked(f"How many for the {thing}?", _named(row), "how-many-for"), row
    return Asked(f"Which has {_named(row)}?", thing, "which-has-number"), row


def _named(row: Row) -> str:
    return NUMBERS[row.number - 1]


ANSWERS = answers(THINGS, NUMBERS, COLOURS, READ)
"""Things and numbers are asked for; nothing else is ever right."""
