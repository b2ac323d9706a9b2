"""Write the evaluation part of `mini` anew: `python tasks/mini/generate.py OUT_DIR [SEED]`.

The one idea: what ships is bytes, this only shows where they came from. Every task has its own
seeds, so that a change to one leaves the others alone. Another SEED (any word) writes other queries
of the same kind, by which a model can be chosen before it sees what ships.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from mmeb_harness.item import Item
from mmeb_harness.task import DataLocation
from mmeb_harness.tasks.mini.evaluation import SHIPPED, evaluation_part
from mmeb_harness.tasks.mini.layout import digest, write
from mmeb_harness.tasks.mini.recipes import RECIPES
from mmeb_harness.tasks.table import mini_tasks

FIRST = 40
"""Pairs of each training part that the digest is taken of."""


def generate(folder: Path, seed: str = SHIPPED) -> None:
    """Write every task into a folder."""
    for recipe in RECIPES.values():
        write(evaluation_part(recipe, seed), folder)


def training_digest() -> str:
    """Return one sha256 over the first pairs of every training part, texts and pixels."""
    total = sha256()
    for task in mini_tasks():
        if task.training_loader is not None:
            for pair in islice(task.training("original", DataLocation()), FIRST):
                for item in (pair.query, pair.positive, pair.negative):
                    total.update(_content(item))
    return total.hexdigest()


def _content(item: Item | None) -> bytes:
    if item is None:
        return b"-"
    image: Any = item.image
    pixels = b"" if image is None else str(image.size).encode() + image.tobytes()
    return str(item.text).encode() + pixels


def main() -> None:
    """Write into the folder named on the command line; print the digests of both parts."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python tasks/mini/generate.py OUT_DIR [SEED]")
    folder = Path(sys.argv[1])
    generate(folder, *sys.argv[2:])
    print(digest(folder))
    print(training_digest())


if __name__ == "__main__":
    main()
