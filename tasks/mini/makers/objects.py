"""One thing alone in a picture: what is it, or which colour is it as well?

The one idea: the picture shows nothing else, so that its name is the only right one.
"""

from __future__ import annotations

from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, Target, label
from mmeb_harness.tasks.mini.makers.labels import another
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import Look, Scene, scatter
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Style
from mmeb_harness.tasks.mini.pictures.words import (
    COLOURS,
    HELD_OUT,
    SEEN,
    THINGS,
    Colour,
    Size,
    Thing,
)

NAMES = tuple(label(thing.value) for thing in THINGS)
PAIRS = sorted(HELD_OUT)
HELD_OUT_NAMES = tuple(label(f"{colour} {thing}") for colour, thing in PAIRS)


def portrait(rng: Random, colour: Colour, thing: Thing, style: Style = PLAIN) -> Scene:
    """Return a picture of a thing, drawn anew in everything else."""
    return scatter(rng, [Look(rng.choice(list(Size)), colour, thing)], style)


def what_it_is(rng: Random) -> Example:
    """Ask what the picture shows: one of all things."""
    thing = rng.choice(THINGS)
    shown = portrait(rng, seen_colour(rng, thing), thing)
    return Example(
        query=Side(picture=picture(shown)),
        target=label(thing.value),
        rivals=(label(another(rng, THINGS, thing).value),),
        traits=shown.traits,
    )


def which_of_the_held_out(rng: Random) -> Example:
    """Ask for colour and thing where no training part has the two together."""
    colour, thing = rng.choice(PAIRS)
    shown = portrait(rng, colour, thing)
    return Example(
        query=Side(picture=picture(shown)),
        target=label(f"{colour} {thing}"),
        rivals=_alike(rng, colour, thing),
        traits=shown.traits,
    )


def seen_colour(rng: Random, thing: Thing) -> Colour:
    """Return a colour that training parts show the thing in."""
    return rng.choice([colour for colour in COLOURS if (colour, thing) in SEEN])


def _alike(rng: Random, colour: Colour, thing: Thing) -> tuple[Target, Target]:
    """Return the thing in another colour, and another thing in the colour, both held out."""
    colours = [other for other in COLOURS if (other, thing) in HELD_OUT]
    things = [other for other in THINGS if (colour, other) in HELD_OUT]
    return (
        label(f"{another(rng, colours, colour)} {thing}"),
        label(f"{colour} {another(rng, things, thing)}"),
    )
