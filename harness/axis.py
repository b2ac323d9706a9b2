"""Axes with round ticks: from values to places between 0 and 1, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

SPREAD = 30.0
"""A logarithmic axis is for positive values of which one is so many times another."""

TICKS = 9
"""A logarithmic axis has at most so many."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of values with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high end."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def value_axis(values: Iterable[float], *, count: int = 4, linear: bool = True) -> Axis:
    """Return the axis that suits finite values, with about `count` ticks.

    Unless it must be `linear`, it is logarithmic where the values spread far above zero.
    """
    given = list(values) or [0.0]
    low, high = min(given), max(given)
    if not linear and low > 0 and high / low >= SPREAD:
        return _logarithmic(low, high)
    return _linear(low, high, count)


def logarithmic_axis(values: Iterable[float]) -> Axis:
    """Return the logarithmic axis of positive values, however little they spread."""
    given = list(values) or [1.0]
    axis = _logarithmic(min(given), max(given))
    return axis if axis.high > axis.low else _logarithmic(axis.low / 2, axis.high * 2)


def step_axis(last: int) -> Axis:
    """Return the axis of steps from 0 to the last one, its ticks at whole numbers."""
    last = max(1, last)
    step = max(1, round(_round_above(last / 8)))
    return Axis(low=0, high=last, ticks=tuple(range(0, last + 1, step)))


def _linear(low: float, high: float, count: int) -> Axis:
    """Return an axis from tick to tick, which begins at zero where that is not far."""
    if 0 <= low <= 0.6 * high:
        low = 0.0
    if high - low <= 1e-6 * abs(high):  # a constant
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if high else (0.0, 1.0)
    step = _round_above((high - low) / count)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], ticks=ticks)


def _logarithmic(low: float, high: float) -> Axis:
    """Return an axis whose ends are 1, 2 or 5 times a power of ten, as are its ticks if few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_values = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(value for value in round_values if value <= low)
    last = min(value for value in round_values if value >= high)
    ticks = [value for value in round_values if first <= value <= last]
    if len(ticks) > TICKS:
        tens = [float(f"1e{power}") for power in powers]
        tens = [value for value in tens if first <= value <= last]
        ticks = tens[:: math.ceil(len(tens) / TICKS)]
    return Axis(low=first, high=last, ticks=tuple(ticks), logarithmic=True)


def _round_above(rough: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = math.floor(math.log10(rough))
    rounds = (float(f"{factor}e{power}") for factor in (1, 2, 5, 10))
    return next(value for value in rounds if value >= rough * (1 - 1e-9))
