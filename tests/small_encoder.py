"""A level-2 encoder with memory for so many items at once, which notes what it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.item import Item, Rendered


class Small(PlannedEncoder):
    """An encoder with memory for so many items at once; it notes what it is asked."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.forwards: list[int] = []
        self.prepared: list[int] = []

    def render(self, item: Item) -> Rendered:
        return Rendered(text=item.text)

    def size(self, rendered: Rendered) -> int:
        return 1

    def prepare(self, rendered: Sequence[Rendered]) -> list[float]:
        self.prepared.append(len(rendered))
        if any(one.text == "unreadable" for one in rendered):
            raise ValueError("unreadable")
        return [float(one.text or 0) for one in rendered]

    def forward(self, batch: list[float]) -> np.ndarray:
        self.forwards.append(len(batch))
        if len(batch) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if 13.0 in batch:
            raise ValueError("unlucky")
        return np.array([[number, 1.0] for number in batch], dtype=np.float32)


def numbered(count: int, size: int) -> list[list[Rendered]]:
    texts = iter(range(count * size))
    return [[Rendered(text=str(100 + next(texts))) for _ in range(size)] for _ in range(count)]
