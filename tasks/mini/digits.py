"""`ImageNet-1K` in small: a handwritten digit, ten words.

The one idea: real pictures, few enough to ship. `digits.npz` holds 64 greys of 8x8 pixels (values
0 to 16), their labels and `source_rows`, their places in scikit-learn's `load_digits`, so that a
training part can leave them out. Source: UCI Optical Recognition of Handwritten Digits
(E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), the writers' names unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from random import Random

import numpy as np
from mmeb_harness.tasks.mini.layout import EvaluationPart, Row, Side
from numpy.lib.npyio import NpzFile
from PIL import Image

NAME = "ImageNet-1K"
QUERY = "<|image_1|>\nRepresent the given image for classification\n"
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SIDE = 56
DARKEST = 16


def labels() -> list[str]:
    """Return the word for each shipped digit."""
    with _stored() as stored:
        return [LABELS[label] for label in stored["labels"].tolist()]


def pictures() -> list[Image.Image]:
    """Return the shipped digits as dark ink on white, enlarged."""
    with _stored() as stored:
        greys = 255 - stored["images"].astype(np.int64) * 255 // DARKEST
    small = [Image.fromarray(grey.astype(np.uint8)) for grey in greys]
    return [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in small]


def task() -> EvaluationPart:
    """Return the task with its pictures."""
    rng = Random(f"mini/{NAME}")
    images = {f"{NAME}/q_{number:03}.png": image for number, image in enumerate(pictures())}
    rows = []
    for path, label in zip(images, labels(), strict=True):
        others = [other for other in LABELS if other != label]
        rng.shuffle(others)
        candidates = [Side(text) for text in (label, *others)]
        rows.append(Row(query=Side(QUERY, path), candidates=candidates))
    return EvaluationPart(name=NAME, rows=rows, images=images)


@contextmanager
def _stored() -> Iterator[NpzFile]:
    path = files("mmeb_harness.tasks.mini") / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        yield stored
