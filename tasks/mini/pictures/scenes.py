"""What a drawn picture holds, before it is drawn.

The one idea: a scene is data, so that what a sentence says of a picture can be decided, not
guessed. Figures sit in the cells of a 2x2 grid. A relation has two readings: `plainly`, for what we
call true (same row or column), and `loosely`, for what we may not call false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations
from random import Random
from typing import NamedTuple

from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, Style, ground_trait, pair_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, SHAPES, Colour, Size, Thing

GRID = 2
"""Rows, and columns, of cells in a scene."""

FURTHEST_SHIFT = 2
"""How far in pixels a figure may lie off the centre of its cell."""


class Cell(NamedTuple):
    row: int
    column: int


class Look(NamedTuple):
    """How a figure looks, wherever it is; as text, `small red star`."""

    size: Size
    colour: Colour
    thing: Thing

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.thing}"

    @property
    def name(self) -> str:
        """Colour and thing, `red star`."""
        return f"{self.colour} {self.thing}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawn thing, its place, pixels off the middle of its cell, and its turn in degrees."""

    look: Look
    cell: Cell
    shift: tuple[int, int] = (0, 0)
    turn: int = 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything a picture shows. `grain` seeds what is random about its ground."""

    figures: tuple[Figure, ...]
    ground: Ground
    style: Style = PLAIN
    grain: int = 0

    @property
    def looks(self) -> list[Look]:
        return [figure.look for figure in self.figures]

    @property
    def traits(self) -> frozenset[str]:
        """What could be new to a model: its ground, its pairs, its style."""
        pairs = {pair_trait(look.colour, look.thing) for look in self.looks}
        return self.style.traits | {ground_trait(self.ground)} | pairs


class Relation(StrEnum):
    """Where one figure lies, seen from another."""

    LEFT = "to the left of"
    RIGHT = "to the right of"
    ABOVE = "above"
    BELOW = "below"

    @property
    def opposite(self) -> Relation:
        return _OPPOSITES[self]

    def loosely(self, figure: Figure, landmark: Figure) -> bool:
        """Whether someone could say that the figure lies so."""
        row = figure.cell.row - landmark.cell.row
        column = figure.cell.column - landmark.cell.column
        signed = {"LEFT": -column, "RIGHT": column, "ABOVE": -row, "BELOW": row}
        return signed[self.name] > 0

    def plainly(self, figure: Figure, landmark: Figure) -> bool:
        """Whether everyone would say so: the two share a row, or a column."""
        row = figure.cell.row == landmark.cell.row
        column = figure.cell.column == landmark.cell.column
        shared = row if self in (Relation.LEFT, Relation.RIGHT) else column
        return shared and self.loosely(figure, landmark)


_OPPOSITES = {
    Relation.LEFT: Relation.RIGHT,
    Relation.RIGHT: Relation.LEFT,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
}


def neighbours(scene: Scene) -> list[tuple[Relation, Figure, Figure]]:
    """Return which figure plainly is the only one on which side of which other."""
    return [
        (relation, figure, landmark)
        for figure, landmark in permutations(scene.figures, 2)
        for relation in Relation
        if relation.plainly(figure, landmark)
        and sum(relation.loosely(other, landmark) for other in scene.figures) == 1
    ]


CELLS: Sequence[Cell] = tuple(Cell(row, column) for row in range(GRID) for column in range(GRID))

CORNERS = {
    Cell(0, 0): "top left",
    Cell(0, 1): "top right",
    Cell(1, 0): "bottom left",
    Cell(1, 1): "bottom right",
}


def random_looks(
    rng: Random, count: int, style: Style = PLAIN, things: Sequence[Thing] = SHAPES
) -> list[Look]:
    """Return looks of different things in different colours, of pairs that the style shows."""
    while True:
        chosen = rng.sample(things, count)
        colours = rng.sample(COLOURS, count)
        pairs = list(zip(colours, chosen, strict=True))
        if style.pairs.issuperset(pairs):
            return [Look(rng.choice(list(Size)), *pair) for pair in pairs]


def other_looks(look: Look, style: Style = PLAIN, things: Sequence[Thing] = SHAPES) -> list[Look]:
    """Return every look that differs from this one in its colour, or in its thing."""
    colours = [look._replace(colour=colour) for colour in COLOURS if colour != look.colour]
    shapes = [look._replace(thing=thing) for thing in things if thing != look.thing]
    return [other for other in colours + shapes if (other.colour, other.thing) in style.pairs]


def place(rng: Random, look: Look, cell: Cell, style: Style = PLAIN) -> Figure:
    """Return a figure in its cell, a little off the centre."""
    shift = tuple(rng.randint(-FURTHEST_SHIFT, FURTHEST_SHIFT) for _ in range(2))
    return Figure(look=look, cell=cell, shift=(shift[0], shift[1]), turn=style.turn(rng))


def arrange(
    rng: Random, looks: Sequence[Look], cells: Sequence[Cell], style: Style = PLAIN
) -> Scene:
    """Return a scene of looks in these cells, drawn anew in everything else."""
    figures = tuple(place(rng, *pair, style) for pair in zip(looks, cells, strict=True))
    return Scene(figures=figures, ground=style.ground(rng), style=style, grain=rng.getrandbits(16))


def scatter(rng: Random, looks: Sequence[Look], style: Style = PLAIN) -> Scene:
    """Return a scene of looks in cells drawn at random."""
    return arrange(rng, looks, rng.sample(CELLS, len(looks)), style)
