"""The local engine: worker processes decode and preprocess, this process runs the device."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded, Prepared, encode_prepared, prepare_batch
from mmeb_harness.errors import EncoderFailed, EnvironmentFault, HarnessError
from mmeb_harness.item import Rendered

Batches = Sequence[Sequence[Rendered]]

UNGUARDED = "From a script, start workers under `if __name__ == '__main__':`, or use workers=0."

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
    source = (
        _prepared_here(encoder, batches) if workers == 0 else _prepared(encoder, batches, workers)
    )
    barren = 0
    for rendered, prepared in zip(batches, source, strict=True):
        encoded = encode_prepared(encoder, rendered, prepared)
        barren = -1 if len(encoded.rows) or barren < 0 else barren + len(rendered)
        if barren >= BARREN:
            why = next(iter(encoded.failures.values()))
            raise EncoderFailed(f"the encoder fails on every item it is given: {why}")
        yield encoded


def _prepared_here(encoder: PlannedEncoder, batches: Batches) -> Iterator[Prepared]:
    return (prepare_batch(encoder, rendered) for rendered in batches)


def _prepared(encoder: PlannedEncoder, batches: Batches, workers: int) -> Iterator[Prepared]:
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _BatchDataset(encoder, batches),  # type: ignore[arg-type]  # any sequence will do
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=_as_it_is,
        worker_init_fn=_end_with_the_run,
        multiprocessing_context="forkserver" if os.name == "posix" else "spawn",
    )
    try:
        arriving = iter(loader)
    except (BrokenPipeError, EOFError, ConnectionError) as error:
        raise EnvironmentFault(UNGUARDED) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise EnvironmentFault(
            f"the encoder cannot be sent to worker processes ({error}): use --workers 0, or give "
            "it a __getstate__ that leaves out what prepare does not need"
        ) from error
    try:
        for prepared in arriving:
            if isinstance(prepared, HarnessError):
                raise prepared
            yield prepared
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise EnvironmentFault(
            f"a preprocessing worker died ({str(error).splitlines()[0]}). Out of memory? Use fewer "
            f"--workers. {UNGUARDED}"
        ) from error


def _as_it_is(prepared: Any) -> Any:
    return prepared


def _end_with_the_run(_: int) -> None:
    """End this worker should the run be killed: torch watches the fork server only, which lives."""
    run = multiprocessing.parent_process()
    if run is not None:
        threading.Thread(target=_exit_after, args=(run,), daemon=True).start()


def _exit_after(process: Any) -> None:
    process.join()
    os._exit(1)


class _BatchDataset:
    """The batches, prepared by number; the encoder travels to a worker as its CPU half."""

    def __init__(self, encoder: PlannedEncoder, batches: Batches) -> None:
        self.encoder, self.batches = encoder, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Prepared | HarnessError:
        try:
            return prepare_batch(self.encoder, self.batches[number])
        except HarnessError as error:
            return error
