"""`MSCOCO_t2i` in small: find the picture that a caption describes.

The one idea: pictures come in families that differ in one thing each (the relation turned round,
colours exchanged, one shape, colour or size changed), and a candidate list holds a whole family, so
that a bag of words does not find the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from random import Random

from mmeb_harness.tasks.mini.drawing import draw
from mmeb_harness.tasks.mini.layout import EvaluationPart, Row, Side
from mmeb_harness.tasks.mini.scenes import (
    IND_GROUNDS,
    Colour,
    Look,
    Relation,
    Scene,
    Shape,
    Size,
    all_cells,
    place,
    random_look,
)

NAME = "MSCOCO_t2i"
INSTRUCTION = "Find me an everyday image that matches the given caption:"
CANDIDATE = "<|image_1|>\nRepresent the given image.\n"
FAMILIES = 16
QUERIES_PER_FAMILY = 4
CANDIDATES = 50


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said of a picture: one look, in a relation to another."""

    first: Look
    relation: Relation
    second: Look

    def __str__(self) -> str:
        return f"A {self.first} {self.relation} a {self.second}."

    def holds(self, scene: Scene) -> bool:
        """Whether someone could call the caption true of the scene."""
        return any(
            (a.look, b.look) == (self.first, self.second) and self.relation.loosely(a, b)
            for a, b in permutations(scene.figures, 2)
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Every picture with its caption; families, and each query's candidates, by their places."""

    captions: Sequence[Caption]
    scenes: Sequence[Scene]
    families: Sequence[Sequence[int]]
    queries: Sequence[Sequence[int]]


@cache
def pool() -> Pool:
    """Return the pictures in an order that tells nothing, and the queries in another."""
    rng = Random(f"mini/{NAME}")
    drawn = _families(rng)
    captions = [caption for family in drawn for caption in family]
    rng.shuffle(captions)
    families = [[captions.index(caption) for caption in family] for family in drawn]
    queries = [
        _candidates(rng, family, gold, len(captions))
        for family in families
        for gold in rng.sample(family, QUERIES_PER_FAMILY)
    ]
    rng.shuffle(queries)
    scenes = [_scene(rng, caption) for caption in captions]
    return Pool(captions=captions, scenes=scenes, families=families, queries=queries)


def task() -> EvaluationPart:
    """Return the task with its pictures."""
    paths = [f"{NAME}/c_{number:03}.png" for number in range(len(pool().scenes))]
    rows = []
    for candidates in pool().queries:
        query = Side(f"{INSTRUCTION} {pool().captions[candidates[0]]}\n")
        sides = [Side(CANDIDATE, paths[number]) for number in candidates]
        rows.append(Row(query=query, candidates=sides))
    images = {path: draw(scene) for path, scene in zip(paths, pool().scenes, strict=True)}
    return EvaluationPart(name=NAME, rows=rows, images=images)


def _candidates(rng: Random, family: Sequence[int], gold: int, count: int) -> Sequence[int]:
    """Return the gold, then its family and pictures of other families, shuffled."""
    wrong = [number for number in family if number != gold]
    others = [number for number in range(count) if number not in family]
    wrong += rng.sample(others, CANDIDATES - 1 - len(wrong))
    rng.shuffle(wrong)
    return (gold, *wrong)


def _families(rng: Random) -> list[list[Caption]]:
    """Return families of captions, no picture fitting the captions of two."""
    families: list[list[Caption]] = []
    seen: set[frozenset[Look]] = set()
    while len(families) < FAMILIES:
        family = _family(rng)
        looks = {frozenset((caption.first, caption.second)) for caption in family}
        if not looks & seen:
            families.append(family)
            seen |= looks
    return families


def _family(rng: Random) -> list[Caption]:
    """Return a caption and five that differ from it in one thing."""
    shapes = rng.sample(list(Shape), 3)
    colours = rng.sample(list(Colour), 3)
    first, second = (random_look(rng, shapes[i], colours[i]) for i in range(2))
    base = Caption(first=first, relation=rng.choice(list(Relation)), second=second)
    other_size = Size.LARGE if first.size is Size.SMALL else Size.SMALL
    return [
        base,
        replace(base, relation=base.relation.opposite),
        replace(
            base,
            first=first._replace(colour=second.colour),
            second=second._replace(colour=first.colour),
        ),
        replace(base, second=second._replace(shape=shapes[2])),
        replace(base, second=second._replace(colour=colours[2])),
        replace(base, first=first._replace(size=other_size)),
    ]


def _scene(rng: Random, caption: Caption) -> Scene:
    """Return a picture of a caption, the two figures in one row or column."""
    while True:
        cells = rng.sample(all_cells(), 2)
        figures = (place(rng, caption.first, cells[0]), place(rng, caption.second, cells[1]))
        if caption.relation.plainly(*figures):
            return Scene(figures=figures, ground=rng.choice(IND_GROUNDS))
