"""Averages over tasks, and intervals: pure functions that a run, a trainer and a report share.

The one idea: an average is a plain mean over tasks, never a mean of means, and never over an
incomplete set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Placed(Protocol):
    """Whatever knows its name, meta-task and split."""

    @property
    def name(self) -> str: ...
    @property
    def meta_task(self) -> str: ...
    @property
    def split(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Averages as fractions, None where a task of the set is missing or failed."""

    overall: float | None
    ind: float | None
    ood: float | None
    meta_tasks: Mapping[str, float | None]
    missing: tuple[str, ...] = field(default=())


def summarise(tasks: Iterable[Placed], scores: Mapping[str, float | None]) -> Summary:
    """Average `scores` (fractions by task name) over all `tasks` of a suite."""
    tasks = list(tasks)
    meta_tasks = dict.fromkeys(task.meta_task for task in tasks)

    def average(chosen: Iterable[Placed]) -> float | None:
        return mean_if_complete([scores.get(task.name) for task in chosen])

    return Summary(
        overall=average(tasks),
        ind=average(task for task in tasks if task.split == "ind"),
        ood=average(task for task in tasks if task.split == "ood"),
        meta_tasks={
            meta: average(task for task in tasks if task.meta_task == meta) for meta in meta_tasks
        },
        missing=tuple(task.name for task in tasks if scores.get(task.name) is None),
    )


def mean_if_complete(scores: Iterable[float | None]) -> float | None:
    """Return the plain mean, or None where a score is missing or there is none."""
    values = list(scores)
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


class Interval(NamedTuple):
    """A confidence interval, as fractions."""

    low: float
    high: float


class Cluster(NamedTuple):
    """Queries that show one image stand or fall together: `number` clusters of `queries` queries
    each, `hits` of which are hit (a sum of hit@1, and so maybe a fraction)."""

    queries: int
    hits: float
    number: int


def wilson(rate: float, trials: float, z: float = 1.959963984540054) -> Interval:
    """Return Wilson's score interval of a rate (which may come from fractional hits), 95 %.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927).
    """
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    # at 0 and 1 the bound is the rate itself, but for rounding
    return Interval(max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))
