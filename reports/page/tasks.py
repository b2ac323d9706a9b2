"""A task's section: what it asks, how hard chance makes it, and every model's score on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, full_name, title
from mmeb_harness.reports.numbers import counted, percent, span
from mmeb_harness.reports.readable import cut
from mmeb_harness.result import TaskResult

NAME = 48
"""Characters of a model's name: it stands here once for each task."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One model's score on a task; `note` says what the reader should know of it."""

    name: str
    score: str
    interval: str
    note: str
    best: bool


@dataclass(frozen=True, kw_only=True)
class TaskSection:
    """A task with its facts in words, and the models from best to worst; `key` is its name as the
    results have it, `place` its number on the page, `headline` the best score, or the only one."""

    key: str
    place: int
    name: str
    meta_task: str
    split: str
    facts: Sequence[str]
    data: str
    headline: str
    standings: Sequence[Standing]


def tasks_of(board: Board) -> list[TaskSection]:
    """Describe every task of a board, in its order."""
    names = {entry.key: cut(full_name(entry), NAME) for entry in board.entries}
    columns = [column for column in board.columns if column.kind == "task"]
    return [_section(column, place, board, names) for place, column in enumerate(columns)]


def _section(column: Column, place: int, board: Board, names: dict[str, str]) -> TaskSection:
    name = column.key
    scored = [entry for entry in board.entries if name in entry.scores]
    scored.sort(key=lambda entry: -entry.scores[name].value)
    alone = len(board.entries) == 1
    top = scored[0].scores[name].value if scored and not alone else None
    results = list(_results(board, name))
    failed = [entry for entry in board.entries if name in entry.failed]
    standings = [_standing(entry, name, names[entry.key], top) for entry in scored]
    standings += [
        Standing(name=names[entry.key], score="failed", interval="", best=False,
                 note=cut(entry.failed[name], 300))
        for entry in failed
    ]  # fmt: skip
    return TaskSection(
        key=name,
        place=place,
        name=cut(name),
        meta_task=title(column.meta_task or ""),
        split=(column.split or "").upper(),
        facts=list(_facts(results)),
        data=_data(results),
        headline=_only(scored, name) if alone else f"best {percent(top)}",
        standings=standings,
    )


def _only(scored: Sequence[Entry], task: str) -> str:
    """Write the score of the only model with its interval."""
    if not scored:
        return percent(None)
    score = scored[0].scores[task]
    return (
        f"{percent(score.value)} ({span(score.interval)})"
        if score.interval
        else percent(score.value)
    )


def _standing(entry: Entry, task: str, name: str, top: float | None) -> Standing:
    score = entry.scores[task]
    notes = []
    if entry.limit is not None:
        notes.append(f"first {counted(entry.limit, 'query', 'queries')} only")
    if score.seen:
        notes.append("trained on it")
    if score.printed is not None:
        notes.append(f"printed {percent(score.printed)}")
    return Standing(
        name=name,
        score=percent(score.value),
        interval=span(score.interval),
        note=", ".join(notes),
        best=score.value == top and entry.limit is None,
    )


def _results(board: Board, name: str) -> Iterable[TaskResult]:
    for entry in board.entries:
        if entry.run and name in entry.run.tasks:
            yield entry.run.tasks[name]


def _facts(results: Sequence[TaskResult]) -> Iterable[str]:
    """Say what the runs tell of a task; where they differ, all of it is said."""
    queries = sorted({result.n_queries for result in results if result.n_queries})
    if queries:
        yield " or ".join(f"{number:,}" for number in queries) + " queries"
    ranges = sorted({result.n_candidates for result in results if result.n_candidates})
    for least, most in ranges:
        yield (f"{least:,}" if least == most else f"{least:,} to {most:,}") + " candidates each"
    for chance in sorted({result.chance for result in results if result.chance is not None}):
        yield f"chance {percent(chance)}"


def _data(results: Sequence[TaskResult]) -> str:
    """Name the data that was scored by its digest, or several where it differs."""
    digests = sorted({result.data_digest for result in results if result.data_digest})
    return ", ".join(digest[:12] for digest in digests)
