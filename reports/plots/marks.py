"""What every plot is made of: a frame, ticks with their words, and names that do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmeb_harness.axis import Axis

LETTER = 6.6
"""Width in pixels of a letter in a plot, on average."""

LINE = 13
"""Height in pixels of a line of text in a plot."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A tick at a place in pixels, with its word."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The drawing's size and the rectangle of its axes, in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def across(self, axis: Axis, value: float) -> float:
        """Return the place of a value on the horizontal axis."""
        return round(self.left + (self.right - self.left) * axis.place(value), 1)

    def down(self, axis: Axis, value: float) -> float:
        """Return the place of a value on the vertical axis."""
        return round(self.bottom - (self.bottom - self.top) * axis.place(value), 1)

    def ticks_across(self, axis: Axis, word: Callable[[float], str]) -> list[Tick]:
        """Return the ticks of the horizontal axis."""
        return [Tick(at=self.across(axis, tick), label=word(tick)) for tick in axis.ticks]

    def ticks_down(self, axis: Axis, word: Callable[[float], str]) -> list[Tick]:
        """Return the ticks of the vertical axis."""
        return [Tick(at=self.down(axis, tick), label=word(tick)) for tick in axis.ticks]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name beside a point; `anchor` as SVG's text-anchor."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class _Box:
    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        """Tell whether two boxes overlap."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def labels_for(
    named: Iterable[tuple[float, float, str]],
    points: Sequence[tuple[float, float]],
    frame: Frame,
) -> list[Label]:
    """Name the points given first where there is room: beside, above or below, else not at all."""
    taken = [_Box(x - 5, x + 5, y - 5, y + 5) for x, y in points]
    labels = []
    for x, y, text in named:
        for label, box in _places(x, y, text):
            inside = box.left >= frame.left and box.right <= frame.width
            inside = inside and box.top >= 0 and box.bottom <= frame.bottom
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                labels.append(label)
                break
    return labels


def _places(x: float, y: float, text: str) -> Iterable[tuple[Label, _Box]]:
    width = LETTER * len(text)
    for anchor, left, dx in (("start", x + 8, 8), ("end", x - 8 - width, -8)):
        box = _Box(left, left + width, y - LINE / 2, y + LINE / 2)
        yield Label(x=round(x + dx, 1), y=round(y + 4, 1), anchor=anchor, text=text), box
    for base in (y - 8, y + 16):
        box = _Box(x - width / 2, x + width / 2, base - LINE + 2, base + 2)
        yield Label(x=x, y=round(base, 1), anchor="middle", text=text), box
