"""One device at work: parts of batches go in prepared, whole batches come out encoded.

The one idea: how much fits is learnt once. Where memory was short, that batch was halved on the
spot, and those that are prepared from then on are cut beforehand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded, Launched, Prepared, merged
from mmeb_harness.engines.engine import Batches
from mmeb_harness.item import Rendered


class Part(NamedTuple):
    """Some rows of a batch, which are run together."""

    number: int
    rows: Sequence[int]
    rendered: Sequence[Rendered]
    pieces: int
    is_last: bool


class Device:
    """Runs an encoder; one that is `behind` computes a part while the vectors of the one before are
    on their way, as a device of its own can."""

    def __init__(self, encoder: PlannedEncoder, *, behind: bool) -> None:
        self.encoder, self.behind = encoder, behind
        self._pieces = 1

    def cut(self, batches: Batches) -> Iterator[Part]:
        """Cut batches into parts that should fit, each when it is asked for."""
        for number, rendered in enumerate(batches):
            yield from cut(number, rendered, self._pieces)

    def run(
        self, drawn: deque[Part], prepared: Iterable[Prepared]
    ) -> Iterator[tuple[int, Encoded]]:
        """Run what was prepared of the parts that were drawn; yield each whole batch, by its
        number."""
        done: list[tuple[Sequence[int], Encoded]] = []
        for part, encoded in self._landed(drawn, prepared):
            if encoded.short and part.pieces == self._pieces:
                self._pieces *= 2
            done.append((part.rows, encoded))
            if part.is_last:
                yield part.number, done[0][1] if len(done) == 1 else merged(done)
                done = []

    def _landed(
        self, drawn: deque[Part], prepared: Iterable[Prepared]
    ) -> Iterator[tuple[Part, Encoded]]:
        under_way: deque[tuple[Part, Launched]] = deque()
        for one in prepared:
            part = drawn.popleft()
            under_way.append((part, Launched(self.encoder, part.rendered, one)))
            del one  # its pixels are let go while the next one is awaited
            if len(under_way) > self.behind:
                yield _result(*under_way.popleft())
        while under_way:
            yield _result(*under_way.popleft())


def _result(part: Part, launched: Launched) -> tuple[Part, Encoded]:
    return part, launched.result()


def cut(number: int, rendered: Sequence[Rendered], pieces: int) -> Iterator[Part]:
    """Cut a batch into so many parts, where it has as many items."""
    size = max(1, -(-len(rendered) // pieces))
    for start in range(0, len(rendered), size):
        rows = range(start, min(start + size, len(rendered)))
        chosen = rendered[rows.start : rows.stop]
        yield Part(number, rows, chosen, pieces, rows.stop == len(rendered))
