"""Evaluation data of MMEB's shape, made up: its columns, instructions, candidates and pools.

Texts are drawn words, a row's gold stands first, and each distinct image is a file of its own of a
few bytes: whoever encodes must not decode them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mmeb_harness.item import PLACEHOLDER
from mmeb_harness.tasks.table import DatasetFacts, dataset_facts

POOLS = {
    "OK-VQA": 2555,
    "DocVQA": 4463,
    "InfographicsVQA": 1730,
    "ChartQA": 1601,
    "Visual7W": 3480,
    "VizWiz": 1436,
    "GQA": 6850,
    "TextVQA": 3343,
    "CIRR": 2197,
    "FashionIQ": 5992,
}
"""Distinct candidates of all queries together, where anyone has counted them."""

UNCOUNTED = 5000
"""What is taken for the others."""

SHARED = {"ScienceQA", "A-OKVQA"}
"""Tasks that are no classification, whose queries share their candidates all the same."""

WORDS = {"query": 12, "label": 3, "caption": 14}
"""How many words a text has."""


def pool_size(facts: DatasetFacts) -> int:
    """Return how many distinct candidates a task has."""
    if is_shared(facts):
        return facts.candidates
    return POOLS.get(facts.name, UNCOUNTED)


def is_shared(facts: DatasetFacts) -> bool:
    """Tell whether all queries have the same candidates."""
    return facts.meta_task == "classification" or facts.name in SHARED


def write_tasks(folder: Path, tasks: Sequence[str], queries: int) -> int:
    """Write tasks as the published v1 layout has them, and their images; return the images."""
    images = 0
    for number, name in enumerate(tasks):
        maker = _Maker(folder, dataset_facts()[name], np.random.default_rng(number))
        maker.write(queries)
        images += maker.images
    return images


class _Maker:
    """Makes one task."""

    def __init__(self, folder: Path, facts: DatasetFacts, generator: np.random.Generator) -> None:
        self.folder, self.facts, self.generator = folder, facts, generator
        self.images = 0
        letters = generator.integers(ord("a"), ord("z") + 1, (2000, 6), dtype=np.uint8)
        self.words = [bytes(row).decode() for row in letters]

    def write(self, queries: int) -> None:
        """Write the rows; the pool of candidates may be larger than what one query has."""
        facts = self.facts
        pool = self._side(pool_size(facts), facts.target_modality, facts.target_instruction)
        asked = self._side(queries, facts.query_modality, facts.query_instruction, "query")
        rows = [self._candidates(len(pool), facts.candidates) for _ in range(queries)]
        columns = {
            "qry_text": [text for text, _ in asked],
            "qry_img_path": [path for _, path in asked],
            "tgt_text": [[pool[place][0] for place in row] for row in rows],
            "tgt_img_path": [[pool[place][1] for place in row] for row in rows],
        }
        place = self.folder / facts.name
        place.mkdir(parents=True)
        pq.write_table(pa.table(columns), place / "test-00000-of-00001.parquet")

    def _candidates(self, pool: int, count: int) -> list[int]:
        """Draw a row's candidates, the gold first; where all share them, the others keep order."""
        if pool > count:
            drawn: list[int] = self.generator.choice(pool, count, replace=False).tolist()
            return drawn
        gold = int(self.generator.integers(pool))
        return [gold, *(place for place in range(pool) if place != gold)]

    def _side(
        self, count: int, modality: str, instruction: str | None, kind: str | None = None
    ) -> list[tuple[str, str]]:
        """Make distinct pairs of text and image path, worded as the published ones are."""
        kind = kind or ("label" if self.facts.meta_task in ("classification", "vqa") else "caption")
        has_text, has_image = "text" in modality, "image" in modality
        head = f"{PLACEHOLDER}\n" if has_image else ""
        drawn = self.generator.integers(len(self.words), size=(count, WORDS[kind]))
        pairs = []
        for number, row in enumerate(drawn):
            own = " ".join(self.words[word] for word in row) + f" {number}" if has_text else ""
            text = own if instruction is None else f"{head}{instruction} {own}".rstrip() + "\n"
            pairs.append((text, self._image() if has_image else ""))
        return pairs

    def _image(self) -> str:
        path = f"{self.facts.name}/{self.images:06}.png"
        self.images += 1
        file = self.folder / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
        return path
