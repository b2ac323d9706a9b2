"""Two runs set against each other, query by query: what differs, and whether it is chance.

The one idea: a pair of scores is compared only where both runs answered the very same queries, and
an average only where all of its tasks are; whatever is left out is named with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from mmeb_harness.errors import UsageError
from mmeb_harness.hits import RunHits, fits
from mmeb_harness.result import Run, TaskName
from mmeb_harness.rows import Hits
from mmeb_harness.significance import LEVEL, holm, p_value
from mmeb_harness.statistics import paired_difference
from mmeb_harness.summary import Interval, mean_if_complete
from numpy.typing import NDArray

OVERALL = "overall"

SAME = {"suite": "suites", "limit": "limits of queries", "scoring": "rules of scoring"}
"""Fields of the record that two runs must share, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of B taken from that of A, as fractions, with its 95 % interval.

    `key` is a task, or `overall`, `ind`, `ood`, a meta-task. `p_value` is two-sided; `corrected`
    is that of a task after correction for all tasks compared (Holm), None for an average.
    """

    key: str
    a: float
    b: float
    difference: float
    interval: Interval
    p_value: float
    corrected: float | None
    queries: int

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance, after correction where there is one."""
        return (self.p_value if self.corrected is None else self.corrected) < LEVEL

    def to_json(self) -> dict[str, Any]:
        """Return the object that `compare --json` prints of it."""
        values = {name: value for name, value in asdict(self).items() if name != "key"}
        return {**values, "interval": list(self.interval), "significant": self.is_significant}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A against B: `tasks` in the suite's order, `averages` over the sets that both have whole.

    `left_out` says of each other task why it could not be compared.
    """

    a: Run
    b: Run
    tasks: Sequence[Difference]
    averages: Sequence[Difference]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def conclusion(self) -> str:
        """Say in a sentence or two which is better on what, and how sure that is."""
        return f"{_on_the_whole(self)} {_task_by_task(self.tasks)}"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `compare --json` prints."""
        return {
            "a": _named(self.a),
            "b": _named(self.b),
            "suite": self.a.record.suite,
            **({"limit": self.a.record.limit} if self.a.record.limit is not None else {}),
            "tasks": {one.key: one.to_json() for one in self.tasks},
            "averages": {one.key: one.to_json() for one in self.averages},
            "left_out": dict(self.left_out),
            "conclusion": self.conclusion,
        }


class _Pair(NamedTuple):
    """What both runs did with the queries of one task."""

    name: str
    scores: tuple[float, float]
    a: Hits
    b: Hits


def compare(a: Run, b: Run) -> Comparison:
    """Compare two runs of one suite, paired by query.

    Raises:
        UsageError: where they are not of one suite, limit and scoring, where no task of theirs can
            be compared, or for a damaged file.
    """
    _check_same(a, b)
    pairs: dict[str, _Pair] = {}
    left_out: dict[str, str] = {}
    hits = RunHits(a), RunHits(b)
    for task in a.record.suite_tasks:
        pair = _pair(task.name, a, b, hits)
        if isinstance(pair, str):
            left_out[task.name] = pair
        else:
            pairs[task.name] = pair
    if not pairs:
        name, why = next(iter(left_out.items()), ("the suite", "it has no tasks"))
        raise UsageError(f"no task of the two runs can be compared ({name}: {why})")
    tasks = [_difference(name, [pair]) for name, pair in pairs.items()]
    corrected = holm([one.p_value for one in tasks])
    return Comparison(
        a=a,
        b=b,
        tasks=[replace(one, corrected=p) for one, p in zip(tasks, corrected, strict=True)],
        averages=[
            _difference(key, [pairs[name] for name in names])
            for key, names in _sets(a.record.suite_tasks)
            if names and pairs.keys() >= set(names)
        ],
        left_out=left_out,
    )


def _check_same(a: Run, b: Run) -> None:
    for name, words in SAME.items():
        values = getattr(a.record, name), getattr(b.record, name)
        if values[0] != values[1] and "unknown" not in values:  # of imported scores
            left, right = ("none" if value is None else value for value in values)
            raise UsageError(f"runs over different {words} cannot be compared: {left} and {right}")
    if set(a.record.suite_tasks) != set(b.record.suite_tasks):
        raise UsageError(
            f"the suite {a.record.suite} had other tasks when the other run was made: "
            "run both with one release"
        )


def _pair(name: str, a: Run, b: Run, hits_of: tuple[RunHits, RunHits]) -> _Pair | str:
    """Return what both runs did with a task, or the reason why it cannot be compared."""
    results = a.tasks.get(name), b.tasks.get(name)
    for letter, result in zip("AB", results, strict=True):
        if result is None:
            return f"not run in {letter}"
        if result.score is None:
            return f"failed in {letter}: {result.error}"
    left, right = (result for result in results if result is not None)
    if left.n_queries != right.n_queries:
        return f"A has {left.n_queries} queries, B {right.n_queries}"
    if left.data_digest != right.data_digest:
        return "the runs are over different data"
    hits = [of_run.of(name) for of_run in hits_of]
    for letter, found, result in zip("AB", hits, (left, right), strict=True):
        if found is None:
            return f"{letter} keeps no rows of single queries (imported, or of an older release)"
        if not fits(found, result):
            return f"the rows of {letter} do not give its score: run it again"
    one, other = (found for found in hits if found is not None)
    if not _same_grouping(one.clusters, other.clusters):
        return "the queries of the runs show different images"
    return _Pair(name, (float(one.hit_at_1.mean()), float(other.hit_at_1.mean())), one, other)


def _same_grouping(a: NDArray[np.int32], b: NDArray[np.int32]) -> bool:
    """Tell whether two numberings put the same queries together."""
    return np.array_equal(_first_alike(a), _first_alike(b))


def _first_alike(numbers: NDArray[np.int32]) -> NDArray[np.intp]:
    _, firsts, places = np.unique(numbers, return_index=True, return_inverse=True)
    return firsts[places]


def _sets(tasks: Iterable[TaskName]) -> list[tuple[str, list[str]]]:
    """Return the tasks of each average by its key, as `summary` has them."""
    tasks = list(tasks)
    splits = [(key, [task.name for task in tasks if task.split == key]) for key in ("ind", "ood")]
    metas = [
        (meta, [task.name for task in tasks if task.meta_task == meta])
        for meta in dict.fromkeys(task.meta_task for task in tasks)
    ]
    return [(OVERALL, [task.name for task in tasks]), *splits, *metas]


def _difference(key: str, pairs: Sequence[_Pair]) -> Difference:
    hits_a, hits_b = [pair.a for pair in pairs], [pair.b for pair in pairs]
    a, b = (mean_if_complete([pair.scores[side] for pair in pairs]) or 0.0 for side in (0, 1))
    return Difference(
        key=key,
        a=a,
        b=b,
        difference=a - b,
        interval=paired_difference(hits_a, hits_b).interval,
        p_value=p_value(hits_a, hits_b),
        corrected=None,
        queries=sum(len(hits.hit_at_1) for hits in hits_a),
    )


def _on_the_whole(comparison: Comparison) -> str:
    one = next((one for one in comparison.averages if one.key == OVERALL), None)
    if one is None:
        count = f"{len(comparison.tasks)} of {len(comparison.a.record.suite_tasks)} tasks"
        return f"Only {count} could be compared, so nothing is said of the whole suite."
    low, high = (f"{100 * end:+.1f}" for end in one.interval)
    sure = f"(A - B {100 * one.difference:+.1f} points, 95 % interval {low} to {high}"
    sure += f", p {_in_words(one.p_value)})"
    if not one.is_significant:
        return f"Overall, no difference was found beyond chance {sure}."
    return f"Overall, {'A' if one.difference > 0 else 'B'} is better than chance explains {sure}."


def _task_by_task(tasks: Sequence[Difference]) -> str:
    found = [one for one in tasks if one.is_significant]
    for_a = sum(one.difference > 0 for one in found)
    return (
        f"Task by task, corrected for {len(tasks)}: A is better on {for_a}, B on "
        f"{len(found) - for_a}; on {len(tasks) - len(found)} no difference was found."
    )


def _in_words(value: float) -> str:
    """Write a p-value in words."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _named(run: Run) -> dict[str, Any]:
    return {"model": run.record.model, "output_dir": str(run.output_dir)}
