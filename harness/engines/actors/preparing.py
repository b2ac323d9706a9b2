"""Batches prepared for a device, by processes that stay from one lease to the next.

The one idea: an actor's leases are short, so its workers must outlive them. Without workers a
lease is prepared in the thread that asks, by a copy of the encoder that no other thread uses.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.actors.sending import unseal
from mmeb_harness.engines.batch import Prepared, prepare_batch
from mmeb_harness.engines.engine import Batches
from mmeb_harness.engines.parcel import Packer, Parcel, Unpacker, sendable
from mmeb_harness.engines.workers import end_with_the_run, open_many
from mmeb_harness.errors import EnvironmentFault, HarnessError
from mmeb_harness.item import Rendered

Prepare = Callable[[Batches], Iterator[Prepared]]
"""Begins to prepare some batches, and yields them in order."""


class InThread:
    """Prepares all the batches of a lease before it yields the first; one lease at a time."""

    def __init__(self, encoder: PlannedEncoder) -> None:
        self._encoder = encoder
        self._turn = threading.Lock()

    def __call__(self, batches: Batches) -> Iterator[Prepared]:
        with self._turn:
            return iter([prepare_batch(self._encoder, rendered) for rendered in batches])


class InProcesses:
    """Prepares batches in processes that each hold the CPU half of the encoder."""

    def __init__(self, sealed: bytes, workers: int) -> None:
        open_many()
        self._unpacker = Unpacker()
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        self._pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(sealed,)
        )

    def __call__(self, batches: Batches) -> Iterator[Prepared]:
        return map(_taken, [self._submit(rendered) for rendered in batches])

    def _submit(self, rendered: Sequence[Rendered]) -> Future[Prepared]:
        opened: Future[Prepared] = Future()
        try:
            coming = self._pool.submit(_prepare, rendered)
        except BrokenProcessPool as error:
            raise _worker_died(error) from None
        coming.add_done_callback(partial(self._open, opened))
        return opened

    def _open(self, opened: Future[Prepared], come: Future[Parcel | HarnessError]) -> None:
        """Open a parcel as it comes: its worker may be dead before it is asked for."""
        try:
            opened.set_result(self._unpacker.open(come.result()))
        except Exception as error:
            opened.set_exception(error)


def _taken(future: Future[Prepared]) -> Prepared:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _worker_died(error) from None


def _worker_died(error: Exception) -> EnvironmentFault:
    why = str(error).splitlines()[0]
    return EnvironmentFault(
        f"a preprocessing worker of an actor died ({why}). Out of memory? Use fewer --workers."
    )


_own: dict[str, PlannedEncoder] = {}
"""In a worker: its encoder."""


def _begin(sealed: bytes) -> None:
    end_with_the_run()
    os.environ["OMP_NUM_THREADS"] = "1"
    _own["encoder"] = unseal(sealed, on_gpu=False)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


_packer = Packer()


def _prepare(rendered: Sequence[Rendered]) -> Parcel | HarnessError:
    try:
        return _packer.pack(prepare_batch(_own["encoder"], rendered))
    except HarnessError as error:
        return sendable(error)
