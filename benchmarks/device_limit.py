"""What a batch costs in arithmetic, what the device can do at most, and how long it waits.

The one idea: the share of a device's limit is the model's own multiplications and additions, two
operations each, over the rate at which the same process multiplies large matrices.

Counted for a batch, padding not: 2 x parameters x tokens for the decoder's linear layers, but for
the MLP and output projection of the last one, which run for one token of an item; 4 x width
x pairs of tokens for its attention (scores, and sums of values), a token with itself and those
before it; 2 x parameters x patches for the vision tower's linear layers and its patch embedding,
and 4 x width x patches^2 of a picture for its attention; 2 x parameters x merged patches for the
merger. A picture that several items of a batch show counts once. Norms, activations, rotations,
lookups and the last pooling do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from measuring import Took, timed
from mmeb_harness.plugins.decoder import DecoderBatch
from random_qwen import RandomQwen

if TYPE_CHECKING:
    import torch

REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A model's parameters where they multiply, and its widths times its layers."""

    decoder: int
    last: int
    decoder_attention: int
    head: int
    patches: int
    tower: int
    tower_attention: int
    merger: int
    merged: int

    @classmethod
    def of(cls, encoder: RandomQwen) -> Arithmetic:
        """Read them off an encoder's model."""
        module: Any = encoder.module
        text, vision = module.config.text_config, module.config.vision_config
        layers = module.language_model.layers
        last = _matrices(layers[-1].mlp) + _matrices(layers[-1].self_attn.o_proj)
        return cls(
            decoder=_matrices(layers) - last,
            last=last,
            decoder_attention=text.num_hidden_layers * text.hidden_size,
            head=text.vocab_size * text.hidden_size,
            patches=module.visual.patch_embed.proj.weight.numel(),
            tower=_matrices(module.visual.blocks),
            tower_attention=vision.depth * vision.embed_dim,
            merger=_matrices(module.visual.merger),
            merged=vision.spatial_merge_size**2,
        )

    def operations(self, batch: DecoderBatch) -> float:
        """Return the floating-point operations of a batch."""
        tokens_B = batch.mask_BL.sum(1).double()
        decoder = 2 * (self.decoder * tokens_B.sum() + self.last * len(tokens_B))
        attention = 4 * self.decoder_attention * (tokens_B * (tokens_B + 1) / 2).sum()
        total = float(decoder + attention)
        if batch.images is not None:
            patches_I = batch.images["grids"].prod(-1).double()
            each = 2 * (self.patches + self.tower + self.merger / self.merged)
            total += float(each * patches_I.sum())
            total += float(4 * self.tower_attention * (patches_I**2).sum())
        return total

    def head_share(self, tokens: int, operations: float) -> float:
        """Return the share that a head over so many tokens would have beside all the rest."""
        head = 2 * self.head * tokens
        return head / (head + operations)


def _matrices(module: Any) -> int:
    return sum(one.numel() for one in module.parameters() if one.ndim > 1)


# -- the limit -------------------------------------------------------------------------------------


def matrix_rate(encoder: RandomQwen, tokens: int) -> Took:
    """Return the best time of a million million operations, over squares and the model's own
    shapes at so many tokens, in its type: by the clock and of the process's own work."""
    module: Any = encoder.module
    text = module.config.text_config
    hidden, inner = text.hidden_size, text.intermediate_size
    sides = (4096, 8192) if str(encoder.device).startswith("cuda") else (1024, 2048)
    shapes = [(side, side, side) for side in sides]
    shapes += [(tokens, hidden, inner), (tokens, inner, hidden), (tokens, hidden, hidden)]
    best = [_seconds(encoder, shape) for shape in shapes]
    return Took(wall=min(one.wall for one in best), cpu=min(one.cpu for one in best))


def _seconds(encoder: RandomQwen, shape: Sequence[int]) -> Took:
    """Return the least time of so many operations for one shape."""
    import torch

    rows, inner, columns = shape
    kind = getattr(torch, encoder.dtype)
    left = torch.randn(rows, inner, device=encoder.device).to(kind)
    weight = torch.randn(columns, inner, device=encoder.device).to(kind)
    count = max(1, int((2e13 if left.is_cuda else 2e10) / (2 * rows * inner * columns)))
    scale = 1e12 / (2 * rows * inner * columns * count)
    with torch.inference_mode():
        multiply = partial(torch.nn.functional.linear, left, weight)
        multiply()
        took = [
            timed(lambda: [multiply() for _ in range(count)][:0], encoder.device)[1]
            for _ in range(REPEATS)
        ]
    return Took(wall=scale * min(t.wall for t in took), cpu=scale * min(t.cpu for t in took))


# -- where time goes -------------------------------------------------------------------------------


@dataclass
class Clock:
    """Time by part; a part within another is not counted in the outer one."""

    device: str
    parts: dict[str, Took] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is within as a part."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are counted as a part."""

        def counted(*given: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*given, **named)

        return counted

    def _charge(self) -> None:
        timed(lambda: None, self.device)  # waits for the device
        now = (time.perf_counter(), time.process_time())
        if self._open:
            known = self.parts.get(self._open[-1], Took(wall=0, cpu=0))
            wall, cpu = (one - other for one, other in zip(now, self._since, strict=True))
            self.parts[self._open[-1]] = Took(wall=known.wall + wall, cpu=known.cpu + cpu)
        self._since = now


# -- idleness --------------------------------------------------------------------------------------


class Forwards:
    """When each forward began and ended: as the device saw it, where it is one of its own."""

    def __init__(self, device: str) -> None:
        self.on_cuda = device.startswith("cuda")
        self.spans: list[tuple[Any, Any]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the forwards of every encoder of this process."""
        plain = RandomQwen.forward

        def noted(encoder: RandomQwen, batch: DecoderBatch) -> torch.Tensor:
            begun = self._now()
            vectors = plain(encoder, batch)
            self.spans.append((begun, self._now()))
            return vectors

        with patch.object(RandomQwen, "forward", noted):
            yield
        timed(lambda: None, "cuda" if self.on_cuda else "cpu")

    def _now(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        import torch

        cuda: Any = torch.cuda
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) if self.on_cuda else second - first)

    @property
    def idle(self) -> float:
        """Share of the time from the first forward's start to the last one's end that lies between
        forwards."""
        gaps = sum(self._between(one[1], other[0]) for one, other in pairwise(self.spans))
        return gaps / self._between(self.spans[0][0], self.spans[-1][1])
