"""Dialogues about a picture of two or three figures, to find it by: `VisDial`.

The one idea: each rival makes one answer of the dialogue wrong, so that all of it has to be read.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side
from mmeb_harness.tasks.mini.makers.rivals import recoloured, shown, traits_of
from mmeb_harness.tasks.mini.pictures.scenes import (
    CELLS,
    CORNERS,
    Cell,
    Look,
    Scene,
    arrange,
    random_looks,
    scatter,
)
from mmeb_harness.tasks.mini.pictures.words import Thing, with_article

ROUNDS = 3
"""Questions of a dialogue."""


class Question(StrEnum):
    COLOUR = "What colour is the"
    PLACE = "Where is the"
    PRESENCE = "Is there"


@dataclass(frozen=True)
class Asked:
    """A question about one thing."""

    question: Question
    thing: Thing

    def __str__(self) -> str:
        named = with_article(self.thing) if self.question is Question.PRESENCE else self.thing
        return f"{self.question} {named}?"

    def answer(self, scene: Scene) -> str | None:
        """Return what one would answer who sees the scene; None if the question makes no sense."""
        figure = next((each for each in scene.figures if each.look.thing == self.thing), None)
        if self.question is Question.PRESENCE:
            return "no" if figure is None else "yes"
        if figure is None:
            return None
        return CORNERS[figure.cell] if self.question is Question.PLACE else figure.look.colour

    def otherwise(self, rng: Random, scene: Scene) -> Scene:
        """Return a scene in which the answer is another, and little else is changed."""
        placed = {figure.cell: figure.look for figure in scene.figures}
        cell = next((cell for cell, look in placed.items() if look.thing == self.thing), None)
        if cell is None:
            placed[_free_cell(rng, placed)] = _added(rng, self.thing, scene.looks)
        elif self.question is Question.PRESENCE:
            del placed[cell]
        elif self.question is Question.COLOUR:
            placed[cell] = recoloured(rng, placed[cell], scene.looks)
        else:
            elsewhere = rng.choice([other for other in CELLS if other != cell])
            moved = placed.pop(cell)
            if elsewhere in placed:
                placed[cell] = placed.pop(elsewhere)
            placed[elsewhere] = moved
        return arrange(rng, list(placed.values()), list(placed))


def find_by_dialogue(rng: Random) -> Example:
    """Make a caption that names two things, and three questions with their answers."""
    count = rng.randint(2, 3)
    looks = random_looks(rng, 3)
    named, other = [look.thing for look in looks[:2]], looks[2].thing
    scene = scatter(rng, looks[:count])
    possible = [Asked(kind, thing) for kind in (Question.COLOUR, Question.PLACE) for thing in named]
    rounds = rng.sample([*possible, Asked(Question.PRESENCE, other)], ROUNDS)
    wrong = [each.otherwise(rng, scene) for each in rounds]

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Scene) and _true(rounds, named, scene, meaning)

    return Example(
        query=Side(text=_told(rounds, named, scene)),
        target=shown(scene),
        rivals=[shown(each) for each in wrong],
        fits=fits,
        traits=traits_of((scene, *wrong)) | {"form dialogue"},
    )


def _told(rounds: Sequence[Asked], named: Sequence[Thing], scene: Scene) -> str:
    first, second = map(with_article, named)
    told = [f"{each} {each.answer(scene)}." for each in rounds]
    return " ".join([f"{first} and {second}.".capitalize(), *told])


def _true(rounds: Sequence[Asked], named: Sequence[Thing], scene: Scene, other: Scene) -> bool:
    """Whether everything said of one scene is true of another."""
    things = {look.thing for look in other.looks}
    return things.issuperset(named) and all(
        each.answer(other) == each.answer(scene) for each in rounds
    )


def _free_cell(rng: Random, placed: dict[Cell, Look]) -> Cell:
    return rng.choice([cell for cell in CELLS if cell not in placed])


def _added(rng: Random, thing: Thing, beside: Sequence[Look]) -> Look:
    """Return a look of the thing, in a colour that is not there."""
    like = rng.choice(beside)
    return recoloured(rng, like._replace(thing=thing), beside)
