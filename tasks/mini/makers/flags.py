"""Flags of two bands, and their names: `red above blue`, `green to the left of black`.

The one idea: every flag has a twin with the same bands the other way round, so that its colours
alone do not tell its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.pictures.drawing import PIGMENTS, SIDE, ground
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Relation
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, Colour
from PIL import Image

TRAIT = "flag"
PAIRS = 25
"""Pairs of colours, each with two flags."""


@dataclass(frozen=True, kw_only=True)
class Bands:
    """A flag: one colour lies above, or to the left of, the other."""

    first: Colour
    relation: Relation
    second: Colour

    @property
    def name(self) -> str:
        return f"{self.first} {self.relation} {self.second}"

    @property
    def twin(self) -> Bands:
        """The same bands the other way round."""
        return Bands(first=self.second, relation=self.relation, second=self.first)


def _flags() -> tuple[Bands, ...]:
    """Return both flags of each pair; one pair's bands lie, the next one's stand."""
    relations = (Relation.ABOVE, Relation.LEFT)
    flags = []
    for number, (first, second) in enumerate(list(combinations(COLOURS, 2))[:PAIRS]):
        one = Bands(first=first, relation=relations[number % 2], second=second)
        flags += [one, one.twin]
    return tuple(flags)


FLAGS = _flags()
NAMES = tuple(label(flag.name) for flag in FLAGS)


@dataclass(frozen=True, kw_only=True)
class Flown:
    """A flag's picture: its half width and half height in pixels, and its ground."""

    flag: Bands
    half: tuple[int, int]
    ground: Ground
    grain: int = 0

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({TRAIT, ground_trait(self.ground)})


def which_flag(rng: Random) -> Example:
    """Ask for the name of a flag."""
    flown = Flown(
        flag=rng.choice(FLAGS),
        half=(rng.randint(20, 26), rng.randint(15, 22)),
        ground=PLAIN.ground(rng),
        grain=rng.getrandbits(16),
    )
    return Example(
        query=Side(picture=Picture(draw_flag, (flown,))),
        target=label(flown.flag.name),
        rivals=(label(flown.flag.twin.name),),
        traits=flown.traits,
    )


def draw_flag(flown: Flown) -> Image.Image:
    """Return the picture of a flag; the border between its bands is the picture's middle."""
    image = ground((SIDE, SIDE), flown.ground, flown.grain)
    middle = SIDE // 2
    left, top = middle - flown.half[0], middle - flown.half[1]
    right, bottom = middle + flown.half[0], middle + flown.half[1]
    image.paste(PIGMENTS[flown.flag.first], (left, top, right, bottom))
    lies = flown.flag.relation is Relation.ABOVE
    rest = (left, middle, right, bottom) if lies else (middle, top, right, bottom)
    image.paste(PIGMENTS[flown.flag.second], rest)
    return image
