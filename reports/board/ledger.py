"""The reproduction ledger: a run's scores against the published ones of the same checkpoint.

The one idea: a difference says something only where nothing but chance should differ, so a score is
either comparable, and then within noise or outside it, or not comparable, and then it is said why.

What noise is comes from the original code itself: six dense models that it scored twice moved by at
most 1.2 points on a task (0.2 to 0.3 on average), 0.14 overall, in or out of distribution, and 0.33
on a meta-task (`published.reruns`). With the rounding of what is printed and some room, a score is
within noise up to 1.5 points of a task, 0.3 of `overall`, `ind` and `ood`, 0.5 of a meta-task. The
queries are the same, so that the binomial interval of 1,000 of them is too wide a measure (3 points
to either side of 60 %); near 0 and 100 %, where it is the narrower one, a task's score must lie
within that as well.

Settings that make another model or other data (`decisive_settings`) leave nothing to compare. A
`Cause` only moves scores somewhat (dtype, attention, how ties are settled): a score within noise is
so whatever they are; one outside by no more than they explain is not held against the run, and told
with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mmeb_harness.card import Card
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.naming import changed
from mmeb_harness.reports.board.published import AVERAGES, PublishedRow
from mmeb_harness.result import Run, TaskName, TaskResult
from mmeb_harness.statistics import published_interval
from mmeb_harness.summary import mean_if_complete
from mmeb_harness.task import META_TASKS

Verdict = Literal["within noise", "outside", "not comparable"]

TASK_NOISE = 0.015
SPLIT_NOISE = 0.003
META_TASK_NOISE = 0.005

ROUNDING = 0.0005
"""Published scores are printed with one decimal of a percent."""

EXACT = 1e-9
"""Differences of decimal fractions are off by less."""

NUMERIC = ("attention", "concurrency", "request_form")
"""Fields of a card that change how a vector is computed, not what it is."""

MERGED = ("WebQA", "EDIS")
"""Tasks some of whose candidates share an image: the V2 code gives these one vector."""

MERGING = 0.1
"""What that is supposed to move at most, where the published score of the task is not known."""


class Cause(NamedTuple):
    """A setting that may move a score, and by how much at most (a fraction)."""

    setting: str
    reach: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One score of the run against the published one, as fractions; `difference` is measured less
    published. `key` is a task or an average; `reason` says why, where there is something to say.
    """

    key: str
    measured: float | None
    published: float | None
    verdict: Verdict
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Measured less published, None where either is not known."""
        if self.measured is None or self.published is None:
            return None
        return self.measured - self.published


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What became of a reproduction: `tasks` in the suite's order, and the `averages`."""

    row: PublishedRow
    tasks: Sequence[Line]
    averages: Sequence[Line]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """How many tasks got each verdict."""
        return Counter(line.verdict for line in self.tasks)


def ledger(run: Run) -> Ledger | None:
    """Set a run against the published row that its card names, None where it names none."""
    card = run.record.card
    if card is None or card.published_as is None:
        return None
    row = published.row_named(card.published_as) or _row_of(card, card.published_as)
    decisive = decisive_settings(run)
    tasks = [_task_line(run, row, task.name, decisive) for task in published.tasks()]
    averages = [_average_line(run, row, key, decisive) for key in row.averages]
    return Ledger(row=row, tasks=tasks, averages=averages)


def _row_of(card: Card, name: str) -> PublishedRow:
    """Return the row that a card brings itself, for one that is not in the file."""
    printed = {key: value / 100 for key, value in card.published.items() if key in AVERAGES}
    return PublishedRow(
        name=name, kind="authors", by="the card", source=", ".join(card.sources), printed=printed
    )


def decisive_settings(run: Run) -> list[str]:
    """Return the settings with which a run is of other data, or of another model, than the card."""
    record = run.record
    found = [] if record.suite == "mmeb" else [f"suite {record.suite}, not mmeb"]
    if record.limit is not None:
        found.append(f"--limit {record.limit}")
    settings = changed(record.overrides)
    return found + [f"-M {text}" for key, text in settings.items() if key not in NUMERIC]


def causes(run: Run, row: PublishedRow, tasks: Sequence[TaskResult]) -> list[Cause]:
    """Return what may have moved the mean score of some tasks."""
    record = run.record
    settings = changed(record.overrides)
    found = [Cause(f"-M {settings[key]}", TASK_NOISE) for key in NUMERIC if key in settings]
    if row.dtype and record.dtype and record.dtype != row.dtype:
        found.append(Cause(f"--dtype {record.dtype}, published with {row.dtype}", TASK_NOISE))
    ties = mean_if_complete([task.ties for task in tasks]) or 0.0
    if ties and not (record.scoring == "reference" and row.protocol == "v1"):
        found.append(Cause(f"ties in {ties:.1%} of the queries (--scoring {record.scoring})", ties))
    merged = [task for task in tasks if task.name in MERGED and row.protocol == "v2"]
    if merged:
        setting = "published by a code that merges candidates with one image"
        reach = sum(_merging(task, row.scores.get(task.name)) for task in merged) / len(tasks)
        found.append(Cause(f"{setting} ({', '.join(task.name for task in merged)})", reach))
    if any(task.data_digest is None for task in tasks):
        found.append(Cause("which data was scored is not recorded", TASK_NOISE))
    return found


def _merging(task: TaskResult, known: float | None) -> float:
    """Return how far merging moves a task: nobody measured it, so at most by all that it is off."""
    return MERGING if known is None else abs((task.score or 0.0) - known)


def _task_line(run: Run, row: PublishedRow, name: str, decisive: Sequence[str]) -> Line:
    result, known = run.tasks.get(name), row.scores.get(name)
    measured = None if result is None else result.score
    if result is None or measured is None or known is None:
        reasons = [_absence(result, known), *decisive]
        return _line(name, measured, known, "not comparable", reasons)
    if decisive:
        return _line(name, measured, known, "not comparable", decisive)
    low, high = published_interval(known)
    room = high - known if measured > known else known - low
    noise = min(TASK_NOISE, room + ROUNDING)
    return _judged(name, measured, known, noise, causes(run, row, [result]))


def _absence(result: TaskResult | None, known: float | None) -> str:
    if result is None:
        return "not run"
    return "failed" if result.score is None else "not published" if known is None else ""


def _average_line(run: Run, row: PublishedRow, key: str, decisive: Sequence[str]) -> Line:
    known = row.averages[key].value
    chosen = [task.name for task in published.tasks() if key in _sets(task)]
    results = [run.tasks[name] for name in chosen if name in run.tasks]
    measured = mean_if_complete([task.score for task in results])
    if len(results) < len(chosen) or measured is None:
        reasons = ["not all of its tasks are scored", *decisive]
        return _line(key, None, known, "not comparable", reasons)
    if decisive:
        return _line(key, measured, known, "not comparable", decisive)
    noise = META_TASK_NOISE if key in META_TASKS else SPLIT_NOISE
    return _judged(key, measured, known, noise, causes(run, row, results))


def _sets(task: TaskName) -> tuple[str, ...]:
    return "overall", task.split, task.meta_task


def _judged(key: str, measured: float, known: float, noise: float, found: Sequence[Cause]) -> Line:
    off = abs(measured - known) - EXACT
    if off <= noise:
        return _line(key, measured, known, "within noise")
    if found and off <= noise + sum(cause.reach for cause in found):
        reasons = [cause.setting for cause in found]
        return _line(key, measured, known, "not comparable", reasons)
    return _line(key, measured, known, "outside")


def _line(
    key: str,
    measured: float | None,
    known: float | None,
    verdict: Verdict,
    reasons: Sequence[str] = (),
) -> Line:
    reason = "; ".join(filter(None, reasons))
    return Line(key=key, measured=measured, published=known, verdict=verdict, reason=reason)
