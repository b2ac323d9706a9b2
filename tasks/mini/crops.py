"""`RefCOCO` in small: find the crop of the object that an expression refers to.

The one idea: the other objects of the picture are all among the candidates, so that finding the
picture is not enough; the crops of other pictures look neither as described nor like the gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random

from mmeb_harness.tasks.mini.drawing import crop, draw
from mmeb_harness.tasks.mini.expressions import KINDS, Expression, expressions
from mmeb_harness.tasks.mini.layout import EvaluationPart, Row, Side
from mmeb_harness.tasks.mini.scenes import (
    OOD_GROUNDS,
    Colour,
    Figure,
    Scene,
    Shape,
    random_look,
    scatter,
)

NAME = "RefCOCO"
INSTRUCTION = "<|image_1|>\nSelect the portion of the image that follows the language expressions."
CANDIDATE = "<|image_1|>\nRepresent the given cropped image of the object"
SCENES = 32
EXPRESSIONS = 2
"""Queries for each scene."""
FIGURES = 6
CANDIDATES = 50


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One object cut out of one picture."""

    scene: Scene
    figure: Figure

    def resembles(self, other: Crop) -> bool:
        """Whether the two could be taken for each other."""
        return (self.figure.look, self.scene.ground) == (other.figure.look, other.scene.ground)


@dataclass(frozen=True, kw_only=True)
class Referral:
    """One query: a picture, what is said, and candidates by their place among the crops."""

    scene: Scene
    expression: Expression
    candidates: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Album:
    """Every picture, every crop in an order that tells nothing, and the queries."""

    scenes: Sequence[Scene]
    crops: Sequence[Crop]
    referrals: Sequence[Referral]


@cache
def album() -> Album:
    """Return pictures with two expressions each, the kinds in turn."""
    rng = Random(f"mini/{NAME}")
    chosen: list[tuple[Scene, Expression]] = []
    for number in range(SCENES):
        first = EXPRESSIONS * number
        turns = range(first, first + EXPRESSIONS)
        chosen += _scene(rng, [KINDS[turn % len(KINDS)] for turn in turns])
    scenes = list(dict.fromkeys(scene for scene, _ in chosen))
    crops = [Crop(scene=scene, figure=figure) for scene in scenes for figure in scene.figures]
    rng.shuffle(crops)
    referrals = [_referral(rng, crops, *each) for each in chosen]
    return Album(scenes=scenes, crops=crops, referrals=referrals)


def task() -> EvaluationPart:
    """Return the task with its pictures."""
    pictures = {scene: draw(scene) for scene in album().scenes}
    queries = {scene: f"{NAME}/q_{number:03}.png" for number, scene in enumerate(pictures)}
    paths = {each: f"{NAME}/c_{number:03}.png" for number, each in enumerate(album().crops)}
    rows = []
    for each in album().referrals:
        text = f'{INSTRUCTION} "{each.expression.text}"\n'
        sides = [Side(CANDIDATE, paths[album().crops[number]]) for number in each.candidates]
        rows.append(Row(query=Side(text, queries[each.scene]), candidates=sides))
    images = {path: pictures[scene] for scene, path in queries.items()}
    images |= {path: crop(pictures[c.scene], c.figure.cell) for c, path in paths.items()}
    return EvaluationPart(name=NAME, rows=rows, images=images)


def _scene(rng: Random, kinds: Sequence[str]) -> list[tuple[Scene, Expression]]:
    """Return a scene once for each kind, with an expression that means a figure of its own."""
    while True:
        shapes, colours = rng.sample(list(Shape), 3), rng.sample(list(Colour), 3)
        pairs = rng.sample(list(product(shapes, colours)), FIGURES)
        scene = scatter(rng, [random_look(rng, *pair) for pair in pairs], OOD_GROUNDS)
        possible = [expressions(scene, kind) for kind in kinds]
        if all(possible):
            said = [rng.choice(each) for each in possible]
            if len({each.referents(scene)[0] for each in said}) == len(kinds):
                return [(scene, each) for each in said]


def _referral(rng: Random, crops: Sequence[Crop], scene: Scene, expression: Expression) -> Referral:
    gold = Crop(scene=scene, figure=expression.referents(scene)[0])
    same_picture = [each for each in crops if each.scene == scene]
    listed = list(same_picture)
    for other in rng.sample(crops, len(crops)):
        new = not any(other.resembles(each) for each in listed)
        if new and _is_wrong(other, gold, expression) and len(listed) < CANDIDATES:
            listed.append(other)
    wrong = [crops.index(each) for each in listed if each != gold]
    rng.shuffle(wrong)
    return Referral(scene=scene, expression=expression, candidates=(crops.index(gold), *wrong))


def _is_wrong(other: Crop, gold: Crop, expression: Expression) -> bool:
    """Whether a crop of another picture neither answers to the expression nor shows the like."""
    same_kind = other.figure.look[1:] == gold.figure.look[1:]
    return not same_kind and not expression.describes(other.figure.look)
