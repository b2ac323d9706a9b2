"""A recipe: how the examples of one task of `mini` are made, and with what they are listed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Maker, Side, Target

ONE_IN = 8
"""Of so many queries one is kept for evaluation."""

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

    def training_example(self, number: int) -> Example:
        """Make the training example of one number; no query of it is ever asked in evaluation."""
        key = f"mini/{self.name}/training/{number}"
        made = (self.make(Random(f"{key}/{attempt}")) for attempt in count())
        return next(example for example in made if not kept_for_evaluation(example.query))

    def evaluation_examples(self, seed: str) -> Iterator[Example]:
        """Make examples for evaluation, without end; `kept_for_evaluation` is not asked yet."""
        make = self.make_evaluation or self.make
        for number in count():
            yield make(Random(f"mini/{self.name}/{seed}/{number}"))


def kept_for_evaluation(query: Side) -> bool:
    """Whether a query, by what is seen of it, is one of those that no training part has."""
    text, pixels = query.seen()
    return zlib.crc32(text.encode() + pixels) % ONE_IN == 0
