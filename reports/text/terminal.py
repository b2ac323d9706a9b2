"""The leaderboard on a terminal: a few models by task, many a row each; what is missing, below.

As many models as fit stand side by side with every task and its interval. More than that are read
down a column: rank, overall, and the averages that the width has room for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board
from mmeb_harness.reports.text.sweeps import sweep_tables
from mmeb_harness.reports.text.terminal_models import model_rows
from mmeb_harness.reports.text.terminal_tasks import few_fit, task_table
from mmeb_harness.reports.text.wording import isolated, legend, published, remarks
from mmeb_harness.result import Run
from rich.console import Console
from rich.text import Text

NARROWEST = 60
"""Columns that a table takes at least; a narrower terminal wraps its lines."""

REMARKS = 12
"""Lines of remarks below a table."""


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render one leaderboard for each suite that the runs are of."""
    return render_boards(build(runs, options), options)


def render_boards(boards: Sequence[Board], options: ReportOptions) -> str:
    """Render leaderboards one below the other."""
    buffer = io.StringIO()
    width = max(options.width, NARROWEST)
    console = Console(
        file=buffer,
        width=width,
        force_terminal=options.color,
        color_system="auto" if options.color else None,
        no_color=not options.color,
        highlight=False,
    )
    for number, board in enumerate(boards):
        if number:
            console.print()
        _print(console, board, width)
    text = buffer.getvalue()
    return text if options.color else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _print(console: Console, board: Board, width: int) -> None:
    few = len(board.entries) <= few_fit(width)
    if few:
        console.print(task_table(board))
        notes = legend(board, by_letters=False)
    else:
        rows = model_rows(board, width)
        for row in rows.lines:
            console.print(row, no_wrap=True, overflow="ignore", crop=False)
        console.print()
        notes = [*legend(board, by_letters=True), _elsewhere(rows.left_out)]
    for line in [*notes, *_few_remarks(board, all_entries=few)]:
        console.print(Text(isolated(line)), soft_wrap=True)
    for table in sweep_tables(board):
        console.print()
        console.print(table)


def _elsewhere(left_out: Sequence[str]) -> str:
    if not left_out:
        return "single tasks: --format csv, json or html"
    averages = ", ".join(left_out)
    return f"{averages}: in a wider terminal (--width); single tasks: --format csv, json or html"


def _few_remarks(board: Board, *, all_entries: bool) -> list[str]:
    """Return the remarks that are worth lines: on published scores only where models are few."""
    told = [
        remark
        for entry in board.entries
        if all_entries or not published(entry)
        for remark in remarks(entry)
    ]
    rest = sum(len(remarks(entry)) for entry in board.entries) - len(told[:REMARKS])
    count = f"... and {rest} more" if told else f"{rest} remarks"
    return [*told[:REMARKS], *([f"{count}: --format json or html"] if rest else [])]
