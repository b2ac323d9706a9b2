"""Grounding: the crop of the object that an expression means.

The one idea: the other objects of the picture are among the candidates, and so are objects that
look as described on another ground: neither the picture nor the expression alone is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random
from typing import NamedTuple

from mmeb_harness.tasks.mini.makers.example import Example, Maker, Side, Target
from mmeb_harness.tasks.mini.pictures.drawing import cropped, picture
from mmeb_harness.tasks.mini.pictures.scenes import (
    CORNERS,
    Figure,
    Look,
    Relation,
    Scene,
    place,
    random_looks,
    scatter,
)
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Style


class Expression(NamedTuple):
    """What is said of one figure of a scene; `describes` tells whether a look could be meant."""

    figure: Figure
    text: str
    describes: Callable[[Look], bool]
    form: str


TWINS = 2
"""Rivals that look like the object that is meant, cut from pictures with another ground."""

Referring = Callable[[Random, Scene], Expression | None]
"""Says something of a scene that means one figure, or finds nothing to say."""


class Crop(NamedTuple):
    """What a candidate shows: one look in one picture."""

    look: Look
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """How is referred to what: ways, how many figures, style; `worded`: crops are named, too."""

    ways: Sequence[Referring]
    figures: tuple[int, int] = (3, 4)
    style: Style = PLAIN
    worded: bool = False


def pointing(kind: Pointing) -> Maker:
    """Return what makes an expression and the crops of its picture."""

    def make(rng: Random) -> Example:
        way = rng.choice(kind.ways)
        while True:
            looks = random_looks(rng, rng.randint(*kind.figures), kind.style)
            scene = scatter(rng, looks, kind.style)
            if said := way(rng, scene):
                break
        rivals = [(scene, figure) for figure in scene.figures if figure != said.figure]
        rivals += [_twin(rng, scene, said.figure) for _ in range(TWINS)]
        return Example(
            query=Side(text=_quoted(said.text), picture=picture(scene)),
            target=_crop(scene, said.figure, worded=kind.worded),
            rivals=[_crop(*rival, worded=kind.worded) for rival in rivals],
            fits=lambda meaning: _answers(meaning, said, scene),
            traits=scene.traits | {f"form {said.form}"},
        )

    return make


def _twin(rng: Random, scene: Scene, figure: Figure) -> tuple[Scene, Figure]:
    """Return a figure of the same look in a picture with another ground."""
    grounds = [ground for ground in scene.style.grounds if ground is not scene.ground]
    other = place(rng, figure.look, figure.cell, scene.style)
    ground = rng.choice(grounds)
    return replace(scene, figures=(other,), ground=ground, grain=rng.getrandbits(16)), other


def _answers(meaning: Hashable, said: Expression, scene: Scene) -> bool:
    """Whether a crop could be meant: the figure, or one as described on a ground like its own."""
    assert isinstance(meaning, Crop)
    if meaning.scene == scene:
        return meaning.look == said.figure.look
    return meaning.scene.ground is scene.ground and said.describes(meaning.look)


def _crop(scene: Scene, figure: Figure, *, worded: bool) -> Target:
    text = _quoted(f"the {figure.look.thing}") if worded else ""
    side = Side(text=text, picture=cropped(scene, figure.cell))
    return Target(side=side, meaning=Crop(figure.look, scene))


def _quoted(text: str) -> str:
    """Quote an expression; a question stands as it is."""
    return text if text.endswith("?") else f'"{text}"'


# -- ways to refer ---------------------------------------------------------------------------------


def by_look(rng: Random, scene: Scene) -> Expression:
    figure = rng.choice(scene.figures)
    pair = figure.look[1:]
    return Expression(figure, figure.look.name, lambda look: look[1:] == pair, "by-look")


def by_thing(rng: Random, scene: Scene) -> Expression:
    figure = rng.choice(scene.figures)
    named = figure.look.thing
    return Expression(figure, named, lambda look: look.thing == named, "by-thing")


def by_place(rng: Random, scene: Scene) -> Expression:
    """Name a thing with its corner."""
    figure = rng.choice(scene.figures)
    named = figure.look.thing
    text = f"{named} in the {CORNERS[figure.cell]}"
    return Expression(figure, text, lambda look: look.thing == named, "by-place")


def by_corner(rng: Random, scene: Scene) -> Expression:
    """Name a corner and nothing else: crops of other pictures could show anything."""
    figure = rng.choice(scene.figures)
    return Expression(
        figure, f"{CORNERS[figure.cell]} figure", lambda look: look == figure.look, "by-corner"
    )


def which_colour(rng: Random, scene: Scene) -> Expression:
    figure = rng.choice(scene.figures)
    named = figure.look.colour
    return Expression(
        figure, f"Which figure is {named}?", lambda look: look.colour == named, "which-colour"
    )


def which_neighbour(rng: Random, scene: Scene) -> Expression | None:
    """Ask for the one figure on one side of another."""
    pairs = [
        (relation, figure, landmark)
        for figure, landmark in permutations(scene.figures, 2)
        for relation in Relation
        if relation.plainly(figure, landmark)
        and sum(relation.loosely(other, landmark) for other in scene.figures) == 1
    ]
    if not pairs:
        return None
    relation, figure, landmark = rng.choice(pairs)
    text = f"Which figure is {relation} the {landmark.look.thing}?"
    return Expression(figure, text, lambda look: look == figure.look, "which-neighbour")
