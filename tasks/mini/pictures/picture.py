"""A picture before it is drawn: a value that can be compared, and drawn again alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """A picture not yet drawn: what draws it, and of what. Equal ones look the same."""

    draw: Callable[..., Image]
    of: tuple[Hashable, ...]

    def __call__(self) -> Image:
        return self.draw(*self.of)
