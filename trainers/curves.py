"""What a log holds to look at: curves by step, smoothed, and thinned without hiding a spike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

MOST = 800
"""A curve has so many points at most."""

SMOOTHED = 60
"""A value's weight in the smoothed line falls to a third within one in so many of all steps."""

AVERAGES = ("overall", "ind", "ood")

OTHERS = 6
"""Where no average could be formed, so many tasks are shown at most."""

Record = Mapping[str, Any]


class Point(NamedTuple):
    """A value at a step; None where it is not a finite number."""

    step: int
    value: float | None


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A log's curves, each step standing once in the order of steps."""

    loss: Sequence[Point]
    rate: Sequence[Point]
    scores: Mapping[str, Sequence[Point]]

    @property
    def last(self) -> int:
        """The last step that anything is known of."""
        every = (self.loss, self.rate, *self.scores.values())
        return max((points[-1].step for points in every if points), default=0)


def curves_of(records: Iterable[Record]) -> Curves:
    """Read the curves out of a log's lines."""
    lines = [record for record in records if isinstance(record.get("step"), int)]
    steps = {one["step"]: one for one in lines if one.get("kind") == "step"}
    scores = {one["step"]: _named(one) for one in lines if one.get("kind") == "evaluation"}
    return Curves(
        loss=[Point(step, _finite(steps[step].get("loss"))) for step in sorted(steps)],
        rate=[Point(step, _finite(steps[step].get("lr"))) for step in sorted(steps)],
        scores=_scores(scores),
    )


def _named(evaluation: Record) -> dict[str, Any]:
    """Return all scores of an evaluation by name, the averages first."""
    found = (evaluation.get(part) or {} for part in ("scores", "tasks"))
    return {name: score for part in found for name, score in part.items()}


def _scores(evaluations: Mapping[int, Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Return the averages that could be formed, by name; where none could, the tasks' scores."""
    names = dict.fromkeys(name for scores in evaluations.values() for name in scores)
    curves = {
        name: [Point(step, _finite(evaluations[step].get(name))) for step in sorted(evaluations)]
        for name in names
    }
    curves = {name: points for name, points in curves.items() if known(points)}
    averages = {name: curves[name] for name in AVERAGES if name in curves}
    return averages or dict(list(curves.items())[:OTHERS])


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def known(points: Iterable[Point]) -> list[float]:
    """Return the values that are finite."""
    return [point.value for point in points if point.value is not None]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return an average of the values around each, that of a distant step counting less.

    The weights fall off exponentially on both sides, so that the line does not lag behind.
    """
    kept = math.exp(-SMOOTHED / max(1, len(points)))
    before = _sums(points, kept)
    behind = _sums(points[::-1], kept)[::-1]
    line = []
    for (step, value), (sum_before, weight_before), (sum_behind, weight_behind) in zip(
        points, before, behind
    ):
        if value is not None:  # which stands in both sums
            value = (sum_before + sum_behind - value) / (weight_before + weight_behind - 1)
        line.append(Point(step, value))
    return line


def _sums(points: Iterable[Point], kept: float) -> list[tuple[float, float]]:
    """Return, at each point, the weighted sum of the values so far and the sum of the weights."""
    total = weight = 0.0
    sums = []
    for _, value in points:
        total = kept * total + (value or 0.0)
        weight = kept * weight + (value is not None)
        sums.append((total, weight))
    return sums


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most MOST of the points: the first, the last, and of each stretch its extremes."""
    if len(points) <= MOST:
        return list(points)
    inner, stretches = points[1:-1], MOST // 2 - 1
    bounds = [round(place * len(inner) / stretches) for place in range(stretches + 1)]
    kept = [points[0]]
    for start, end in pairwise(bounds):
        kept += _extremes(inner[start:end])
    return [*kept, points[-1]]


def _extremes(points: Sequence[Point]) -> list[Point]:
    """Return the lowest and the highest point, in their order; a gap where none is known."""
    values = [point for point in points if point.value is not None]
    if not values:
        return [points[0]]
    low, high = (pick(values, key=lambda point: point.value or 0.0) for pick in (min, max))
    return [low] if low.value == high.value else sorted((low, high))
