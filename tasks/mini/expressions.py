"""Referring expressions: `the leftmost star`, and which figure of a scene it means.

The one idea: `means` reads an expression leniently (whatever someone could take it for), so that an
expression with one such figure is beyond dispute; `fits` asks more of it: another figure of the
same shape that it must be told from, and a plain reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

from mmeb_harness.tasks.mini.scenes import Colour, Figure, Look, Relation, Scene, Shape, Size

KINDS = ("colour", "size", "edge", "neighbour")

Edge = Literal["leftmost", "rightmost", "highest", "lowest"]
EDGES: tuple[Edge, ...] = ("leftmost", "rightmost", "highest", "lowest")


@dataclass(frozen=True, kw_only=True)
class Expression:
    """One expression, without the scene that it is used in.

    `describes` tells whether a look alone would answer to it; an expression that speaks of the
    place describes no look.
    """

    kind: str
    text: str
    shape: Shape
    means: Callable[[Scene, Figure], bool]
    plain: Callable[[Scene, Figure], bool] = lambda scene, figure: True
    describes: Callable[[Look], bool] = lambda look: False

    def referents(self, scene: Scene) -> list[Figure]:
        """Return the figures that someone could take the expression for."""
        return [figure for figure in scene.figures if self.means(scene, figure)]

    def fits(self, scene: Scene) -> bool:
        """Whether it means one figure plainly, and has others of that shape to tell it from."""
        found = self.referents(scene)
        crowd = len(scene.of_shape(self.shape)) > 1
        return crowd and len(found) == 1 and self.plain(scene, found[0])


def expressions(scene: Scene, kind: str) -> list[Expression]:
    """Return the expressions of a kind that fit a scene."""
    return [each for each in _expressions() if each.kind == kind and each.fits(scene)]


def _expressions() -> list[Expression]:
    return [
        *(_of_colour(colour, shape) for colour, shape in product(Colour, Shape)),
        *(_of_size(size, shape) for size, shape in product(Size, Shape)),
        *(_at_edge(edge, shape) for edge, shape in product(EDGES, Shape)),
        *(_beside(*parts) for parts in product(Shape, Relation, Colour, Shape)),
    ]


def _of_colour(colour: Colour, shape: Shape) -> Expression:
    def describes(look: Look) -> bool:
        return (look.colour, look.shape) == (colour, shape)

    return Expression(
        kind="colour",
        text=f"the {colour} {shape}",
        shape=shape,
        means=lambda scene, figure: describes(figure.look),
        describes=describes,
    )


def _of_size(size: Size, shape: Shape) -> Expression:
    def describes(look: Look) -> bool:
        return (look.size, look.shape) == (size, shape)

    return Expression(
        kind="size",
        text=f"the {size} {shape}",
        shape=shape,
        means=lambda scene, figure: describes(figure.look),
        describes=describes,
    )


def _at_edge(edge: Edge, shape: Shape) -> Expression:
    def distance(figure: Figure) -> int:
        row, column = figure.cell
        return {"leftmost": column, "rightmost": -column, "highest": row, "lowest": -row}[edge]

    def means(scene: Scene, figure: Figure) -> bool:
        alike = scene.of_shape(shape)
        return figure in alike and distance(figure) == min(map(distance, alike))

    return Expression(kind="edge", text=f"the {edge} {shape}", shape=shape, means=means)


def _beside(shape: Shape, side: Relation, colour: Colour, landmark: Shape) -> Expression:
    def landmarks(scene: Scene) -> list[Figure]:
        return [figure for figure in scene.of_shape(landmark) if figure.look.colour == colour]

    def means(scene: Scene, figure: Figure) -> bool:
        so_placed = any(side.loosely(figure, other) for other in landmarks(scene))
        return figure.look.shape == shape and so_placed

    def plain(scene: Scene, figure: Figure) -> bool:
        found = landmarks(scene)
        return len(found) == 1 and side.plainly(figure, found[0])

    return Expression(
        kind="neighbour",
        text=f"the {shape} {side} the {colour} {landmark}",
        shape=shape,
        means=means,
        plain=plain,
    )
