"""Write the evaluation part of `mini` anew: `python tasks/mini/generate.py OUT_DIR [SEED]`.

The one idea: what ships is bytes, this only shows where they came from. Every task has its own
seeds, so that a change to one leaves the others alone. Another SEED (any word) writes other queries
of the same kind, by which a model can be chosen before it sees what ships.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmeb_harness.tasks.mini.evaluation import SHIPPED, evaluation_part
from mmeb_harness.tasks.mini.layout import digest, write
from mmeb_harness.tasks.mini.recipes import RECIPES


def generate(folder: Path, seed: str = SHIPPED) -> None:
    """Write every task into a folder."""
    for recipe in RECIPES.values():
        write(evaluation_part(recipe, seed), folder)


def main() -> None:
    """Write into the folder named on the command line, and print its digest."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python tasks/mini/generate.py OUT_DIR [SEED]")
    folder = Path(sys.argv[1])
    generate(folder, *sys.argv[2:])
    print(digest(folder))


if __name__ == "__main__":
    main()
