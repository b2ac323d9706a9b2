"""The optimiser and its learning rate: by their formulas, and in the loop as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmeb_harness.plugins.vision_ops import mend_torchvision
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.config import OptimizerSection
from mmeb_harness.trainers.optimizer import learning_rate, make_optimizer
from toy_training import checkpoints, log_lines, pairs, toy, train_toy


@pytest.mark.thorough
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("steps", [5, 30])
def test_the_learning_rate_is_that_of_transformers_schedules(
    schedule: str, warmup: int, steps: int
) -> None:
    mend_torchvision()
    import transformers

    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    scheduler = transformers.get_scheduler(
        name, theirs, num_warmup_steps=warmup, num_training_steps=steps
    )
    section = OptimizerSection(lr=3e-4, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    for step in range(steps):
        expected = theirs.param_groups[0]["lr"]
        assert learning_rate(step, steps, section) == pytest.approx(expected, rel=1e-12, abs=0)
        theirs.step()
        scheduler.step()


def tensors() -> list[torch.nn.Parameter]:
    """A matrix, a bias, a magnitude, an image's filter, a number."""
    drawn = torch.Generator().manual_seed(1)
    shapes = [(4, 3), (4,), (1, 4), (2, 3, 2, 2), ()]
    return [torch.nn.Parameter(torch.randn(shape, generator=drawn)) for shape in shapes]


@pytest.mark.parametrize(
    "section",
    [
        {"lr": 1e-2},
        {"lr": 1e-2, "weight_decay": 0.1},
        {"lr": 1e-2, "betas": (0.5, 0.9), "epsilon": 1e-3, "weight_decay": 0.01},
        {"name": "sgd", "lr": 1e-2},
        {"name": "sgd", "lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_the_optimiser_steps_as_its_formula_says(section: dict[str, Any]) -> None:
    settings = OptimizerSection(**section)
    own, expected = tensors(), [one.detach().double() for one in tensors()]
    optimizer = make_optimizer(own, settings)
    (low, high), epsilon, rate = settings.betas, settings.epsilon, settings.lr
    first, second = ([torch.zeros_like(one) for one in expected] for _ in range(2))
    for step in range(1, 5):
        for number, value in enumerate(expected):
            gradient = torch.sin(value * (step + number))
            own[number].grad = gradient.float()
            decay = settings.weight_decay if value.ndim > 1 else 0.0
            if settings.name == "sgd":
                gradient = gradient + decay * value
                grown = gradient if step == 1 else settings.momentum * first[number] + gradient
                first[number] = grown
                expected[number] = value - rate * first[number]
                continue
            first[number] = low * first[number] + (1 - low) * gradient
            second[number] = high * second[number] + (1 - high) * gradient**2
            mean, square = first[number] / (1 - low**step), second[number] / (1 - high**step)
            change = mean / (square.sqrt() + epsilon)
            expected[number] = value * (1 - rate * decay) - rate * change
        optimizer.step()
        for mine, theirs in zip(own, expected, strict=True):
            torch.testing.assert_close(mine.detach().double(), theirs, rtol=1e-5, atol=1e-6)


def test_a_training_steps_with_clipped_gradients_at_the_rate_of_its_log(tmp_path: Path) -> None:
    """The whole loop once more, by hand: one graph over each batch, torch's own clipping."""
    data = [Subset(name="a", pairs=pairs(4))]
    batch = {"size": 4, "accumulate": 1, "chunk_items": 2}
    settings = {"lr": 1e-2, "clip": 0.5, "warmup": 1, "weight_decay": 0.1}
    mine, theirs = toy(dropout=0.0), toy(dropout=0.0)
    train_toy(tmp_path, data, mine, batch=batch, optimizer=settings,
              loss={"temperature": 0.5})  # fmt: skip
    parameters = list(theirs.module.parameters())
    decaying = [one for one in parameters if one.ndim > 1]
    others = [one for one in parameters if one.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-2,
    )
    rates = [0.0, 1e-2, 7.5e-3, 5e-3, 2.5e-3]
    targets = [one.positive for one in data[0].pairs]
    queries = [one.query for one in data[0].pairs]
    for line, rate in zip(log_lines(tmp_path), rates, strict=True):
        vectors = theirs.forward(theirs.prepare([theirs.render(one) for one in queries + targets]))
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        scores = unit[:4] @ unit[4:].T / 0.5
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = rate
        optimizer.step()
        assert line["lr"] == pytest.approx(rate)
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert line["grad_norm"] > 0.5
    for one, other in zip(mine.module.parameters(), parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert checkpoints(tmp_path) == [4, 5]
