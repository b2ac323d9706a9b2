"""Numbers as they are read: percent, points, intervals, counts."""

from __future__ import annotations

from mmeb_harness.summary import Interval


def percent(value: float | None) -> str:
    """Write a fraction in percent, with one decimal: `81.3`."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Write a difference of fractions in percentage points, with its sign: `+3.1`, `−0.4`."""
    written = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if written in ("+0.0", "−0.0") else written


def span(interval: Interval | tuple[float, float] | None) -> str:
    """Write an interval in percent: `78.1–84.0`."""
    return "" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def amount(billions: float | None) -> str:
    """Write a number of parameters, given in billions, shortly: `2.56 M`, `8.29 B`."""
    if billions is None:
        return "–"
    for unit, size in (("B", 1.0), ("M", 1e-3), ("k", 1e-6)):
        if billions >= size:
            shown = billions / size
            return f"{shown:,.0f} {unit}" if shown >= 100 else f"{shown:.3g} {unit}"
    return f"{billions * 1e9:.0f}"


def counted(number: int, word: str, words: str | None = None) -> str:
    """Write a number with its word: `1 task`, `36 tasks`."""
    return f"{number:,} {word if number == 1 else words or word + 's'}"
