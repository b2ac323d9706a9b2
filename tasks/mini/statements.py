"""Full-sentence answers about a scene, and the questions that they answer.

The one idea: a sentence carries its own truth. `holds` reads it leniently (what someone could call
true is no wrong answer); `well_put` says whether its question makes sense for a scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product

from mmeb_harness.tasks.mini.scenes import Cell, Colour, Relation, Scene, Shape

NUMBERS = ("one", "two", "three", "four")

CORNERS = {
    "in the top left corner": Cell(0, 0),
    "in the top right corner": Cell(0, 2),
    "in the bottom left corner": Cell(2, 0),
    "in the bottom right corner": Cell(2, 2),
    "in the centre": Cell(1, 1),
}
"""The cells that have a name of their own."""

KINDS = ("colour", "shape", "count", "place", "neighbour")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One answer. Statements with the same question are the alternatives to each other.

    `subject` is the word that the question is about, as it occurs in the sentence.
    """

    kind: str
    subject: str
    question: str
    sentence: str
    holds: Callable[[Scene], bool]
    well_put: Callable[[Scene], bool]


def statements() -> list[Statement]:
    """Return every sentence that can be said of a scene."""
    return [
        *(_colour(shape, colour) for shape in Shape for colour in Colour),
        *(_shape(colour, shape) for colour in Colour for shape in Shape),
        *(_count(shape, number) for shape in Shape for number in range(1, len(NUMBERS) + 1)),
        *(_place(shape, corner) for shape in Shape for corner in CORNERS),
        *(_neighbour(*pair, side) for pair in permutations(Shape, 2) for side in Relation),
    ]


def answers(scene: Scene, kind: str) -> list[Statement]:
    """Return the statements of a kind that are the one answer to a question fit for the scene."""
    true = [each for each in statements() if each.kind == kind and each.holds(scene)]
    questions = [each.question for each in true]
    return [each for each in true if questions.count(each.question) == 1 and each.well_put(scene)]


def _colour(shape: Shape, colour: Colour) -> Statement:
    return Statement(
        kind="colour",
        subject=shape,
        question=f"What colour is the {shape}?",
        sentence=f"The {shape} is {colour}.",
        holds=lambda scene: any(each.look.colour == colour for each in scene.of_shape(shape)),
        well_put=lambda scene: len(scene.of_shape(shape)) == 1,
    )


def _shape(colour: Colour, shape: Shape) -> Statement:
    return Statement(
        kind="shape",
        subject=colour,
        question=f"What shape is the {colour} object?",
        sentence=f"The {colour} object is a {shape}.",
        holds=lambda scene: any(each.look.colour == colour for each in scene.of_shape(shape)),
        well_put=lambda scene: sum(each.look.colour == colour for each in scene.figures) == 1,
    )


def _count(shape: Shape, number: int) -> Statement:
    plural = "crosses" if shape is Shape.CROSS else f"{shape}s"
    some = f"are {NUMBERS[number - 1]} {plural}" if number > 1 else f"is one {shape}"
    return Statement(
        kind="count",
        subject=shape,
        question=f"How many {plural} are there?",
        sentence=f"There {some}.",
        holds=lambda scene: len(scene.of_shape(shape)) == number,
        well_put=lambda scene: number == max(len(scene.of_shape(other)) for other in Shape),
    )


def _place(shape: Shape, corner: str) -> Statement:
    cell = CORNERS[corner]
    return Statement(
        kind="place",
        subject=shape,
        question=f"Where is the {shape}?",
        sentence=f"The {shape} is {corner}.",
        holds=lambda scene: any(each.cell == cell for each in scene.of_shape(shape)),
        well_put=lambda scene: len(scene.of_shape(shape)) == 1,
    )


def _neighbour(shape: Shape, landmark: Shape, side: Relation) -> Statement:
    def holds(scene: Scene) -> bool:
        pairs = product(scene.of_shape(shape), scene.of_shape(landmark))
        return any(side.loosely(*pair) for pair in pairs)

    def well_put(scene: Scene) -> bool:
        pairs = product(scene.figures, scene.of_shape(landmark))
        so_placed = [pair for pair in pairs if side.loosely(*pair)]
        only_one = len(so_placed) == len(scene.of_shape(landmark)) == 1
        return only_one and side.plainly(*so_placed[0])

    return Statement(
        kind="neighbour",
        subject=landmark,
        question=f"What is {side} the {landmark}?",
        sentence=f"The {shape} is {side} the {landmark}.",
        holds=holds,
        well_put=well_put,
    )
