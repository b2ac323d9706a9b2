"""A training's curves as one SVG that needs nothing else: loss, scores and learning rate by step.

It shows what the log says: each step faint, a smoothed line over it, scores as they were evaluated,
and a red cross where a loss was not finite.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmeb_harness.axis import Axis, step_axis, value_axis
from mmeb_harness.files import write_aside
from mmeb_harness.trainers.curves import (
    Curves,
    Point,
    Record,
    curves_of,
    known,
    smoothed,
    thinned,
)
from mmeb_harness.trainers.log import read_log

WIDTH, LEFT, RIGHT = 880, 72, 852
FIRST, GAP, FOOT = 104, 52, 52
"""Pixels above the first panel, between panels, and below the last one."""

COLOURS = (("#2f6bbf", "#6ea8fe"), ("#1c2330", "#e9edf3"), ("#0d8a80", "#4fd1c0"),
           ("#c2573a", "#f5a97f"), ("#8a93a3", "#7d8796"), ("#7a4fb5", "#b79cf0"),
           ("#9a7d0a", "#e3c84b"))  # fmt: skip
BLUE, INK, GREEN, ORANGE, GREY, PURPLE, YELLOW = range(len(COLOURS))
"""Colours by their place, each for light and for dark paper."""

AVERAGES = {"overall": ("overall", INK), "ind": ("IND", GREEN), "ood": ("OOD", ORANGE)}
OTHERS = (GREEN, ORANGE, BLUE, PURPLE, YELLOW, INK)
"""Colours of single tasks, where no average could be formed."""

DOTTED = 60
"""Up to so many evaluations, each is a dot on its line."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a panel; one without a label is not in the legend."""

    points: Sequence[Point]
    label: str
    style: str
    colour: int
    dotted: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves over one axis of values, and steps without a finite one."""

    name: str
    title: str
    height: int
    curves: Sequence[Curve]
    linear: bool = True
    gone: Sequence[int] = ()


def write_plot(log: Path, target: Path, *, title: str | None = None) -> None:
    """Draw the log of a training, titled as its folder is named unless `title` is given.

    Raises:
        EnvironmentFault: where it cannot be written.
    """
    document = draw(read_log(log), title=title or log.absolute().parent.name)
    with write_aside(target) as aside:
        aside.write_text(document, encoding="utf-8")


def draw(records: Sequence[Record], *, title: str) -> str:
    """Return the SVG of a log's lines."""
    curves = curves_of(records)
    panels = list(_panels(curves))
    across = step_axis(curves.last)
    top, placed = FIRST, []
    for panel in panels:
        placed.append(_placed(panel, top, across))
        top += panel.height + GAP
    return str(
        _template().render(
            width=WIDTH,
            height=top - GAP + FOOT,
            left=LEFT,
            right=RIGHT,
            colours=COLOURS,
            title=_written(title),
            note=_written(_note(records, curves)),
            panels=placed,
            steps=[(_across(across, step), number(step)) for step in across.ticks],
        )
    )


@cache
def _template() -> Any:
    import jinja2

    source = files("mmeb_harness.trainers").joinpath("plot.svg.jinja").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)


def _panels(curves: Curves) -> Iterable[Panel]:
    if curves.loss or not curves.scores:
        line = smoothed(curves.loss)
        gone = [point.step for point in curves.loss if point.value is None]
        yield Panel(
            name="loss",
            title="Loss",
            height=230,
            curves=[
                Curve(points=curves.loss, label="each step", style="each", colour=BLUE),
                Curve(points=line, label=_last("smoothed", line), style="line", colour=BLUE),
            ],
            linear=False,
            gone=gone[:: 1 + len(gone) // 100],
        )
    if curves.scores:
        dotted = max(len(points) for points in curves.scores.values()) <= DOTTED
        yield Panel(
            name="scores",
            title="Score, %",
            height=160,
            curves=[
                _score(name, points, OTHERS[place % len(OTHERS)], dotted)
                for place, (name, points) in enumerate(curves.scores.items())
            ],
        )
    if known(curves.rate):
        rate = Curve(points=curves.rate, label="", style="thin", colour=GREY)
        yield Panel(name="rate", title="Learning rate", height=56, curves=[rate])


def _score(name: str, points: Sequence[Point], colour: int, dotted: bool) -> Curve:
    word, colour = AVERAGES.get(name, (name, colour))
    percent = [Point(step, None if value is None else 100 * value) for step, value in points]
    label = _written(_last(word, percent, ".1f"))
    return Curve(points=percent, label=label, style="line", colour=colour, dotted=dotted)


def _last(word: str, points: Sequence[Point], form: str = ".3g") -> str:
    """Name a curve with its last finite value."""
    values = known(points)
    return f"{word} {values[-1]:{form}}" if values else word


def _note(records: Sequence[Record], curves: Curves) -> str:
    """Say in a line how far the training is."""
    if not curves.last:
        return "no step yet"
    planned = next((one["steps"] for one in reversed(records) if one.get("kind") == "start"
                    and isinstance(one.get("steps"), int)), curves.last)  # fmt: skip
    if planned > curves.last:
        return f"step {curves.last:,} of {planned:,}"
    return f"{curves.last:,} step{'s' if curves.last > 1 else ''}"


# -- from values to places ------------------------------------------------------------------------


def _placed(panel: Panel, top: int, across: Axis) -> dict[str, Any]:
    """Return a panel as the template takes it, everything in pixels."""
    values = [value for curve in panel.curves for value in known(curve.points)]
    axis = value_axis(values, count=max(2, panel.height // 40), linear=panel.linear)

    def place(point: Point) -> tuple[float, float] | None:
        if point.value is None:
            return None
        y = top + panel.height * (1 - axis.place(point.value))
        return _across(across, point.step), round(y, 2)

    curves = []
    for curve in panel.curves:
        places = [place(point) for point in thinned(curve.points)]
        alone = curve.style != "each" and len(known(curve.points)) == 1
        dots = [one for one in places if one] if curve.dotted or alone else []
        curves.append({**vars(curve), "path": _path(places), "dots": dots})
    return {
        "name": panel.name,
        "title": panel.title + (" (logarithmic)" if axis.logarithmic else ""),
        "top": top,
        "base": top + panel.height,
        "ticks": [
            (round(top + panel.height * (1 - axis.place(tick)), 2), number(tick))
            for tick in axis.ticks
        ],
        "curves": curves,
        "crosses": [
            (_across(across, step), f"step {step:,}: not a finite number") for step in panel.gone
        ],
    }


def _across(axis: Axis, step: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * axis.place(step), 2)


def _path(places: Iterable[tuple[float, float] | None]) -> str:
    """Return a path through the places, interrupted where one is missing."""
    words, pen = [], "M"
    for place in places:
        if place is None:
            pen = "M"
            continue
        words.append(f"{pen}{place[0]:g},{place[1]:g}")
        pen = "L"
    return "".join(words)


def number(value: float) -> str:
    """Write a tick's number shortly: 20,000, 0.05, 2e-5."""
    if value == round(value) and abs(value) < 1e6:
        return f"{round(value):,}"
    return re.sub(r"e([+-])0*", lambda e: "e-" if e[1] == "-" else "e", f"{value:.6g}")


def _written(text: str) -> str:
    """Replace what XML cannot hold."""
    text = text.encode("utf-8", "replace").decode()
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
