"""Models as points: score against parameters, and scores in against scores out of distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.axis import Axis, logarithmic_axis, value_axis
from mmeb_harness.reports.board.leaderboard import Board, Entry, full_name
from mmeb_harness.reports.numbers import amount, percent
from mmeb_harness.reports.plots.marks import Frame, Label, Tick, labels_for
from mmeb_harness.reports.readable import cut, cut_inside

FRAME = Frame(width=560, height=420, left=52, right=540, top=14, bottom=366)

NAMED = 18
"""Points that are named at most, where there is room."""

NAME = 26


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One model; `own` marks a run among published scores."""

    x: float
    y: float
    own: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """A drawing of dots; `diagonal` are the ends of the line of equal scores."""

    title: str
    description: str
    frame: Frame
    across: str
    down: str
    across_ticks: Sequence[Tick]
    down_ticks: Sequence[Tick]
    dots: Sequence[Dot]
    labels: Sequence[Label]
    diagonal: tuple[float, float, float, float] | None = None
    left_out: int = 0


@dataclass(frozen=True)
class _Point:
    entry: Entry
    x: float
    y: float
    words: str


def by_parameters(board: Board) -> Scatter | None:
    """Draw overall scores against parameters, None where no model has both."""
    scored = [entry for entry in _whole(board) if "overall" in entry.scores]
    points = [_sized(entry, entry.parameters) for entry in scored if entry.parameters]
    if not points:
        return None
    front = _front(points)
    best = [f"{cut_inside(full_name(point.entry), NAME)} ({point.words})" for point in front[:3]]
    return _scatter(
        title="Score against parameters",
        description=f"Overall score of {len(points)} models against their number of parameters, "
        f"on a logarithmic axis; the best are {', '.join(best)}",
        points=points,
        first=front,
        axes=(
            logarithmic_axis(point.x for point in points),
            value_axis([point.y for point in points], count=8),
        ),
        words=("parameters", "overall, %"),
        left_out=len(scored) - len(points),
    )


def _sized(entry: Entry, parameters: float) -> _Point:
    overall = entry.scores["overall"].value
    return _Point(
        entry, parameters, 100 * overall, f"overall {percent(overall)}, {amount(parameters)}"
    )


def _front(points: Sequence[_Point]) -> list[_Point]:
    """Return the points that none both smaller and better stands against, the best first."""
    best, front = -1.0, []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if point.y > best:
            best = point.y
            front.append(point)
    return front[::-1]


def ind_against_ood(board: Board) -> Scatter | None:
    """Draw IND against OOD with the diagonal, None where no model has both."""
    whole = [entry for entry in _whole(board) if {"ind", "ood"} <= entry.scores.keys()]
    if not whole:
        return None
    points = [_split(entry) for entry in whole]
    axis = value_axis([value for point in points for value in (point.x, point.y)], count=8)
    above = sum(point.y > point.x for point in points)
    return _scatter(
        title="IND against OOD",
        description=f"Scores of {len(points)} models on the tasks in distribution (across) and out "
        f"of distribution (up); {above} lie above the line of equal scores",
        points=points,
        first=sorted(points, key=lambda point: -point.y),
        axes=(axis, axis),
        words=("IND, %", "OOD, %"),
        diagonal=True,
    )


def _split(entry: Entry) -> _Point:
    ind, ood = entry.scores["ind"].value, entry.scores["ood"].value
    return _Point(entry, 100 * ind, 100 * ood, f"IND {percent(ind)}, OOD {percent(ood)}")


def _whole(board: Board) -> list[Entry]:
    return [entry for entry in board.entries if entry.limit is None]


def _scatter(
    *,
    title: str,
    description: str,
    points: Sequence[_Point],
    first: Sequence[_Point],
    axes: tuple[Axis, Axis],
    words: tuple[str, str],
    diagonal: bool = False,
    left_out: int = 0,
) -> Scatter:
    """Place the points; runs are named before the others, then those of `first`."""
    frame, (across, down) = FRAME, axes
    placed = {
        id(point): (frame.across(across, point.x), frame.down(down, point.y)) for point in points
    }
    runs = [point for point in points if point.entry.run]
    named = list({id(point): point for point in [*runs, *first]}.values())[:NAMED]
    ends = (frame.left, frame.bottom, frame.right, frame.top)
    return Scatter(
        title=title,
        description=description,
        frame=frame,
        across=words[0],
        down=words[1],
        across_ticks=frame.ticks_across(across, amount if across.logarithmic else "{:g}".format),
        down_ticks=frame.ticks_down(down, "{:g}".format),
        dots=[
            Dot(x=x, y=y, own=point.entry.run is not None,
                title=f"{cut(full_name(point.entry))}: {point.words}")
            for point in points
            for x, y in [placed[id(point)]]
        ],
        labels=labels_for(
            [(*placed[id(point)], cut_inside(full_name(point.entry), NAME)) for point in named],
            list(placed.values()),
            frame,
        ),
        diagonal=ends if diagonal else None,
        left_out=left_out,
    )  # fmt: skip
