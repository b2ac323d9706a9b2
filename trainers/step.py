"""One step: pairs in, gradients of the whole batch on the parameters of every process.

Every process computes the same loss over the vectors of all, and goes back with the part of its
gradient that belongs to its own; the parameters' gradients are then added up. So any number of
processes and any chunks give what one process with one chunk gives.

Shapes: I items of this process, D numbers of a vector; of all processes P pairs and T targets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
from mmeb_harness.encoder import Batch, TrainableEncoder
from mmeb_harness.errors import EnvironmentFault, HarnessError, TaskError
from mmeb_harness.trainers.chunks import Preparer, ReadyBatch
from mmeb_harness.trainers.gradcache import Cached, Chunk, backward_all, embed_all
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import Processes
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class Diverged(HarnessError):
    """The loss or its gradient is no number any more: going on would spoil the model."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The mean loss of a step's batches, and what went into it, over all processes; `left_out`
    tells of this process's pairs that did not."""

    loss: float
    pairs: int
    items: int
    tokens: int
    negatives: float
    skipped: int
    left_out: Sequence[str] = ()


class Stepper:
    """Computes gradients for ready batches; `recut` is called when memory ran out."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        loss: InfoNCE,
        preparer: Preparer,
        processes: Processes,
        *,
        precision: str,
        sync: Callable[[bool], None] | None = None,
    ) -> None:
        self.encoder, self.loss, self.preparer = encoder, loss, preparer
        self.processes = processes
        self.half = precision == "bfloat16"
        self.sync = sync
        """Tells a sharded model whether the next gradients are to be communicated."""
        self.recuts = 0

    # -- the whole step ------------------------------------------------------------------------

    def gradients(
        self, batches: Iterable[ReadyBatch], parameters: Sequence[torch.nn.Parameter]
    ) -> StepResult:
        """Put on the parameters the gradient of the batches' mean loss, summed over processes.

        Raises:
            Diverged: for a loss that is no number; the parameters are as they were.
            EnvironmentFault: where a single item does not fit into memory.
        """
        ready = list(batches)
        while True:
            for parameter in parameters:
                parameter.grad = None
            results: list[StepResult] = []
            short: int | None = None
            for number, batch in enumerate(ready):
                going = short is None
                result, ready[number], failed = self._batch(batch, number, len(ready), going)
                results.append(result)
                short = number if failed else short
            if not self.processes.maximum(int(short is not None)):
                break
            if short is not None:
                ready[short] = self._recut(ready[short])
                ready = [self._cut_as_now(batch) for batch in ready]
        self.processes.sum_gradients(parameters)
        return _joined(results)

    def _batch(
        self, ready: ReadyBatch, number: int, batches: int, going: bool
    ) -> tuple[StepResult, ReadyBatch, bool]:
        """Run a batch there and, unless the step is to be begun anew, back; the last value tells
        that memory ran out on the way back."""
        import torch

        ready, chunks, cached = self._there(ready)
        leaves_ID = cached.vectors_ID.requires_grad_()
        loss, result = self._loss(leaves_ID, ready)
        if loss.requires_grad:
            torch.autograd.backward(loss / batches)
        if not going or leaves_ID.grad is None:
            return result, ready, False
        before = None
        if self.sync is not None:
            self.sync(False)
            before = partial(self.sync, number == batches - 1)
        try:
            backward_all(self._embed, chunks, cached, leaves_ID.grad, before)
        except torch.OutOfMemoryError as error:
            self._refuse_if_sharded(error)
            return result, ready, True
        return result, ready, False

    # -- there ---------------------------------------------------------------------------------

    def _there(self, ready: ReadyBatch) -> tuple[ReadyBatch, Sequence[Chunk], Cached]:
        """Run the frozen part once and every chunk without a graph; recut while memory runs out.

        The batch is given back with its chunks settled: the pixels behind them can be let go.
        """
        import torch

        while True:
            try:
                with self._arithmetic(), torch.no_grad():
                    chunks = [
                        replace(chunk, batch=self.encoder.settled(chunk.batch))
                        for chunk in ready.chunks
                    ]
                ready = replace(ready, chunks=chunks)
                chunks = self._in_company(chunks)
                cached = embed_all(self._embed, chunks, keep_last=self.sync is None)
                return ready, chunks, cached
            except torch.OutOfMemoryError as error:
                self._refuse_if_sharded(error)
            ready = self._recut(ready)

    def _in_company(self, chunks: list[Chunk]) -> list[Chunk]:
        """Sharded models run as often in every process: some run a chunk for company."""
        if self.sync is None:
            return chunks
        missing = self.processes.maximum(len(chunks)) - len(chunks)
        if missing and not chunks:
            raise TaskError("a process has no usable pair in this batch, which run.shard needs")
        return [*(Chunk(batch=chunks[0].batch, items=0) for _ in range(missing)), *chunks]

    def _embed(self, batch: Batch) -> torch.Tensor:
        with self._arithmetic():
            vectors = cast("torch.Tensor", self.encoder.forward(batch))
        return vectors if vectors.element_size() >= 4 else vectors.float()

    def _arithmetic(self) -> contextlib.AbstractContextManager[object]:
        import torch

        if not self.half:
            return contextlib.nullcontext()
        device = next(self.encoder.module.parameters()).device
        return torch.autocast(device.type, dtype=torch.bfloat16)

    # -- memory --------------------------------------------------------------------------------

    def _recut(self, ready: ReadyBatch) -> ReadyBatch:
        """Cut a batch anew: as others are cut by now, or else in halves, as all that come then."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        again, most = self._cut_as_now(ready), max(chunk.items for chunk in ready.chunks)
        while [chunk.items for chunk in again.chunks] == [chunk.items for chunk in ready.chunks]:
            if most <= 1:
                raise EnvironmentFault(
                    "one item alone does not fit into the device's memory: run.checkpointing=true, "
                    "a lower model.image_resolution or model.max_length, or run.shard=true may help"
                )
            self.preparer = replace(
                self.preparer,
                tokens=max(1, self.preparer.tokens // 2),
                items=None if self.preparer.items is None else max(1, most // 2),
            )
            self.recuts += 1
            again = self._cut_as_now(ready)
        return again

    def _cut_as_now(self, ready: ReadyBatch) -> ReadyBatch:
        return replace(self.preparer(ready.pairs), left_out=ready.left_out)

    def _refuse_if_sharded(self, error: Exception) -> None:
        if self.sync is not None:
            raise EnvironmentFault(
                "memory ran out, and sharded processes cannot cut a batch anew on their own: lower "
                "batch.chunk_tokens"
            ) from error

    # -- loss ----------------------------------------------------------------------------------

    def _loss(self, leaves_ID: torch.Tensor, ready: ReadyBatch) -> tuple[torch.Tensor, StepResult]:
        """Return the loss over all processes, with a graph to this one's vectors."""
        import torch

        queries_PD = self._of_all(leaves_ID, ready.queries_P)
        targets_TD = self._of_all(leaves_ID, ready.positives_P)
        codes_T = self._codes_of_all(ready, ready.positives_P)
        if self.preparer.negatives:
            negatives_ND = self._of_all(leaves_ID, ready.negatives_N)
            targets_TD = torch.cat([targets_TD, negatives_ND]) if len(negatives_ND) else targets_TD
            codes_T = torch.cat([codes_T, self._codes_of_all(ready, ready.negatives_N)])
        pairs, skipped = len(queries_PD), self.processes.total(len(ready.left_out))
        if len(codes_T) < 2:
            raise TaskError(_too_few(pairs, skipped, ready.left_out))
        loss = self.loss(queries_PD, targets_TD, codes_T.to(targets_TD.device))
        if not loss.isfinite():
            raise Diverged(_where(queries_PD, targets_TD))
        total = self.processes.total
        return loss, StepResult(
            loss=loss.item(),
            pairs=pairs,
            items=total(len(ready.codes_I)),
            tokens=total(ready.tokens),
            negatives=self.loss.negatives(codes_T, pairs),
            skipped=skipped,
            left_out=ready.left_out,
        )

    def _of_all(self, leaves_ID: torch.Tensor, places: NDArray[np.int64]) -> torch.Tensor:
        """Return the chosen vectors of all processes, this one's with their graph."""
        import torch

        own = leaves_ID[torch.from_numpy(places).to(leaves_ID.device)]
        if not len(own):
            return self.processes.gather_rows(own.to(self.processes.device or own.device))[0]
        rows, mine = self.processes.gather_rows(own)
        return torch.cat([rows[: mine.start], own, rows[mine.stop :]])

    def _codes_of_all(self, ready: ReadyBatch, places: NDArray[np.int64]) -> torch.Tensor:
        """Return the codes of the chosen items of all processes, on the CPU."""
        import torch

        device = self.processes.device or "cpu"
        codes, _ = self.processes.gather_rows(torch.from_numpy(ready.codes_I[places]).to(device))
        return codes.cpu()


def _where(queries_PD: torch.Tensor, targets_TD: torch.Tensor) -> str:
    """Say what of a batch is no number."""
    sides = (("query", queries_PD), ("target", targets_TD))
    odd = [
        f"{int((~vectors.isfinite().all(1)).sum())} of {len(vectors)} {name} vectors"
        for name, vectors in sides
        if not vectors.isfinite().all()
    ]
    return f"the loss is not finite ({', '.join(odd) or 'though all vectors are'})"


def _too_few(pairs: int, skipped: int, left_out: Sequence[str]) -> str:
    """Say that a query of a batch has nothing to be told apart from."""
    if not skipped:
        return "the only pair of a batch has no negative"
    usable = "only 1" if pairs else "none"
    why = f" ({left_out[0]})" if left_out else ""
    return f"{usable} of the {pairs + skipped} pairs of a batch can be used{why}: no negatives"


def _joined(results: Sequence[StepResult]) -> StepResult:
    """Return what several batches came to, as one."""
    count = len(results)
    return StepResult(
        loss=sum(one.loss for one in results) / count,
        pairs=sum(one.pairs for one in results),
        items=sum(one.items for one in results),
        tokens=sum(one.tokens for one in results),
        negatives=sum(one.negatives for one in results) / count,
        skipped=sum(one.skipped for one in results),
        left_out=[why for one in results for why in one.left_out],
    )
