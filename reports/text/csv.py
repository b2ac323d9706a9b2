"""The leaderboard as CSV: a row a model, ready to be loaded; scores are fractions.

Facts of the model first, then each score beside its interval's ends. A cell of text never begins as
a formula does, so that no name is computed where a spreadsheet opens the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry
from mmeb_harness.reports.text.wording import visible
from mmeb_harness.result import Run

FORMULA = tuple("=+-@'\t\r\n＝＋－＠")
"""What a spreadsheet may take for the beginning of a formula, and the quote itself."""

DIGITS = 6
"""Decimal places of a score: finer than one query of any task."""

SEPARATOR = " | "
"""Between the names in a cell that holds several."""


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render all leaderboards as one table."""
    return render_boards(build(runs, options), options)


def render_boards(boards: Sequence[Board], options: ReportOptions) -> str:
    """Render leaderboards as one table; a score that a suite does not have is an empty cell."""
    rows = [_row(board, entry) for board in boards for entry in board.entries]
    header = list(dict.fromkeys(name for board in boards for name in _header(board)))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([quoted(name) for name in header])
    writer.writerows([row.get(name, "") for name in header] for row in rows)
    return buffer.getvalue()


def quoted(text: str) -> str:
    """Make text a cell that no spreadsheet computes: a quote before what begins as a formula.

    Who reads it takes one quote off the beginning of a text to have it back.
    """
    shown = visible(text)
    begins = text.startswith(FORMULA) or shown.lstrip().startswith(FORMULA)
    return f"'{shown}" if begins else shown


def _header(board: Board) -> list[str]:
    return [*_facts(board, board.entries[0]), *_score_names(board)] if board.entries else []


def _score_names(board: Board) -> Iterable[str]:
    for column in board.columns:
        yield from _names(column)


def _names(column: Column) -> list[str]:
    """Name the cells of a column: value, interval, and of an average what the source prints."""
    names = [column.key, f"{column.key}_low", f"{column.key}_high"]
    return names + ([f"{column.key}_printed"] if column.kind == "average" else [])


def _row(board: Board, entry: Entry) -> dict[str, str]:
    row = _facts(board, entry)
    for column in board.columns:
        score = entry.scores.get(column.key)
        if score is None:
            continue
        low, high = score.interval or (None, None)
        cells = [_number(value) for value in (score.value, low, high, score.printed)]
        row |= dict(zip(_names(column), cells))
    return row


def _facts(board: Board, entry: Entry) -> dict[str, str]:
    seen = [column.key for column in board.columns if _is_seen(entry, column)]
    return {
        "suite": quoted(board.suite),
        "rank": _whole(entry.rank),
        "group": _whole(entry.group),
        "model": quoted(entry.name),
        "variant": quoted(entry.variant),
        "kind": entry.kind,
        "source": quoted(entry.source),
        "parameters": "" if entry.parameters is None else f"{entry.parameters:.15g}",
        "dimension": _whole(entry.dimension),
        "complete": str(entry.complete).lower(),
        "limit": _whole(entry.limit),
        "missing": quoted(SEPARATOR.join(entry.missing)),
        "failed": quoted(SEPARATOR.join(f"{task}: {why}" for task, why in entry.failed.items())),
        "training": "" if entry.training is None else quoted(SEPARATOR.join(entry.training)),
        "seen_tasks": quoted(SEPARATOR.join(seen)),
        "remarks": quoted(SEPARATOR.join(entry.remarks)),
    }


def _is_seen(entry: Entry, column: Column) -> bool:
    score = entry.scores.get(column.key)
    return column.kind == "task" and score is not None and score.seen is True


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, DIGITS)}"
