"""From a run to the files of a form. What a run lacks stays marked as lacking."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.exchange import v1, v2
from mmeb_harness.exchange.forms import FORMS, SCORE_FILE, SUITE
from mmeb_harness.files import write_aside
from mmeb_harness.result import Run, TaskResult

NAMED = 5
"""Tasks that a message names; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written where; `lacking` tasks have no scores in it. `notes` are to be read."""

    path: Path
    lacking: tuple[str, ...]
    notes: tuple[str, ...]


def export_run(run: Run, form: str, target: Path | None = None) -> Exported:
    """Write a run's scores in a form: `mmeb-v1` a folder of files, `mmeb-v2` one file.

    By default they go under `export/` in the run's folder.

    Raises:
        UsageError: for an unknown form, a run that is limited or has no score, a target in the way.
    """
    if form not in FORMS:
        raise unknown_name("format", form, FORMS)
    record = run.record
    if record.limit is not None:
        raise UsageError(
            f"{run.output_dir} is limited to {record.limit} queries a task, which neither form can "
            "say: export a run made without --limit"
        )
    scored = {name: result for name, result in run.tasks.items() if result.hit_at_1 is not None}
    if not scored:
        raise UsageError(f"{run.output_dir} has no scores to export")
    path = target or _default(run, form)
    if form == "mmeb-v1":
        _write_folder(path, scored)
    else:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name the file with -o")
        _write(path, v2.report_of(run))
    lacking = tuple(task.name for task in record.suite_tasks if task.name not in scored)
    notes = tuple(_notes(run, form, scored, lacking))
    return Exported(path=path, lacking=lacking, notes=notes)


def _default(run: Run, form: str) -> Path:
    if form == "mmeb-v1":
        return run.output_dir / "export" / form
    name = re.sub(r"[^A-Za-z0-9._@+-]+", "-", run.record.model)[:100].strip("-.")
    return run.output_dir / "export" / f"{name or 'model'}.json"


def _write_folder(folder: Path, scored: Mapping[str, TaskResult]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a folder with -o")
    files = {f"{name}{SCORE_FILE}": v1.score_of(result) for name, result in scored.items()}
    foreign = sorted(path.name for path in folder.glob(f"*{SCORE_FILE}") if path.name not in files)
    if foreign:
        raise UsageError(
            f"{folder} has scores that are not of this run ({named(foreign)}): "
            "remove them, or name another folder with -o"
        )
    for name, content in files.items():
        _write(folder / name, content)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with write_aside(path) as target:
        target.write_text(json.dumps(content, indent=4, allow_nan=False) + "\n")


def named(names: list[str] | tuple[str, ...]) -> str:
    """Name a few, count the rest."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _notes(
    run: Run, form: str, scored: Mapping[str, TaskResult], lacking: tuple[str, ...]
) -> list[str]:
    notes = []
    if lacking:
        stands = "have no file" if form == "mmeb-v1" else f"stand as {v2.NO_FILE}"
        notes.append(f"not whole: {len(lacking)} tasks {stands} ({named(lacking)})")
    if run.record.suite != SUITE:
        notes.append(
            f"these are scores of the suite {run.record.suite!r}, and the files say so under "
            f"`suite`: the leaderboard takes {SUITE} alone"
        )
    tied = sum(bool(result.ties) for result in scored.values())
    if tied and run.record.scoring == "expected":
        notes.append(
            f"{tied} tasks have queries whose gold ties: here that is the expected hit, originally "
            "the first candidate wins (run with --scoring reference to have it so)"
        )
    if form == "mmeb-v2":
        unknown = [key for key, value in v2.metadata_of(run.record).items() if value is None]
        if unknown:
            notes.append(f"to be filled in by hand before it is handed in: {', '.join(unknown)}")
    return notes
