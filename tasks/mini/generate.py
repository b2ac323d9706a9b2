"""Write the evaluation part of `mini` anew: `python tasks/mini/generate.py OUT_DIR`.

The one idea: what ships is bytes, this only shows where they came from. Every task has its own
seed, so that a change to one leaves the others alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from mmeb_harness.tasks.mini import captions, crops, digits, questions
from mmeb_harness.tasks.mini.layout import EvaluationPart, digest, write

TASKS: tuple[Callable[[], EvaluationPart], ...] = (
    digits.task,
    questions.task,
    captions.task,
    crops.task,
)


def generate(folder: Path) -> None:
    """Write every task into a folder."""
    for task in TASKS:
        write(task(), folder)


def main() -> None:
    """Write into the folder named on the command line, and print its digest."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tasks/mini/generate.py OUT_DIR")
    folder = Path(sys.argv[1])
    generate(folder)
    print(digest(folder))


if __name__ == "__main__":
    main()
