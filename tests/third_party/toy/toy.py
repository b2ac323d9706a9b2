"""A stranger's encoder: letters counted, and the mean colour of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mmeb_harness as mh
import numpy as np
from PIL import Image


@mh.hookimpl
def register_encoders(register: Callable[[mh.Card], None]) -> None:
    register(mh.Card(name="toy", factory="toy:Toy", summary="Counts letters."))


class Toy:
    def encode(self, items: Sequence[mh.Item]) -> np.ndarray:
        return np.stack([_letters(item) for item in items])

    def fingerprint(self) -> str:
        return "toy 1"


def _letters(item: mh.Item) -> np.ndarray:
    counts = [(item.text or "").lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    if item.image is None:
        return np.array([*counts, 0, 0, 0], dtype=np.float32)
    with Image.open(item.image) as image:
        colour = np.asarray(image.convert("RGB")).mean(axis=(0, 1)) / 255
    return np.array([*counts, *colour], dtype=np.float32)
