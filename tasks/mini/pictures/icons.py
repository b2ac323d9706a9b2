"""The twenty things as shapes: polygons, ellipses and holes in a square of -1 to 1, y downwards.

The one idea: a thing is a mask, so that any colour or turn is one paste.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import cos, pi, sin
from typing import Literal, NamedTuple

from mmeb_harness.tasks.mini.pictures.words import Thing
from PIL import Image, ImageDraw

OVERSAMPLING = 8
"""Masks are drawn so many times too large, then averaged down."""


class Part(NamedTuple):
    """One piece of a shape, filled or cut out; an ellipse is given by two corners of its box."""

    kind: Literal["polygon", "ellipse"]
    points: Sequence[tuple[float, float]]
    filled: bool = True


@lru_cache(maxsize=4096)
def stamp(thing: Thing, radius: int, turn: int = 0) -> Image.Image:
    """Return a mask of 2 * radius pixels a side: 255 where the thing is."""
    side = 2 * radius * OVERSAMPLING
    mask = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(mask)
    for part in PARTS[thing]:
        points = [(side * (x + 1) / 2, side * (y + 1) / 2) for x, y in part.points]
        ink = 255 if part.filled else 0
        if part.kind == "polygon":
            canvas.polygon(points, fill=ink)
        else:
            canvas.ellipse([*points[0], *points[1]], fill=ink)
    if turn:
        mask = mask.rotate(turn, Image.Resampling.BILINEAR)
    return mask.reduce(OVERSAMPLING)


def _polygon(*points: tuple[float, float]) -> Part:
    return Part("polygon", points)


def _box(left: float, top: float, right: float, bottom: float) -> Part:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _ellipse(left: float, top: float, right: float, bottom: float, *, filled: bool = True) -> Part:
    return Part("ellipse", ((left, top), (right, bottom)), filled)


def _hole(left: float, top: float, right: float, bottom: float) -> Part:
    return _ellipse(left, top, right, bottom, filled=False)


def _tips(count: int, inner: float) -> Part:
    """Return a star of so many tips."""
    corners = [(1.0 if tip % 2 == 0 else inner, tip * pi / count) for tip in range(2 * count)]
    return _polygon(*((length * sin(angle), -length * cos(angle)) for length, angle in corners))


def _disc(x: float, y: float, radius: float) -> Part:
    return _ellipse(x - radius, y - radius, x + radius, y + radius)


_FIFTHS = [2 * pi * fifth / 5 for fifth in range(5)]

PARTS: dict[Thing, tuple[Part, ...]] = {
    Thing.CIRCLE: (_ellipse(-0.92, -0.92, 0.92, 0.92),),
    Thing.SQUARE: (_box(-0.85, -0.85, 0.85, 0.85),),
    Thing.TRIANGLE: (_polygon((0, -0.95), (1, 0.8), (-1, 0.8)),),
    Thing.DIAMOND: (_polygon((0, -1), (0.75, 0), (0, 1), (-0.75, 0)),),
    Thing.STAR: (_tips(5, 0.42),),
    Thing.CROSS: (_box(-0.3, -1, 0.3, 1), _box(-1, -0.3, 1, 0.3)),
    Thing.HEART: (
        _ellipse(-0.95, -0.85, 0.05, 0.2),
        _ellipse(-0.05, -0.85, 0.95, 0.2),
        _polygon((-0.9, -0.1), (0.9, -0.1), (0, 0.95)),
    ),
    Thing.MOON: (_ellipse(-0.95, -0.95, 0.95, 0.95), _hole(-0.35, -1, 1.4, 0.75)),
    Thing.RING: (_ellipse(-0.95, -0.95, 0.95, 0.95), _hole(-0.5, -0.5, 0.5, 0.5)),
    Thing.ARROW: (_box(-0.95, -0.28, 0.2, 0.28), _polygon((0.1, -0.85), (1, 0), (0.1, 0.85))),
    Thing.HOUSE: (_polygon((0, -1), (1, -0.1), (-1, -0.1)), _box(-0.72, -0.15, 0.72, 0.95)),
    Thing.TREE: (
        _polygon((0, -1), (0.65, -0.1), (-0.65, -0.1)),
        _polygon((0, -0.55), (0.85, 0.5), (-0.85, 0.5)),
        _box(-0.16, 0.4, 0.16, 1),
    ),
    Thing.CUP: (
        _ellipse(0.1, -0.6, 0.98, 0.4),
        _hole(0.3, -0.4, 0.75, 0.2),
        _polygon((-0.9, -0.85), (0.5, -0.85), (0.3, 0.85), (-0.7, 0.85)),
    ),
    Thing.FISH: (_ellipse(-0.98, -0.55, 0.5, 0.55), _polygon((0.25, 0), (1, -0.7), (1, 0.7))),
    Thing.CAR: (
        _polygon((-0.5, -0.55), (0.35, -0.55), (0.65, 0), (-0.75, 0)),
        _box(-1, -0.08, 1, 0.4),
        _ellipse(-0.8, 0.1, -0.2, 0.7),
        _ellipse(0.2, 0.1, 0.8, 0.7),
    ),
    Thing.BOAT: (
        _polygon((-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)),
        _polygon((0.05, -1), (0.05, 0.2), (0.8, 0.2)),
        _polygon((-0.1, -0.7), (-0.1, 0.2), (-0.7, 0.2)),
    ),
    Thing.KEY: (
        _ellipse(-1, -0.5, -0.05, 0.5),
        _hole(-0.72, -0.2, -0.33, 0.2),
        _box(-0.1, -0.14, 1, 0.14),
        _box(0.45, 0, 0.62, 0.5),
        _box(0.8, 0, 1, 0.5),
    ),
    Thing.LAMP: (
        _polygon((-0.4, -0.95), (0.4, -0.95), (0.9, 0), (-0.9, 0)),
        _box(-0.12, -0.05, 0.12, 0.8),
        _box(-0.55, 0.75, 0.55, 0.95),
    ),
    Thing.FLOWER: (
        *(_disc(0.58 * sin(turn), -0.58 * cos(turn), 0.4) for turn in _FIFTHS),
        _hole(-0.25, -0.25, 0.25, 0.25),
    ),
    Thing.BIRD: (
        _ellipse(-0.7, -0.25, 0.55, 0.55),
        _ellipse(0.2, -0.75, 0.8, -0.1),
        _polygon((0.7, -0.55), (1, -0.4), (0.7, -0.28)),
        _polygon((-0.5, 0.1), (-1, -0.55), (-0.2, -0.1)),
    ),
}
