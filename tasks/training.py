"""Reads MMEB's training layout, `SUBSET/SPLIT-*.parquet`, in the documented columns of pairs.

Image paths begin with `images/`, so the root is the folder that holds `images/`. Subsets are named
as in the table (`ImageNet_1K`); some have no columns for negatives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmeb_harness.errors import DataMissing
from mmeb_harness.imagepaths import SAMPLE, holding_root
from mmeb_harness.pairfiles import read_pairs
from mmeb_harness.pairs import PairTable, Side
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.tasks.source import split_files
from mmeb_harness.tasks.table import DatasetFacts, suite_facts


def load_training(task: Task, split: str, location: DataLocation) -> PairTable:
    """Return the pairs of a task's training split, in the order of its rows.

    Raises:
        DataMissing: where the folder does not hold the subset or the split.
        TaskError: for files that are not all there or cannot be read, and for a missing column.
    """
    facts = DatasetFacts(**task.facts)
    folder, name = location.data_dir, str(facts.train_name)
    files = [] if folder is None else split_files(folder, name, split)
    if folder is None or not files:
        raise _missing(name, split, folder)
    pairs = read_pairs(files)
    roots = (folder, folder / "images")
    return replace(
        pairs,
        root=location.image_dir or holding_root(roots, pairs.image_paths(SAMPLE)) or folder,
        query=Side(
            role="query",
            instructions=_known(facts.train_instruction, facts.query_instruction),
            modality=facts.modality("query"),
        ),
        target=Side(
            role="candidate",
            instructions=_known(facts.target_instruction),
            modality=facts.modality("candidate"),
        ),
    )


def _known(*instructions: str | None) -> tuple[str, ...]:
    return tuple(one for one in instructions if one)


def _missing(name: str, split: str, folder: Path | None) -> DataMissing:
    """Say what there is in place of what was asked for."""
    if folder is None:
        return DataMissing(f"name the folder that holds the training data of {name}")
    splits = sorted({file.name.partition("-")[0] for file in (folder / name).glob("*-*.parquet")})
    if splits:
        return DataMissing(f"{folder / name} has no split {split!r}; it has {', '.join(splits)}")
    subsets = sorted({file.parent.name for file in folder.glob("*/*.parquet")})
    there = f"it has {', '.join(subsets)}" if subsets else "it holds no tables"
    return DataMissing(
        f"{folder} has no training data of {name} ({suite_facts()['training_repository']}); {there}"
    )
