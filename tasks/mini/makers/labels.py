"""Labels of one or two words, and the wrong ones that come nearest.

The one idea: each word decides. A label's rivals keep one word and change the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from mmeb_harness.tasks.mini.makers.example import Target, label

Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, kw_only=True)
class Words:
    """All labels of two words: each of the first with each of the second."""

    first: Sequence[str]
    second: Sequence[str]

    @property
    def targets(self) -> Sequence[Target]:
        return tuple(label(f"{one} {other}") for one in self.first for other in self.second)

    def rivals(self, rng: Random, one: str, other: str) -> Sequence[Target]:
        """Return a label that differs in the first word, and one that differs in the second."""
        return (
            label(f"{another(rng, self.first, one)} {other}"),
            label(f"{one} {another(rng, self.second, other)}"),
        )


def another(rng: Random, words: Sequence[Word], than: Word) -> Word:
    """Return one of the words that is not the given one."""
    return rng.choice([word for word in words if word != than])
