"""The leaderboard on a terminal: tasks by meta-task, splits marked, averages, what is missing."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from mmeb_harness.errors import UsageError
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.result import Run, TaskName, TaskResult
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

SPLIT_STYLES = {"ind": "cyan", "ood": "magenta"}
TITLES = {"vqa": "VQA"}

NAME = 28
"""Characters of a model's name in the table."""

NAMED = 6
"""Missing tasks are named up to so many, then counted."""


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render one leaderboard for each suite that the runs are of."""
    if not runs:
        raise UsageError("no runs to report")
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=options.width,
        force_terminal=options.color,
        no_color=not options.color,
        highlight=False,
    )
    for suite in dict.fromkeys(run.record.suite for run in runs):
        of_suite = [run for run in runs if run.record.suite == suite]
        console.print(_table(suite, of_suite))
        for line in _remarks(of_suite):
            console.print(Text(line), soft_wrap=True)
    return buffer.getvalue()


def _table(suite: str, runs: Sequence[Run]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(f"{suite}  hit@1, %"), no_wrap=True)
    table.add_column("split", no_wrap=True)
    for run in runs:
        table.add_column(Text(_title(run)))
    tasks = runs[0].record.suite_tasks
    for meta in dict.fromkeys(task.meta_task for task in tasks):
        table.add_row(Text(_meta_title(meta), style="bold"))
        for task in (task for task in tasks if task.meta_task == meta):
            cells = [_cell(run.tasks.get(task.name)) for run in runs]
            table.add_row(Text(f"  {task.name}"), _split(task), *cells)
        table.add_section()
    for title, averages in _averages(runs):
        table.add_row(Text(title, style="bold"), "", *map(_average, averages))
    return table


def _title(run: Run) -> str:
    """Name a run by its model, what was changed of it, and its limit; long paths from the right."""
    record = run.record
    model = record.model if len(record.model) <= NAME else "..." + record.model[3 - NAME :]
    changed = "".join(f" {key}={value}" for key, value in record.overrides.items())
    limit = "" if record.limit is None else f" (first {record.limit} queries)"
    return model + changed + limit


def _meta_title(meta: str) -> str:
    return TITLES.get(meta, meta.capitalize())


def _split(task: TaskName) -> Text:
    return Text(task.split.upper(), style=SPLIT_STYLES[task.split])


def _cell(result: TaskResult | None) -> Text:
    if result is None:
        return Text("    -", style="dim")
    if result.score is None:
        return Text(" failed", style="red")
    low, high = result.ci or (result.score, result.score)
    return Text(f"{100 * result.score:5.1f}").append(
        f"  {100 * low:5.1f}-{100 * high:.1f}", style="dim"
    )


def _averages(runs: Sequence[Run]) -> Iterable[tuple[str, list[float | None]]]:
    metas = runs[0].meta_tasks
    for meta in metas:
        yield _meta_title(meta), [run.meta_tasks.get(meta) for run in runs]
    yield "IND", [run.ind for run in runs]
    yield "OOD", [run.ood for run in runs]
    yield "Overall", [run.overall for run in runs]


def _average(value: float | None) -> Text:
    return Text("    -", style="dim") if value is None else Text(f"{100 * value:5.1f}")


def _remarks(runs: Sequence[Run]) -> Iterable[str]:
    for run in runs:
        name = run.record.model
        missing = [task for task in run.summary.missing if task not in run.tasks]
        if missing:
            names = f" ({', '.join(missing)})" if len(missing) <= NAMED else ""
            count = f"{len(missing)} of {len(run.record.suite_tasks)} tasks not run"
            yield f"{name}: {count}{names}; averages that need them are left out"
        for result in run.tasks.values():
            if result.error:
                yield f"{name}: {result.name} failed: {result.error}"
            for warning in result.warnings:
                yield f"{name}: {result.name}: {warning}"
        for warning in run.record.warnings:
            yield f"{name}: {warning}"
