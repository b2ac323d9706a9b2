"""The table of many models: a row each, with the averages that the width has room for.

Names come first: further averages are shown only where a name keeps enough room to be told from
another, and what found no room is named by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, full_name, letters
from mmeb_harness.reports.numbers import percent
from mmeb_harness.reports.text.wording import (
    BY,
    average_mark,
    averages,
    isolated,
    published,
    shortened,
    standing,
    told_apart,
    visible,
)
from rich.text import Text

OVERALL, AVERAGE = 17, 6
"""Columns for the overall score with mark and interval, and for another average with its mark."""

NAME = 30
"""Columns that a model's name has before further averages are shown."""

NARROW = {"classification": "Class", "retrieval": "Retr", "grounding": "Grnd", "unseen": "Unsn"}
"""What an average is called where its column is narrow."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The lines of a table, the first its head, and the titles of averages that found no room."""

    lines: Sequence[Text]
    left_out: Sequence[str]


def model_rows(board: Board, width: int) -> Rows:
    """Make the table for a terminal of `width` columns."""
    signs = letters(board)
    marks = max(map(len, signs.values()), default=0)
    ranks = max(len(str(entry.rank or "")) for entry in board.entries)
    by = board_has_kinds(board)
    edge = ranks + 1 + (marks + 1 if marks else 0) + (3 if by else 0) + OVERALL + 1
    suite = f"{isolated(shortened(board.suite, NAME))}  hit@1, %"
    full = [full_name(entry) for entry in board.entries]
    longest = max(len(shortened(name, width)) for name in full)
    wanted = max(len(suite), longest)
    columns, left_out = _chosen(board, width - edge - min(wanted, NAME))
    room = min(wanted, width - edge - (AVERAGE + 1) * len(columns))
    names = dict(zip(full, told_apart(full, room), strict=True))

    def line(cells: Iterable[Text]) -> Text:
        row = Text()
        widths = [ranks, *([marks] if marks else []), room, *([2] if by else []), OVERALL]
        for cell, size in zip(cells, [*widths, *[AVERAGE] * len(columns)], strict=True):
            cell.truncate(size, overflow="ellipsis", pad=True)
            row.append_text(cell).append(" ")
        row.right_crop()
        return row

    def cells(entry: Entry) -> Iterable[Text]:
        yield Text(f"{entry.rank or '':>{ranks}}")
        if marks:
            yield Text(signs.get(entry.key, ""))
        yield Text(isolated(names[full_name(entry)]), style=_own(entry, board))
        if by:
            yield Text(f" {BY[entry.kind][0]}")
        yield _overall(entry, board)
        for column in columns:
            yield _cell(column, entry, board)

    heads = ["#".rjust(ranks), *([""] if marks else []), suite, *(["by"] if by else []), "Overall"]
    heads += [f"{_narrow(column):>5}" for column in columns]
    lines = [line(Text(head, style="bold") for head in heads)]
    lines.append(Text("─" * lines[0].cell_len, style="dim"))
    for number, entry in enumerate(board.entries):
        if number and entry.rank is None and board.entries[number - 1].rank is not None:
            lines.append(Text())
        lines.append(line(cells(entry)))
    return Rows(lines=lines, left_out=left_out)


def board_has_kinds(board: Board) -> bool:
    """Tell whether who made the scores has to be said: not all were measured here."""
    return {entry.kind for entry in board.entries} != {"measured"}


def _chosen(board: Board, room: int) -> tuple[list[Column], list[str]]:
    """Choose what fits beside overall: first the splits, then the meta-tasks, then by training."""
    columns = [column for column in averages(board) if column.key != "overall"]
    splits = [column for column in columns if column.key in ("ind", "ood")]
    training = [column for column in columns if column.key in ("seen", "unseen")]
    metas = [column for column in columns if column not in (*splits, *training)]
    shown: list[Column] = []
    left_out: list[str] = []
    for part in (splits, metas, training):
        if not left_out and (len(shown) + len(part)) * (AVERAGE + 1) <= room:
            shown += part
        else:
            left_out += [visible(column.title) for column in part]
    return shown, left_out


def _narrow(column: Column) -> str:
    return NARROW.get(column.key, shortened(column.title, AVERAGE))


def _own(entry: Entry, board: Board) -> str:
    """Set the reader's own runs off where others stand beside them."""
    mixed = any(map(published, board.entries))
    return "bold" if mixed and not published(entry) else ""


def _overall(entry: Entry, board: Board) -> Text:
    """Write the overall score with its interval, or with why it has no rank."""
    column = next(column for column in board.columns if column.key == "overall")
    cell = _cell(column, entry, board)
    score, why = entry.scores.get(column.key), standing(entry, board)
    if why:
        cell.append(f" {why}")
    elif score is not None and score.interval is not None:
        low, high = map(percent, score.interval)
        cell.append(f" {low:>4}-{high}", style="dim")
    return cell


def _cell(column: Column, entry: Entry, board: Board) -> Text:
    score = entry.scores.get(column.key)
    if score is None:
        return Text("    - ", style="dim")
    return Text(f"{percent(score.value):>5}{average_mark(entry, column, board):1}")
