"""The queries behind a score: what was asked, what was right, and what each run took for it.

The one idea: a report shows few queries of many, so it chooses those that tell most: where runs
differ, then where all are wrong, then where all are right, each evenly over the task. Counts and
distributions are over every query. Runs stand beside each other, query by query, only where they
were scored on the same data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mmeb_harness.errors import UsageError
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.naming import variants
from mmeb_harness.reports.examples.distributions import Spread, margins, spreads_of
from mmeb_harness.reports.examples.showing import KINDS, TOP, Kind, Query, Showing, query_of
from mmeb_harness.reports.examples.thumbnails import BUDGET, Album, Thumbnail
from mmeb_harness.reports.readable import readable
from mmeb_harness.result import Run, TaskResult
from mmeb_harness.rows import TaskItems, TaskRows, read_items, read_rows
from numpy.typing import NDArray

LISTED = 24
"""Queries of a task that are listed where no pictures are wanted."""

LINES = 24_000
"""Answers listed in a whole report, unless all queries are asked for."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs over the same queries of one task: `total` queries, of which some are listed.

    `instruction` is that of every query listed, empty where they have several.
    """

    key: str
    models: tuple[str, ...]
    total: int
    counts: Mapping[Kind, int]
    candidates: int | None
    instruction: str
    queries: tuple[Query, ...]
    spreads: tuple[Spread, ...]


@dataclass(frozen=True, kw_only=True)
class TaskExamples:
    """The drill-down of one task: a group of runs for each version of its data.

    `key` is unique in the report, and safe in an HTML id. `unknown` names runs whose single
    queries are not known.
    """

    key: str
    suite: str
    name: str
    groups: tuple[Group, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The drill-down of a report: tasks by suite and name, and the pictures they point at."""

    tasks: Mapping[tuple[str, str], TaskExamples]
    pictures: Sequence[Thumbnail]
    remarks: tuple[str, ...] = ()

    def sources(self) -> list[tuple[str, int, int] | None]:
        """Return what a page's script draws: source, width and height by number."""
        return [
            (one.source, one.width, one.height) if one.source else None for one in self.pictures
        ]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One run's rows of one task."""

    name: str
    run: Run
    result: TaskResult
    rows: TaskRows


def build(
    runs: Sequence[Run], options: ReportOptions, names: Sequence[str] | None = None
) -> Examples:
    """Read the rows of every run's tasks and choose what to show; `names` are the runs' titles.

    Raises:
        UsageError: where a table is damaged.
    """
    titles = [readable(name, 60) for name in names or _titles(runs)]
    pairs = dict.fromkeys((run.record.suite, name) for run in runs for name in run.tasks)
    album = Album()
    tasks: dict[tuple[str, str], TaskExamples] = {}
    listed = _listed(options, len(pairs), len(runs))
    for number, (suite, name) in enumerate(pairs):
        task = _task(
            f"x{number}", (suite, name), list(zip(titles, runs, strict=True)), album, listed
        )
        if task is not None:
            tasks[suite, name] = task
    pictures = _pictures(album, list(tasks.values()), options)
    return Examples(tasks=tasks, pictures=pictures, remarks=tuple(_remarks(pictures, options)))


def _titles(runs: Sequence[Run]) -> list[str]:
    return [f"{run.record.model} {more}".rstrip() for run, more in zip(runs, variants(runs))]


def _listed(options: ReportOptions, tasks: int, runs: int) -> int | None:
    """Return how many queries of each task are listed, None for all."""
    if options.images is None:
        return None
    return min(options.images or LISTED, max(4, LINES // max(1, tasks * runs * (TOP + 1))))


def _pictures(
    album: Album, tasks: Sequence[TaskExamples], options: ReportOptions
) -> list[Thumbnail]:
    if options.images == 0:
        return album.left_out("left out: --images none")
    return album.draw(_order(tasks), budget=int(options.extra.get("picture_bytes", BUDGET)))


def _order(tasks: Sequence[TaskExamples]) -> Iterable[int]:
    """Yield pictures in the order in which they matter: the first query of every task comes before
    the second of any, so that a spent budget leaves no task without."""
    lists = [group.queries for task in tasks for group in task.groups]
    for number in range(max(map(len, lists), default=0)):
        for query in (queries[number] for queries in lists if number < len(queries)):
            answers = [answer.item for outcome in query.outcomes for answer in outcome.answers]
            shown = [query.item, *query.gold, *answers]
            yield from (item.picture for item in shown if item.picture is not None)


def _remarks(pictures: Sequence[Thumbnail], options: ReportOptions) -> Iterable[str]:
    reasons = [one.note for one in pictures if one.note] if options.images != 0 else []
    for reason in dict.fromkeys(reasons):
        count = reasons.count(reason)
        yield f"{count:,} of {len(pictures):,} pictures: {reason}"


def _task(
    key: str,
    wanted: tuple[str, str],
    named: Sequence[tuple[str, Run]],
    album: Album,
    listed: int | None,
) -> TaskExamples | None:
    """Group the runs of one task by their data; None where no run has its rows."""
    suite, name = wanted
    groups: dict[object, list[_Scored]] = {}
    unknown = []
    for number, (title, run) in enumerate(named):
        result = run.tasks.get(name)
        if run.record.suite != suite or result is None or result.status != "ok":
            continue
        rows = read_rows(run.output_dir, name)
        if rows is None or not len(rows):
            unknown.append(title)
            continue
        same = (result.data_digest or number, result.limit, len(rows))
        groups.setdefault(same, []).append(_Scored(name=title, run=run, result=result, rows=rows))
    made = [
        _group(f"{key}-{number}", scored, name, album, listed)
        for number, scored in enumerate(groups.values())
    ]
    if not made:
        return None
    return TaskExamples(key=key, suite=suite, name=name, groups=tuple(made), unknown=tuple(unknown))


def _group(
    key: str, scored: Sequence[_Scored], task: str, album: Album, listed: int | None
) -> Group:
    """Make what is shown of runs over the same queries."""
    items = _items(scored, task)
    candidates = max((one.result.n_candidates or (0, 0))[1] for one in scored) or None
    states = np.array([_states(one.rows) for one in scored])
    kinds = _kinds(states)
    rows = [one.rows for one in scored]
    known = [margins(one) for one in rows]
    showing = Showing(items, album)
    queries = tuple(
        query_of(number, KINDS[kinds[number]], rows, known, showing)
        for number in _chosen(kinds, listed)
    )
    instructions = {query.item.instruction for query in queries}
    return Group(
        key=key,
        models=tuple(one.name for one in scored),
        total=len(kinds),
        counts={kind: int((kinds == n).sum()) for n, kind in enumerate(KINDS)},
        candidates=candidates,
        instruction=instructions.pop() if len(instructions) == 1 else "",
        queries=queries,
        spreads=spreads_of(rows, known, items, candidates),
    )


def _items(scored: Sequence[_Scored], task: str) -> TaskItems:
    """Read the items that the rows of all these runs point at: the same data, the same items."""
    for one in scored:
        items = read_items(one.run.output_dir, task)
        if items is not None:
            break
    else:
        raise UsageError(
            f"{scored[0].run.output_dir} has the rows of {task} and not its items: run it again"
        )
    for one in scored:
        rows = one.rows
        pointed = np.concatenate([*rows.gold_items, *rows.top_items, rows.query_items])
        if not 0 <= pointed.min() <= pointed.max() < len(items):
            raise UsageError(
                f"the rows of {task} in {one.run.output_dir} do not belong to its items: "
                "run it again"
            )
    return items


def _states(rows: TaskRows) -> NDArray[np.int64]:
    """Return 0 (wrong), 1 (tied with others) or 2 (right) for each query, (N,)."""
    states: NDArray[np.int64] = np.where(rows.hit_at_1 >= 1, 2, np.where(rows.hit_at_1 > 0, 1, 0))
    return states


def _kinds(states_RN: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of KINDS each query is, (N,), by the states of R runs."""
    right = states_RN == 2
    kinds: NDArray[np.int64] = np.where(right.all(0), 2, np.where(right.any(0), 0, 1))
    return kinds


def _chosen(kinds: NDArray[np.int64], listed: int | None) -> list[int]:
    """Choose queries: half of those listed flipped, a third wrong, the rest right, evenly over the
    task; what one kind leaves free goes to the next."""
    of_kind = [np.flatnonzero(kinds == kind).tolist() for kind in range(len(KINDS))]
    left = len(kinds) if listed is None else min(listed, len(kinds))
    if left == len(kinds):
        return [number for numbers in of_kind for number in numbers]
    wanted = [left - left // 3 - left // 6, left // 3, left // 6]
    shares = [min(share, len(numbers)) for share, numbers in zip(wanted, of_kind)]
    for kind, numbers in enumerate(of_kind):
        shares[kind] += min(left - sum(shares), len(numbers) - shares[kind])
    return [
        numbers[n * len(numbers) // share]
        for share, numbers in zip(shares, of_kind)
        for n in range(share)
    ]
