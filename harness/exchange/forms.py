"""What is exchanged: the forms, and a task's score as a file of either form tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mmeb_harness.errors import UsageError

Form = Literal["mmeb-v1", "mmeb-v2"]
FORMS: tuple[Form, ...] = ("mmeb-v1", "mmeb-v2")

SUITE = "mmeb"
"""The suite that the forms are made for; files with scores of another one name it, under `suite`"""

SCORE_FILE = "_score.json"
"""How the file of one dataset's scores ends, in both forms; it begins with the dataset's name."""

SHOWN = 80
"""Characters of a file's own words that a message repeats."""


MOST = 10**9
"""Queries that a task may have: more is not meant."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A dataset's score (a fraction) over `queries` (0 where that is not told), or why none."""

    score: float | None = None
    queries: int = 0
    error: str | None = None


def quoted(value: Any) -> str:
    """Repeat what a file says, on one line and not at length."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def fraction(value: Any, where: str) -> float:
    """Return a score. Raises UsageError unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where} is {quoted(value)}, not a number")
    if 1 < value <= 100:
        raise UsageError(f"{where} is {quoted(value)}: percent, it seems; fractions are wanted")
    if not 0 <= value <= 1:  # not a number compares false, too
        raise UsageError(f"{where} is {quoted(value)}, which is no fraction from 0 to 1")
    return float(value)


def count(value: Any, where: str) -> int:
    """Return a number of queries. Raises UsageError unless it is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where} is {quoted(value)}, not a number")
    if not 1 <= value <= MOST or value != int(value):
        raise UsageError(f"{where} is {quoted(value)}, not a number of queries")
    return int(value)
