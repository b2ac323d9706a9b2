"""From runs and published rows to boards: one for each suite, ranked, and every entry with a key.

The one idea: the same results give the same boards, in whatever order they are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mmeb_harness.errors import UsageError
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.datasets import of_fewer_queries, of_other_data
from mmeb_harness.reports.board.entries import row_entry, run_entry
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, title
from mmeb_harness.reports.board.naming import keys, variants
from mmeb_harness.reports.board.ranking import ranked
from mmeb_harness.result import Run, TaskName

PUBLISHED_SUITE = "mmeb"
"""Published scores are of this suite."""


def build(runs: Sequence[Run], options: ReportOptions) -> list[Board]:
    """Return a board for each suite of the runs, MMEB's first; with `options.published` the
    published rows stand on MMEB's. A folder given twice counts once.

    Raises:
        UsageError: for nothing to report, or a task that is named like an average.
    """
    placed = sorted(runs, key=_place)
    runs = list({run.output_dir.resolve(): run for run in placed}.values())
    rows = published.rows() if options.published else ()
    suites = {run.record.suite for run in runs} | ({PUBLISHED_SUITE} if rows else set())
    if not suites:
        raise UsageError("no runs to report: name their folders, or add --published")
    named = dict(zip(map(id, runs), variants(runs), strict=True))
    boards = []
    for suite in sorted(suites, key=lambda suite: (suite != PUBLISHED_SUITE, suite)):
        of_suite = [run for run in runs if run.record.suite == suite]
        of_suite_rows = rows if suite == PUBLISHED_SUITE else ()
        tasks = published.tasks() if suite == PUBLISHED_SUITE else _tasks(of_suite)
        columns = _columns(suite, tasks)
        entries = [run_entry(run, named[id(run)], columns) for run in of_suite]
        known = published.QUERIES if of_suite_rows else 0
        entries = of_fewer_queries(of_other_data(entries), known)
        entries += [row_entry(row, columns) for row in of_suite_rows]
        boards.append(Board(suite=suite, tasks=tasks, columns=columns, entries=ranked(entries)))
    return _with_keys(boards)


def _place(run: Run) -> tuple[str, ...]:
    """Return by what runs are ordered, whatever order they came in."""
    record = run.record
    return record.suite, record.model, str(run.output_dir.absolute())


def _tasks(runs: Sequence[Run]) -> tuple[TaskName, ...]:
    """Return the tasks of a suite: those of the longest list, and what others have beyond it."""
    lists = sorted(
        {run.record.suite_tasks for run in runs},
        key=lambda tasks: (-len(tasks), [task.name for task in tasks]),
    )
    found = {task.name: task for tasks in reversed(lists) for task in tasks}
    return tuple({task.name: found[task.name] for tasks in lists for task in tasks}.values())


def _columns(suite: str, tasks: Sequence[TaskName]) -> tuple[Column, ...]:
    metas = dict.fromkeys(task.meta_task for task in tasks)
    sets: dict[str, Sequence[TaskName]] = {
        "overall": tasks,
        "ind": [task for task in tasks if task.split == "ind"],
        "ood": [task for task in tasks if task.split == "ood"],
        **{meta: [task for task in tasks if task.meta_task == meta] for meta in metas},
        "seen": (),
        "unseen": (),
    }
    for task in tasks:
        if task.name in sets:
            raise UsageError(f"suite {suite}: a task cannot be named {task.name!r}, as an average")
    averages = [_average_column(key, chosen) for key, chosen in sets.items()]
    ordered = [task for meta in metas for task in tasks if task.meta_task == meta]
    return (*averages, *map(_task_column, ordered))


def _average_column(key: str, tasks: Iterable[TaskName]) -> Column:
    names = tuple(task.name for task in tasks)
    return Column(key=key, title=title(key), tasks=names, kind="average")


def _task_column(task: TaskName) -> Column:
    return Column(
        key=task.name,
        title=task.name,
        tasks=(task.name,),
        kind="task",
        meta_task=task.meta_task,
        split=task.split,
    )


def _with_keys(boards: Sequence[Board]) -> list[Board]:
    """Give every entry a key that is unique in the report, whatever its rank."""
    places = {
        (number, place): entry
        for number, board in enumerate(boards)
        for place, entry in enumerate(board.entries)
    }
    ordered = sorted(places.items(), key=lambda item: (item[0][0], *_identity(item[1])))
    found = keys((place, entry.name) for place, entry in ordered)
    return [
        replace(
            board,
            entries=[
                replace(entry, key=found[number, place])
                for place, entry in enumerate(board.entries)
            ],
        )
        for number, board in enumerate(boards)
    ]


def _identity(entry: Entry) -> tuple[Any, ...]:
    folder = "" if entry.run is None else str(entry.run.output_dir.absolute())
    return entry.name, entry.kind, entry.variant, folder
