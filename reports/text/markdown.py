"""The leaderboard as GitHub Markdown: averages a row a model; every task, where models are few.

A name is written with entities and backslashes, so that it neither ends a cell nor becomes markup,
a link or a mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score, full_name, letters
from mmeb_harness.reports.numbers import percent
from mmeb_harness.reports.text.wording import (
    BY,
    average_mark,
    averages,
    legend,
    mark,
    published,
    remarks,
    shortened,
    standing_at_length,
)
from mmeb_harness.result import Run

FEW = 6
"""Up to so many models have a table of all tasks."""

NAME = 100
"""Characters of a model's name."""

REMARKS = 40
"""Lines of remarks below a table."""

ENTITIES = {character: f"&#{ord(character)};" for character in "|\\@"}
ENTITIES |= {"&": "&amp;", "<": "&lt;", ">": "&gt;", "_": "\\_"}
ENTITIES |= {character: f"\\{character}" for character in "*`[]~$#!^"}
"""What a character of a name is written as where Markdown would read it."""

LINK = re.compile(r"(?<=www)\.|:(?=//)", re.IGNORECASE)
"""What makes a link of an address."""


def escaped(text: str, length: int = NAME) -> str:
    """Write text as Markdown that shows it."""
    plain = "".join(ENTITIES.get(character, character) for character in shortened(text, length))
    return LINK.sub(lambda found: f"&#{ord(found[0])};", plain)


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render one leaderboard for each suite."""
    return render_boards(build(runs, options), options)


def render_boards(boards: Sequence[Board], options: ReportOptions) -> str:
    """Render leaderboards one below the other."""
    return "\n".join(line for board in boards for line in _board(board))


def _board(board: Board) -> Iterable[str]:
    yield f"### {escaped(board.suite)}: hit@1, %\n"
    yield from _models(board)
    yield ""
    if len(board.entries) <= FEW:
        yield from _tasks(board)
        yield ""
    yield from _notes(board)


def _models(board: Board) -> Iterable[str]:
    columns, signs = averages(board), letters(board)
    kinds = {entry.kind for entry in board.entries} != {"measured"}
    yield _line(["Rank", "Model", *(["By"] if kinds else []), *map(_title, columns)])
    yield _line(["--:", ":--", *([":--"] if kinds else []), *["--:"] * len(columns)])
    for entry in board.entries:
        rank = f"{entry.rank or ''} {signs.get(entry.key, '')}".strip()
        by = [BY[entry.kind][0]] if kinds else []
        cells = [_average(column, entry, board) for column in columns]
        yield _line([rank, _name(entry, board), *by, *cells])


def _tasks(board: Board) -> Iterable[str]:
    names = [_name(entry, board) for entry in board.entries]
    yield _line(["Task", "Split", *names])
    yield _line([":--", ":--", *["--:"] * len(names)])
    for column in (column for column in board.columns if column.kind == "task"):
        cells = [_task(column, entry) for entry in board.entries]
        yield _line([_title(column), (column.split or "").upper(), *cells])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _title(column: Column) -> str:
    return escaped(column.title)


def _name(entry: Entry, board: Board) -> str:
    name = escaped(full_name(entry)) + standing_at_length(entry, board)
    mixed = any(map(published, board.entries))
    return f"**{name}**" if mixed and not published(entry) else name


def _average(column: Column, entry: Entry, board: Board) -> str:
    return _cell(entry.scores.get(column.key), average_mark(entry, column, board))


def _task(column: Column, entry: Entry) -> str:
    if column.key in entry.failed:
        return "failed"
    score = entry.scores.get(column.key)
    return _cell(score, mark(column, score) if score else "")


def _cell(score: Score | None, sign: str) -> str:
    if score is None:
        return "–"
    value = f"{percent(score.value)}{ENTITIES.get(sign, sign)}"
    if score.interval is None:
        return value
    return f"{value} <sub>{percent(score.interval.low)}–{percent(score.interval.high)}</sub>"


def _notes(board: Board) -> Iterable[str]:
    told = [remark for entry in board.entries for remark in remarks(entry)]
    lines = ["Small numbers: 95 % intervals.", *legend(board, by_letters=True), *told[:REMARKS]]
    if len(told) > REMARKS:
        lines.append(f"... and {len(told) - REMARKS} more in the formats json and html")
    for line in lines:
        yield f"- {escaped(line, len(line))}"
    yield ""
