"""Reads MMEB's training layout: one pair a row, a hard negative where the data has one.

Columns: qry, qry_image_path, pos_text, pos_image_path and, in most subsets, neg_text,
neg_image_path. Image paths begin with `images/`, so the root is the folder that holds `images/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from mmeb_harness.errors import DataMissing, TaskError
from mmeb_harness.item import Item, Role
from mmeb_harness.task import DataLocation, Pair, Task
from mmeb_harness.tasks.source import checked_paths, split_files
from mmeb_harness.tasks.table import DatasetFacts, suite_facts
from mmeb_harness.tasks.wording import mark_instruction

SPLITS = ("original", "diverse_instruction")
REQUIRED = ("qry", "qry_image_path", "pos_text", "pos_image_path")


def load_training(task: Task, split: str, location: DataLocation) -> Iterator[Pair]:
    """Yield the pairs of a task's training split, in the order of its rows.

    Raises:
        DataMissing: where the folder does not hold the subset or the split.
        TaskError: for a missing column or an unsafe path.
    """
    facts = DatasetFacts(**task.facts)
    if location.data_dir is None or facts.train_name is None:
        raise DataMissing(f"name a folder with the training data of {task.name} (--data-dir)")
    sources = split_files(location.data_dir, facts.train_name, split)
    if not sources:
        raise DataMissing(
            f"no training split {split!r} of {task.name} in {location.data_dir} "
            f"({suite_facts()['training_repository']} has {', '.join(SPLITS)})"
        )
    return _pairs(sources, facts, location.image_dir or location.data_dir)


def _pairs(sources: list[Path], facts: DatasetFacts, root: Path) -> Iterator[Pair]:
    for source in sources:
        file = pq.ParquetFile(source)
        for name in REQUIRED:
            if name not in file.schema_arrow.names:
                raise TaskError(f"{source}: column {name!r} is missing")
        for batch in file.iter_batches(1024):
            yield from (_pair(row, facts, root) for row in batch.to_pylist())


def _pair(row: dict[str, Any], facts: DatasetFacts, root: Path) -> Pair:
    query = _item(row["qry"], row["qry_image_path"], facts.train_instruction, root, "query")
    positive = _item(
        row["pos_text"], row["pos_image_path"], facts.target_instruction, root, "candidate"
    )
    has_negative = row.get("neg_text") or row.get("neg_image_path")
    negative = (
        _item(
            row.get("neg_text"),
            row.get("neg_image_path"),
            facts.target_instruction,
            root,
            "candidate",
        )
        if has_negative
        else None
    )
    return Pair(query=query, positive=positive, negative=negative)


def _item(
    text: str | None, path: str | None, instruction: str | None, root: Path, role: Role
) -> Item:
    image = checked_paths([path or ""], root)[0]
    marked = mark_instruction(text or "", instruction)
    return Item(text=text or None, image=image, instruction=marked, role=role)
