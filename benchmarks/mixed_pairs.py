"""Training pairs drawn as MMEB's 20 training sets mix them: which sides have an image, how long the
texts are, how often a target repeats.

Sizes are those of VLM2Vec's Table 1 (arXiv 2410.05160), 100,000 at most of each, as its recipe
takes them; words of instructions are counted in the published instructions; how long questions,
captions and dialogues are is our estimate, since a benchmark that downloads nothing cannot look.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmeb_harness.item import Item, Role
from mmeb_harness.task import Pair
from PIL import Image
from random_qwen import WORDS, word

Words = tuple[int, int]

PLACEHOLDER = "<|image_1|>\n"
PICTURE = (500, 375)
"""Width and height of a drawn picture: a usual one of ImageNet."""


@dataclass(frozen=True)
class Kind:
    """A training set: its pairs in thousands; of each side whether it has an image, how many words
    its instruction has and how many follow; how many distinct targets there are (0: no two are
    equal)."""

    name: str
    pairs: int
    query: tuple[bool, int, Words]
    target: tuple[bool, int, Words]
    labels: int = 0


KINDS = (
    Kind("ImageNet-1K", 100, (True, 8, (0, 0)), (False, 0, (1, 8)), 1000),
    Kind("N24News", 49, (True, 13, (10, 40)), (False, 0, (1, 2)), 24),
    Kind("HatefulMemes", 8, (True, 17, (0, 0)), (False, 0, (1, 1)), 2),
    Kind("VOC2007", 8, (True, 8, (0, 0)), (False, 0, (1, 2)), 20),
    Kind("SUN397", 20, (True, 8, (0, 0)), (False, 0, (1, 3)), 397),
    Kind("OK-VQA", 9, (True, 9, (7, 14)), (False, 0, (1, 3)), 2000),
    Kind("A-OKVQA", 17, (True, 9, (7, 16)), (False, 0, (1, 3)), 3000),
    Kind("DocVQA", 40, (True, 9, (7, 16)), (False, 0, (1, 8))),
    Kind("InfographicsVQA", 24, (True, 9, (9, 20)), (False, 0, (1, 6)), 8000),
    Kind("ChartQA", 28, (True, 9, (8, 20)), (False, 0, (1, 3)), 8000),
    Kind("Visual7W", 70, (True, 9, (5, 10)), (False, 0, (1, 5)), 20000),
    Kind("VisDial", 100, (False, 15, (60, 140)), (True, 5, (0, 0))),
    Kind("CIRR", 26, (True, 14, (8, 20)), (True, 5, (0, 0))),
    Kind("VisualNews_t2i", 100, (False, 8, (12, 40)), (True, 10, (0, 0))),
    Kind("VisualNews_i2t", 100, (True, 11, (0, 0)), (False, 0, (12, 40))),
    Kind("MSCOCO_t2i", 100, (False, 12, (9, 18)), (True, 5, (0, 0))),
    Kind("MSCOCO_i2t", 100, (True, 10, (0, 0)), (False, 0, (9, 18))),
    Kind("NIGHTS", 16, (True, 12, (0, 0)), (True, 5, (0, 0))),
    Kind("WebQA", 17, (False, 9, (12, 30)), (True, 9, (8, 40))),
    Kind("MSCOCO", 100, (True, 14, (1, 3)), (True, 11, (0, 0))),
)


def draw_pairs(seed: int, pictures: Pictures) -> Iterator[Pair]:
    """Yield pairs of all kinds in proportion, for ever."""
    chance = np.random.default_rng(seed)
    shares = np.array([kind.pairs for kind in KINDS], dtype=float)
    while True:
        yield _pair(KINDS[chance.choice(len(KINDS), p=shares / shares.sum())], chance, pictures)


class Pictures:
    """Pictures without end, no two alike: drawn, or pieces of the photographs in a folder."""

    def __init__(self, seed: int, photos: Path | None = None) -> None:
        self.chance = np.random.default_rng([seed, 1])
        self.photos = [] if photos is None else sorted(photos.rglob("*.jpg"))
        if photos is not None and not self.photos:
            raise SystemExit(f"{photos} holds no .jpg")

    def next(self) -> bytes:
        """Return a picture as JPEG."""
        image = self._piece() if self.photos else self._drawn()
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        return out.getvalue()

    def _drawn(self) -> Image.Image:
        coarse = self.chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC)

    def _piece(self) -> Image.Image:
        photo = Image.open(self.photos[self.chance.integers(len(self.photos))]).convert("RGB")
        left, top = (int(self.chance.integers(0, side // 8 + 1)) for side in photo.size)
        return photo.crop((left, top, photo.width - left // 2, photo.height - top // 2))


def _pair(kind: Kind, chance: np.random.Generator, pictures: Pictures) -> Pair:
    number, wordings = KINDS.index(kind), chance
    if kind.labels:
        wordings = np.random.default_rng([number, int(chance.integers(kind.labels))])
    return Pair(
        query=_item("query", kind.query, 100 * number, chance, pictures),
        positive=_item("candidate", kind.target, 100 * number + 50, wordings, pictures),
    )


def _item(
    role: Role,
    side: tuple[bool, int, Words],
    first: int,
    chance: np.random.Generator,
    pictures: Pictures,
) -> Item:
    """Return an item; its instruction is the words from number `first` on."""
    has_image, instruction, (least, most) = side
    content = chance.integers(0, WORDS, chance.integers(least, most + 1)).tolist()
    text = " ".join(word(number) for number in (*range(first, first + instruction), *content))
    return Item(
        text=f"{PLACEHOLDER}{text}" if has_image else text,
        image=pictures.next() if has_image else None,
        role=role,
    )
