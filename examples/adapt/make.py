"""Write training pairs of a task that `mini-vlm` has not been trained on, as a folder of one's own.

    python examples/adapt/make.py [FOLDER] [TASK]        (FOLDER: adapt; TASK: Country211)

    FOLDER/pairs.jsonl    1,500 pairs in the documented columns
    FOLDER/images/        their pictures

TASK is one of the out-of-distribution tasks of the suite `mini`. They have no training part, in
MMEB as here, so that scores on them say how a model does on what is new to it. Here is what it
would take to make one of them known: pairs of the same kind, none of which the suite asks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mmeb_harness as mh
from mmeb_harness.tasks.mini.recipes import RECIPES
from mmeb_harness.tasks.mini.training import GeneratedPairs
from PIL import Image

PAIRS = 1500


def main() -> None:
    """Write into the folder that the command line names."""
    words = sys.argv[1:]
    name = words[1] if len(words) > 1 else "Country211"
    if len(words) > 2 or words[:1] in (["-h"], ["--help"]) or name not in RECIPES:
        sys.exit("usage: python examples/adapt/make.py [FOLDER] [TASK]")
    folder = Path(words[0] if words else "adapt")
    print(f"{write_pairs(folder, name):,} pairs of {name} in {folder}")


def write_pairs(folder: Path, name: str) -> int:
    """Write a task's pairs and their pictures; return how many there are."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pairs = GeneratedPairs(RECIPES[name])[:PAIRS]
    with (folder / "pairs.jsonl").open("w") as file:
        for number, pair in enumerate(pairs):
            query, target = pair.query, pair.positive
            row = {
                "qry": query.text,
                "qry_image_path": stored(query, folder, f"q{number:04}.png"),
                "pos_text": target.text,
                "pos_image_path": stored(target, folder, f"t{number:04}.png"),
            }
            file.write(json.dumps(row) + "\n")
    return len(pairs)


def stored(item: mh.Item, folder: Path, name: str) -> str:
    """Save an item's picture; return its path, empty where it has none."""
    if not isinstance(item.image, Image.Image):
        return ""
    item.image.save(folder / "images" / name)
    return name


if __name__ == "__main__":
    main()
