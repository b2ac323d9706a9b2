"""What the retrieval tasks share: scenes as targets, and looks with one thing changed.

The one idea: a changed look could have been drawn in the first place. Its pair is one that may be
shown, and no colour or thing comes twice, so that nothing but the query tells rivals from targets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from random import Random

from mmeb_harness.tasks.mini.makers.example import Side, Target
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import Look, Scene
from mmeb_harness.tasks.mini.pictures.words import COLOURS, SEEN, SHAPES, Colour, Size, Thing

Pairs = Collection[tuple[Colour, Thing]]


def shown(scene: Scene) -> Target:
    """Return a scene's picture, which means the scene: each query reads it in its own way."""
    return Target(side=Side(picture=picture(scene)), meaning=scene)


def traits_of(scenes: Iterable[Scene]) -> frozenset[str]:
    """Return whatever could be new about any of the scenes."""
    return frozenset(trait for scene in scenes for trait in scene.traits)


def recoloured(rng: Random, look: Look, beside: Sequence[Look] = (), pairs: Pairs = SEEN) -> Look:
    """Return the look in another colour, none of those that lie beside it."""
    taken = {look.colour, *(other.colour for other in beside)}
    free = [each for each in COLOURS if each not in taken and (each, look.thing) in pairs]
    return look._replace(colour=rng.choice(free))


def reshaped(
    rng: Random,
    look: Look,
    beside: Sequence[Look] = (),
    pairs: Pairs = SEEN,
    things: Sequence[Thing] = SHAPES,
) -> Look:
    """Return another thing in the colour and size of the look, none that lies beside it."""
    taken = {look.thing, *(other.thing for other in beside)}
    free = [each for each in things if each not in taken and (look.colour, each) in pairs]
    return look._replace(thing=rng.choice(free))


def resized(look: Look) -> Look:
    """Return the look in the other size."""
    return look._replace(size=Size.LARGE if look.size is Size.SMALL else Size.SMALL)
