"""GME (General Multimodal Embedder) over Qwen2-VL.

Its authors resize each image twice: their own code to a multiple of 28 pixels, then the processor
within its limits. Image tokens get sequential positions, since the authors' code hands embeddings
and no ids to a model that then counts plainly (transformers 4.51, the last that they allow).
"""

from __future__ import annotations

from mmeb_harness.plugins.qwen2_vl import FittedQwen, fit

FACTOR = 28
LEAST, MOST = 4 * FACTOR**2, 16384 * FACTOR**2
LONGEST = 200
"""How many times as long as wide a fitted image is at most."""


class Gme(FittedQwen):
    """An encoder over GME's Qwen2-VL."""

    model_types = ("qwen2_vl",)

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        width, height = fit(size, FACTOR, LEAST, MOST)
        return min(width, height * LONGEST), min(height, width * LONGEST)
