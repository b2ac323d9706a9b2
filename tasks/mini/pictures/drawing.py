"""Scenes made pixels with Pillow.

The one idea: a figure never leaves its cell, so that the cell is a clean crop of the object.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from mmeb_harness.tasks.mini.pictures.icons import stamp
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import GRID, Cell, Figure, Scene
from mmeb_harness.tasks.mini.pictures.style import Ground, Style
from mmeb_harness.tasks.mini.pictures.words import Colour, Size
from PIL import Image, ImageDraw, ImageFilter

CELL = 28
"""Pixels of a cell's side: what the model makes one token of."""

SIDE = GRID * CELL
"""Width and height of a scene in pixels."""

RADII = {Size.SMALL: 8, Size.LARGE: 12}

Pixel = tuple[int, int, int]

PIGMENTS: dict[Colour, Pixel] = {
    Colour.RED: (214, 30, 38),
    Colour.ORANGE: (255, 136, 0),
    Colour.YELLOW: (246, 214, 0),
    Colour.GREEN: (32, 150, 60),
    Colour.BLUE: (30, 84, 220),
    Colour.PURPLE: (128, 40, 170),
    Colour.PINK: (255, 130, 190),
    Colour.BLACK: (20, 20, 20),
}

TINTS: dict[Ground, tuple[Pixel, Pixel]] = {
    Ground.WHITE: ((255, 255, 255), (255, 255, 255)),
    Ground.GREY: ((226, 226, 226), (226, 226, 226)),
    Ground.CREAM: ((250, 240, 214), (250, 240, 214)),
    Ground.SKY: ((200, 224, 244), (200, 224, 244)),
    Ground.MINT: ((204, 238, 214), (204, 238, 214)),
    Ground.ROSE: ((246, 222, 226), (246, 222, 226)),
    Ground.FADING: ((255, 255, 255), (206, 212, 222)),
    Ground.PAPER: ((252, 250, 244), (228, 224, 214)),
    Ground.STRIPES: ((240, 228, 208), (200, 184, 160)),
    Ground.CHECKS: ((226, 220, 236), (188, 180, 206)),
    Ground.DOTS: ((222, 234, 226), (164, 190, 176)),
    Ground.SPECKLE: ((236, 236, 236), (150, 150, 158)),
}
"""Each ground's two colours; a plain one has the same twice."""

PLAINLY = 24
"""How far two grounds lie apart, in one channel of 255, that nobody takes for each other."""

BAND = 7
"""Breadth in pixels of stripes and checks."""


def picture(scene: Scene) -> Picture:
    """Return what draws a scene."""
    return Picture(draw, (scene,))


def draw(scene: Scene) -> Image.Image:
    """Return the picture of a scene."""
    image = ground((SIDE, SIDE), scene.ground, scene.grain)
    for figure in scene.figures:
        x, y = centre(figure)
        set_down(image, figure, (x, y))
    return finished(image, scene.style)


def cropped(scene: Scene, cell: Cell) -> Picture:
    """Return what draws the part of a scene's picture that shows one cell."""
    return Picture(_crop, (scene, cell))


def _crop(scene: Scene, cell: Cell) -> Image.Image:
    left, top = cell.column * CELL, cell.row * CELL
    return draw(scene).crop((left, top, left + CELL, top + CELL))


def centre(figure: Figure) -> tuple[int, int]:
    """Return the pixel (x, y) that a figure is drawn around."""
    x = figure.cell.column * CELL + CELL // 2 + figure.shift[0]
    y = figure.cell.row * CELL + CELL // 2 + figure.shift[1]
    return x, y


def set_down(image: Image.Image, figure: Figure, middle: tuple[int, int]) -> None:
    """Draw one figure around a pixel."""
    radius = RADII[figure.look.size]
    mask = stamp(figure.look.thing, radius, figure.turn)
    left, top = middle[0] - radius, middle[1] - radius
    box = (left, top, left + 2 * radius, top + 2 * radius)
    image.paste(PIGMENTS[figure.look.colour], box, mask)


@cache
def differ(one: Ground, other: Ground) -> bool:
    """Whether two grounds cannot be taken for each other."""
    middles = [np.mean(TINTS[ground], axis=0) for ground in (one, other)]
    return bool(np.abs(middles[0] - middles[1]).max() >= PLAINLY)


def finished(image: Image.Image, style: Style) -> Image.Image:
    """Return a picture as the style's camera sees it."""
    if style.blur:
        image = image.filter(ImageFilter.GaussianBlur(style.blur))
    return image.point(lambda value: round(value * style.dim)) if style.dim < 1 else image


def ground(size: tuple[int, int], kind: Ground, grain: int) -> Image.Image:
    """Return an empty picture of a width and height; `grain` seeds what is random about it."""
    if kind in (Ground.SPECKLE, Ground.PAPER):
        return _noise(size, kind, grain)
    return _still(size, kind).copy()


@lru_cache(maxsize=256)
def _still(size: tuple[int, int], kind: Ground) -> Image.Image:
    """Return a ground that has nothing random."""
    first, second = TINTS[kind]
    image = Image.new("RGB", size, first)
    canvas = ImageDraw.Draw(image)
    if kind is Ground.FADING:
        for y in range(size[1]):
            part = y / size[1]
            mixed = [round(a + (b - a) * part) for a, b in zip(first, second, strict=True)]
            canvas.line((0, y, size[0], y), fill=(mixed[0], mixed[1], mixed[2]))
    elif kind is Ground.DOTS:
        for y in range(3, size[1], BAND):
            for x in range(3, size[0], BAND):
                canvas.ellipse((x - 1, y - 1, x + 1, y + 1), fill=second)
    elif first != second:
        for row in range(-(-size[1] // BAND)):
            for column in range(-(-size[0] // BAND)):
                if (row + (column if kind is Ground.CHECKS else 0)) % 2:
                    x, y = column * BAND, row * BAND
                    canvas.rectangle((x, y, x + BAND - 1, y + BAND - 1), fill=second)
    return image


def _noise(size: tuple[int, int], kind: Ground, grain: int) -> Image.Image:
    """Return coarse spots of the ground's two colours; few, so that the file stays small.

    The numbers are the raw stream of a bit generator, which numpy keeps the same in all versions.
    """
    first, second = TINTS[kind]
    spot = 2 if kind is Ground.SPECKLE else 4
    rows, columns = -(-size[1] // spot), -(-size[0] // spot)
    raw = np.random.PCG64(grain).random_raw(rows * columns).reshape(rows, columns)
    share = 5 if kind is Ground.SPECKLE else 3
    spots = (raw >> np.uint64(40)) % np.uint64(10) < share
    mask = Image.fromarray((spots * 255).astype(np.uint8)).resize(
        (columns * spot, rows * spot), Image.Resampling.NEAREST
    )
    image = Image.new("RGB", size, first)
    image.paste(second, (0, 0), mask.crop((0, 0, *size)))
    return image
