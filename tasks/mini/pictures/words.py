"""What the pictures of `mini` show, as words: objects, colours, sizes, numbers, words to read.

The one idea: some pairs of a colour and an object are held out everywhere, so that no training part
shows them or speaks of them: a model that knows them has put two words together.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"
    BLACK = "black"


class Thing(StrEnum):
    """What can be drawn: ten shapes, then ten objects of daily life."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    DIAMOND = "diamond"
    STAR = "star"
    CROSS = "cross"
    HEART = "heart"
    MOON = "moon"
    RING = "ring"
    ARROW = "arrow"
    HOUSE = "house"
    TREE = "tree"
    CUP = "cup"
    FISH = "fish"
    CAR = "car"
    BOAT = "boat"
    KEY = "key"
    LAMP = "lamp"
    FLOWER = "flower"
    BIRD = "bird"


COLOURS: Sequence[Colour] = tuple(Colour)
THINGS: Sequence[Thing] = tuple(Thing)
SHAPES: Sequence[Thing] = THINGS[:10]
OBJECTS: Sequence[Thing] = THINGS[10:]


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

READ = (
    *("cat", "dog", "sun", "map", "hat", "pen", "box", "bus", "egg", "fox", "jam", "kid"),
    *("leg", "nut", "oil", "pig", "rug", "sky", "tea", "van", "web", "yak", "zip", "arm"),
)
"""The words that are rendered in pictures: 24, short, so that they can be large."""

_STEPS = (0, 3)
_MORE = 6


def _held_out() -> frozenset[tuple[Colour, Thing]]:
    """Return two colours of each shape and three of each object: 50 pairs, every word also seen."""
    pairs = set()
    for number, thing in enumerate(THINGS):
        steps = (*_STEPS, _MORE) if thing in OBJECTS else _STEPS
        pairs |= {(COLOURS[(number + step) % len(COLOURS)], thing) for step in steps}
    return frozenset(pairs)


HELD_OUT = _held_out()
SEEN = frozenset((colour, thing) for colour in COLOURS for thing in THINGS) - HELD_OUT


def plural(thing: str) -> str:
    """Return the word for several of a thing."""
    return {"cross": "crosses", "fish": "fish"}.get(thing, f"{thing}s")


def with_article(noun: str) -> str:
    """Return a noun, or a noun with its adjectives, as one speaks of it first: `an orange star`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
