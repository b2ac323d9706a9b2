"""Items to evaluate, drawn as MMEB's 36 datasets mix them, each dataset small.

Of a dataset's N queries and its pool of candidates, N / 1,000 of the full size, the proportions
are those of the whole: modalities, instructions and candidates per query are the table's that the
package ships, pools those of `made_tasks.py` (5,000 where nobody has counted).

What repeats is what really does. Candidates repeat over queries; ImageNet-A has ImageNet-1K's
labels. A picture is asked about as often as if 1,000 questions were drawn from the set that MMEB
takes them from (`ASKED`), and RefCOCO-Matching has its queries' pictures among its candidates.
Answers that several VQA sets share, and pictures that several sets took from COCO, count as
different: nobody has published how many there are, and they would only be to the advantage of
whoever computes equal inputs once.

Words that follow an instruction are as many as `mixed_pairs.py` has for the 20 datasets that are
also trained on; `WORDS` has the other 16. Both are estimates. A word is a token here, where a real
tokenizer makes 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from made_tasks import pool_size
from mixed_pairs import KINDS, Pictures, Words
from mmeb_harness.item import PLACEHOLDER, Item
from mmeb_harness.tasks.table import DatasetFacts, dataset_facts
from random_qwen import word

Workload = Literal["mix", "texts", "images"]

FULL = 1000
"""Queries of a dataset."""

WORDS: dict[str, tuple[Words, Words]] = {
    "Place365": ((0, 0), (1, 3)),
    "ImageNet-A": ((0, 0), (1, 8)),
    "ImageNet-R": ((0, 0), (1, 1)),
    "ObjectNet": ((0, 0), (1, 3)),
    "Country211": ((0, 0), (1, 2)),
    "ScienceQA": ((8, 30), (1, 8)),
    "VizWiz": ((4, 12), (1, 3)),
    "GQA": ((6, 14), (4, 10)),
    "TextVQA": ((5, 12), (1, 3)),
    "FashionIQ": ((8, 20), (0, 0)),
    "Wiki-SS-NQ": ((7, 12), (0, 0)),
    "OVEN": ((6, 14), (60, 105)),
    "EDIS": ((12, 30), (8, 16)),
    "RefCOCO": ((2, 6), (0, 0)),
    "RefCOCO-Matching": ((2, 6), (2, 6)),
    "Visual7W-Pointing": ((6, 12), (0, 0)),
}
"""Words of a query and of a candidate, least and most, where `mixed_pairs.py` has none."""

ASKED = {
    "DocVQA": (5349, 1286),
    "InfographicsVQA": (2801, 500),
    "ChartQA": (2500, 1509),
    "GQA": (12578, 398),
    "TextVQA": (5000, 3166),
    "RefCOCO": (10834, 1500),
    "RefCOCO-Matching": (10834, 1500),
}
"""Questions (or expressions) and pictures of the sets whose pictures are asked about repeatedly, as
their authors give them: validation, for ChartQA test, for GQA the balanced test-dev."""

LABELS_OF = {"ImageNet-A": "ImageNet-1K"}


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A dataset's queries, and the candidates of each."""

    name: str
    queries: Sequence[Item]
    candidates: Sequence[Sequence[Item]]

    @property
    def sides(self) -> tuple[list[Item], list[Item]]:
        """All items as they are given: queries, and every mention of a candidate."""
        return list(self.queries), list(chain.from_iterable(self.candidates))

    def of(self, wanted: Callable[[Item], bool]) -> Subset:
        """Return it with those of its items that are wanted."""
        return replace(
            self,
            queries=list(filter(wanted, self.queries)),
            candidates=[list(filter(wanted, row)) for row in self.candidates],
        )


def distinct(items: Iterable[Item]) -> list[Item]:
    """Return items of which no two have one text and one image, in order."""
    return list({(item.text, item.image): item for item in items}.values())


def draw_workload(
    kind: Workload, queries: int, folder: Path, seed: int = 0, photos: Path | None = None
) -> list[Subset]:
    """Draw the mix, or what of it has no image, or what has one; of the latter two no item, and no
    picture, is there twice."""
    maker = _Maker(queries, Album(folder, Pictures(seed, photos)), seed, repeats=kind == "mix")
    subsets = [maker.subset(facts) for facts in dataset_facts().values()]
    if kind == "texts":
        subsets = [subset.of(lambda item: item.image is None) for subset in subsets]
    if kind == "images":
        subsets = [subset.of(lambda item: item.image is not None) for subset in subsets]
    return subsets


class Album:
    """Writes pictures as files, each of them once."""

    def __init__(self, folder: Path, pictures: Pictures) -> None:
        self.folder, self.pictures, self.count = folder, pictures, 0
        folder.mkdir(parents=True, exist_ok=True)

    def new(self) -> str:
        """Return the path of a picture that is like no other."""
        path = self.folder / f"{self.count:06}.jpg"
        path.write_bytes(self.pictures.next())
        self.count += 1
        return str(path)


class _Maker:
    """Makes datasets of so many queries; without `repeats`, no picture and no label twice."""

    def __init__(self, queries: int, album: Album, seed: int, *, repeats: bool) -> None:
        self.queries, self.album, self.seed, self.repeats = queries, album, seed, repeats
        self.used: set[str] = set()
        self.matched: list[str] = []

    def subset(self, facts: DatasetFacts) -> Subset:
        """Draw a dataset."""
        pool = self._pool(facts)
        per_query = min(len(pool), self._scaled(facts.candidates))
        step = math.ceil(len(pool) / self.queries) if len(pool) > per_query else 0
        asked = self._pictures(facts, self.queries) if "image" in facts.query_modality else []
        texts = self._texts(facts, 0, self.queries, self._generator(facts.name, 0))
        return Subset(
            name=facts.name,
            queries=[
                Item(text=text, image=asked[place] if asked else None, role="query")
                for place, text in enumerate(texts)
            ],
            candidates=[
                [pool[(step * row + place) % len(pool)] for place in range(per_query)]
                for row in range(self.queries)
            ],
        )

    def _pool(self, facts: DatasetFacts) -> list[Item]:
        labels = LABELS_OF.get(facts.name, facts.name) if self.repeats else facts.name
        count = self._scaled(pool_size(facts))
        texts = self._texts(facts, 1, count, self._generator(labels, 1))
        if "image" not in facts.target_modality:
            return [Item(text=text, role="candidate") for text in texts]
        pictures = self._pictures(facts, count, candidates=True)
        return [
            Item(text=text, image=picture, role="candidate")
            for text, picture in zip(texts, pictures, strict=True)
        ]

    def _pictures(self, facts: DatasetFacts, items: int, *, candidates: bool = False) -> list[str]:
        """Return the picture of each item; a crop or an answer that is a picture has its own."""
        shares = facts.name in ASKED and (not candidates or "text" in facts.target_modality)
        if not self.repeats or not shares:
            return [self.album.new() for _ in range(items)]
        if candidates:
            self.matched = self._drawn_on(facts.name, items)
            return self.matched
        if facts.name == "RefCOCO-Matching":
            return self.matched[:items]
        return self._drawn_on(facts.name, items)

    def _drawn_on(self, name: str, items: int) -> list[str]:
        """Return items' pictures, as many as so many questions of the full size would have."""
        _, pictures = ASKED[name]
        full = items * FULL / self.queries
        expected = pictures * (1 - math.exp(-full / pictures)) * self.queries / FULL
        album = [self.album.new() for _ in range(max(1, round(expected)))]
        return [album[place % len(album)] for place in range(items)]

    def _texts(
        self, facts: DatasetFacts, side: int, count: int, generator: np.random.Generator
    ) -> list[str]:
        """Word one side of a dataset as the published data does."""
        instruction = facts.target_instruction if side else facts.query_instruction
        modality = facts.target_modality if side else facts.query_modality
        least, most = _words(facts.name)[side]
        texts = list(self._drawn(count, least, most, generator))
        if instruction is None:
            return texts
        head = f"{PLACEHOLDER}\n" if "image" in modality else ""
        return [f"{head}{instruction} {text}".rstrip() + "\n" for text in texts]

    def _drawn(
        self, count: int, least: int, most: int, generator: np.random.Generator
    ) -> Iterator[str]:
        """Yield drawn words; where there are to be any, no two alike within a side."""
        met: set[str] = set() if self.repeats else self.used
        for _ in range(count):
            text = ""
            while not text or text in met:
                numbers = generator.integers(0, 1 << 30, generator.integers(least, most + 1))
                text = " ".join(word(number) for number in numbers.tolist())
                if most == 0:
                    break
            met.add(text)
            yield text

    def _generator(self, name: str, side: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, list(dataset_facts()).index(name), side])

    def _scaled(self, count: int) -> int:
        return max(min(2, count), round(count * self.queries / FULL))


def _words(name: str) -> tuple[Words, Words]:
    trained = {kind.name: (kind.query[2], kind.target[2]) for kind in KINDS}
    return trained.get(name) or WORDS[name]
