"""Charts of four colours at four heights, and questions about them (ChartQA, ScienceQA).

The one idea: heights are whole grid lines, all different, so that every comparison has an answer.
Bars are trained on; tubes filled so far are new, and asked about in the words of other tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.makers.questions import Asked, answers
from mmeb_harness.tasks.mini.pictures.drawing import PIGMENTS, Pixel, ground
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, NUMBERS, READ, SHAPES, Colour
from PIL import Image, ImageDraw

COLUMNS = 4
PITCH, WIDTH = 14, 10
"""From column to column, and how wide a column is, in pixels."""

UNIT, HIGHEST = 8, 6
"""Pixels from grid line to grid line, and how many there are."""

SIDE = COLUMNS * PITCH
FLOOR = 53
"""The pixel row on which the columns stand."""

RIM = 2
"""Pixels that a tube stands out over the highest grid line."""

LINE: Pixel = (176, 176, 176)
GLASS: Pixel = (90, 98, 110)


class Diagram(StrEnum):
    BARS = "bars"
    TUBES = "tubes"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Colours with their heights in grid lines, from left to right; `shift` of all, in pixels.

    `grain` seeds what is random about the ground.
    """

    columns: tuple[tuple[Colour, int], ...]
    shift: tuple[int, int]
    diagram: Diagram
    ground: Ground
    grain: int

    @property
    def ranked(self) -> list[Colour]:
        """The colours, the tallest first."""
        return [colour for colour, _ in sorted(self.columns, key=lambda column: -column[1])]

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({ground_trait(self.ground), f"diagram {self.diagram}"})


def draw(chart: Chart) -> Image.Image:
    """Return the picture of a chart."""
    image = ground((SIDE, SIDE), chart.ground, chart.grain)
    canvas = ImageDraw.Draw(image)
    floor = FLOOR + chart.shift[1]
    for line in range(HIGHEST + 1):
        canvas.line((0, floor - line * UNIT, SIDE, floor - line * UNIT), fill=LINE)
    for at, (colour, height) in enumerate(chart.columns):
        left = at * PITCH + (PITCH - WIDTH) // 2 + chart.shift[0]
        right, top = left + WIDTH - 1, floor - height * UNIT
        if chart.diagram is Diagram.TUBES:
            rim = floor - HIGHEST * UNIT - RIM
            canvas.rectangle((left, rim, right, floor), fill="white")
            canvas.line((left, rim, left, floor, right, floor, right, rim), fill=GLASS)
            left, right, floor_inside = left + 2, right - 2, floor - 2
        else:
            floor_inside = floor
        canvas.rectangle((left, top, right, floor_inside), fill=PIGMENTS[colour])
    return image


def question(rng: Random, diagram: Diagram = Diagram.BARS) -> Example:
    """Ask for a colour by its height, or for a height."""
    chart = _chart(rng, diagram)
    asked = (_of_bars if diagram is Diagram.BARS else _of_tubes)(rng, chart)
    numbers = asked.answer in NUMBERS
    shown = [NUMBERS[height - 1] if numbers else colour for colour, height in chart.columns]
    return Example(
        query=Side(text=asked.question, picture=Picture(draw, (chart,))),
        target=label(str(asked.answer)),
        rivals=[label(str(word)) for word in shown if word != asked.answer],
        traits=chart.traits | {f"form {asked.form}"},
    )


of_tubes = partial(question, diagram=Diagram.TUBES)


def _chart(rng: Random, diagram: Diagram) -> Chart:
    colours = rng.sample(COLOURS, COLUMNS)
    heights = rng.sample(range(1, HIGHEST + 1), COLUMNS)
    return Chart(
        columns=tuple(zip(colours, heights, strict=True)),
        shift=(rng.randint(-2, 2), rng.randint(-2, 1)),
        diagram=diagram,
        ground=PLAIN.ground(rng),
        grain=rng.getrandbits(16),
    )


def _of_bars(rng: Random, chart: Chart) -> Asked:
    ranks = {"tallest": 0, "second tallest": 1, "shortest": -1}
    kind = rng.choices((*ranks, "height", "pair"), (5, 2, 5, 4, 4))[0]
    if kind == "height":
        colour, height = rng.choice(chart.columns)
        return Asked(f"How tall is the {colour} bar?", NUMBERS[height - 1], "how-tall")
    if kind == "pair":
        first, second, taller = _two(rng, chart)
        return Asked(f"Which is taller, {first} or {second}?", taller, "which-is-taller")
    return Asked(f"What colour is the {kind} bar?", chart.ranked[ranks[kind]], "colour-of-bar")


def _of_tubes(rng: Random, chart: Chart) -> Asked:
    ranks = {"most": 0, "fewest": -1}
    kind = rng.choices((*ranks, "height", "pair"), (5, 5, 4, 4))[0]
    if kind == "height":
        colour, height = rng.choice(chart.columns)
        return Asked(f"How many has {colour}?", NUMBERS[height - 1], "how-many-has")
    if kind == "pair":
        first, second, taller = _two(rng, chart)
        return Asked(f"Which has the most, {first} or {second}?", taller, "which-has-most-of-two")
    return Asked(f"What colour has the {kind}?", chart.ranked[ranks[kind]], "colour-has")


def _two(rng: Random, chart: Chart) -> tuple[Colour, Colour, Colour]:
    """Return two colours, then the one of them that is taller."""
    first, second = rng.sample(chart.ranked, 2)
    return first, second, min(first, second, key=chart.ranked.index)


ANSWERS = answers(COLOURS, NUMBERS, READ, SHAPES)
"""Colours and numbers are asked for; nothing else is ever right."""

TUBE_TRAITS = frozenset({f"diagram {Diagram.TUBES}"})
