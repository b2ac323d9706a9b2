"""What a drawn picture holds, before it is drawn.

The one idea: a scene is data, so that what a sentence says of a picture can be decided, not
guessed. Figures sit in the cells of a 3x3 grid. A relation has two readings: `plainly`, for what we
call true (same row or column), and `loosely`, for what we may not call false (any figure further
left is loosely to the left).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import NamedTuple

GRID = 3
"""Rows, and columns, of cells in a scene."""

FURTHEST_SHIFT = 2
"""How far in pixels a figure may lie off the centre of its cell."""


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    DIAMOND = "diamond"
    STAR = "star"
    CROSS = "cross"


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"
    BLACK = "black"


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Ground(StrEnum):
    WHITE = "white"
    GREY = "grey"
    SKY = "sky"
    MINT = "mint"
    STRIPES = "stripes"
    CHECKS = "checks"


IND_GROUNDS = (Ground.WHITE, Ground.GREY)
OOD_GROUNDS = (Ground.SKY, Ground.MINT, Ground.STRIPES, Ground.CHECKS)
"""The out-of-distribution tasks keep the words and change the ground."""


class Cell(NamedTuple):
    row: int
    column: int


class Shift(NamedTuple):
    x: int
    y: int


class Look(NamedTuple):
    """How a figure looks, wherever it is; as text, `small red star`."""

    size: Size
    colour: Colour
    shape: Shape

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawn shape and its place."""

    look: Look
    cell: Cell
    shift: Shift


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything a picture shows."""

    figures: tuple[Figure, ...]
    ground: Ground

    def of_shape(self, shape: Shape) -> list[Figure]:
        """Return the figures of one shape."""
        return [figure for figure in self.figures if figure.look.shape == shape]


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


def all_cells() -> list[Cell]:
    """Return the cells of the grid, row by row."""
    return [Cell(row, column) for row in range(GRID) for column in range(GRID)]


def random_look(rng: Random, shape: Shape, colour: Colour) -> Look:
    """Return a look of the given shape and colour, of either size."""
    return Look(rng.choice(list(Size)), colour, shape)


def place(rng: Random, look: Look, cell: Cell) -> Figure:
    """Return a figure in its cell, a little off the centre."""
    shift = Shift(*(rng.randint(-FURTHEST_SHIFT, FURTHEST_SHIFT) for _ in range(2)))
    return Figure(look=look, cell=cell, shift=shift)


def scatter(rng: Random, looks: Sequence[Look], grounds: Sequence[Ground]) -> Scene:
    """Return a scene of these looks in cells drawn at random."""
    cells = rng.sample(all_cells(), len(looks))
    figures = tuple(place(rng, look, cell) for look, cell in zip(looks, cells, strict=True))
    return Scene(figures=figures, ground=rng.choice(list(grounds)))
