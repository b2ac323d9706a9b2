"""Built-in trainers: they take a level-3 encoder from the core and never import a plugin."""

from __future__ import annotations

from collections.abc import Callable

from mmeb_harness.hookspecs import hookimpl
from mmeb_harness.trainer import Trainer


@hookimpl
def register_trainers(register: Callable[[Trainer], None]) -> None:
    """Register the contrastive trainer."""
    register(
        Trainer(
            name="contrastive",
            config="mmeb_harness.trainers.config:ContrastiveConfig",
            factory="mmeb_harness.trainers.train:train",
            summary="InfoNCE with cached gradients: LoRA, DoRA or the weights themselves.",
        )
    )
