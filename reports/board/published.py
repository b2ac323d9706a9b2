"""Scores that others published, checked: `published.json` read once, and every average formed anew.

The one idea: a printed average is believed only as far as it can be formed again. Where the scores
of its tasks are printed beside it, their plain mean counts; where it is off by more than rounding
explains, both are kept and said. Percent in the file, as printed; fractions here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Literal

from mmeb_harness.reports.board.leaderboard import Kind, title
from mmeb_harness.result import TaskName
from mmeb_harness.summary import Summary, summarise
from mmeb_harness.task import META_TASKS, MetaTask, Split
from pydantic import BaseModel, ConfigDict, Field, model_validator

QUERIES = 1000
"""Every task of MMEB has so many."""

TOLERANCE = 0.0006
"""A mean of scores with one decimal of a percent, itself so rounded, is off by no more."""

DERIVED_TOLERANCE = 0.001
"""Overall from meta-tasks: each of them is rounded as well, and all could be to one side."""

AVERAGES = ("overall", "ind", "ood", *META_TASKS)

RERUNS = ("(V2 code, v2.0.0)", "(V2 code, v2.0.1)")
"""How the rows of one checkpoint, scored by one code on two dates, end."""

Percent = Annotated[float, Field(ge=0, le=100)]
Protocol = Literal["v1", "v2"]


class _Row(BaseModel):
    """A row of the file; `scores` are in the order of the file's tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    by: str
    source: str
    setting: str | None = None
    parameters: float | None = Field(None, gt=0)
    protocol: Protocol | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    training: Literal["mmeb-train"] | tuple[str, ...] | None = None
    note: str | None = None
    printed: Mapping[str, Percent] = {}
    corrected: Mapping[str, Percent] = {}
    scores: tuple[Percent | None, ...] = ()


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    tasks: tuple[tuple[str, MetaTask, Split], ...]
    rows: tuple[_Row, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> _File:
        names = {name for name, _, _ in self.tasks}
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("two rows share a name")
        for row in self.rows:
            if row.scores and len(row.scores) != len(self.tasks):
                raise ValueError(f"{row.name}: {len(row.scores)} scores of {len(self.tasks)} tasks")
            if not {*row.printed, *row.corrected} <= {*AVERAGES}:
                raise ValueError(f"{row.name}: an unknown average")
            if isinstance(row.training, tuple) and not {*row.training} <= names:
                raise ValueError(f"{row.name}: trained on an unknown task")
        return self


@dataclass(frozen=True, kw_only=True)
class Average:
    """An average as a fraction, and what it stands on: the scores of its `tasks`, the word of the
    source (`printed`), the printed averages of the `meta-tasks`, or a `correction`: another source.

    `printed` is what the source printed, where that is something else.
    """

    value: float
    basis: Literal["tasks", "printed", "meta-tasks", "correction"]
    printed: float | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """Published scores of one model, as fractions.

    `by` says who measured; `parameters` are in billions; `protocol` is the original code that
    scored, where known; `training` the tasks whose training parts were used, None where unknown;
    `printed` are the averages as printed; `corrected` those that the authors print right elsewhere.
    """

    name: str
    kind: Kind
    by: str
    source: str
    setting: str | None = None
    parameters: float | None = None
    protocol: Protocol | None = None
    dtype: str | None = None
    training: tuple[str, ...] | None = None
    note: str | None = None
    printed: Mapping[str, float] = field(default_factory=dict)
    corrected: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def averages(self) -> Mapping[str, Average]:
        """The averages that are known, by `overall`, `ind`, `ood` and meta-task."""
        computed = _by_key(summarise(tasks(), self.scores))
        found = {key: self._average(key, computed[key]) for key in AVERAGES}
        return {key: average for key, average in found.items() if average is not None}

    def _average(self, key: str, computed: float | None) -> Average | None:
        printed = self.printed.get(key)
        if computed is not None:
            off = printed is not None and abs(printed - computed) > TOLERANCE
            return Average(value=computed, basis="tasks", printed=printed if off else None)
        if key in self.corrected:
            return Average(value=self.corrected[key], basis="correction", printed=printed)
        if printed is None:
            return None
        derived = self._from_meta_tasks() if key == "overall" and not self.scores else None
        if derived is not None and abs(printed - derived) > DERIVED_TOLERANCE:
            return Average(value=derived, basis="meta-tasks", printed=printed)
        return Average(value=printed, basis="printed")

    def _from_meta_tasks(self) -> float | None:
        """Return the mean over all tasks that the printed means of the meta-tasks give."""
        if not set(META_TASKS) <= set(self.printed):
            return None
        return math.fsum(self.printed[task.meta_task] for task in tasks()) / len(tasks())

    @property
    def corrections(self) -> Sequence[str]:
        """A sentence for each printed average that is not what it should be."""
        return [
            f"{title(key)} is printed as {_percent(average.printed)}; {REASONS[average.basis]} "
            f"{_percent(average.value)}"
            for key, average in self.averages.items()
            if average.printed is not None
        ]


REASONS = {
    "tasks": "the mean over its tasks is",
    "meta-tasks": "the printed meta-tasks give",
    "correction": "other sources print",
}


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """One checkpoint scored twice by the original code, on two dates: changes as fractions."""

    model: str
    tasks: Mapping[str, float]
    averages: Mapping[str, float]


@cache
def tasks() -> tuple[TaskName, ...]:
    """Return the 36 tasks of MMEB in the suite's order."""
    return tuple(
        TaskName(name=name, meta_task=meta_task, split=split)
        for name, meta_task, split in _file().tasks
    )


@cache
def rows() -> tuple[PublishedRow, ...]:
    """Return all published rows, in the file's order."""
    return tuple(map(_row, _file().rows))


def row_named(name: str) -> PublishedRow | None:
    """Return the row of this name, None where there is none."""
    return next((row for row in rows() if row.name == name), None)


@cache
def reruns() -> tuple[Rerun, ...]:
    """Return what changed when the original code scored a checkpoint again: the noise that a
    reproduction cannot be below."""
    first, second = RERUNS
    return tuple(
        _rerun(row, again)
        for row in rows()
        if row.name.endswith(first)
        and (again := row_named(row.name.replace(first, second))) is not None
    )


def _rerun(row: PublishedRow, again: PublishedRow) -> Rerun:
    return Rerun(
        model=row.name.removesuffix(RERUNS[0]).strip(),
        tasks={name: again.scores[name] - row.scores[name] for name in row.scores},
        averages={key: again.averages[key].value - row.averages[key].value for key in row.averages},
    )


@cache
def _file() -> _File:
    text = (files("mmeb_harness.reports.board") / "published.json").read_text(encoding="utf-8")
    return _File.model_validate_json(text)


def _row(row: _Row) -> PublishedRow:
    known = zip(tasks(), row.scores, strict=True) if row.scores else ()
    facts = row.model_dump(exclude={"training", "printed", "corrected", "scores"})
    return PublishedRow(
        **facts,
        training=_trained_on(row.training),
        printed=dict(_fractions(row.printed)),
        corrected=dict(_fractions(row.corrected)),
        scores={task.name: score / 100 for task, score in known if score is not None},
    )


def _trained_on(training: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    if isinstance(training, str):  # "mmeb-train"
        return tuple(task.name for task in tasks() if task.split == "ind")
    return training


def _fractions(percent: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((key, value / 100) for key, value in percent.items())


def _by_key(summary: Summary) -> Mapping[str, float | None]:
    return {
        "overall": summary.overall,
        "ind": summary.ind,
        "ood": summary.ood,
        **summary.meta_tasks,
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
