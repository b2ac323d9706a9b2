"""What a trainer is: a config model, and one function that trains an encoder on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.loading import load_object

if TYPE_CHECKING:
    from mmeb_harness.result import Run
    from mmeb_harness.task import Pair


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A named trainer.

    `config` is a dotted path to its config model, which extends `mmeb_harness.trainconfig`'s
    TrainConfig; `factory` one to `train(config, encoder, data, evaluate)`, which may also take
    `progress` and returns a Trained. Both are imported only when it runs. `data` is a list of
    Subsets; `evaluate` is None or a function of the encoder and a folder, returning a Run.
    """

    name: str
    config: str
    factory: str
    summary: str = ""

    def load(self) -> tuple[Any, Any]:
        """Return the config model and the train function."""
        return load_object(self.config), load_object(self.factory)


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Some pairs under one name, and how often they are drawn: None for in proportion."""

    name: str
    pairs: Sequence[Pair]
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training came to: `output_dir` is a model that `-m` takes."""

    output_dir: Path
    steps: int
    loss: float | None
    scores: Mapping[str, float | None] = field(default_factory=dict)


class TrainingProgress:
    """A silent listener to a training; override what you want to hear."""

    def started(self, steps: int, done: int, facts: Mapping[str, Any]) -> None:
        """It begins, or goes on after `done` steps; `facts` are worth showing once."""

    def stepped(self, step: int, record: Mapping[str, Any]) -> None:
        """A step is done: its line of the log (loss, grad_norm, lr, pairs, tokens, seconds)."""

    def saved(self, step: int, folder: Path) -> None:
        """A checkpoint is written."""

    def evaluated(self, step: int, run: Run) -> None:
        """The chosen tasks have been scored."""

    def warned(self, message: str) -> None:
        """Something the user should know, which is also in the log."""
