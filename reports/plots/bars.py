"""Bars with intervals: one small panel for each average, its best models from the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.axis import value_axis
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score, full_name
from mmeb_harness.reports.numbers import percent, span
from mmeb_harness.reports.plots.marks import Frame, Tick
from mmeb_harness.reports.readable import cut, cut_inside

SHOWN = 12
"""Models in a panel: the best of its average."""

WIDTH, LEFT, RIGHT, ROW, TOP, FOOT = 400, 164, 352, 22, 4, 20
"""Pixels: of the drawing, where bars begin and may end, of a row, and above and below them."""

NAME = 22


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One score: a bar from the axis to `x`, its interval and what chance gives in pixels; `tone`
    is own, other (not measured here) or out (of distribution)."""

    y: int
    name: str
    x: float
    low: float | None
    high: float | None
    value: str
    tone: str
    title: str
    chance: float | None = None


@dataclass(frozen=True, kw_only=True)
class BarPanel:
    """The panel of some scores; `more` counts the models that are not shown."""

    title: str
    note: str
    description: str
    frame: Frame
    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    more: int = 0


def bars_of(board: Board) -> list[BarPanel]:
    """Draw every average that some model has."""
    panels = []
    for column in board.columns:
        if column.kind != "average":
            continue
        scored = [entry for entry in board.entries if column.key in entry.scores]
        scored = [entry for entry in scored if entry.limit is None]
        scored.sort(key=lambda entry: -entry.scores[column.key].value)
        if scored:
            panels.append(_panel(column, scored))
    return panels


def frame_of(rows: int) -> Frame:
    """Return the frame of a panel of so many bars."""
    height = TOP + ROW * rows + FOOT
    return Frame(width=WIDTH, height=height, left=LEFT, right=RIGHT, top=TOP, bottom=height - FOOT)


def _panel(column: Column, scored: Sequence[Entry]) -> BarPanel:
    shown = scored[:SHOWN]
    frame = frame_of(len(shown))
    axis = value_axis([0.0, *(100 * _far(entry.scores[column.key]) for entry in shown)])
    bars = []
    for place, entry in enumerate(shown):
        score = entry.scores[column.key]
        low, high = score.interval or (None, None)
        bars.append(
            Bar(
                y=TOP + ROW * place,
                name=cut_inside(full_name(entry), NAME),
                x=frame.across(axis, 100 * score.value),
                low=None if low is None else frame.across(axis, 100 * low),
                high=None if high is None else frame.across(axis, 100 * high),
                value=percent(score.value),
                tone="own" if entry.run else "other",
                title=f"{cut(full_name(entry))}: {percent(score.value)} ({span(score.interval)})",
            )
        )
    count = len(column.tasks)
    note = f"mean of {count} tasks" if count else "mean of the tasks, by each model’s own training"
    return BarPanel(
        title=column.title,
        note=note,
        description=f"{column.title} of {len(shown)} models: "
        + ", ".join(f"{bar.name} {bar.value}" for bar in bars[:3]),
        frame=frame,
        bars=bars,
        ticks=frame.ticks_across(axis, lambda tick: f"{tick:g}"),
        more=len(scored) - len(shown),
    )


def _far(score: Score) -> float:
    return score.interval[1] if score.interval else score.value
