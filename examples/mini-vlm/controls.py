"""Score models on `mini` against chance and against shortcuts: what was learnt, and what was not.

    python examples/mini-vlm/controls.py MODEL [VIEW=MODEL ...]

MODEL is what `-m` takes. VIEW is a name of your own for a further model, or one of the ways to show
less of every item, under which its model is trained and scored: `text-only` (pictures are grey),
`image-only` (texts are their instructions), `without-order` (words in alphabetical order):

    mmeb-harness train examples/mini-vlm.yaml data.split=text-only run.output_dir=mini-vlm/text-only
    python examples/mini-vlm/controls.py mini-vlm text-only=mini-vlm/text-only

Scores are (hit@1 - chance) / (1 - chance): chance is 0. Averages are over the IND tasks, the OOD
tasks, the tasks with a side that is text alone, and the tasks in which both sides have pictures
(crops share pixels with their picture: something untrained may find them).
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


class Viewing:
    """An encoder that is shown less than all of every item."""

    def __init__(self, encoder: Any, view: Callable[[mh.Item], mh.Item]) -> None:
        self.encoder, self.view = encoder, view

    def encode(self, items: Sequence[mh.Item]) -> Any:
        """Return the (n, dim) vectors of what is left of the items."""
        return self.encoder.encode([self.view(item) for item in items])


def scores(model: str, view: str) -> dict[str, float]:
    """Return the chance-corrected score of each task."""
    encoder = mh.load_encoder(model)
    seen = Viewing(encoder, VIEWS[view]) if view in VIEWS else encoder
    with tempfile.TemporaryDirectory() as folder:
        run = mh.evaluate(seen, suite="mini", output_dir=Path(folder) / "run", cache_dir=folder)
    return {
        name: (task.hit_at_1 - task.chance) / (1 - task.chance) for name, task in run.tasks.items()
    }


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
    named = [word for word in sys.argv[1:] if not word.startswith("-")]
    if not named or len(named) < len(sys.argv) - 1:
        sys.exit("usage: python examples/mini-vlm/controls.py MODEL [VIEW=MODEL ...]")
    chosen = {"model": named[0]} | dict(word.split("=", 1) for word in named[1:])
    found = {view: scores(model, view) for view, model in chosen.items()}
    _print("", [view.rjust(14) for view in found])
    for name, facts in dataset_facts().items():
        own = [of[name] for of in found.values()]
        shortcuts = [of[name] for view, of in found.items() if view in VIEWS]
        mark = "  not above its best shortcut" if shortcuts and own[0] <= max(shortcuts) else ""
        _print(f"{name} ({facts.split})", [f"{one:14.3f}" for one in own], mark)
    for kind in averages(found["model"]):
        _print(kind, [f"{averages(of)[kind]:14.3f}" for of in found.values()])


def _print(title: str, cells: Sequence[str], mark: str = "") -> None:
    print(f"{title:26}{''.join(cells)}{mark}", flush=True)


if __name__ == "__main__":
    main()
