"""Entries, a picture of one thing with a short text, found by a question: `WebQA`, `OVEN`.

The one idea: an entry means its text and its picture. In `WebQA` the rivals share one of the two
with the target; in `OVEN` a thing seen elsewhere is found again, whatever its colour.
"""

from __future__ import annotations

from collections.abc import Hashable
from random import Random
from typing import NamedTuple

from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.makers.rivals import recoloured, reshaped, traits_of
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import Look, Scene, random_looks, scatter
from mmeb_harness.tasks.mini.pictures.style import BUSY
from mmeb_harness.tasks.mini.pictures.words import READ, THINGS, with_article


class Entry(NamedTuple):
    """A scene of one thing, and the text with it."""

    text: str
    scene: Scene

    @property
    def look(self) -> Look:
        return self.scene.looks[0]

    @property
    def target(self) -> Target:
        return Target(side=Side(text=self.text, picture=picture(self.scene)), meaning=self)


def find_named(rng: Random) -> Example:
    """Ask for the entry of a name that shows a thing in a colour."""
    name, another = rng.sample(READ, 2)
    (look,) = random_looks(rng, 1, things=THINGS)
    entry, *wrong = [
        Entry(text, scatter(rng, [each]))
        for text, each in (
            (name, look),
            (name, recoloured(rng, look)),
            (name, reshaped(rng, look, things=THINGS)),
            (another, look),
        )
    ]

    def fits(meaning: Hashable) -> bool:
        wanted = (name, look.name)
        return isinstance(meaning, Entry) and (meaning.text, meaning.look.name) == wanted

    return Example(
        query=Side(text=f"Which entry named {name} shows {with_article(look.name)}?"),
        target=entry.target,
        rivals=[each.target for each in wrong],
        fits=fits,
        traits=traits_of(each.scene for each in (entry, *wrong)) | {"form which-entry"},
    )


def find_evidence(rng: Random) -> Example:
    """Show a thing on a busy ground; the entry of the thing has another colour, the rivals its."""
    (seen,) = random_looks(rng, 1, things=THINGS)
    scene = scatter(rng, [seen], BUSY)
    looks = [recoloured(rng, seen)]
    while len(looks) < 4:
        other = reshaped(rng, seen, looks, things=THINGS)
        looks.append(other)
    entry, *wrong = [
        Entry(f"{with_article(look.thing)}.".capitalize(), scatter(rng, [look])) for look in looks
    ]

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Entry) and meaning.look.thing == seen.thing

    return Example(
        query=Side(text="Which thing is this?", picture=picture(scene)),
        target=entry.target,
        rivals=[each.target for each in wrong],
        fits=fits,
        traits=traits_of((scene, *(each.scene for each in (entry, *wrong)))) | {"form which-thing"},
    )
