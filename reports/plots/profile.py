"""The profile of one run, where there is nothing to compare it with: a panel of its averages, and
one of each meta-task's tasks, all on one axis, so that bars can be compared across panels."""

from __future__ import annotations

from collections.abc import Sequence

from mmeb_harness.axis import value_axis
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, title
from mmeb_harness.reports.numbers import counted, percent, span
from mmeb_harness.reports.plots.bars import NAME, ROW, TOP, Bar, BarPanel, frame_of
from mmeb_harness.reports.readable import cut_inside

OUT = ("ood", "unseen")
"""Keys and splits whose bars are light: what a model was not to have been trained on."""


def profile_of(board: Board) -> list[BarPanel]:
    """Draw the only entry of a board; with --limit its scores are in no plot, here neither."""
    (entry,) = board.entries
    if entry.limit is not None:
        return []
    panels: dict[str, list[Column]] = {}
    for column in board.columns:
        if column.key in entry.scores:
            of = "Averages" if column.kind == "average" else title(column.meta_task or "tasks")
            panels.setdefault(of, []).append(column)
    return [_panel(name, columns, entry) for name, columns in panels.items()]


def _panel(name: str, columns: Sequence[Column], entry: Entry) -> BarPanel:
    """Draw the averages in their order, tasks from the best, those in distribution first."""
    averages = columns[0].kind == "average"
    if not averages:
        columns = sorted(columns, key=lambda one: (one.split or "", -entry.scores[one.key].value))
    frame = frame_of(len(columns))
    axis = value_axis([0.0, 100.0], count=5)
    bars = []
    for place, column in enumerate(columns):
        score = entry.scores[column.key]
        low, high = score.interval or (None, None)
        result = entry.run.tasks.get(column.key) if entry.run else None
        chance = result.chance if result else None
        words = f"{column.title}: {percent(score.value)} ({span(score.interval)})"
        bars.append(
            Bar(
                y=TOP + ROW * place,
                name=cut_inside(column.title, NAME),
                x=frame.across(axis, 100 * score.value),
                low=None if low is None else frame.across(axis, 100 * low),
                high=None if high is None else frame.across(axis, 100 * high),
                chance=None if chance is None else frame.across(axis, 100 * chance),
                value=percent(score.value),
                tone="out" if column.key in OUT or column.split in OUT else "own",
                title=words if chance is None else f"{words}, chance {percent(chance)}",
            )
        )
    return BarPanel(
        title=name,
        note="means of tasks" if averages else counted(len(columns), "task"),
        description=f"{name}: " + ", ".join(f"{bar.name} {bar.value}" for bar in bars),
        frame=frame,
        bars=bars,
        ticks=frame.ticks_across(axis, lambda tick: f"{tick:g}"),
    )
