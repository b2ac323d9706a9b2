"""What an encoder is, in three levels.

1. `encode(items)` is enough. 2. `render`, `size`, `prepare` and `forward` let the engine plan the
work, preprocess in other processes and fill the device. 3. `module` and `save` let a trainer in.

The one idea: `encode`, the engine and a trainer go through the same `prepare` and `forward`, so
the vector is the same because it is the same code.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from mmeb_harness.errors import UsageError
from mmeb_harness.item import Item, Rendered
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]

Packing = Literal["auto", "on", "off"]
"""Whether the rows of a batch run end to end, without padding; `auto`: where that is quicker."""

Batch = Any
"""What `prepare` hands to `forward`: on the CPU, picklable, and nobody else's business."""


@runtime_checkable
class Encoder(Protocol):
    """Level 1: turns items into vectors. `fingerprint() -> str` lets them be kept across runs."""

    def encode(self, items: Sequence[Item]) -> Any:
        """Return an (n, dim) array of finite numbers, a row an item, in order."""
        ...


class PlannedEncoder(ABC):
    """Level 2: an encoder whose work can be planned, prepared elsewhere and dealt to devices.

    An instance pickles to its CPU half: `render`, `size` and `prepare` work in a worker process.
    `prepares` says whether `prepare` does anything worth a process of its own, `pads` whether the
    items of a batch all cost as much as its largest.
    """

    prepares = True
    pads = True

    @abstractmethod
    def render(self, item: Item) -> Rendered:
        """Return exactly what the model will see of `item`. Raises ItemError if that is nothing."""

    @abstractmethod
    def size(self, rendered: Rendered) -> int:
        """Return the tokens of one rendered item, without decoding pixels."""

    @abstractmethod
    def prepare(self, rendered: Sequence[Rendered]) -> Batch:
        """Tokenise, decode and resize on the CPU. Raises ItemError for what cannot be read."""

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor | Vectors:
        """Return the (n, dim) vectors of a batch; differentiable where there is a module."""

    def pack(self, wanted: Packing) -> bool:
        """Choose whether the rows of a batch run end to end, without padding, and return it.

        `auto` packs where that is quicker. No vector depends on it.

        Raises:
            UsageError: where `on` is wanted of an encoder that cannot.
        """
        if wanted == "on":
            raise UsageError(
                f"--packing on: {type(self).__name__} cannot run items end to end; leave it out"
            )
        return False

    def fingerprint(self) -> str | None:
        """Return a digest of what decides a vector here, or None where that is unknown.

        The card's settings and the content of `weight_folders` are counted in by the core.
        """
        return None

    def weight_folders(self) -> Sequence[Path]:
        """Return the folders whose files decide a vector: weights, tokenizer, adapter."""
        return ()

    def revisions(self) -> Mapping[str, str]:
        """Return what a reference that is no folder turned out to be (the model that a server has):
        recorded, and counted in where vectors are kept."""
        return {}

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Return (n, dim) float32 vectors, a row an item, in order."""
        from mmeb_harness.plan import cut_batches

        rendered = [self.render(item) for item in items]
        sizes = np.array([self.size(one) for one in rendered], dtype=np.int32)
        rows: list[Vectors | None] = [None] * len(rendered)
        for chosen in cut_batches(sizes, DIRECT_BATCH_TOKENS):
            vectors = infer(self, self.prepare([rendered[row] for row in chosen]))
            for row, vector in zip(chosen, vectors, strict=True):
                rows[row] = vector
        return np.stack([row for row in rows if row is not None]) if rows else _no_vectors()


class TrainableEncoder(PlannedEncoder):
    """Level 3: a planned encoder with a module to train and a folder to save to.

    What a trainer may ask beyond `module` and `save` has a default that is always right.
    """

    adapter_targets: Sequence[str] = ()
    """Patterns of the modules that an adapter goes on where the user names none; none if `save`
    cannot write an adapter."""

    adapter_is_open = False
    """Whether the model's own adapter stays an adapter, to be trained on, instead of being merged
    into the weights. Set before `module` is first used."""

    @property
    @abstractmethod
    def module(self) -> torch.nn.Module:
        """The module whose parameters decide the vectors; loaded at first use."""

    @property
    def trunk(self) -> torch.nn.Module | None:
        """The part that every item goes through by its own forward, if there is one: its layers
        may be dealt out to several processes."""
        return None

    def settled(self, batch: Batch) -> Batch:
        """Return the batch with everything computed that no parameter under training decides, so
        that `forward` may be called on it twice and computes that part not at all."""
        return batch

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write weights or adapter, whatever else loading needs, and the card, into `folder`.

        `state` holds the module's values by name where they lie on several processes."""


DIRECT_BATCH_TOKENS = 2048
"""Token budget of a batch when `encode` is called directly."""


def infer(encoder: PlannedEncoder, batch: Batch) -> Vectors:
    """Run `forward` without a graph and return float32 rows on the CPU."""
    return begin(encoder, batch)()


Arriving = Callable[[], Vectors]
"""Waits for vectors that are under way from the device."""


def begin(encoder: PlannedEncoder, batch: Batch) -> Arriving:
    """Have the device run `forward` without a graph, and copy float32 rows to the CPU behind it;
    do not wait for either."""
    torch = sys.modules.get("torch")  # an encoder that needs torch has imported it by now
    with torch.inference_mode() if torch is not None else contextlib.nullcontext():
        vectors: Any = encoder.forward(batch)
        if torch is None or not getattr(vectors, "is_cuda", False):
            return partial(as_vectors, vectors)
        there = vectors.detach().float()
        here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
        here.copy_(there, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

    def wait() -> Vectors:
        copied.synchronize()
        return np.array(here.numpy())

    return wait


def as_vectors(vectors: Any) -> Vectors:
    """Turn a tensor or an array into (n, dim) float32 on the CPU."""
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().float().cpu().numpy()
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _no_vectors() -> Vectors:
    return np.zeros((0, 0), dtype=np.float32)
