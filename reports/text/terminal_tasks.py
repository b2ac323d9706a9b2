"""The table of a few models: a row a task with its interval, by meta-task, then the averages."""

from __future__ import annotations

from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score, full_name, letters
from mmeb_harness.reports.numbers import percent
from mmeb_harness.reports.text.wording import (
    average_mark,
    averages,
    isolated,
    mark,
    shortened,
    standing_at_length,
    visible,
)
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

SPLIT_STYLES = {"ind": "cyan", "ood": "magenta"}

TASKS, MODEL = 28, 20
"""Columns of a table of tasks: for their names and splits, and for each model."""

HEADING = 60
"""Characters of a model's name over a column of tasks."""


def few_fit(width: int) -> int:
    """Return how many models fit side by side, one at least."""
    return max(1, (width - TASKS) // MODEL)


def task_table(board: Board) -> Table:
    """Make the table: a column a model."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    suite = isolated(shortened(board.suite, TASKS))
    table.add_column(Text(f"{suite}  hit@1, %"), no_wrap=True)
    table.add_column("split", no_wrap=True)
    for entry in board.entries:
        heading = shortened(full_name(entry), HEADING) + standing_at_length(entry, board)
        table.add_column(Text(isolated(heading)), overflow="fold")
    tasks = [column for column in board.columns if column.kind == "task"]
    metas = {column.key: column.title for column in board.columns}
    for meta in dict.fromkeys(column.meta_task for column in tasks):
        table.add_row(Text(visible(metas.get(meta or "", meta or "")), style="bold"))
        for column in (column for column in tasks if column.meta_task == meta):
            cells = [_task_cell(column, entry) for entry in board.entries]
            name = Text(f"  {isolated(shortened(column.title, TASKS))}")
            table.add_row(name, _split(column), *cells)
        table.add_section()
    for column in _overall_last(averages(board)):
        cells = [_average_cell(column, entry, board) for entry in board.entries]
        table.add_row(Text(visible(column.title), style="bold"), "", *cells)
    return table


def _overall_last(columns: list[Column]) -> list[Column]:
    """Order averages as a sum is written: the parts first."""
    last = ("ind", "ood", "overall")
    parts = [column for column in columns if column.key not in last]
    return parts + [column for key in last for column in columns if column.key == key]


def _split(column: Column) -> Text:
    split = column.split or ""
    return Text(split.upper(), style=SPLIT_STYLES.get(split, ""))


def _task_cell(column: Column, entry: Entry) -> Text:
    if column.key in entry.failed:
        return Text(" failed", style="red")
    score = entry.scores.get(column.key)
    return _cell(score, mark(column, score) if score else "")


def _average_cell(column: Column, entry: Entry, board: Board) -> Text:
    cell = _cell(entry.scores.get(column.key), average_mark(entry, column, board))
    group = letters(board).get(entry.key)
    return cell.append(f" {group}") if group and column.key == "overall" else cell


def _cell(score: Score | None, sign: str) -> Text:
    """Write value, mark and interval in columns of 5, 1 and 12."""
    if score is None:
        return Text("    -", style="dim")
    cell = Text(f"{percent(score.value):>5}{sign:1}")
    if score.interval is not None:
        low, high = map(percent, score.interval)
        cell.append(f" {low:>5}-{high}", style="dim")
    return cell
