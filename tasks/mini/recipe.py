"""A recipe: how the examples of one task of `mini` are made, and with what they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmeb_harness.tasks.mini.makers.example import Maker, Target

MOST = 50
"""Candidates of a task at most; its real count where that is smaller."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One task. `listed` are candidates of every query: all labels, or usual answers.

    `novel` holds the traits that make an out-of-distribution task what it is: each of its examples
    has one, no training part has any. `make_evaluation` makes the evaluation part where that shows
    what no training part may show at all: real pictures.
    """

    name: str
    make: Maker
    make_evaluation: Maker | None = None
    listed: Sequence[Target] = ()
    novel: frozenset[str] = field(default_factory=frozenset)
