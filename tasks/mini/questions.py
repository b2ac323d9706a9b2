"""`GQA` in small: questions about a drawn picture, answered in full sentences.

The one idea: of all candidates only the gold holds for the picture, and the list itself tells
nothing. The other answers to the same question are all there, and no other candidate speaks of what
the question is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from mmeb_harness.tasks.mini.drawing import draw
from mmeb_harness.tasks.mini.layout import EvaluationPart, Row, Side
from mmeb_harness.tasks.mini.scenes import (
    OOD_GROUNDS,
    Colour,
    Scene,
    Shape,
    random_look,
    scatter,
)
from mmeb_harness.tasks.mini.statements import KINDS, NUMBERS, Statement, answers, statements

NAME = "GQA"
INSTRUCTION = "<|image_1|>\nRepresent the given image with the following question:"
QUERIES = 64
CANDIDATES = 50


@dataclass(frozen=True, kw_only=True)
class Question:
    """One query: its scene and its candidates, the one that holds first."""

    scene: Scene
    candidates: Sequence[Statement]


@cache
def questions() -> tuple[Question, ...]:
    """Return the questions, the kinds in turn."""
    rng = Random(f"mini/{NAME}")
    return tuple(_question(rng, KINDS[number % len(KINDS)]) for number in range(QUERIES))


def task() -> EvaluationPart:
    """Return the task with its pictures."""
    images = {}
    rows = []
    for number, each in enumerate(questions()):
        path = f"{NAME}/q_{number:03}.png"
        images[path] = draw(each.scene)
        query = Side(f"{INSTRUCTION} {each.candidates[0].question}\n", path)
        rows.append(Row(query=query, candidates=[Side(c.sentence) for c in each.candidates]))
    return EvaluationPart(name=NAME, rows=rows, images=images)


def _question(rng: Random, kind: str) -> Question:
    while True:
        scene = _scene(rng)
        if possible := answers(scene, kind):
            gold = rng.choice(possible)
            return Question(scene=scene, candidates=[gold, *_wrong(rng, scene, gold)])


def _scene(rng: Random) -> Scene:
    """Return one shape one to four times and two others once, each figure of its own colour."""
    repeated, *single = rng.sample(list(Shape), 3)
    shapes = [repeated] * rng.randint(1, len(NUMBERS)) + single
    colours = rng.sample(list(Colour), len(shapes))
    looks = [random_look(rng, *look) for look in zip(shapes, colours, strict=True)]
    return scatter(rng, looks, OOD_GROUNDS)


def _wrong(rng: Random, scene: Scene, gold: Statement) -> list[Statement]:
    """Return the other answers to the question, and false statements about other things."""
    false = [each for each in statements() if not each.holds(scene)]
    rivals = [each for each in false if each.question == gold.question]
    elsewhere = [each for each in false if gold.subject not in each.sentence]
    wrong = rivals + rng.sample(elsewhere, CANDIDATES - 1 - len(rivals))
    rng.shuffle(wrong)
    return wrong
