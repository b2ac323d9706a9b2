"""What a run or a published row is on a board, every number formed here.

The one idea: an entry says of each column what it knows and no more. An average stands only on a
whole set; printed averages alone stand as well, and then their entry is not ranked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from mmeb_harness.card import suite_and_task
from mmeb_harness.reports.board.leaderboard import Column, Entry, Score
from mmeb_harness.reports.board.published import PublishedRow
from mmeb_harness.reports.board.remarks import run_remarks
from mmeb_harness.result import Run, RunRecord, TaskResult
from mmeb_harness.statistics import (
    Spread,
    mean_spread,
    published_average_interval,
    published_interval,
    rate_spread,
    spread_interval,
    task_spread,
)
from mmeb_harness.summary import Interval, mean_if_complete

BILLION = 1e9


def run_entry(run: Run, variant: str, columns: Sequence[Column]) -> Entry:
    """Return the entry of a run, without key and rank."""
    record, card = run.record, run.record.card
    training = None if card is None else _trained_on(card.training_datasets, record.suite)
    names = [column.key for column in columns if column.kind == "task"]
    good = {name: run.tasks[name] for name in names if _is_scored(run.tasks.get(name))}
    missing = tuple(name for name in names if name not in good)
    scores = {name: _task_score(good[name], _seen(name, training)) for name in good}
    spreads = {name: _spread(task) for name, task in good.items() if task.n_queries > 1}
    for key, tasks in _sets(columns, training).items():
        if (average := _average([good.get(name) for name in tasks], spreads)) is not None:
            scores[key] = average
    others = sorted(set(run.tasks) - set(names))
    foreign = [f"not among the tasks of {record.suite}: {', '.join(others)}"] if others else []
    return Entry(
        key="",
        name=record.model,
        kind="measured" if record.imported is None else "imported",
        scores=scores,
        source=record.imported or "",
        variant=variant,
        missing=missing,
        failed={name: _failure(run.tasks[name]) for name in missing if name in run.tasks},
        limit=record.limit,
        parameters=_parameters(record),
        dimension=_dimension(record),
        training=training,
        remarks=(*run_remarks(run, missing, len(names)), *foreign),
        run=run,
    )


def _trained_on(datasets: Sequence[str] | None, suite: str) -> tuple[str, ...] | None:
    """Return which of a suite's tasks are among declared training datasets: those of another suite
    that are named alike are not."""
    if datasets is None:
        return None
    return tuple(name for found, name in map(suite_and_task, datasets) if found == suite)


def _parameters(record: RunRecord) -> float | None:
    """Return how many billions of parameters the card says, or the files that were imported."""
    if record.card is not None:
        return record.card.parameters / BILLION if record.card.parameters else None
    size = record.declared.get("model_size")
    return float(size) if isinstance(size, int | float) and 0 < size < math.inf else None


def _dimension(record: RunRecord) -> int | None:
    if record.card is not None:
        return record.card.dimension
    dimension = record.declared.get("embedding_dimension")
    return (
        int(dimension) if isinstance(dimension, int | float) and 0 < dimension < BILLION else None
    )


def _is_scored(result: TaskResult | None) -> bool:
    return (
        result is not None
        and result.status == "ok"
        and result.score is not None
        and 0 <= result.score <= 1  # false for NaN
    )


def _failure(result: TaskResult) -> str:
    return result.error or f"{result.score} is not a score between 0 and 1"


def _seen(task: str, training: Collection[str] | None) -> bool | None:
    return None if training is None else task in training


def _sets(
    columns: Sequence[Column], training: Collection[str] | None
) -> Mapping[str, tuple[str, ...]]:
    """Return the tasks of each average; those seen in training and unseen are the entry's own."""
    sets = {column.key: column.tasks for column in columns if column.kind == "average"}
    if training is not None:
        names = [column.key for column in columns if column.kind == "task"]
        sets["seen"] = tuple(name for name in names if name in training)
        sets["unseen"] = tuple(name for name in names if name not in training)
    return sets


def _task_score(result: TaskResult, seen: bool | None) -> Score:
    value = result.score or 0.0
    if result.ci is not None:
        return Score(value=value, interval=Interval(*result.ci), seen=seen)
    interval = published_interval(value, result.n_queries) if result.n_queries else None
    return Score(value=value, interval=interval, seen=seen)


def _average(results: Sequence[TaskResult | None], spreads: Mapping[str, Spread]) -> Score | None:
    """Return the mean of results that are all there; `spreads` are of those that have one."""
    value = mean_if_complete([None if result is None else result.score for result in results])
    if value is None:
        return None
    known = [spreads[task.name] for task in results if task is not None and task.name in spreads]
    whole = len(known) == len(results)
    return Score(value=value, interval=spread_interval(mean_spread(known)) if whole else None)


def _spread(result: TaskResult) -> Spread:
    """Return a task's spread; where clusters are not known, its queries stand each for itself."""
    if result.clusters:
        return task_spread(result.clusters)
    return rate_spread(result.score or 0.0, result.n_queries)


def row_entry(row: PublishedRow, columns: Sequence[Column]) -> Entry:
    """Return the entry of a published row, without key and rank."""
    names = [column.key for column in columns if column.kind == "task"]
    missing = tuple(name for name in names if name not in row.scores)
    return Entry(
        key="",
        name=row.name,
        kind=row.kind,
        scores=_row_scores(row, columns),
        source=f"{row.by}: {row.source}",
        missing=missing,
        parameters=row.parameters,
        training=row.training,
        remarks=tuple(_row_remarks(row, missing, len(names))),
    )


def _row_scores(row: PublishedRow, columns: Sequence[Column]) -> dict[str, Score]:
    scores = {
        name: Score(value=value, interval=published_interval(value), seen=_seen(name, row.training))
        for name, value in row.scores.items()
    }
    sets = _sets(columns, row.training)
    alike = {frozenset(names): key for key, names in reversed([*sets.items()]) if names}
    for key, names in sets.items():
        rates = [row.scores.get(name) for name in names]
        known = row.averages.get(alike.get(frozenset(names), key))  # seen may be IND
        value = known.value if known is not None else mean_if_complete(rates)
        if value is not None:
            scores[key] = Score(
                value=value,
                interval=published_average_interval(_filled(value, rates)),
                printed=known.printed if known is not None and key in row.averages else None,
            )
    return scores


def _filled(mean: float, rates: Sequence[float | None]) -> list[float]:
    """Return rates with the unknown ones put in, all alike, so that their mean is as known: of all
    that they could be, that gives the widest interval."""
    known = [rate for rate in rates if rate is not None]
    unknown = len(rates) - len(known)
    rest = (mean * len(rates) - math.fsum(known)) / unknown if unknown else 0.0
    return [min(1.0, max(0.0, rest)) if rate is None else rate for rate in rates]


def _row_remarks(row: PublishedRow, missing: Sequence[str], count: int) -> Iterable[str]:
    yield from row.corrections
    if row.setting:
        yield row.setting
    if row.note:
        yield row.note
    if len(missing) == count:
        yield "only averages are published: not ranked"
    elif missing:
        yield f"scores of {len(missing)} of {count} tasks are not published: not ranked"
