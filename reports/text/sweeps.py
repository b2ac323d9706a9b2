"""The terminal's table of a run's sweep: what fewer dimensions and lower precision cost."""

from __future__ import annotations

from collections.abc import Iterator

from mmeb_harness.reports.board.leaderboard import Board, full_name
from mmeb_harness.reports.numbers import percent
from mmeb_harness.reports.text.wording import isolated, shortened
from mmeb_harness.summary import Interval
from mmeb_harness.sweep import Sweep, SweepPoint, read_sweep
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

NAME = 50
"""Characters of a model's name above its table."""

ABSENT = "    -"


def sweep_tables(board: Board) -> Iterator[Table]:
    """Yield a table for each run of a board that has a sweep."""
    for entry in board.entries:
        if entry.run is None:
            continue
        sweep = read_sweep(entry.run.output_dir, entry.run.record.encoder)
        if sweep is not None and sweep.points:
            yield _table(isolated(shortened(full_name(entry), NAME)), sweep)


def _table(name: str, sweep: Sweep) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.title, table.title_justify, table.title_style = Text(name), "left", "bold"
    table.add_column("", no_wrap=True)
    table.add_column("dims", justify="right", no_wrap=True)
    table.add_column("MB/1e6", justify="right", no_wrap=True)
    for title in ("Overall", "IND", "OOD"):
        table.add_column(title, no_wrap=True)
    previous = None
    for point in sweep.points:
        if previous not in (None, point.precision):
            table.add_section()
        named = point.precision if point.precision != previous else ""
        previous = point.precision
        table.add_row(named, *_cells(point, sweep.full))
    return table


def _cells(point: SweepPoint, full: int) -> list[Text]:
    dimension = f"{point.dimension}" if point.dimension != full else f"full {full}"
    averages = (("overall", point.overall), ("ind", point.ind), ("ood", point.ood))
    return [
        Text(dimension),
        Text(f"{point.bytes_per_million / 1e6:,.0f}"),
        *(_average(value, point.intervals.get(key)) for key, value in averages),
    ]


def _average(value: float | None, interval: Interval | None) -> Text:
    if value is None:
        return Text(ABSENT, style="dim")
    cell = Text(f"{percent(value):>5}")
    if interval is not None:
        low, high = map(percent, interval)
        cell.append(f" {low:>5}-{high}", style="dim")
    return cell
