"""Results as they lie on disk, versioned: what a run was, and what became of each task.

`run.json` holds a RunRecord, `tasks/NAME.json` a TaskResult, `tasks/NAME.parquet` a row a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmeb_harness.card import Card
from mmeb_harness.summary import Cluster, Summary, summarise
from mmeb_harness.task import MetaTask, Split
from pydantic import BaseModel, ConfigDict, model_validator

SCHEMA_VERSION = 1

ROUNDING = 1e-9
"""How far a score may be from what its clusters give."""


class TaskName(BaseModel):
    """One task of a suite: what the averages need to know of it."""

    model_config = ConfigDict(frozen=True)

    name: str
    meta_task: MetaTask
    split: Split


class TaskResult(BaseModel):
    """What became of one task. Scores are fractions; a failed task has an error and no score.

    `clusters` counts the groups of queries that show one image, by size and hits; it is empty where
    single queries are not known, as in scores that were imported.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_version: int = SCHEMA_VERSION
    name: str
    suite: str
    meta_task: MetaTask
    split: Split
    metric: str
    status: Literal["ok", "failed"]
    error: str | None = None

    score: float | None = None
    hit_at_1: float | None = None
    ci: tuple[float, float] | None = None
    chance: float | None = None
    ties: float | None = None
    n_queries: int = 0
    n_candidates: tuple[int, int] | None = None
    n_items: int = 0
    clusters: tuple[Cluster, ...] = ()

    encoder: str
    scoring: str
    similarity: str
    limit: int | None = None
    data_digest: str | None = None
    notes: Mapping[str, int] = {}
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> TaskResult:
        low, high = self.ci or (0.0, 1.0)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"{low} to {high} is no interval of fractions")
        if any(not (0 <= one.hits <= one.queries and one.number > 0) for one in self.clusters):
            raise ValueError("its clusters are not of queries and their hits")
        if self.clusters and self.score is not None:
            queries = sum(one.queries * one.number for one in self.clusters)
            hits = sum(one.hits * one.number for one in self.clusters)
            if queries != self.n_queries or abs(hits - self.score * queries) > ROUNDING * queries:
                raise ValueError("its clusters do not give its score")
        return self


class RunRecord(BaseModel):
    """One encoder over some tasks: everything that could change a number.

    `encoder` digests the encoder with its stack (the namespace of its vectors); a task's result
    counts only if it carries the same. `reused` counts vectors by the run that computed them.
    Scores made elsewhere have `imported`, naming their format and files, and `declared`, what those
    files say of the model.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_version: int = SCHEMA_VERSION
    model: str
    card: Card | None = None
    overrides: Mapping[str, Any] = {}
    plugin: Mapping[str, str | None] = {}
    encoder: str
    revisions: Mapping[str, str | None] = {}

    suite: str
    suite_tasks: tuple[TaskName, ...]
    tasks: tuple[str, ...]
    limit: int | None = None
    scoring: str
    similarity: str
    data_dir: str | None = None
    image_dir: str | None = None

    stack: Mapping[str, str | None] = {}
    versions: Mapping[str, str | None] = {}
    dtype: str | None = None
    device: str | None = None
    device_name: str | None = None
    attention: str | None = None
    engine: str = "local"
    actors: int = 1
    batch_tokens: int
    packed: bool = False
    workers: int
    seed: int | None = None
    command: tuple[str, ...] = ()

    started: str
    finished: str | None = None
    computed: int = 0
    reused: Mapping[str, int] = {}
    warnings: tuple[str, ...] = ()
    imported: str | None = None
    declared: Mapping[str, str | int | float] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a folder's runs must share, as the user set it."""
        keys = {"model", "overrides", "suite", "limit", "scoring", "dtype", "data_dir", "image_dir"}
        return self.model_dump(mode="json", include=keys)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its results: what `evaluate` returns and what a report reads."""

    record: RunRecord
    tasks: Mapping[str, TaskResult]
    output_dir: Path

    @property
    def summary(self) -> Summary:
        """Averages over the whole suite."""
        scores = {name: result.score for name, result in self.tasks.items()}
        return summarise(self.record.suite_tasks, scores)

    @property
    def overall(self) -> float | None:
        """Mean over all tasks of the suite, None if any is missing or failed."""
        return self.summary.overall

    @property
    def ind(self) -> float | None:
        """Mean over the in-distribution tasks, None if any is missing or failed."""
        return self.summary.ind

    @property
    def ood(self) -> float | None:
        """Mean over the out-of-distribution tasks, None if any is missing or failed."""
        return self.summary.ood

    @property
    def meta_tasks(self) -> Mapping[str, float | None]:
        """Mean by meta-task, None if any of its tasks is missing or failed."""
        return self.summary.meta_tasks

    @property
    def failed(self) -> list[TaskResult]:
        """The tasks that failed."""
        return [result for result in self.tasks.values() if result.status == "failed"]

    def _errors(self) -> list[str]:
        return [f"{result.name} failed: {result.error}" for result in self.failed]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "model": self.record.model,
            "suite": self.record.suite,
            "overall": self.overall,
            "ind": self.ind,
            "ood": self.ood,
            "meta_tasks": dict(self.meta_tasks),
            "tasks": {
                name: {
                    "metric": result.metric,
                    "score": result.score,
                    "hit_at_1": result.hit_at_1,
                    "ci": list(result.ci) if result.ci else None,
                    "n_queries": result.n_queries,
                    "status": result.status,
                    **({"error": result.error} if result.error else {}),
                }
                for name, result in self.tasks.items()
            },
            "output_dir": str(self.output_dir),
            **({"limit": self.record.limit} if self.record.limit is not None else {}),
            **({"error": "; ".join(self._errors())} if self.failed else {}),
        }
