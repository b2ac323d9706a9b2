"""Grounding: the crop of the object that an expression means.

The one idea: among the candidates are the other objects of the picture, impostors, which fit the
expression and lie on such a ground but are not in the picture, and twins of the object elsewhere:
the object has to be found in the picture, and its look to be found again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import NamedTuple

from mmeb_harness.tasks.mini.makers.example import Example, Maker, Side, Target
from mmeb_harness.tasks.mini.pictures.drawing import cropped, differ, picture
from mmeb_harness.tasks.mini.pictures.scenes import (
    CORNERS,
    Cell,
    Figure,
    Look,
    Scene,
    neighbours,
    place,
    random_looks,
    scatter,
)
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, Style
from mmeb_harness.tasks.mini.pictures.words import SHAPES, Size


class Expression(NamedTuple):
    """What is said of one figure of a scene; `describes` tells whether it says so of a look."""

    figure: Figure
    text: str
    describes: Callable[[Look], bool]
    form: str


IMPOSTORS = 2
"""Rivals that fit the expression, on a ground as the picture's, but look as nothing in it does."""

TWINS = 1
"""Rivals that look like the object that is meant, on a ground that is clearly another."""

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
        rivals += [_impostor(rng, scene, said) for _ in range(IMPOSTORS)]
        rivals += [_twin(rng, scene, said.figure) for _ in range(TWINS)]
        return Example(
            query=Side(text=_quoted(said.text), picture=picture(scene)),
            target=_crop(scene, said.figure, worded=kind.worded),
            rivals=[_crop(*rival, worded=kind.worded) for rival in rivals],
            fits=lambda meaning: _answers(meaning, said, scene),
            traits=scene.traits | {f"form {said.form}"},
        )

    return make


@cache
def _looks(style: Style) -> Sequence[Look]:
    """Return all looks of shapes that a style shows."""
    pairs = sorted(style.pairs)
    return [Look(size, *pair) for size in Size for pair in pairs if pair[1] in SHAPES]


def _impostor(rng: Random, scene: Scene, said: Expression) -> tuple[Scene, Figure]:
    """Return what the expression could mean in another picture on the same ground."""
    fitting = [
        look for look in _looks(scene.style) if said.describes(look) and look not in scene.looks
    ]
    return _elsewhere(rng, scene, rng.choice(fitting), said.figure.cell, scene.ground)


def _twin(rng: Random, scene: Scene, figure: Figure) -> tuple[Scene, Figure]:
    """Return a figure of the same look in a picture with another ground."""
    grounds = [ground for ground in scene.style.grounds if differ(ground, scene.ground)]
    return _elsewhere(rng, scene, figure.look, figure.cell, rng.choice(grounds))


def _elsewhere(
    rng: Random, scene: Scene, look: Look, cell: Cell, ground: Ground
) -> tuple[Scene, Figure]:
    figure = place(rng, look, cell, scene.style)
    return replace(scene, figures=(figure,), ground=ground, grain=rng.getrandbits(16)), figure


def _answers(meaning: Hashable, said: Expression, scene: Scene) -> bool:
    """Whether a crop could be meant: the figure, or one like it on a ground hard to tell apart."""
    assert isinstance(meaning, Crop)
    if meaning.look != said.figure.look:
        return False
    return meaning.scene == scene or not differ(meaning.scene.ground, scene.ground)


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
    return Expression(figure, f"{CORNERS[figure.cell]} figure", lambda look: True, "by-corner")


def which_colour(rng: Random, scene: Scene) -> Expression:
    figure = rng.choice(scene.figures)
    named = figure.look.colour
    return Expression(
        figure, f"Which figure is {named}?", lambda look: look.colour == named, "which-colour"
    )


def which_neighbour(rng: Random, scene: Scene) -> Expression | None:
    """Ask for the one figure on one side of another."""
    pairs = neighbours(scene)
    if not pairs:
        return None
    relation, figure, landmark = rng.choice(pairs)
    text = f"Which figure is {relation} the {landmark.look.thing}?"
    return Expression(figure, text, lambda look: True, "which-neighbour")
