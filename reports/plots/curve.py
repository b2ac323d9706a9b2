"""The dimension curve of a run: the overall score of its vectors cut short, by precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.axis import Axis, value_axis
from mmeb_harness.reports.numbers import percent, span
from mmeb_harness.reports.plots.marks import Frame, Tick
from mmeb_harness.reports.readable import cut
from mmeb_harness.sweep import Sweep, SweepPoint

FRAME = Frame(width=560, height=340, left=52, right=470, top=14, bottom=288)

GAP = 14
"""Pixels between the names of two lines at the right."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One setting: a point with its interval in pixels."""

    x: float
    y: float
    low: float | None
    high: float | None
    title: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """The settings of one precision; `style` numbers its look, its name stands at `name_y`."""

    name: str
    style: int
    path: str
    places: Sequence[Place]
    name_y: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table behind the curve."""

    dimension: int
    precision: str
    score: str
    interval: str
    size: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The curve of one run."""

    name: str
    description: str
    frame: Frame
    lines: Sequence[Line]
    across_ticks: Sequence[Tick]
    down_ticks: Sequence[Tick]
    settings: Sequence[Setting]


def curve_of(sweep: Sweep, name: str) -> Curve | None:
    """Draw a sweep, None where no setting has an overall score."""
    known = [point for point in sweep.points if point.overall is not None]
    if not known:
        return None
    dimensions = sorted({point.dimension for point in known})
    low, high = dimensions[0], dimensions[-1]
    across = Axis(
        low=low if high > low else low / 2,
        high=high if high > low else high * 2,
        ticks=tuple(map(float, dimensions)),
        logarithmic=True,
    )
    down = value_axis([100 * (point.overall or 0.0) for point in known])
    by_precision = {point.precision: [] for point in known}  # type: dict[str, list[SweepPoint]]
    for point in sorted(known, key=lambda point: point.dimension):
        by_precision[point.precision].append(point)
    return Curve(
        name=cut(name),
        description=f"Overall score of {cut(name)} by dimension, {low} to {high}, "
        f"stored as {', '.join(by_precision)}",
        frame=FRAME,
        lines=_apart([
            _line(precision, style, points, (across, down))
            for style, (precision, points) in enumerate(by_precision.items())
        ]),
        across_ticks=FRAME.ticks_across(across, "{:g}".format),
        down_ticks=FRAME.ticks_down(down, "{:g}".format),
        settings=[_setting(point) for point in known],
    )  # fmt: skip


def _line(
    precision: str, style: int, points: Sequence[SweepPoint], axes: tuple[Axis, Axis]
) -> Line:
    across, down = axes
    places = []
    for point in points:
        interval = point.intervals.get("overall")
        low, high = interval or (None, None)
        places.append(
            Place(
                x=FRAME.across(across, point.dimension),
                y=_down(down, point.overall or 0.0),
                low=None if low is None else _down(down, low),
                high=None if high is None else _down(down, high),
                title=f"{precision}, {point.dimension} dimensions: {percent(point.overall)}"
                + (f" ({span(interval)})" if interval else ""),
            )
        )
    path = "M" + "L".join(f"{place.x:g},{place.y:g}" for place in places)
    return Line(name=precision, style=style, path=path, places=places, name_y=places[-1].y)


def _down(axis: Axis, value: float) -> float:
    """Return where a fraction lies, kept inside the frame."""
    return min(FRAME.bottom, max(FRAME.top, FRAME.down(axis, 100 * value)))


def _apart(lines: Sequence[Line]) -> list[Line]:
    """Move the names of the lines apart, from the top."""
    placed: list[Line] = []
    floor = float(FRAME.top)
    for line in sorted(lines, key=lambda line: line.name_y):
        name_y = max(line.name_y, floor)
        placed.append(Line(**{**vars(line), "name_y": name_y}))
        floor = name_y + GAP
    return sorted(placed, key=lambda line: line.style)


def _setting(point: SweepPoint) -> Setting:
    return Setting(
        dimension=point.dimension,
        precision=point.precision,
        score=percent(point.overall),
        interval=span(point.intervals.get("overall")),
        size=f"{point.bytes_per_million / 1e6:,.1f} MB",
    )
