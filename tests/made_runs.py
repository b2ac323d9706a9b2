"""Runs made up for tests of reports: scores are given, queries and their clusters follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mmeb_harness.card import Card
from mmeb_harness.reports.board import published
from mmeb_harness.result import Run, RunRecord, TaskName, TaskResult
from mmeb_harness.rows import Hits, clusters_of, rows_path
from mmeb_harness.summary import wilson

ENCODER = "0" * 64
IND = tuple(task.name for task in published.tasks() if task.split == "ind")
OOD = tuple(task.name for task in published.tasks() if task.split == "ood")
ALL = tuple(task.name for task in published.tasks())


def made_record(model: str, **changes: Any) -> RunRecord:
    facts = {
        "model": model,
        "card": Card(name=model[:100], factory="toy:Toy"),
        "encoder": ENCODER,
        "suite": "mmeb",
        "suite_tasks": published.tasks(),
        "tasks": ALL,
        "scoring": "expected",
        "similarity": "cosine",
        "dtype": "bfloat16",
        "batch_tokens": 1,
        "workers": 0,
        "started": "2026-01-01T00:00:00Z",
    }
    return RunRecord.model_validate({**facts, **changes})


def made_run(
    folder: Path,
    hits: Mapping[str, Sequence[float] | float | None],
    *,
    model: str = "model",
    queries: int = 1000,
    rows: bool = False,
    task: Mapping[str, Any] | None = None,
    **record: Any,
) -> Run:
    """Return a run with a task for each of `hits`: hit@1 of each query, or the score of so many
    `queries`, or None for one that failed. With `rows`, the folder holds what became of each.

    `task` changes fields of all results, `record` those of the record.
    """
    made = made_record(model, **record)
    placed = {name.name: name for name in made.suite_tasks}
    tasks = {
        name: _failed(placed[name], made)
        if given is None
        else _result(placed[name], made, _hits(given, queries), dict(task or {}))
        for name, given in hits.items()
    }
    if rows:
        for name, given in hits.items():
            if given is not None:
                _write(folder, name, _hits(given, queries))
    return Run(record=made, tasks=tasks, output_dir=folder)


def _hits(given: Sequence[float] | float, queries: int) -> Hits:
    """Return hits, the first of them right where only a score is given; no two share an image."""
    if isinstance(given, int | float):
        hit = (np.arange(queries) < round(given * queries)).astype(np.float64)
    else:
        hit = np.asarray(given, dtype=np.float64)
    return Hits(hit, np.arange(len(hit), dtype=np.int32))


def _facts(task: TaskName, record: RunRecord) -> dict[str, Any]:
    return {
        **task.model_dump(),
        "suite": record.suite,
        "metric": "hit_at_1",
        "encoder": record.encoder,
        "scoring": record.scoring,
        "similarity": record.similarity,
        "limit": record.limit,
    }


def _result(task: TaskName, record: RunRecord, hits: Hits, changes: dict[str, Any]) -> TaskResult:
    score = float(hits.hit_at_1.mean())
    facts = {
        **_facts(task, record),
        "status": "ok",
        "score": score,
        "hit_at_1": score,
        "ci": wilson(score, len(hits.hit_at_1)),
        "ties": 0.0,
        "n_queries": len(hits.hit_at_1),
        "clusters": clusters_of(hits),
        "data_digest": f"data of {task.name}",
    }
    return TaskResult.model_validate({**facts, **changes})


def _failed(task: TaskName, record: RunRecord) -> TaskResult:
    return TaskResult(**_facts(task, record), status="failed", error="an image is missing")


def _write(folder: Path, name: str, hits: Hits) -> None:
    path = rows_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"hit_at_1": hits.hit_at_1, "cluster": hits.clusters}), path)
