"""Brings the data of MMEB tasks from the repositories that the table names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmeb_harness.task import Task
from mmeb_harness.tasks.download import FetchProgress
from mmeb_harness.tasks.hub import Fetched, fetch
from mmeb_harness.tasks.table import suite_facts


def fetch_tasks(tasks: Sequence[Task], folder: Path, progress: FetchProgress) -> Fetched:
    """Fetch the tables and images of some tasks into `folder`; what is there stays."""
    names = [task.name for task in tasks]
    return fetch(suite_facts()["repository"], names, folder, progress=progress)


def fetch_training(
    tasks: Sequence[Task], folder: Path, progress: FetchProgress, split: str
) -> Fetched:
    """Fetch one split of the tasks' training tables, and their images; what is there stays."""
    names = [task.facts["train_name"] for task in tasks]
    return fetch(
        suite_facts()["training_repository"], names, folder, split=split, progress=progress
    )
