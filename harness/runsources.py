"""What a finished run was scored on: its data and the stored vectors, found again.

The one idea: the run's own tables name the vector of each item, and its results digest the data, so
that neither the encoder nor the images are needed, and nothing that has changed is taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import UsageError
from mmeb_harness.gather import Gathered
from mmeb_harness.keys import digest_of
from mmeb_harness.plan import Key, read_plan
from mmeb_harness.registry import Registry
from mmeb_harness.result import Run, TaskResult
from mmeb_harness.rows import Hits, TaskItems, read_hits, read_items
from mmeb_harness.runfolder import VECTORS
from mmeb_harness.selection import suite_tasks
from mmeb_harness.store import VectorStore
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.taskdata import TaskData

Table = TypeVar("Table", Hits, TaskItems)


class RunSources:
    """Where a run's vectors and data come from, each checked against the run's own results."""

    def __init__(self, run: Run, registry: Registry, cache_dir: Path) -> None:
        self.run, self.cache_dir = run, cache_dir
        self.tasks: dict[str, Task] = {
            task.name: task for task in suite_tasks(registry, run.record.suite)
        }
        self._stores: list[VectorStore] | None = None

    def dimension(self, result: TaskResult) -> int:
        """Return the length of the stored vectors."""
        return int(self._get(result.name, self._items(result.name).keys[:1]).shape[1])

    def load(self, result: TaskResult) -> tuple[TaskData, Vectors]:
        """Return a task's data and the vectors of its items."""
        record, name = self.run.record, result.name
        task = self.tasks.get(name)
        if task is None:
            raise UsageError(f"suite {record.suite!r} has no task {name!r} any more")
        items = self._items(name)
        data = task.load(
            DataLocation(data_dir=_path(record.data_dir), image_dir=_path(record.image_dir))
        )
        images = Gathered(keys=[], faults={}, images=list(items.image_digests)).images_digest
        digest = digest_of({"rows": data.digest, "images": images})
        if len(data.items) != len(items) or result.data_digest != digest:
            raise UsageError(
                f"the data of {name} is not what {self.run.output_dir} was scored on: run it again"
            )
        return data, self._get(name, items.keys)

    def hits(self, task: str) -> Hits:
        """Return the hits and clusters of a task's queries."""
        return _there(read_hits(self.run.output_dir, task), self.run, task)

    def _items(self, task: str) -> TaskItems:
        return _there(read_items(self.run.output_dir, task), self.run, task)

    def _get(self, task: str, keys: Sequence[Key]) -> Vectors:
        """Return vectors from wherever this run's lie: the cache, or its own folder."""
        wanted, missing = set(keys), len(set(keys))
        for store in self._open_stores():
            lacking = len(wanted - store.find(wanted))
            if not lacking:
                return store.get(keys)
            missing = min(missing, lacking)
        raise UsageError(
            f"{missing} of {len(wanted)} vectors of {task} are not in the cache {self.cache_dir}: "
            f"name the run's own with --cache-dir, or run {self.run.record.model} again"
        )

    def _open_stores(self) -> list[VectorStore]:
        if self._stores is None:
            plan = read_plan(self.run.output_dir)
            only = plan.name if plan is not None and plan.fresh else None
            roots = (self.cache_dir / VECTORS, self.run.output_dir / VECTORS)
            encoder = self.run.record.encoder[:32]
            self._stores = [VectorStore(root / encoder, only_plan=only) for root in roots]
        return self._stores


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _there(table: Table | None, run: Run, task: str) -> Table:
    if table is None:
        raise UsageError(
            f"{run.output_dir} does not say which vectors {task} is made of (an older release made "
            "it): run it again, which computes nothing that is stored"
        )
    return table
