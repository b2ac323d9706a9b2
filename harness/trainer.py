"""What a trainer is: a config model, and one function that trains an encoder on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmeb_harness.loading import load_object


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A named trainer.

    `config` is a dotted path to its pydantic config model, `factory` one to
    `train(config, encoder, data, evaluate)`; both are imported only when it runs.
    """

    name: str
    config: str
    factory: str
    summary: str = ""

    def load(self) -> tuple[Any, Any]:
        """Return the config model and the train function."""
        return load_object(self.config), load_object(self.factory)
