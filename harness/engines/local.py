"""The local engine: worker processes decode and preprocess, this process runs the device."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded, Launched, merged, prepare_batch
from mmeb_harness.engines.engine import Batches, Engine
from mmeb_harness.engines.workers import in_workers
from mmeb_harness.item import Rendered

WORKERS_AT_MOST = 8
BATCHES_WORTH_A_WORKER = 16


def chosen_workers(encoder: PlannedEncoder, batches: int, wanted: int | None) -> int:
    """Choose worker processes: what is wanted, where there is anything to prepare; by default none
    on the CPU, whose cores the model needs itself."""
    if not encoder.prepares:
        return 0
    if wanted is not None:
        return wanted
    if device_of(encoder).startswith("cpu") or batches < BATCHES_WORTH_A_WORKER:
        return 0
    return max(0, min(WORKERS_AT_MOST, (os.cpu_count() or 1) - 1))


class LocalEngine(Engine):
    """This process runs the device, and others prepare for it.

    A device of its own computes one batch while the vectors of the one before are on their way.
    Where memory was short once, later batches are cut before they are prepared.
    """

    name = "local"

    def __init__(self, encoder: PlannedEncoder, workers: int | None, batches: int) -> None:
        self.encoder = encoder
        self.workers = chosen_workers(encoder, batches, workers)
        self._pieces = 1

    def run(self, batches: Batches) -> Generator[tuple[int, Encoded], None, None]:
        """Encode batches in order."""
        done: list[tuple[Sequence[int], Encoded]] = []
        for part, encoded in self._parts(batches):
            if encoded.short and part.pieces == self._pieces:
                self._pieces *= 2
            done.append((part.rows, encoded))
            if part.is_last:
                yield part.number, done[0][1] if len(done) == 1 else merged(done)
                done = []

    def _parts(self, batches: Batches) -> Iterator[tuple[Part, Encoded]]:
        """Encode the parts of batches, a little behind the device."""
        drawn: deque[Part] = deque()
        under_way: deque[tuple[Part, Launched]] = deque()
        on_cuda = device_of(self.encoder).startswith("cuda")

        def inputs() -> Iterator[Sequence[Rendered]]:
            for number, rendered in enumerate(batches):
                for part in cut(number, rendered, self._pieces):
                    drawn.append(part)
                    yield part.rendered

        prepare = partial(prepare_batch, self.encoder)
        for prepared in in_workers(prepare, inputs(), self.workers, pin=on_cuda):
            part = drawn.popleft()
            under_way.append((part, Launched(self.encoder, part.rendered, prepared)))
            del prepared
            if len(under_way) > on_cuda:
                yield _landed(under_way.popleft())
        while under_way:
            yield _landed(under_way.popleft())


def _landed(under_way: tuple[Part, Launched]) -> tuple[Part, Encoded]:
    part, launched = under_way
    return part, launched.result()


class Part(NamedTuple):
    """Some rows of a batch, which are run together."""

    number: int
    rows: Sequence[int]
    rendered: Sequence[Rendered]
    pieces: int
    is_last: bool


def cut(number: int, rendered: Sequence[Rendered], pieces: int) -> Iterator[Part]:
    """Cut a batch into so many parts, where it has as many items."""
    size = max(1, -(-len(rendered) // pieces))
    for start in range(0, len(rendered), size):
        rows = range(start, min(start + size, len(rendered)))
        chosen = rendered[rows.start : rows.stop]
        yield Part(number, rows, chosen, pieces, rows.stop == len(rendered))


def device_of(encoder: PlannedEncoder) -> str:
    """Return the device of an encoder; the CPU where it says nothing."""
    return str(getattr(encoder, "device", None) or "cpu")
