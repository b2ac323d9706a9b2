"""Score models on `mini` against chance and against shortcuts: what was learnt, and what was not.

    python examples/mini-vlm/controls.py MODEL [NAME=MODEL ...]

MODEL is what `-m` takes. NAME is `untrained` (the model with weights drawn anew), a word of your
own for a further model, or one of the ways to show less of every item, under which its model has
been trained and is scored: `text-only` (a picture beside a text is grey), `image-only` (a text
beside a picture is its instruction), `without-order` (words in alphabetical order):

    mmeb-harness train examples/mini-vlm.yaml data.split=text-only run.output_dir=mini-vlm/text-only
    python examples/mini-vlm/controls.py mini-vlm untrained=mini-vlm text-only=mini-vlm/text-only

Scores are (hit@1 - chance) / (1 - chance): chance is 0. `-`: nothing is taken away from this task.
Averages are over the IND tasks, the OOD tasks, the tasks with a side that is text alone, and the
tasks in which both sides have pictures (crops share pixels with their picture: something untrained
may find them).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import mmeb_harness as mh
from mmeb_harness.tasks.mini.views import VIEWS
from mmeb_harness.tasks.table import DatasetFacts, dataset_facts

UNTRAINED = "untrained"


class Viewing:
    """An encoder that is shown less than all of every item."""

    def __init__(self, encoder: Any, view: Callable[[mh.Item], mh.Item]) -> None:
        self.encoder, self.view = encoder, view

    def encode(self, items: Sequence[mh.Item]) -> Any:
        """Return the (n, dim) vectors of what is left of the items."""
        return self.encoder.encode([self.view(item) for item in items])


def scores(name: str, model: str) -> dict[str, float]:
    """Return the chance-corrected score of each task."""
    drawn = {"random_weights": 1} if name == UNTRAINED else {}
    encoder = mh.load_encoder(model, **drawn)
    seen = Viewing(encoder, VIEWS[name]) if name in VIEWS else encoder
    with tempfile.TemporaryDirectory() as folder:
        run = mh.evaluate(seen, suite="mini", output_dir=Path(folder) / "run", cache_dir=folder)
    return {
        task.name: (task.hit_at_1 - task.chance) / (1 - task.chance) for task in run.tasks.values()
    }


def takes_away(name: str, facts: DatasetFacts) -> bool:
    """Whether a view shows less of a task's items than there is."""
    sides = (facts.query_modality, facts.target_modality)
    if name == "without-order":
        return any("text" in side for side in sides)
    return name not in VIEWS or "image+text" in sides


def averages(of: Mapping[str, float]) -> dict[str, float]:
    """Return the means over kinds of tasks."""
    kinds: dict[str, Callable[[DatasetFacts], bool]] = {
        "IND": lambda facts: facts.split == "ind",
        "OOD": lambda facts: facts.split == "ood",
        "with a side of text": _has_text_side,
        "pictures on both sides": lambda facts: not _has_text_side(facts),
    }
    facts = dataset_facts()
    return {
        kind: fmean(score for name, score in of.items() if holds(facts[name]))
        for kind, holds in kinds.items()
    }


def _has_text_side(facts: DatasetFacts) -> bool:
    return "text" in (facts.query_modality, facts.target_modality)


def main() -> None:
    """Print a table of the models that the command line names."""
    words = sys.argv[1:]
    if not words or words[0].startswith("-") or not all("=" in word for word in words[1:]):
        sys.exit("usage: python examples/mini-vlm/controls.py MODEL [NAME=MODEL ...]")
    chosen = {"model": words[0]} | dict(word.split("=", 1) for word in words[1:])
    found = {name: scores(name, model) for name, model in chosen.items()}
    _print("", [name.rjust(14) for name in found])
    for task, facts in dataset_facts().items():
        fair = [name for name in found if takes_away(name, facts)]
        cells = [f"{found[name][task]:14.3f}" if name in fair else f"{'-':>14}" for name in found]
        shortcuts = [found[name][task] for name in fair if name in VIEWS]
        beaten = not shortcuts or found["model"][task] > max(shortcuts)
        _print(f"{task} ({facts.split})", cells, "" if beaten else "  not above its best shortcut")
    for kind in averages(found["model"]):
        _print(kind, [f"{averages(of)[kind]:14.3f}" for of in found.values()])


def _print(title: str, cells: Sequence[str], mark: str = "") -> None:
    print(f"{title:26}{''.join(cells)}{mark}", flush=True)


if __name__ == "__main__":
    main()
