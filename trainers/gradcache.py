"""The gradient of a loss over all vectors of a batch, with the graph of one chunk at a time.

The one idea (GradCache, arXiv 2101.06983): the loss needs all vectors at once, but of the model
only its vectors. So: every chunk without a graph; the loss, and its gradient for each vector; then
every chunk again with a graph, down which its vectors' gradient goes. The sum is the gradient of
the whole batch, whatever the chunks. The chunk that is run last keeps its graph, so that a batch of
one chunk runs once. Dropout is played again from the random state that it had.

Shapes: I items of this process, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A prepared batch; its first `items` vectors count (0: it is run for company only)."""

    batch: Any
    items: int


Embed = Callable[[Any], "torch.Tensor"]
"""From a prepared batch to its (n, D) vectors, with a graph where gradients are on."""

LossOf = Callable[["torch.Tensor"], "torch.Tensor"]
"""From the vectors (I, D) of all chunks, in order, to one number."""


def cached_backward(
    embed: Embed,
    chunks: Sequence[Chunk],
    loss_of: LossOf,
    *,
    keep_last: bool = True,
    before_last: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Add the gradient of a loss to the parameters' `.grad`; return the loss.

    `before_last` is called before the last chunk goes back (where processes communicate).
    """
    import torch

    states: list[RandomState] = []
    vectors: list[torch.Tensor] = []
    for chunk in chunks:
        states.append(RandomState.now())
        keeps = keep_last and chunk is chunks[-1]
        with torch.set_grad_enabled(keeps):
            vectors.append(embed(chunk.batch)[: chunk.items])
    leaves = torch.cat([one.detach() for one in vectors]).requires_grad_()
    loss = loss_of(leaves)
    loss.backward()
    assert leaves.grad is not None
    parts = leaves.grad.split([chunk.items for chunk in chunks])
    for number in reversed(range(len(chunks))):  # the graph that waits first, to free its memory
        if number == 0 and before_last is not None:
            before_last()
        again = vectors[number]
        if not again.requires_grad:
            with states[number].replayed():
                again = embed(chunks[number].batch)[: chunks[number].items]
        again.backward(parts[number])
        del again, vectors[number]
    return loss.detach()


@dataclass(frozen=True, kw_only=True)
class RandomState:
    """The state of the random numbers that dropout draws, on the CPU and the devices."""

    cpu: torch.Tensor
    devices: Sequence[torch.Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """Read the state."""
        import torch

        devices = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
        return cls(cpu=torch.get_rng_state(), devices=devices)

    def restore(self) -> None:
        """Set the state."""
        import torch

        torch.set_rng_state(self.cpu)
        for state in self.devices:
            torch.cuda.set_rng_state(state)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw again from this state; go on afterwards as if nothing had been drawn."""
        after = RandomState.now()
        self.restore()
        try:
            yield
        finally:
            after.restore()
