"""One query with its target and with what looks like it: what every generator of `mini` makes.

The one idea: an example knows what would answer it. `fits` reads the meaning of any target of its
task leniently (what someone could call right is no wrong candidate), so that candidate lists can be
put together from other examples, and tested.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from mmeb_harness.tasks.mini.pictures.picture import Picture


@dataclass(frozen=True, kw_only=True)
class Side:
    """A query or a candidate before it is worded: a text, a picture, or both."""

    text: str = ""
    picture: Picture | None = None

    def seen(self) -> tuple[str, bytes]:
        """Return its text and pixels: pictures of different scenes may look the same."""
        return self.text, b"" if self.picture is None else self.picture().tobytes()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A candidate, and what it means in its task: equal meanings answer the same queries."""

    side: Side
    meaning: Hashable


def label(text: str) -> Target:
    """Return a target that is a bare text and means just that."""
    return Target(side=Side(text=text), meaning=text)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A query, its target, and `rivals`: wrong targets, each like the right one but for one thing.

    `traits` name everything about how it is made that could be new to a model: grounds, fonts,
    ways of drawing, pairs of a colour and an object, forms of sentences.
    """

    query: Side
    target: Target
    rivals: Sequence[Target] = ()
    fits: Callable[[Hashable], bool] | None = None
    traits: frozenset[str] = frozenset()

    def answered_by(self, meaning: Hashable) -> bool:
        """Whether someone could call a target of this meaning right."""
        return meaning == self.target.meaning if self.fits is None else self.fits(meaning)


Maker: TypeAlias = Callable[[Random], Example]
"""Makes the example that some random numbers stand for."""
