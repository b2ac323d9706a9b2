"""The optimiser, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mmeb_harness.trainers.config import OptimizerSection
from mmeb_harness.trainers.processes import is_sharded

if TYPE_CHECKING:
    import torch


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], section: OptimizerSection
) -> torch.optim.Optimizer:
    """Make the optimiser; only matrices decay, as is usual, not biases, norms and magnitudes."""
    import torch

    groups = _groups(list(parameters), section.weight_decay)
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum)
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, eps=section.epsilon)


def _groups(parameters: Sequence[torch.nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Cut parameters into groups that are stepped together: of one kind of tensor, one decay."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault((is_sharded(parameter), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay if decays else 0.0}
        for (_, decays), members in groups.items()
    ]


def learning_rate(step: int, steps: int, section: OptimizerSection) -> float:
    """Return the learning rate of step number `step` (from 0) of `steps`.

    It rises from 0 in `warmup` steps; then it goes down to 0 at step number `steps`, along a line
    or half a cosine, or stays.
    """
    if step < section.warmup:
        return section.lr * step / section.warmup
    done = (step - section.warmup) / max(1, steps - section.warmup)
    if section.schedule == "linear":
        return section.lr * max(0.0, 1 - done)
    if section.schedule == "cosine":
        return section.lr * (1 + math.cos(math.pi * min(1.0, done))) / 2
    return section.lr
