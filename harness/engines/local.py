"""The local engine: worker processes decode and preprocess, this process runs the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from functools import partial

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded, prepare_batch
from mmeb_harness.engines.device import Device, Part
from mmeb_harness.engines.engine import Batches, Engine
from mmeb_harness.engines.workers import in_workers
from mmeb_harness.environment import cores
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
    return max(0, min(WORKERS_AT_MOST, cores() - 1))


class LocalEngine(Engine):
    """This process runs the device, and others prepare for it."""

    name = "local"

    def __init__(self, encoder: PlannedEncoder, workers: int | None, batches: int) -> None:
        self.encoder = encoder
        self.workers = chosen_workers(encoder, batches, workers)

    def run(self, batches: Batches) -> Generator[tuple[int, Encoded], None, None]:
        """Encode batches in order."""
        on_cuda = device_of(self.encoder).startswith("cuda")
        device = Device(self.encoder, behind=on_cuda)
        drawn: deque[Part] = deque()

        def inputs() -> Iterator[Sequence[Rendered]]:
            for part in device.cut(batches):
                drawn.append(part)
                yield part.rendered

        prepare = partial(prepare_batch, self.encoder)
        prepared = in_workers(prepare, inputs(), self.workers, pin=on_cuda)
        yield from device.run(drawn, prepared)


def device_of(encoder: PlannedEncoder) -> str:
    """Return the device of an encoder; the CPU where it says nothing."""
    return str(getattr(encoder, "device", None) or "cpu")
