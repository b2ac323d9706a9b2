"""A run's folder: run.json, plan.arrow, and tasks/NAME.json with the tables beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from mmeb_harness.errors import UsageError
from mmeb_harness.files import write_aside
from mmeb_harness.hits import HITS_FILE
from mmeb_harness.plan import PLAN_FILE
from mmeb_harness.result import SCHEMA_VERSION, Run, RunRecord, TaskName, TaskResult
from mmeb_harness.rows import TaskItems, TaskRows, items_path, rows_path, write_rows
from mmeb_harness.task import FILE_NAME
from pydantic import BaseModel, ValidationError

RUN_FILE = "run.json"
TASKS = "tasks"
VECTORS = "vectors"
SWEEP_FILE = "sweep.json"
PAGE_FILE = "report.html"

LONGEST = 200
"""Characters of a task's name that names files."""

SHARED = ("encoder", "suite", "limit", "scoring", "similarity")
"""What a task's result must share with the record to count."""

Model = TypeVar("Model", bound=BaseModel)


def default_folder(model: str) -> Path:
    """Return `runs/MODEL`, with what a file name cannot hold replaced."""
    return Path("runs") / (re.sub(r"[^A-Za-z0-9._@-]+", "-", model).strip("-.") or "run")


def read_record(folder: Path) -> RunRecord | None:
    """Read `run.json`, None where there is none.

    Raises:
        UsageError: where the file is damaged or of another schema version.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return None
    record = _read(path, RunRecord)
    for task in record.suite_tasks:
        if not FILE_NAME.fullmatch(task.name) or len(task.name) > LONGEST:
            raise UsageError(f"{path} names a task {task.name[:80]!r}: that cannot name files")
    return record


def _read(path: Path, kind: type[Model]) -> Model:
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        model = kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as a result ({str(error).splitlines()[0]}): "
            "remove it, or give another folder with -o"
        ) from None
    version = getattr(model, "schema_version", None)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {version}; this release reads {SCHEMA_VERSION}"
        )
    return model


def read_run(folder: Path) -> Run:
    """Read a finished or unfinished run. Raises UsageError where there is none."""
    record = read_record(folder)
    if record is None:
        raise UsageError(f"{folder} holds no run (no {RUN_FILE})")
    return Run(record=record, tasks=read_tasks(folder, record), output_dir=folder)


def read_tasks(folder: Path, record: RunRecord) -> dict[str, TaskResult]:
    """Read the results of this record's encoder and settings, in the suite's order."""
    found = {}
    for task in record.suite_tasks:
        path = folder / TASKS / f"{task.name}.json"
        if path.exists():
            result = _read(path, TaskResult)
            named = TaskName(name=result.name, meta_task=result.meta_task, split=result.split)
            if named != task:
                raise UsageError(
                    f"{path} holds the result of another task ({result.name}): remove it"
                )
            if all(getattr(result, name) == getattr(record, name) for name in SHARED):
                found[task.name] = result
    return found


def holds_scores(folder: Path, record: RunRecord) -> bool:
    """Return whether any task of a run has been scored."""
    return any(result.status == "ok" for result in read_tasks(folder, record).values())


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `run.json`."""
    _write(folder / RUN_FILE, record)


def write_task(folder: Path, result: TaskResult, tables: tuple[TaskRows, TaskItems] | None) -> None:
    """Write one task: its tables first, the result that vouches for them last."""
    if tables is None:
        rows_path(folder, result.name).unlink(missing_ok=True)
        items_path(folder, result.name).unlink(missing_ok=True)
    else:
        write_rows(folder, result.name, *tables)
    _write(folder / TASKS / f"{result.name}.json", result)


def _write(path: Path, model: BaseModel) -> None:
    with write_aside(path) as target:
        target.write_text(model.model_dump_json(indent=1) + "\n")


def clear(folder: Path) -> None:
    """Remove what a run left in a folder, by the names in its record, and nothing else."""
    record = read_record(folder)
    if record is None:
        return
    results = [folder / TASKS / task.name for task in record.suite_tasks]
    kinds = ("json", "parquet", "items.parquet")
    files = [Path(f"{result}.{kind}") for result in results for kind in kinds]
    others = (HITS_FILE, SWEEP_FILE, PAGE_FILE, PLAN_FILE, RUN_FILE)
    for path in [*files, *(folder / name for name in others)]:
        path.unlink(missing_ok=True)


def check_same_run(folder: Path, old: RunRecord, new: RunRecord) -> None:
    """Refuse to mix two runs in one folder. Raises UsageError naming what differs."""
    before, now = old.settings, new.settings
    different = [
        f"{key} {before[key]!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]
    ]
    if different:
        raise UsageError(
            f"{folder} holds a run with other settings ({'; '.join(different)}): "
            "give another folder with -o, or replace that run with --fresh"
        )
