"""mmeb-harness: score multimodal embedding models on MMEB, faithfully, fast, and with plugins.

>>> import mmeb_harness as mh
>>> encoder = mh.load_encoder("random")
>>> encoder.encode([mh.Item(text="a cat")]).shape
(1, 64)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmeb_harness.api import evaluate, load_encoder, train
    from mmeb_harness.card import Card, Probe
    from mmeb_harness.encoder import Encoder, PlannedEncoder, TrainableEncoder
    from mmeb_harness.errors import HarnessError
    from mmeb_harness.hookspecs import hookimpl
    from mmeb_harness.item import Item, Rendered
    from mmeb_harness.reporter import Reporter, ReportOptions
    from mmeb_harness.result import Run, RunRecord, TaskResult
    from mmeb_harness.task import DataLocation, Pair, Task
    from mmeb_harness.taskdata import TaskData
    from mmeb_harness.trainconfig import TrainConfig
    from mmeb_harness.trainer import Subset, Trained, Trainer, TrainingProgress

_HOMES = {
    "evaluate": "api", "load_encoder": "api", "train": "api",
    "Card": "card", "Probe": "card",
    "Encoder": "encoder", "PlannedEncoder": "encoder", "TrainableEncoder": "encoder",
    "HarnessError": "errors",
    "hookimpl": "hookspecs",
    "Item": "item", "Rendered": "item",
    "Reporter": "reporter", "ReportOptions": "reporter",
    "Run": "result", "RunRecord": "result", "TaskResult": "result",
    "DataLocation": "task", "Pair": "task", "Task": "task",
    "TaskData": "taskdata",
    "TrainConfig": "trainconfig",
    "Subset": "trainer", "Trained": "trainer", "Trainer": "trainer", "TrainingProgress": "trainer",
}  # fmt: skip

__all__ = [
    "Card", "DataLocation", "Encoder", "HarnessError", "Item", "Pair", "PlannedEncoder", "Probe",
    "Rendered", "ReportOptions", "Reporter", "Run", "RunRecord", "Subset", "Task", "TaskData",
    "TaskResult", "TrainConfig", "TrainableEncoder", "Trained", "Trainer", "TrainingProgress",
    "evaluate", "hookimpl", "load_encoder", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import mmeb_harness` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmeb_harness.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
