"""From files of a form to a run's folder, so that scores made elsewhere stand in our reports.

The one idea: nothing is guessed. What a file does not say stays unknown, what cannot be right is an
error that names the file, and a part that is missing there is missing here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmeb_harness import environment, runfolder
from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.exchange import v1, v2
from mmeb_harness.exchange.forms import SCORE_FILE, SHOWN, SUITE, Form, Told, quoted
from mmeb_harness.files import check_writable
from mmeb_harness.registry import Registry
from mmeb_harness.result import Run, RunRecord, TaskName, TaskResult
from mmeb_harness.selection import suite_tasks
from mmeb_harness.summary import wilson
from mmeb_harness.task import Task

UNKNOWN = "unknown"
"""How ties were scored and vectors compared, in scores made elsewhere."""


@dataclass(kw_only=True)
class _Found:
    """What the files say: scores by dataset, of which form and model; notes for the user."""

    forms: dict[Form, Path] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    suites: dict[str, Path] = field(default_factory=dict)
    declared: dict[str, str | int | float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)


def import_scores(
    files: Sequence[Path],
    registry: Registry,
    *,
    model: str,
    output_dir: Path,
    suite: str | None = None,
) -> Run:
    """Make a run's folder of score files (or folders of them) in either form.

    Raises:
        UsageError: for a file that is not what it should be, forms or models mixed, a dataset that
            the suite has not, a folder that holds a run.
    """
    if runfolder.read_record(output_dir) is not None:
        raise UsageError(f"{output_dir} holds a run: name another folder with -o, or remove it")
    found = _Found()
    for path in _expanded(files):
        _read(path, found)
    suite = _suite(found, suite)
    tasks = {task.name: task for task in suite_tasks(registry, suite)}
    for name, path in found.sources.items():
        if name not in tasks:
            raise unknown_name(
                "dataset", name[:SHOWN], tasks, f"({path}; suite {suite!r} has no such task)"
            )
    if not any(told.score is not None for told in found.told.values()):
        raise UsageError(f"there are no scores in {_names(files)}")
    check_writable(output_dir)
    record = _record(found, model, suite, list(tasks.values()))
    for name in record.tasks:
        runfolder.write_task(output_dir, _result(record, tasks[name], found.told[name]), None)
    runfolder.write_record(output_dir, record)
    return runfolder.read_run(output_dir)


def _expanded(files: Sequence[Path]) -> list[Path]:
    """Put the score files of a folder in its place."""
    expanded: list[Path] = []
    for path in files:
        inside = [path]
        if path.is_dir():  # as it is, or as `export` leaves it within a run's folder
            folders = (path, path / "mmeb-v1")
            found = (sorted(folder.glob(f"*{SCORE_FILE}")) for folder in folders)
            inside = next(filter(None, found), [])
        if not inside:
            raise UsageError(f"{path} is a folder without any *{SCORE_FILE}: name the files")
        expanded += inside
    return expanded


def _read(path: Path, found: _Found) -> None:
    """Read one file, of whichever form it is."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {str(error)[:SHOWN]}") from None
    found.digest.update(data)
    if isinstance(content, dict) and "metrics" in content:
        _read_report(path, content, found)
    elif isinstance(content, dict) and {"acc", "hit@1"} & content.keys():
        form: Form = "mmeb-v1" if "acc" in content else "mmeb-v2"
        if not path.name.endswith(SCORE_FILE):
            raise UsageError(
                f"{path} has the scores of one dataset, whose name is not to be seen: "
                f"call it DATASET{SCORE_FILE}"
            )
        found.forms.setdefault(form, path)
        found.suites.setdefault(str(content.get("suite", SUITE)), path)
        _check_one(found)
        reader = v1.read_score if form == "mmeb-v1" else v2.read_score
        _take(path.name.removesuffix(SCORE_FILE), reader(content, str(path)), path, found)
    else:
        raise UsageError(
            f"{path} is of neither form: it has neither acc (mmeb-v1) nor metrics (mmeb-v2)"
        )


def _read_report(path: Path, content: Mapping[str, Any], found: _Found) -> None:
    metrics, metadata = content["metrics"], content.get("metadata", {})
    if not isinstance(metrics, dict) or not isinstance(metadata, dict):
        raise UsageError(f"{path}: metrics and metadata must be objects")
    image = metrics.get(v2.IMAGE)
    if not isinstance(image, dict):
        told = f" ({quoted(image)})" if image is not None else ""
        raise UsageError(f"{path} has no scores of images{told}, the part that this suite is")
    found.forms.setdefault("mmeb-v2", path)
    found.suites.setdefault(str(metadata.get("suite", SUITE)), path)
    if isinstance(name := metadata.get("model_name"), str):
        found.models.setdefault(name, path)
    _check_one(found)
    found.declared.update(v2.declared_of(metadata))
    for dataset, scores in image.items():
        _take(dataset, v2.read_score(scores, f"{path}: {quoted(dataset)}"), path, found)
    for modality in metrics.keys() - {v2.IMAGE}:
        part = metrics[modality]
        scored = (
            sum(isinstance(one, dict) for one in part.values()) if isinstance(part, dict) else 0
        )
        if scored:
            found.notes.append(
                f"left out: the part {quoted(modality)} with {scored} datasets, which this harness "
                "does not have"
            )


def _take(dataset: str, told: Told, path: Path, found: _Found) -> None:
    if dataset in found.told:
        where = found.sources[dataset]
        raise UsageError(f"{quoted(dataset)} is in two files, {where} and {path}: name one of them")
    found.told[dataset] = told
    found.sources[dataset] = path


def _check_one(found: _Found) -> None:
    """Raise UsageError where the files cannot be of one run."""
    for what, seen in (("forms", found.forms), ("models", found.models), ("suites", found.suites)):
        if len(seen) > 1:
            told = " and ".join(f"{quoted(name)} in {path}" for name, path in seen.items())
            raise UsageError(f"the files are of different {what}: {told}; import them one by one")


def _suite(found: _Found, wanted: str | None) -> str:
    told = next(iter(found.suites))
    if wanted is not None and told not in (wanted, SUITE):
        raise UsageError(f"the files say that they are of suite {quoted(told)}, not {wanted!r}")
    return wanted or told


def _names(files: Sequence[Path]) -> str:
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _record(found: _Found, model: str, suite: str, tasks: Sequence[Task]) -> RunRecord:
    form = next(iter(found.forms))
    paths = list(dict.fromkeys(found.sources.values()))
    source = paths[0] if len(paths) == 1 else paths[0].parent
    counts = sorted({told.queries for told in found.told.values() if told.score is not None})
    notes = [*found.notes]
    if 0 in counts:
        notes.append("without the number of queries, as in these files, scores have no intervals")
    elif len(counts) > 1:
        notes.append(f"tasks have {counts[0]:,} to {counts[-1]:,} queries")
    called = next(iter(found.models), model)
    if called != model:
        notes.append(f"the files call the model {quoted(called)}")
    time = environment.now()
    return RunRecord(
        model=model,
        encoder=hashlib.sha256(found.digest.digest() + model.encode()).hexdigest(),
        suite=suite,
        suite_tasks=tuple(
            TaskName(name=task.name, meta_task=task.meta_task, split=task.split) for task in tasks
        ),
        tasks=tuple(task.name for task in tasks if task.name in found.told),
        scoring=UNKNOWN,
        similarity=UNKNOWN,
        batch_tokens=0,
        workers=0,
        command=environment.command_line(),
        started=time,
        finished=time,
        warnings=tuple(notes),
        imported=f"{form}, {source}",
        declared=found.declared,
    )


def _result(record: RunRecord, task: Task, told: Told) -> TaskResult:
    interval = None
    if told.score is not None and told.queries:
        interval = wilson(told.score, told.queries)
    return TaskResult(
        name=task.name,
        suite=task.suite,
        meta_task=task.meta_task,
        split=task.split,
        metric=task.metric,
        status="failed" if told.score is None else "ok",
        error=told.error,
        score=told.score,
        hit_at_1=told.score,
        ci=interval,
        n_queries=told.queries,
        encoder=record.encoder,
        scoring=record.scoring,
        similarity=record.similarity,
    )
