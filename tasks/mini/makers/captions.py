"""Captions of two figures, to find the picture by and to be found: `MSCOCO_t2i`, `MSCOCO_i2t`.

The one idea: the relation turned round and the colours exchanged are among the candidates, so that
a bag of words does not find the gold.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.makers.rivals import recoloured, reshaped, shown, traits_of
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import (
    CELLS,
    Cell,
    Figure,
    Look,
    Relation,
    Scene,
    arrange,
    random_looks,
)
from mmeb_harness.tasks.mini.pictures.style import pair_trait
from mmeb_harness.tasks.mini.pictures.words import SEEN, Colour, Size, Thing, with_article

FORM = "form caption"


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said of a picture: a colour and thing, in a relation to another; no sizes."""

    first: Look
    relation: Relation
    second: Look

    def __str__(self) -> str:
        first, second = (with_article(look.name) for look in (self.first, self.second))
        return f"{first} {self.relation} {second}.".capitalize()

    @property
    def traits(self) -> frozenset[str]:
        return frozenset(pair_trait(look.colour, look.thing) for look in (self.first, self.second))

    def holds(self, scene: Scene) -> bool:
        """Whether someone could call the caption true of the scene."""
        names = (self.first.name, self.second.name)
        return any(
            (a.look.name, b.look.name) == names and self.relation.loosely(a, b)
            for a, b in permutations(scene.figures, 2)
        )


def find_picture(rng: Random) -> Example:
    """Make a caption, and pictures of it and of captions like it."""
    caption = _random_caption(rng)
    scene, *wrong = [_scene(rng, each) for each in (caption, *_captions_like(rng, caption))]

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Scene) and caption.holds(meaning)

    return Example(
        query=Side(text=str(caption)),
        target=shown(scene),
        rivals=[shown(each) for each in wrong],
        fits=fits,
        traits=traits_of((scene, *wrong)) | {FORM},
    )


def find_caption(rng: Random) -> Example:
    """Make a picture, its caption and captions like it."""
    caption = _random_caption(rng)
    scene = _scene(rng, caption)
    wrong = _captions_like(rng, caption)

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Caption) and meaning.holds(scene)

    return Example(
        query=Side(picture=picture(scene)),
        target=_told(caption),
        rivals=[_told(each) for each in wrong],
        fits=fits,
        traits=scene.traits.union({FORM}, *(each.traits for each in wrong)),
    )


def _told(caption: Caption) -> Target:
    return Target(side=Side(text=str(caption)), meaning=caption)


def _random_caption(rng: Random) -> Caption:
    """Return a caption of looks that could exchange their colours."""
    while True:
        first, second = random_looks(rng, 2)
        if {(second.colour, first.thing), (first.colour, second.thing)} <= SEEN:
            return Caption(first=first, relation=rng.choice(list(Relation)), second=second)


def _captions_like(rng: Random, caption: Caption) -> Sequence[Caption]:
    """Return three that are false where the caption is true: turned, exchanged, one word changed.

    With the relation turned round, the words of the caption are the same, if not their order.
    """
    first, second = caption.first, caption.second
    change = rng.choice((recoloured, reshaped))
    return (
        replace(caption, relation=caption.relation.opposite),
        replace(
            caption,
            first=first._replace(colour=second.colour),
            second=second._replace(colour=first.colour),
        ),
        replace(caption, first=change(rng, first, [second]))
        if rng.randrange(2)
        else replace(caption, second=change(rng, second, [first])),
    )


def _scene(rng: Random, caption: Caption) -> Scene:
    """Return a picture of a caption, the two figures in one row or column."""
    cells = rng.choice(_PLACES[caption.relation])
    return arrange(rng, (caption.first, caption.second), cells)


def _plain_places(relation: Relation) -> list[tuple[Cell, Cell]]:
    anything = Look(Size.LARGE, Colour.RED, Thing.STAR)
    return [
        (one, other)
        for one, other in permutations(CELLS, 2)
        if relation.plainly(Figure(look=anything, cell=one), Figure(look=anything, cell=other))
    ]


_PLACES: Mapping[Relation, Sequence[tuple[Cell, Cell]]] = {
    relation: _plain_places(relation) for relation in Relation
}
"""The cells of a figure and its landmark of which everyone would call a relation true."""
