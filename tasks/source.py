"""Where MMEB's files lie on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmeb_harness.errors import DataMissing
from mmeb_harness.imagepaths import holding_root
from mmeb_harness.pairfiles import check_complete
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.tasks.table import suite_facts

IMAGE_FOLDERS = ("images", "eval_images", ".")
"""Where images are looked for under the data folder, in this order."""

BESIDE = "eval_images"
"""Where they are looked for beside it, last: the README of VLM2Vec unpacks them so."""


def evaluation_files(task: Task, location: DataLocation) -> list[Path]:
    """Return the Parquet files of a task's test split. Raises DataMissing."""
    folder = location.data_dir
    found = [] if folder is None else split_files(folder, task.name, "test")
    if not found:
        raise DataMissing(
            f"no data for {task.name} in {folder}. All of MMEB is {suite_facts()['download']}; "
            f"fetch it with `mmeb-harness data fetch -t {task.name}` (without -t: all 36), or name "
            "a folder with --data-dir"
        )
    return found


def split_files(folder: Path, name: str, split: str) -> list[Path]:
    """Return one split's files: `NAME/SPLIT-*.parquet`, or what the folder's README declares."""
    plain = sorted((folder / name).glob(f"{split}-*.parquet"))
    check_complete(plain)
    if plain or not (folder / "README.md").is_file():
        return plain
    return _declared_files(folder, name, split)


def _declared_files(folder: Path, name: str, split: str) -> list[Path]:
    from datasets import load_dataset_builder

    try:
        config = load_dataset_builder(str(folder), name).config
    except (ValueError, OSError):
        return []
    declared = (config.data_files or {}).get(split, [])
    return [Path(path) for path in declared if str(path).endswith(".parquet")]


def image_root(location: DataLocation, paths: Sequence[str]) -> Path | None:
    """Return the first folder that holds the paths; the first that exists if none does."""
    if location.image_dir is not None:
        return location.image_dir
    if location.data_dir is None:
        return None
    beside = location.data_dir.absolute().parent / BESIDE
    roots = [*(location.data_dir / name for name in IMAGE_FOLDERS), beside]
    found = holding_root(roots, paths)
    return found or next((root for root in roots if root.is_dir()), roots[0])
