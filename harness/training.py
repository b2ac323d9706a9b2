"""A training: from a configuration to a trainer, an encoder, pairs, and a way to score.

What is trained and how is the trainer's; here its four arguments are found, and every wrong name
before any weight is loaded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmeb_harness.encoder import TrainableEncoder
from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.files import FileIndex, cache_root
from mmeb_harness.loading import call_with_known
from mmeb_harness.models import Model, build_encoder, resolve_model
from mmeb_harness.registry import Registry, build_registry
from mmeb_harness.result import Run
from mmeb_harness.run import Job, RunSettings
from mmeb_harness.selection import select_tasks, suite_tasks
from mmeb_harness.subject import subject_from_object
from mmeb_harness.task import DataLocation
from mmeb_harness.trainconfig import (
    TrainConfig,
    checked_config,
    read_config,
    with_changes,
)
from mmeb_harness.trainer import Trained, TrainingProgress
from mmeb_harness.trainingdata import load_training_data

Evaluate = Callable[[Any, Path], Run]
"""Scores an encoder as it is on the chosen tasks; the run is written into the folder."""


def train(
    config: str | os.PathLike[str] | Mapping[str, Any],
    changes: Sequence[str] = (),
    *,
    progress: TrainingProgress | None = None,
    registry: Registry | None = None,
) -> Trained:
    """Train a model as a configuration says: a YAML file, or its sections as a mapping.

    `changes` are `section.key=value` words, as on the command line. Stopped at any moment, the
    same call goes on where the last checkpoint was written.

    Raises:
        UsageError: for an unknown or missing key, name or value.
        EnvironmentFault: for missing data, broken weights, a full disk.
    """
    registry = registry or build_registry()
    given = dict(config) if isinstance(config, Mapping) else read_config(Path(config))
    checked, run = _trainer(registry, with_changes(given, changes))
    cache = cache_root(None)
    evaluate = None if checked.evaluation is None else _evaluation(registry, checked, cache)
    model = resolve_model(registry, checked.model.name, checked.model.overrides)
    data = load_training_data(checked.data, registry, cache, checked.run.seed)
    encoder = _encoder(model, checked)
    offered = {
        "config": checked,
        "encoder": encoder,
        "data": data,
        "evaluate": evaluate,
        "progress": progress or TrainingProgress(),
    }
    trained: Trained = call_with_known(run, offered)
    return trained


def _trainer(registry: Registry, given: Mapping[str, Any]) -> tuple[TrainConfig, Any]:
    name = given.get("trainer") or TrainConfig.model_fields["trainer"].default
    if not isinstance(name, str) or name not in registry.trainers:
        raise unknown_name("trainer", str(name), registry.trainers)
    kind, run = registry.trainers[name].thing.load()
    return checked_config(kind, {**given, "trainer": name}), run


def _encoder(model: Model, config: TrainConfig) -> Any:
    device = process_device(config.run.device)
    encoder = build_encoder(model.card, device=device, dtype=config.weights_dtype(device))
    if not isinstance(encoder, TrainableEncoder):
        raise UsageError(
            f"{config.model.name} cannot be trained: its encoder has no module and save "
            "(level 3; docs/plugins.md)"
        )
    named: Any = encoder
    named.mmeb_model = model  # as load_encoder leaves it
    return named


def process_device(wanted: str | None) -> str:
    """Return the device of this process: its own of several, where a launcher started several."""
    import torch

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if wanted is None and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return "cpu"
    if wanted in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if wanted is not None or several:  # several processes do not share an "mps"
        return wanted or "cpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _evaluation(registry: Registry, config: TrainConfig, cache: Path) -> Evaluate:
    section = config.evaluation
    assert section is not None
    everything = suite_tasks(registry, section.suite)
    chosen = select_tasks(everything, section.tasks)
    named = section.data_dir or os.environ.get("MMEB_HARNESS_DATA_DIR")
    location = DataLocation(
        data_dir=Path(named) if named else cache / "data" / section.suite,
        image_dir=section.image_dir,
    )
    for task in chosen:
        task.load(location)  # what is missing shows now, not after the first hour

    def evaluate(encoder: Any, folder: Path) -> Run:
        index = FileIndex(cache)
        settings = RunSettings(
            suite=section.suite,
            suite_tasks=everything,
            tasks=chosen,
            location=location,
            output_dir=folder,
            cache_dir=folder / "cache",  # vectors of a model that will never be again
            fresh=True,
            limit=section.limit,
        )
        try:
            subject = subject_from_object(encoder, index)
            subject = replace(subject, name=f"{subject.name} {folder.name}")  # one row of a report
            return Job(subject, settings, registry, index).run()
        finally:
            index.close()
            for name in ("cache", "vectors"):
                shutil.rmtree(folder / name, ignore_errors=True)

    return evaluate
