"""Landscapes: ten kinds of land under five skies, each drawn anew in horizon, sizes and counts.

The one idea: the sky is light. It mixes one tint into every colour of the land, so that any land
can lie under any sky; what falls or shines is drawn over it.

    place = random_place(rng, land=Land.DESERT, sky=Sky.NIGHT)
    place = with_thing(rng, place, Look(Size.LARGE, Colour.RED, Thing.CAR))
    Picture(draw_place, (place,))       # 56x56 pixels: a red car in a desert at night
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Maker, Side, label
from mmeb_harness.tasks.mini.makers.labels import Words
from mmeb_harness.tasks.mini.pictures.drawing import PIGMENTS, RADII, SIDE, Pixel, centre
from mmeb_harness.tasks.mini.pictures.icons import stamp
from mmeb_harness.tasks.mini.pictures.lands import PAINTERS, Land, Light
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Cell, Figure, Look
from mmeb_harness.tasks.mini.pictures.scenes import place as placed
from mmeb_harness.tasks.mini.pictures.style import pair_trait
from mmeb_harness.tasks.mini.pictures.words import Thing
from PIL import Image, ImageChops, ImageDraw, ImageFilter

__all__ = [
    "LANDS",
    "NAMES",
    "SKIES",
    "Land",
    "Place",
    "Rendition",
    "Sky",
    "draw_place",
    "random_place",
    "which_place",
    "with_thing",
]


class Sky(StrEnum):
    DAY = "day"
    NIGHT = "night"
    DUSK = "dusk"
    FOG = "fog"
    RAIN = "rain"


class Rendition(StrEnum):
    """How a landscape is rendered; all but `PAINTED` are for out-of-distribution tasks."""

    PAINTED = "painted"
    WASH = "pen and wash"

    @property
    def trait(self) -> str:
        return f"place {self}"


LANDS: Sequence[Land] = tuple(Land)
SKIES: Sequence[Sky] = tuple(Sky)
NAMES = Words(first=SKIES, second=LANDS)

HORIZONS = (18, 28)
"""The highest and the lowest horizon, in pixels from the top."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A landscape. `figure` is one thing in front of it; `grain` seeds its details."""

    land: Land
    sky: Sky
    horizon: int = 24
    grain: int = 0
    figure: Figure | None = None
    rendition: Rendition = Rendition.PAINTED

    @property
    def name(self) -> str:
        """Sky and land, `night sea`."""
        return f"{self.sky} {self.land}"

    @property
    def traits(self) -> frozenset[str]:
        """What could be new to a model: the way of rendering, the thing's pair."""
        look = None if self.figure is None else self.figure.look
        pairs = set() if look is None else {pair_trait(look.colour, look.thing)}
        return frozenset({self.rendition.trait, *pairs})


def random_place(
    rng: Random,
    *,
    land: Land | None = None,
    sky: Sky | None = None,
    rendition: Rendition = Rendition.PAINTED,
) -> Place:
    """Return a place drawn anew in everything that is not given."""
    return Place(
        land=rng.choice(LANDS) if land is None else land,
        sky=rng.choice(SKIES) if sky is None else sky,
        horizon=rng.randint(*HORIZONS),
        grain=rng.getrandbits(16),
        rendition=rendition,
    )


def with_thing(rng: Random, place: Place, look: Look) -> Place:
    """Return the place with one thing in front, in one of the two lower cells."""
    return replace(place, figure=placed(rng, look, Cell(1, rng.randrange(2))))


def which_place(rendition: Rendition = Rendition.PAINTED) -> Maker:
    """Return what asks for sky and land."""

    def make(rng: Random) -> Example:
        shown = random_place(rng, rendition=rendition)
        return Example(
            query=Side(picture=Picture(draw_place, (shown,))),
            target=label(shown.name),
            rivals=NAMES.rivals(rng, shown.sky, shown.land),
            traits=shown.traits,
        )

    return make


def draw_place(place: Place) -> Image.Image:
    """Return the picture of a place."""
    rng = Random(place.grain)
    light = LIGHTS[place.sky]
    image = _sky(place.sky).copy()
    canvas = ImageDraw.Draw(image)
    _draw_air(canvas, place.sky, rng)
    PAINTERS[place.land](canvas, light, place.horizon, rng)
    if place.sky is Sky.RAIN:
        _draw_rain(canvas, rng)
    if place.figure is not None:
        _set_in_front(image, place.figure)
    return RENDITIONS[place.rendition](image)


LIGHTS: dict[Sky, Light] = {
    Sky.DAY: Light((255, 255, 255), 0.0),
    Sky.NIGHT: Light((8, 12, 48), 0.62),
    Sky.DUSK: Light((244, 120, 50), 0.4),
    Sky.FOG: Light((216, 218, 220), 0.62),
    Sky.RAIN: Light((84, 94, 112), 0.4),
}

AIRS: dict[Sky, tuple[Pixel, Pixel]] = {
    Sky.DAY: ((92, 164, 240), (190, 224, 250)),
    Sky.NIGHT: ((8, 10, 40), (30, 34, 84)),
    Sky.DUSK: ((112, 60, 130), (255, 168, 84)),
    Sky.FOG: ((224, 226, 228), (210, 212, 214)),
    Sky.RAIN: ((86, 96, 114), (134, 144, 158)),
}
"""Each sky's colours, at the top and at the lowest horizon."""


@lru_cache
def _sky(sky: Sky) -> Image.Image:
    first, second = AIRS[sky]
    image = Image.new("RGB", (SIDE, SIDE))
    canvas = ImageDraw.Draw(image)
    for y in range(SIDE):
        part = min(1.0, y / HORIZONS[1])
        mixed = [round(a + (b - a) * part) for a, b in zip(first, second, strict=True)]
        canvas.line((0, y, SIDE, y), fill=(mixed[0], mixed[1], mixed[2]))
    return image


def _draw_air(canvas: ImageDraw.ImageDraw, sky: Sky, rng: Random) -> None:
    """Draw what stands in the sky: sun and cloud, moon and stars, a low sun."""
    x, y = rng.randint(8, SIDE - 8), rng.randint(6, 10)
    if sky is Sky.DAY:
        _draw_disc(canvas, x, y, rng.randint(4, 5), (255, 236, 90))
        left = (x + rng.randint(16, 30)) % SIDE
        for step in range(3):
            _draw_disc(canvas, left + 4 * step, y + rng.randint(-1, 2), 4, (255, 255, 255))
    elif sky is Sky.NIGHT:
        for _ in range(rng.randint(8, 14)):
            canvas.point((rng.randrange(SIDE), rng.randrange(18)), fill=(255, 255, 255))
        radius = rng.randint(4, 5)
        _draw_disc(canvas, x, y, radius, (250, 246, 214))
        _draw_disc(canvas, x + 3, y - 1, radius, (12, 14, 46))
    elif sky is Sky.DUSK:
        _draw_disc(canvas, x, y + 6, rng.randint(5, 7), (255, 92, 40))


def _draw_disc(canvas: ImageDraw.ImageDraw, x: int, y: int, radius: int, colour: Pixel) -> None:
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_rain(canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    for _ in range(rng.randint(22, 30)):
        x, y = rng.randrange(-4, SIDE), rng.randrange(-6, SIDE)
        canvas.line((x + 2, y, x, y + 6), fill=(206, 220, 240))


HALO = (250, 250, 246)
"""The rim around a thing, so that a dark one is seen at night."""


def _set_in_front(image: Image.Image, figure: Figure) -> None:
    """Draw one thing with a pale rim."""
    x, y = centre(figure)
    radius = RADII[figure.look.size]
    mask = stamp(figure.look.thing, radius, figure.turn)
    rim = _rim(figure.look.thing, radius, figure.turn)
    image.paste(HALO, (x - radius - 2, y - radius - 2), rim)
    image.paste(PIGMENTS[figure.look.colour], (x - radius, y - radius), mask)


@lru_cache(maxsize=1024)
def _rim(thing: Thing, radius: int, turn: int) -> Image.Image:
    """Return a thing's mask with two pixels more all around."""
    side = 2 * radius + 4
    mask = Image.new("L", (side, side))
    mask.paste(stamp(thing, radius, turn), (2, 2))
    return mask.filter(ImageFilter.MaxFilter(5))


PAPER = (250, 246, 236)
THINNED = 0.25
"""How much of the paper shows through a wash."""


def _painted(image: Image.Image) -> Image.Image:
    return image


def _washed(image: Image.Image) -> Image.Image:
    """Return the picture as thin paint with a pen's lines along every edge."""
    thin = Image.blend(image, Image.new("RGB", image.size, PAPER), THINNED)
    edges = image.convert("L").filter(ImageFilter.FIND_EDGES).point(_PEN)
    edges = edges.crop((1, 1, SIDE - 1, SIDE - 1))  # the filter leaves the outermost pixels alone
    lines = Image.new("L", image.size, 255)
    lines.paste(edges, (1, 1))
    return ImageChops.multiply(thin, lines.convert("RGB"))


_PEN = [255 - min(255, 2 * value) for value in range(256)]

RENDITIONS = {Rendition.PAINTED: _painted, Rendition.WASH: _washed}
