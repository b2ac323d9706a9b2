"""The forest plot of two runs: what each task gives to A or to B, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.axis import value_axis
from mmeb_harness.comparison import Comparison, Difference
from mmeb_harness.reports.board.leaderboard import title
from mmeb_harness.reports.numbers import percent, points
from mmeb_harness.reports.plots.marks import Frame, Tick
from mmeb_harness.reports.readable import cut
from mmeb_harness.summary import Interval

WIDTH, LEFT, RIGHT, ROW, TOP, FOOT = 720, 168, 560, 20, 8, 26
"""Pixels: of the drawing, where the axis begins and ends, of a row, and above and below."""

LEVEL = 0.05
"""A difference whose p-value is below this is called one."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One row: a difference with its interval in pixels; `side` is a, b, or empty for neither."""

    y: int
    name: str
    average: bool
    low: float
    x: float
    high: float
    side: str
    a: str
    b: str
    difference: str
    interval: str
    p: str
    queries: int


@dataclass(frozen=True, kw_only=True)
class Forest:
    """A − B: averages first, then tasks by their difference."""

    a: str
    b: str
    conclusion: str
    description: str
    frame: Frame
    effects: Sequence[Effect]
    ticks: Sequence[Tick]
    zero: float
    line: int | None
    left_out: Sequence[tuple[str, str]]


def forest_of(comparison: Comparison, a: str, b: str) -> Forest:
    """Draw a comparison of the runs that the page calls `a` and `b`."""
    tasks = sorted(comparison.tasks, key=lambda one: -one.difference)
    ordered = [*comparison.averages, *tasks]
    height = TOP + ROW * len(ordered) + FOOT
    frame = Frame(width=WIDTH, height=height, left=LEFT, right=RIGHT, top=TOP, bottom=height - FOOT)
    ends = [100 * end for one in ordered for end in (*one.interval, one.difference)]
    axis = value_axis([0.0, *ends])
    averages, effects = len(comparison.averages), []
    for place, one in enumerate(ordered):
        low, high = (frame.across(axis, 100 * end) for end in one.interval)
        effects.append(
            Effect(
                y=TOP + ROW * place + ROW // 2,
                name=title(one.key) if place < averages else cut(one.key, 24),
                average=place < averages,
                low=low,
                x=frame.across(axis, 100 * one.difference),
                high=high,
                side=_side(one),
                a=percent(one.a),
                b=percent(one.b),
                difference=points(one.difference),
                interval=_span(one.interval),
                p=_p_value(one.p_value if one.corrected is None else one.corrected),
                queries=one.queries,
            )
        )
    return Forest(
        a=cut(a, 40),
        b=cut(b, 40),
        conclusion=cut(comparison.conclusion, 600),
        description=_description([effect for effect in effects if not effect.average]),
        frame=frame,
        effects=effects,
        ticks=frame.ticks_across(
            axis, lambda tick: f"{tick:+g}".replace("-", "−") if tick else "0"
        ),
        zero=frame.across(axis, 0),
        line=TOP + ROW * averages if averages and tasks else None,
        left_out=[(cut(task), cut(reason, 200)) for task, reason in comparison.left_out.items()],
    )


def _side(one: Difference) -> str:
    p_value = one.p_value if one.corrected is None else one.corrected
    if p_value >= LEVEL or one.difference == 0:
        return ""
    return "a" if one.difference > 0 else "b"


def _description(tasks: Sequence[Effect]) -> str:
    better = sum(effect.side == "a" for effect in tasks)
    worse = sum(effect.side == "b" for effect in tasks)
    return (
        f"Paired differences on {len(tasks)} tasks, corrected for their number: A is better on "
        f"{better}, B on {worse}, and {len(tasks) - better - worse} are not separable"
    )


def _span(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
