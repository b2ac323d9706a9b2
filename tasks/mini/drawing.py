"""Scenes made pixels with Pillow: drawn four times too large, then averaged down.

The one idea: a figure never leaves its cell, so that the cell is a clean crop of the object.
"""

from __future__ import annotations

from math import cos, pi, sin

from mmeb_harness.tasks.mini.scenes import GRID, Cell, Colour, Figure, Ground, Scene, Shape, Size
from PIL import Image, ImageDraw

CELL = 36
MARGIN = 2
SIDE = GRID * CELL + 2 * MARGIN
"""Width and height of a picture in pixels: 112, a multiple of the 28 that Qwen2-VL works in."""

OVERSAMPLING = 4
TILE = 8
"""Breadth in pixels of the bands of a patterned ground."""

RADII = {Size.SMALL: 9, Size.LARGE: 15}

Pixel = tuple[int, int, int]

COLOURS: dict[Colour, Pixel] = {
    Colour.RED: (214, 30, 38),
    Colour.ORANGE: (255, 136, 0),
    Colour.YELLOW: (246, 214, 0),
    Colour.GREEN: (32, 150, 60),
    Colour.BLUE: (30, 84, 220),
    Colour.PURPLE: (128, 40, 170),
    Colour.PINK: (255, 130, 190),
    Colour.BLACK: (20, 20, 20),
}

GROUNDS: dict[Ground, tuple[Pixel, Pixel]] = {
    Ground.WHITE: ((255, 255, 255), (255, 255, 255)),
    Ground.GREY: ((232, 232, 232), (232, 232, 232)),
    Ground.SKY: ((196, 222, 240), (196, 222, 240)),
    Ground.MINT: ((200, 236, 212), (200, 236, 212)),
    Ground.STRIPES: ((240, 228, 208), (216, 200, 176)),
    Ground.CHECKS: ((226, 220, 236), (200, 192, 214)),
}
"""Each ground's two colours; a plain one has the same twice."""


def draw(scene: Scene) -> Image.Image:
    """Return the picture of a scene."""
    image = Image.new("RGB", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING))
    canvas = ImageDraw.Draw(image)
    _draw_ground(canvas, scene.ground)
    for figure in scene.figures:
        _draw_figure(canvas, figure)
    return image.reduce(OVERSAMPLING)


def crop(picture: Image.Image, cell: Cell) -> Image.Image:
    """Return the part of a picture that shows one cell."""
    left, top = MARGIN + cell.column * CELL, MARGIN + cell.row * CELL
    return picture.crop((left, top, left + CELL, top + CELL))


def centre(figure: Figure) -> tuple[int, int]:
    """Return the pixel (x, y) that a figure is drawn around; every shape covers its centre."""
    x = MARGIN + figure.cell.column * CELL + CELL // 2 + figure.shift.x
    y = MARGIN + figure.cell.row * CELL + CELL // 2 + figure.shift.y
    return x, y


def _draw_ground(canvas: ImageDraw.ImageDraw, ground: Ground) -> None:
    first, second = GROUNDS[ground]
    canvas.rectangle((0, 0, SIDE * OVERSAMPLING, SIDE * OVERSAMPLING), fill=first)
    if first == second:
        return
    step = TILE * OVERSAMPLING
    for row in range(SIDE // TILE):
        for column in range(SIDE // TILE):
            if (row + (column if ground is Ground.CHECKS else 0)) % 2:
                x, y = column * step, row * step
                canvas.rectangle((x, y, x + step - 1, y + step - 1), fill=second)


def _draw_figure(canvas: ImageDraw.ImageDraw, figure: Figure) -> None:
    x, y = (OVERSAMPLING * value for value in centre(figure))
    radius = OVERSAMPLING * RADII[figure.look.size]
    fill = COLOURS[figure.look.colour]
    if figure.look.shape is Shape.CIRCLE:
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        outline = _outline(figure.look.shape)
        canvas.polygon([(x + round(a * radius), y + round(b * radius)) for a, b in outline], fill)


def _outline(shape: Shape) -> list[tuple[float, float]]:
    """Return the corners of a shape within the unit circle's square, y downwards."""
    if shape is Shape.SQUARE:
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape is Shape.TRIANGLE:
        return [(0, -1), (1, 0.8), (-1, 0.8)]
    if shape is Shape.DIAMOND:
        return [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)]
    if shape is Shape.CROSS:
        corners = [(-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3)]
        return corners + [(-x, -y) for x, y in corners]
    tips = [(1.0 if tip % 2 == 0 else 0.42, tip * pi / 5) for tip in range(10)]
    return [(length * sin(angle), -length * cos(angle)) for length, angle in tips]
