"""The ten kinds of land of `places`, each from the horizon down, in a sky's light.

The one idea: a land is a few polygons in two or three colours of its own, placed at random, so that
its kind is plain and no two pictures are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import lru_cache
from random import Random
from typing import NamedTuple, TypeAlias

from mmeb_harness.tasks.mini.pictures.drawing import SIDE, Pixel
from PIL.ImageDraw import ImageDraw


class Land(StrEnum):
    SEA = "sea"
    DESERT = "desert"
    FOREST = "forest"
    CITY = "city"
    FIELD = "field"
    MOUNTAIN = "mountain"
    ROAD = "road"
    SNOW = "snow"
    LAKE = "lake"
    GARDEN = "garden"


class Light(NamedTuple):
    """A tint, and how much of it (0 to 1) is in every colour."""

    tint: Pixel
    share: float


@lru_cache(maxsize=4096)
def lit(light: Light, colour: Pixel) -> Pixel:
    """Return a colour in a light."""
    red, green, blue = (
        round(a + (b - a) * light.share) for a, b in zip(colour, light.tint, strict=True)
    )
    return red, green, blue


Painter: TypeAlias = Callable[[ImageDraw, Light, int, Random], None]
"""Draws a land: on what, in which light, from which row of pixels down."""

GRASS = (92, 168, 70)
TREE = (24, 92, 44)
WOOD = (110, 74, 40)
WATER = (40, 112, 190)
ROCK = (124, 118, 116)
WHITE = (248, 250, 252)


def _cover(canvas: ImageDraw, light: Light, top: int, colour: Pixel) -> None:
    canvas.rectangle((0, top, SIDE, SIDE), fill=lit(light, colour))


def _paint_sea(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, (26, 100, 178))
    for row in range(horizon + 3, SIDE, rng.randint(4, 6)):
        for _ in range(3):
            x, length = rng.randrange(-4, SIDE), rng.randint(5, 10)
            canvas.line((x, row, x + length, row), fill=lit(light, (214, 236, 250)))


def _paint_desert(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, (236, 204, 128))
    for _ in range(rng.randint(2, 4)):
        x, y, width = rng.randrange(-10, SIDE), rng.randint(horizon, SIDE - 8), rng.randint(24, 44)
        dune = (x, y, x + width, y + rng.randint(8, 14))
        canvas.pieslice(dune, 180, 360, fill=lit(light, (206, 164, 84)))
    x, y = rng.randint(6, SIDE - 6), rng.randint(horizon + 6, 44)
    cactus = lit(light, (60, 130, 60))
    canvas.rectangle((x - 1, y - 10, x + 1, y), fill=cactus)
    canvas.line((x - 4, y - 8, x - 4, y - 5, x + 4, y - 5, x + 4, y - 9), fill=cactus)


def _paint_forest(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, (46, 110, 50))
    for row in range(horizon + 4, SIDE + 10, 9):
        for x in range(rng.randint(-4, 4), SIDE + 4, 10):
            _paint_fir(canvas, light, x + rng.randint(-2, 2), row, rng.randint(12, 18))


def _paint_fir(canvas: ImageDraw, light: Light, x: int, foot: int, height: int) -> None:
    canvas.rectangle((x - 1, foot - 2, x + 1, foot + 1), fill=lit(light, WOOD))
    tip = (x, foot - height)
    canvas.polygon((tip, (x + 5, foot - 2), (x - 5, foot - 2)), fill=lit(light, TREE))


def _paint_city(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon + 12, (104, 104, 110))
    x = rng.randint(-6, 0)
    while x < SIDE:
        width, top = rng.randint(8, 14), horizon - rng.randint(4, 16)
        wall = rng.choice(((150, 116, 104), (132, 132, 142), (176, 160, 140)))
        canvas.rectangle((x, top, x + width - 2, SIDE - rng.randint(6, 10)), fill=lit(light, wall))
        for y in range(top + 3, SIDE - 12, 5):
            for window in range(x + 2, x + width - 3, 4):
                canvas.rectangle((window, y, window + 1, y + 2), fill=(255, 232, 130))
        x += width


def _paint_field(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, (214, 190, 70))
    middle, step = rng.randint(10, SIDE - 10), rng.randint(14, 20)
    for foot in range(middle - 8 * step, middle + 8 * step, step):
        top = middle + (foot - middle) // 4
        row = ((top, horizon), (top + 1, horizon), (foot + step // 2, SIDE), (foot, SIDE))
        canvas.polygon(row, fill=lit(light, (112, 150, 50)))


def _paint_mountain(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    foot = horizon + 18
    for x in (rng.randint(4, 16), rng.randint(40, 52), rng.randint(22, 34)):
        height, half = rng.randint(22, 32), rng.randint(16, 22)
        tip = (x, foot - height)
        canvas.polygon((tip, (x + half, foot), (x - half, foot)), fill=lit(light, ROCK))
        side = half * 9 // height
        snow = (tip, (x + side, tip[1] + 9), (x, tip[1] + 6), (x - side, tip[1] + 9))
        canvas.polygon(snow, fill=lit(light, WHITE))
    _cover(canvas, light, foot, (96, 124, 84))


def _paint_road(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, GRASS)
    far, near, half = rng.randint(18, 38), rng.randint(20, 36), rng.randint(16, 22)
    sides = ((far - 2, horizon), (far + 2, horizon), (near + half, SIDE), (near - half, SIDE))
    canvas.polygon(sides, fill=lit(light, (78, 78, 84)))
    for part in (0.15, 0.4, 0.7):
        ends = [
            (far + (near - far) * at, horizon + (SIDE - horizon) * at) for at in (part, part + 0.16)
        ]
        canvas.line(ends, fill=lit(light, WHITE), width=1 + round(2 * part))


def _paint_snow(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, WHITE)
    for _ in range(rng.randint(2, 3)):
        x, y, width = rng.randrange(-10, SIDE), rng.randint(horizon, SIDE - 8), rng.randint(20, 36)
        canvas.arc((x, y, x + width, y + 10), 180, 360, fill=lit(light, (188, 204, 224)), width=2)
    for _ in range(rng.randint(1, 3)):
        x, foot = rng.randint(4, SIDE - 4), rng.randint(horizon + 6, 44)
        wood = lit(light, (70, 56, 48))
        canvas.line((x, foot, x, foot - 14), fill=wood, width=2)
        canvas.line((x - 5, foot - 13, x, foot - 7, x + 5, foot - 12), fill=wood)


def _paint_lake(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, GRASS)
    for x in range(rng.randint(-4, 4), SIDE, rng.randint(8, 12)):
        _paint_fir(canvas, light, x, horizon + 2, rng.randint(7, 10))
    left, right = rng.randint(2, 10), rng.randint(SIDE - 10, SIDE - 2)
    top, foot = horizon + rng.randint(5, 9), SIDE - rng.randint(2, 7)
    canvas.ellipse((left, top, right, foot), fill=lit(light, WATER))


def _paint_garden(canvas: ImageDraw, light: Light, horizon: int, rng: Random) -> None:
    _cover(canvas, light, horizon, GRASS)
    canvas.rectangle((0, horizon - 3, SIDE, horizon + 5), fill=lit(light, (30, 104, 44)))
    for row in range(horizon + 10, SIDE, 7):
        for x in range(rng.randint(0, 5), SIDE, rng.randint(7, 9)):
            petals = rng.choice(((230, 40, 60), (250, 220, 40), (240, 120, 200), (250, 250, 250)))
            canvas.ellipse((x - 2, row - 2, x + 2, row + 2), fill=lit(light, petals))


PAINTERS: Mapping[Land, Painter] = {
    Land.SEA: _paint_sea,
    Land.DESERT: _paint_desert,
    Land.FOREST: _paint_forest,
    Land.CITY: _paint_city,
    Land.FIELD: _paint_field,
    Land.MOUNTAIN: _paint_mountain,
    Land.ROAD: _paint_road,
    Land.SNOW: _paint_snow,
    Land.LAKE: _paint_lake,
    Land.GARDEN: _paint_garden,
}
