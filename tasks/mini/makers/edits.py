"""A picture and an edit of it in words, to find the edited picture by: `CIRR`.

The one idea: neither half is enough. The candidates show the picture without the edit, with another
edit of the kind, and the right edit of another picture; all on the ground of the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple, TypeAlias

from mmeb_harness.tasks.mini.makers.example import Example, Side
from mmeb_harness.tasks.mini.makers.rivals import recoloured, reshaped, resized, shown, traits_of
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import CELLS, Cell, Look, Scene, arrange, random_looks
from mmeb_harness.tasks.mini.pictures.words import (
    COLOURS,
    SEEN,
    SHAPES,
    Colour,
    Size,
    Thing,
    with_article,
)

Placed: TypeAlias = dict[Cell, Look]
"""What lies where."""


class Edit(NamedTuple):
    """What is done at one cell. `words` are its two variable words, which similar edits share."""

    text: str
    words: tuple[str, str]
    cell: Cell
    after: Look | None

    def apply(self, placed: Placed) -> Placed:
        kept = {cell: look for cell, look in placed.items() if cell != self.cell}
        return kept if self.after is None else kept | {self.cell: self.after}

    def like(self, other: Edit) -> bool:
        """Whether the two differ in one word."""
        return sum(a != b for a, b in zip(self.words, other.words, strict=True)) == 1


Editing: TypeAlias = Callable[[Random, Placed], list[Edit]]
"""Lists the edits of one kind that could be made."""


def find_edited(rng: Random) -> Example:
    """Make a picture, an edit, and the picture as it is after the edit."""
    looks = random_looks(rng, 2)
    placed = dict(zip(rng.sample(CELLS, 2), looks, strict=True))
    scene = _drawn(rng, placed)
    kind = rng.choice(KINDS)
    edits = kind(rng, placed)
    edit = rng.choice(edits)
    other = rng.choice([each for each in edits if each.like(edit)])
    target, *wrong = [
        replace(_drawn(rng, each), ground=scene.ground)
        for each in (
            edit.apply(placed),
            placed,
            other.apply(placed),
            edit.apply(_another(rng, placed, edit)),
        )
    ]
    wanted = Counter(target.looks)

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Scene) and Counter(meaning.looks) == wanted

    return Example(
        query=Side(text=edit.text, picture=picture(scene)),
        target=shown(target),
        rivals=[shown(each) for each in wrong],
        fits=fits,
        traits=traits_of((scene, target, *wrong)) | {f"form {kind.__name__}"},
    )


def _drawn(rng: Random, placed: Placed) -> Scene:
    return arrange(rng, list(placed.values()), list(placed))


def _another(rng: Random, placed: Placed, edit: Edit) -> Placed:
    """Return a picture that differs in a figure which the edit leaves alone."""
    cell = rng.choice([each for each in placed if each != edit.cell])
    beside = [look for look in placed.values() if look != placed[cell]]
    beside += [edit.after] if edit.after else []
    change = rng.choice((recoloured, reshaped))
    return placed | {cell: change(rng, placed[cell], beside)}


# -- kinds of edit ---------------------------------------------------------------------------------


def recolour(rng: Random, placed: Placed) -> list[Edit]:
    del rng
    return [
        Edit(f"Make the {look.thing} {colour}.", (look.thing, colour), cell, new)
        for cell, look in placed.items()
        for colour in _free_colours(placed)
        if _seen(new := look._replace(colour=colour))
    ]


def swap(rng: Random, placed: Placed) -> list[Edit]:
    del rng
    return [
        Edit(f"Replace the {look.thing} by {with_article(thing)}.", (look.thing, thing), cell, new)
        for cell, look in placed.items()
        for thing in _free_things(placed)
        if _seen(new := look._replace(thing=thing))
    ]


def resize(rng: Random, placed: Placed) -> list[Edit]:
    del rng
    return [
        Edit(f"Make the {look.thing} {new.size}.", (look.thing, ""), cell, new)
        for cell, look in placed.items()
        for new in [resized(look)]
    ]


def remove(rng: Random, placed: Placed) -> list[Edit]:
    del rng
    return [
        Edit(f"Remove the {look.thing}.", (look.thing, ""), cell, None)
        for cell, look in placed.items()
    ]


def add(rng: Random, placed: Placed) -> list[Edit]:
    """List additions of one size at one free cell."""
    cell = rng.choice([each for each in CELLS if each not in placed])
    size = rng.choice(list(Size))
    return [
        Edit(f"Add {with_article(str(new))}.", (thing, colour), cell, new)
        for thing in _free_things(placed)
        for colour in _free_colours(placed)
        if _seen(new := Look(size, colour, thing))
    ]


KINDS: Sequence[Editing] = (recolour, swap, resize, remove, add)


def _free_colours(placed: Placed) -> list[Colour]:
    taken = {look.colour for look in placed.values()}
    return [colour for colour in COLOURS if colour not in taken]


def _free_things(placed: Placed) -> list[Thing]:
    taken = {look.thing for look in placed.values()}
    return [thing for thing in SHAPES if thing not in taken]


def _seen(look: Look) -> bool:
    return (look.colour, look.thing) in SEEN
