"""A task: a name with its place in MMEB, and where to load it from when it is needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmeb_harness.errors import TaskError
from mmeb_harness.item import Item
from mmeb_harness.loading import load_object

if TYPE_CHECKING:
    from mmeb_harness.taskdata import TaskData

MetaTask = Literal["classification", "vqa", "retrieval", "grounding"]
Split = Literal["ind", "ood"]

META_TASKS: tuple[MetaTask, ...] = ("classification", "vqa", "retrieval", "grounding")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")
"""What a task or suite may be called."""

SPLITS: tuple[Split, ...] = ("ind", "ood")


@dataclass(frozen=True, kw_only=True)
class DataLocation:
    """Where a loader may look: a published layout, and the root of its image paths."""

    data_dir: Path | None = None
    image_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One training pair, with a hard negative where the data has one."""

    query: Item
    positive: Item
    negative: Item | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named set of queries with candidates and gold, loaded when it is needed.

    `loader` is a dotted path `package.module:callable` called as `loader(task, location)` and
    returning TaskData; `training_loader` likewise, called with the split's name as well, gives
    Pairs; `fetcher`, called as `fetcher(tasks, folder, progress)`, brings the data of several tasks
    into a folder, where they do not come with the package; `training_fetcher`, called with the
    split's name as well, their training parts. `facts` is the loader's own (for MMEB: a row of the
    table).
    """

    name: str
    suite: str
    meta_task: MetaTask
    split: Split
    loader: str
    training_loader: str | None = None
    fetcher: str | None = None
    training_fetcher: str | None = None
    metric: str = "hit_at_1"
    summary: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, self.suite):
            if not FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a task or suite: it names files as well")

    def load(self, location: DataLocation) -> TaskData:
        """Read the evaluation part. Raises DataMissing, TaskError."""
        data: TaskData = load_object(self.loader)(self, location)
        return data

    def training(self, split: str, location: DataLocation) -> Iterable[Pair]:
        """Read the training part. Raises TaskError where the task has none, DataMissing."""
        if self.training_loader is None:
            raise TaskError(f"{self.name} has no training part ({self.split} in {self.suite})")
        pairs: Iterable[Pair] = load_object(self.training_loader)(self, split, location)
        return pairs
