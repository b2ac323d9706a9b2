"""The local engine: worker processes decode and preprocess, this process runs the device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded, encode_prepared, prepare_batch
from mmeb_harness.engines.workers import in_workers
from mmeb_harness.errors import EncoderFailed
from mmeb_harness.item import Rendered

Batches = Sequence[Sequence[Rendered]]

BARREN = 4
"""Items that may fail from the start before the encoder itself is taken to be at fault."""

WORKERS_AT_MOST = 8
BATCHES_WORTH_A_WORKER = 16


def chosen_workers(encoder: PlannedEncoder, batches: int, wanted: int | None) -> int:
    """Choose worker processes: what is wanted, where there is anything to prepare; by default none
    on the CPU, whose cores the model needs itself."""
    if not encoder.prepares:
        return 0
    if wanted is not None:
        return wanted
    device = str(getattr(encoder, "device", None) or "cpu")
    if device.startswith("cpu") or batches < BATCHES_WORTH_A_WORKER:
        return 0
    return max(0, min(WORKERS_AT_MOST, (os.cpu_count() or 1) - 1))


def run_batches(encoder: PlannedEncoder, batches: Batches, workers: int) -> Iterator[Encoded]:
    """Encode batches in order, preparing them in `workers` processes (0: in this one)."""
    source = in_workers(partial(prepare_batch, encoder), batches, workers)
    barren = 0
    for rendered, prepared in zip(batches, source, strict=True):
        encoded = encode_prepared(encoder, rendered, prepared)
        barren = -1 if len(encoded.rows) or barren < 0 else barren + len(rendered)
        if barren >= BARREN:
            why = next(iter(encoded.failures.values()))
            raise EncoderFailed(f"the encoder fails on every item it is given: {why}")
        yield encoded
