"""Random vectors, decided by what an item holds: equal content, equal vector; it scores chance.

It decodes every image, as a real encoder does, and so finds the broken ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from mmeb_harness.encoder import PlannedEncoder, Vectors
from mmeb_harness.errors import ItemError
from mmeb_harness.image import load_image, pixel_digest
from mmeb_harness.item import Item, Rendered
from numpy.typing import NDArray

DIMENSION = 64
IMAGE_TOKENS = 64


class Random(PlannedEncoder):
    """Draws each vector from a normal distribution seeded by the item's text and pixels."""

    def render(self, item: Item) -> Rendered:
        if item.image is None and not item.text:
            raise ItemError("has neither text nor image")
        return Rendered(text=item.text, image=item.image)

    def size(self, rendered: Rendered) -> int:
        return 1 + len(rendered.text or "") // 4 + IMAGE_TOKENS * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> NDArray[np.uint64]:
        return np.array([_seed(one) for one in rendered], dtype=np.uint64)

    def forward(self, batch: NDArray[np.uint64]) -> Vectors:
        rows = [np.random.default_rng(int(seed)).standard_normal(DIMENSION) for seed in batch]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, DIMENSION)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def fingerprint(self) -> str:
        return "random 1"


def _seed(rendered: Rendered) -> int:
    digest = hashlib.sha256((rendered.text or "").encode("utf-8", "surrogatepass"))
    if rendered.image is not None:
        digest.update(pixel_digest(load_image(rendered.image)).encode())
    return int.from_bytes(digest.digest()[:8])
