"""Several processes that train as one: who has which pairs, and sums over all of them.

The one idea: each process runs the model on its own share of a batch, and whatever all of them must
agree on is gathered or summed: the vectors, the gradients, the norm. A single process talks to
nobody, and every one of these is then what it already has.

Shapes: N rows of this process, A rows of all processes, D numbers of a row.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from mmeb_harness.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)

PATIENCE = timedelta(hours=24)
"""How long a process waits for another: the first may score tasks for hours meanwhile."""

BUCKET = 1 << 25
"""Numbers sent at once, where they are many small tensors."""

COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say how many processes they started; torchrun's first."""

OTHER_WAYS = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""Ways of sharing a model that `accelerate launch` may ask for, none of which is used here."""


def started() -> int:
    """Return how many processes the launcher started: 1 where there was none."""
    return next((int(os.environ[name]) for name in COUNTS if os.environ.get(name)), 1)


def start(device: str | None = None) -> Processes:
    """Join the processes that were started together; a single one needs nothing for that."""
    if started() == 1:
        return Processes(device=device or _asked_for())
    return Processes.of(make_accelerator(device))


def _asked_for() -> str | None:
    """Return the device that `accelerate launch --cpu` names."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    return "cpu" if asked else None


def make_accelerator(device: str | None = None, **settings: Any) -> Accelerator:
    """Make accelerate's object, and with it the group of processes if several were started.

    Left to itself accelerate sees no processes on a CPU: each would train alone, in silence.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    for name in OTHER_WAYS:
        if os.environ.get(name, "").lower() == "true":
            raise UsageError(
                f"{name} is set: the trainer deals a model out by itself (run.shard=true); start "
                "it with torchrun, or `accelerate launch --multi_gpu`"
            )
    if started() > 1 and device is not None and ":" in device:
        raise UsageError(
            f"run.device={device}: each of several processes takes a device of its own; name the "
            "kind alone (cuda, cpu), or none"
        )
    device = device or _asked_for()
    found = torch.accelerator.current_accelerator(check_available=True)
    accelerator = Accelerator(
        cpu=device == "cpu" or (device is None and (found is None or found.type == "mps")),
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        **settings,
    )
    if torch.distributed.is_initialized():  # left open, its threads abort the process at the end
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    import gc

    import torch

    gc.collect()  # what holds the group keeps it open
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all: number `rank` of `count`. `device` is None for the model's choice."""

    rank: int = 0
    count: int = 1
    device: str | None = None

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """Return the processes that accelerate has joined. Raises if they did not find together."""
        device = accelerator.device
        if accelerator.num_processes != started():
            raise EnvironmentFault(
                f"{started()} processes were started, but there is no way for them to communicate "
                f"from {device}: use a CUDA device, or run.device=cpu"
            )
        return cls(
            rank=accelerator.process_index,
            count=accelerator.num_processes,
            device="cpu" if device.type == "cpu" else str(device),
        )

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, pairs: int) -> slice:
        """Return which of some pairs are this process's: neighbours, as many as others' or one
        more."""
        each, more = divmod(pairs, self.count)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def gather_rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, slice]:
        """Return the rows of all processes, (A, D) or (A,), by rank, and where one's own lie.

        Their numbers may differ. A process with none gives (0, D), or (0, 0), of the same type.
        """
        import torch

        rows = rows.detach()
        if self.count == 1:
            return rows, slice(0, len(rows))
        table_ND = rows[:, None] if rows.dim() == 1 else rows
        sizes = self._gathered(torch.tensor(table_ND.shape, device=self.device))
        counts, widths = torch.stack(sizes).T.tolist()
        bytes_NB = table_ND.contiguous().view(torch.uint8)  # every backend can send them
        padded = bytes_NB.new_zeros(max(counts), max(widths) * rows.element_size())
        padded[: len(rows), : bytes_NB.shape[1]] = bytes_NB
        parts = [one[:n] for one, n in zip(self._gathered(padded), counts, strict=True)]
        all_AD = torch.cat(parts).view(rows.dtype)
        first = sum(counts[: self.rank])
        return all_AD.view(-1) if rows.dim() == 1 else all_AD, slice(first, first + len(rows))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up each parameter's `.grad` over all processes, which all hold the sum afterwards.

        None counts as zero, and stays None where no process has any, so that an optimiser passes
        over a parameter here as it would in a single process. A parameter dealt out to several
        processes is left alone: its gradient is the sum already.
        """
        import torch

        if self.count == 1:
            return
        whole = [one for one in parameters if not is_sharded(one)]
        used = torch.tensor([one.grad is not None for one in whole], device=self.device).int()
        torch.distributed.all_reduce(used)
        gradients = []
        for parameter, times in zip(whole, used.tolist(), strict=True):
            if times and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in buckets(gradients):
            with _joined(bucket) as flat:
                torch.distributed.all_reduce(flat)

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the values that the first one has."""
        import torch

        if self.count == 1:
            return
        for bucket in buckets([one.detach() for one in tensors if not is_sharded(one)]):
            with _joined(bucket) as flat:
                bits = flat.view(-1).view(torch.uint8)  # as in gather_rows
                torch.distributed.broadcast(bits, src=0)

    def from_main(self, value: Value) -> Value:
        """Return what the first process gives: any value that pickles."""
        import torch

        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def total(self, number: Number) -> Number:
        """Return the sum of a number over all processes."""
        return self._reduced(number, "SUM")

    def maximum(self, number: Number) -> Number:
        """Return the largest of the processes' numbers."""
        return self._reduced(number, "MAX")

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.total(0)

    def agree(self, what: str, digest: str) -> None:
        """Raise, in every process, if something is not the same in all; name those that differ."""
        import platform

        import torch

        if self.count == 1:
            return
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, (digest, platform.node()))
        odd = [f"{rank} on {node}" for rank, (one, node) in enumerate(found) if one != found[0][0]]
        if odd:
            raise EnvironmentFault(
                f"{what} is not the same in all {self.count} processes: that of process "
                f"{', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''} differs from that of "
                f"process 0 on {found[0][1]}; start all with the same files, options and versions"
            )

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every process's tensor, all of one shape."""
        import torch

        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        torch.distributed.all_gather(parts, tensor)
        return parts

    def _reduced(self, number: Number, operation: str) -> Number:
        import torch

        if self.count == 1:
            return number
        box = torch.tensor(number, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(box, op=getattr(torch.distributed.ReduceOp, operation))
        return type(number)(box.item())


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this process holds only its part of a tensor (see `sharding`)."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, in place: all of it, if it is not dealt out."""
    part: torch.Tensor = tensor.detach()
    return part.to_local() if is_sharded(part) else part  # type: ignore[attr-defined]


def buckets(tensors: Sequence[torch.Tensor], most: int = BUCKET) -> Iterator[list[torch.Tensor]]:
    """Group tensors by type, `most` numbers at most in a group; a larger tensor is alone."""
    waiting: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        group = waiting.setdefault(tensor.dtype, [])
        if group and sum(one.numel() for one in group) + tensor.numel() > most:
            yield waiting.pop(tensor.dtype)
            group = waiting.setdefault(tensor.dtype, [])
        group.append(tensor)
    yield from waiting.values()


@contextmanager
def _joined(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Give some tensors as a single one; what it holds in the end is put back into them."""
    import torch

    if len(tensors) == 1 and tensors[0].is_contiguous():
        yield tensors[0]
        return
    flat = torch.cat([one.reshape(-1) for one in tensors])
    yield flat
    parts = torch.split(flat, [one.numel() for one in tensors])
    for tensor, values in zip(tensors, parts, strict=True):
        tensor.copy_(values.view_as(tensor))


def clip(parameters: Iterable[torch.nn.Parameter], most: float | None) -> float:
    """Scale all gradients in place so that their norm is `most` or less (None: leave them).

    Returns the norm that they had, over all parameters, whole ones and those dealt out, as
    `torch.nn.utils.clip_grad_norm_` counts it.
    """
    gradients = [one.grad for one in parameters if one.grad is not None]
    norm = _norm(gradients)
    if most is not None:
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            own_part(gradient).mul_(factor)
    return norm.item()


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    norm = torch.nn.utils.get_total_norm([one for one in gradients if not is_sharded(one)])
    dealt = [own_part(one) for one in gradients if is_sharded(one)]
    if not dealt:
        return norm
    squares = torch.nn.utils.get_total_norm(dealt).double() ** 2
    torch.distributed.all_reduce(squares)
    return (norm.to(squares) ** 2 + squares).sqrt().to(dealt[0].dtype)
