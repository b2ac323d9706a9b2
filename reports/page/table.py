"""The leaderboard as the template writes it: groups of columns, rows, and a few classes a cell.

A table of 200 models has 9,000 cells, so that a cell is one element: its class tells the colour of
the heat map and the marks, `value` is what it is sorted by, and its interval is an attribute that
the style sheet shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score, letters, title
from mmeb_harness.reports.numbers import amount, counted, percent, span
from mmeb_harness.reports.readable import cut

SHADES = 9
"""Steps of the heat map, from the lowest value of a column to its highest."""

LOW = 0.1
"""The lightest shade is for the lowest tenth of a column: one bad model takes no colour away."""

PIECES = re.compile(r"(?<=[-_ ])(?=\S)|(?<=[a-z])(?=[A-Z0-9])")
"""Where the name of a task may be broken: `Visual7W-Pointing` after the dash."""

KINDS = {
    "measured": "measured",
    "imported": "imported",
    "paper": "benchmark paper",
    "authors": "self-reported",
    "third-party": "third party",
}
"""Where scores come from, in words."""

SIZES = (
    ("up to 1 B", 1),
    ("1 to 3 B", 3),
    ("3 to 6 B", 6),
    ("6 to 10 B", 10),
    ("over 10 B", float("inf")),
)
"""Sizes by which models can be chosen, with the most parameters of each, in billions."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of one column of scores; a line may break between its `pieces`, `name` is its title
    where it stands without its group, `split` only of a task."""

    key: str
    pieces: Sequence[str]
    name: str
    split: str
    tasks: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """The `number`th columns under one heading, which fold to their first; `folded` is how the page
    begins."""

    key: str
    title: str
    heads: Sequence[Head]
    number: int
    folded: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score; `value` is empty where there is none."""

    text: str
    value: str = ""
    classes: str = ""
    interval: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model; `tie` is the letter of its group, `flags` say what stands in the way of a rank,
    `unknown` that it is not declared what it was trained on."""

    key: str
    name: str
    kind: str
    kind_title: str
    variant: str
    rank: int | None
    tie: str
    shade: str
    parameters: float | None
    parameters_text: str
    dimension: int | None
    size: str
    complete: bool
    clean: bool
    unknown: bool
    flags: Sequence[str]
    cells: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The leaderboard, with the choices that its filters offer, and what occurs in it: shades,
    scores not measured here, averages by declared training, and marks."""

    groups: Sequence[Group]
    rows: Sequence[Row]
    kinds: Sequence[tuple[str, str]]
    sizes: Sequence[tuple[str, str]]
    dimensions: bool
    ties: bool
    shaded: bool
    others: bool
    declared: bool
    seen: bool
    unknown: bool
    printed: bool


def table_of(board: Board) -> Table:
    """Lay out a board."""
    groups = groups_of(board)
    columns = {column.key: column for column in board.columns}
    places = [
        _place(columns[head.key], f"f{group.number}" if number else "", board.entries)
        for group in groups
        for number, head in enumerate(group.heads)
    ]
    ties = letters(board)
    rows = [_row(entry, ties.get(entry.key, ""), places, board) for entry in board.entries]
    kinds = dict.fromkeys(entry.kind for entry in board.entries)
    sizes = {row.size for row in rows}
    marks = {cell for row in rows for cell in " ".join(c.classes for c in row.cells).split()}
    return Table(
        groups=groups,
        rows=rows,
        kinds=[(kind, title) for kind, title in KINDS.items() if kind in kinds],
        sizes=[*((title, title) for title, _ in SIZES if title in sizes),
               *([("unknown", "not known")] if "unknown" in sizes else [])],
        dimensions=_has_dimensions(board),
        ties=bool(ties),
        shaded=any(f"h{shade}" in marks for shade in range(SHADES)),
        others=any(kind != "measured" for kind in kinds),
        declared=any(head.key in ("seen", "unseen") for group in groups for head in group.heads),
        seen="s" in marks,
        unknown=any(row.unknown for row in rows),
        printed="p" in marks,
    )  # fmt: skip


def groups_of(board: Board) -> list[Group]:
    """Put the averages first, then each meta-task: its average, and its tasks."""
    metas = list(dict.fromkeys(task.meta_task for task in board.tasks))
    by_group: dict[str, list[Column]] = {"averages": [], **{meta: [] for meta in metas}}
    held = {key for entry in board.entries for key in entry.scores}
    for column in board.columns:
        if column.key in ("seen", "unseen") and column.key not in held:
            continue
        meta = column.key if column.key in metas else column.meta_task
        place = meta if meta in metas else "averages"
        by_group[place].append(column)
    groups: list[Group] = []
    for key, columns in by_group.items():
        if not columns:
            continue
        columns.sort(key=lambda column: column.kind != "average")
        groups.append(
            Group(
                key=key,
                title="Averages" if key == "averages" else title(key),
                heads=[_head(column, key) for column in columns],
                number=len(groups),
                folded=key != "averages" and len(columns) > 1 and columns[0].kind == "average",
            )
        )
    return groups


def _has_dimensions(board: Board) -> bool:
    return any(entry.dimension for entry in board.entries)


def _head(column: Column, group: str) -> Head:
    split = (column.split or "").upper() if column.kind == "task" else ""
    name = cut(column.title, 40)
    pieces = ["Mean"] if column.key == group else PIECES.split(name)
    return Head(key=column.key, pieces=pieces, name=name, split=split, tasks=len(column.tasks))


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A column as its cells need it: the range of its shades, its best value, its class."""

    column: Column
    low: float
    high: float
    best: float
    fold: str

    def shade(self, value: float) -> str:
        """Return the class of a value's shade."""
        if self.high <= self.low:
            return ""
        share = max(0.0, value - self.low) / (self.high - self.low)
        return f"h{min(SHADES - 1, int(SHADES * share))}"


def _place(column: Column, fold: str, entries: Sequence[Entry]) -> _Place:
    values = sorted(e.scores[column.key].value for e in entries if column.key in e.scores)
    whole = [e.scores[column.key].value for e in entries if column.key in e.scores and not e.limit]
    return _Place(
        column=column,
        low=values[int(LOW * len(values))] if values else 0.0,
        high=values[-1] if values else 0.0,
        best=max(whole, default=math.inf) if len(entries) > 1 else math.inf,
        fold=fold,
    )


def _row(entry: Entry, tie: str, places: Sequence[_Place], board: Board) -> Row:
    return Row(
        key=entry.key,
        name=cut(entry.name),
        kind=entry.kind,
        kind_title=KINDS.get(entry.kind, entry.kind),
        variant=cut(entry.variant),
        rank=entry.rank,
        tie=tie,
        shade="" if entry.group is None else f"t{entry.group % 2}",
        parameters=entry.parameters,
        parameters_text=amount(entry.parameters),
        dimension=entry.dimension,
        size=_size(entry.parameters),
        complete=entry.complete,
        clean=_clean(entry, board),
        unknown=entry.training is None,
        flags=flags_of(entry, len(board.tasks)),
        cells=[_cell(entry, place) for place in places],
    )


def _size(parameters: float | None) -> str:
    if parameters is None:
        return "unknown"
    return next(title for title, most in SIZES if parameters <= most)


def _clean(entry: Entry, board: Board) -> bool:
    """Tell whether the training data is declared, and holds no out-of-distribution task."""
    ood = [entry.scores.get(task.name) for task in board.tasks if task.split == "ood"]
    return entry.training is not None and not any(score and score.seen for score in ood)


def flags_of(entry: Entry, tasks: int) -> list[str]:
    """Say why an entry is not ranked, shortly."""
    flags = []
    if entry.limit is not None:
        flags.append(f"first {counted(entry.limit, 'query', 'queries')} only")
    if len(entry.missing) == tasks:
        flags.append("averages only" if entry.scores else "no scores")
    elif entry.missing:
        flags.append(f"{tasks - len(entry.missing)} of {tasks} tasks")
    return flags


def _cell(entry: Entry, place: _Place) -> Cell:
    column = place.column
    score = entry.scores.get(column.key)
    if score is None:
        reason = entry.failed.get(column.key)
        if reason is None:
            return Cell(text="–", classes=f"m {place.fold}".rstrip())
        return Cell(text="failed", classes=f"m f {place.fold}".rstrip(), title=cut(reason, 300))
    classes = [place.shade(score.value), place.fold]
    if score.value == place.best and entry.limit is None:
        classes.append("b")
    if column.kind == "task" and score.seen:
        classes.append("s")
    if score.printed is not None:
        classes.append("p")
    return Cell(
        text=percent(score.value),
        value=f"{score.value:.6g}",
        classes=" ".join(filter(None, classes)),
        interval=span(score.interval),
        title=_printed(score),
    )


def _printed(score: Score) -> str:
    return "" if score.printed is None else f"the source prints {percent(score.printed)}"
