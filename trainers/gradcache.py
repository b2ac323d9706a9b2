"""The gradient of a loss over all vectors of a batch, with the graph of one chunk at a time.

The one idea (GradCache, arXiv 2101.06983): the loss needs all vectors at once, but of the model
only its vectors. So: every chunk without a graph; the loss, and its gradient for each vector; then
every chunk again with a graph, down which its vectors' gradient goes. The sum is the gradient of
the whole batch, whatever the chunks. The chunks that are run last keep their graphs, as many as a
full chunk has room for, so that a batch of no more runs once. Dropout is played again from the
random state that it had.

Shapes: I items of this process, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Embed = Callable[[Any], "torch.Tensor"]
"""From a prepared batch to its (n, D) vectors, with a graph where gradients are on."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A prepared batch; its first `items` vectors count (0: it is run for company only).

    `keeps` says that there is room for its graph beside those of all that come after it.
    """

    batch: Any
    items: int
    keeps: bool = False


@dataclass(frozen=True, kw_only=True)
class Cached:
    """The vectors (I, D) of all chunks, in order, and what the way back needs of the way there."""

    vectors_ID: torch.Tensor
    states: Sequence[RandomState]
    kept: Mapping[int, torch.Tensor]
    """The vectors of chunks, by number, that have their graph still."""


def embed_all(embed: Embed, chunks: Sequence[Chunk], *, keep_last: bool = True) -> Cached:
    """Run every chunk without a graph, but for the last one and those that keep theirs (unless not
    `keep_last`)."""
    import torch

    states: list[RandomState] = []
    vectors: list[torch.Tensor] = []
    kept: dict[int, torch.Tensor] = {}
    for number, chunk in enumerate(chunks):
        keeps = keep_last and (chunk.keeps or number == len(chunks) - 1)
        states.append(RandomState.now())
        with torch.set_grad_enabled(keeps):
            found = embed(chunk.batch)[: chunk.items]
        vectors.append(found.detach())
        if keeps:
            kept[number] = found
    joined_ID = torch.cat(vectors) if vectors else torch.zeros(0, 0)
    return Cached(vectors_ID=joined_ID, states=states, kept=kept)


def backward_all(
    embed: Embed,
    chunks: Sequence[Chunk],
    cached: Cached,
    gradient_ID: torch.Tensor,
    before_last: Callable[[], None] | None = None,
) -> None:
    """Add to the parameters' `.grad` what the gradient of the vectors gives, chunk by chunk.

    The chunks that have their graphs go first, to free their memory. `before_last` is called before
    the last one goes (where processes communicate).
    """
    import torch

    parts = torch.split(gradient_ID, [chunk.items for chunk in chunks])
    for number in reversed(range(len(chunks))):
        if number == 0 and before_last is not None:
            before_last()
        vectors = cached.kept.get(number)
        if vectors is None:
            with cached.states[number].replayed():
                vectors = embed(chunks[number].batch)[: chunks[number].items]
        if vectors.requires_grad:  # nothing under training may have a say in some chunks
            torch.autograd.backward(vectors, parts[number])


@dataclass(frozen=True, kw_only=True)
class RandomState:
    """The state of the random numbers that dropout draws, on the CPU and this process's device."""

    cpu: torch.Tensor
    device: torch.Tensor | None

    @classmethod
    def now(cls) -> RandomState:
        """Read the state."""
        import torch

        device = None
        if torch.cuda.is_available():
            device = torch.cuda.get_rng_state()
        elif torch.backends.mps.is_available():
            device = torch.mps.get_rng_state()
        return cls(cpu=torch.get_rng_state(), device=device)

    def restore(self) -> None:
        """Set the state."""
        import torch

        torch.set_rng_state(self.cpu)
        if self.device is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.device)
        elif self.device is not None:
            torch.mps.set_rng_state(self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw again from this state; go on afterwards as if nothing had been drawn."""
        after = RandomState.now()
        self.restore()
        try:
            yield
        finally:
            after.restore()
