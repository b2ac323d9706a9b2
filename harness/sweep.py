"""Scores at fewer dimensions and lower precision, from stored vectors: nothing is encoded.

The one idea: a run's folder says which vectors each task is made of, and the cache still holds
them, so a setting costs one scoring. Vectors are cut to their first dimensions (which a model
trained for it, "Matryoshka", orders by weight) and brought to a precision (`quantise`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import TaskError, UsageError
from mmeb_harness.files import write_aside
from mmeb_harness.keys import digest_of
from mmeb_harness.progress import Progress
from mmeb_harness.quantise import PRECISIONS, Precision, bytes_per_million, quantised
from mmeb_harness.registry import Registry
from mmeb_harness.result import Run, TaskResult
from mmeb_harness.rows import Hits, clusters_of
from mmeb_harness.runfolder import SWEEP_FILE, read_run
from mmeb_harness.runsources import RunSources
from mmeb_harness.score import Scoring, Similarity, score_task
from mmeb_harness.statistics import average_interval
from mmeb_harness.summary import Cluster, Interval, summarise
from mmeb_harness.taskdata import TaskData
from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["SWEEP_FILE", "Precision", "Sweep", "SweepPoint", "make_sweep", "read_sweep"]

SWEEP_VERSION = 1


class SweepPoint(BaseModel):
    """One setting: the vectors cut to `dimension` and stored in `precision`.

    `tasks` holds hit@1 by task; averages are None over an incomplete set, and `intervals` has one
    for each of the others (`overall`, `ind`, `ood`).
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    dimension: int = Field(gt=0)
    precision: Precision
    bytes_per_million: int
    tasks: Mapping[str, float]
    overall: float | None
    ind: float | None
    ood: float | None
    intervals: Mapping[str, Interval] = {}


class Sweep(BaseModel):
    """What `sweep.json` in a run's folder holds; `encoder` is the run's, or it does not count.

    `results` digests the run's results that it goes with: once they change, it counts no more.
    `points` are ordered by precision, then by dimension.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = SWEEP_VERSION
    encoder: str
    full: int
    results: str | None = None
    points: Sequence[SweepPoint]


class Setting(NamedTuple):
    """What a point is made at."""

    dimension: int
    precision: Precision


def read_sweep(folder: Path, encoder: str) -> Sweep | None:
    """Read the sweep of a run, None where there is none of this encoder and these results.

    Raises:
        UsageError: where the file is damaged or of another schema version.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return None
    try:
        sweep = Sweep.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"{path} cannot be read as a sweep ({why}): remove it") from None
    if sweep.schema_version != SWEEP_VERSION:
        raise UsageError(
            f"{path} has schema version {sweep.schema_version}; this release reads {SWEEP_VERSION}"
        )
    if sweep.encoder != encoder:
        return None
    if sweep.results is not None and sweep.results != _results_digest(read_run(folder)):
        return None
    return sweep


def make_sweep(
    run: Run,
    registry: Registry,
    *,
    cache_dir: Path,
    dims: Sequence[int | None],
    precisions: Sequence[Precision],
    progress: Progress | None = None,
) -> Sweep:
    """Score a run's stored vectors at each dimension (None: all of them) in each precision.

    What `sweep.json` of the run's folder has already is kept, the rest computed and added.

    Raises:
        UsageError: for a run without vectors of its own, vectors or data that are gone or have
            changed, a dimension that the vectors do not have.
        DataMissing: where the data of a task is not on this machine.
    """
    progress = progress or Progress()
    results = _scored(run)
    before = read_sweep(run.output_dir, run.record.encoder)
    sources = RunSources(run, registry, cache_dir)
    full = before.full if before else sources.dimension(results[0])
    wanted = _settings(run, full, dims, precisions)
    there = {Setting(point.dimension, point.precision) for point in before.points} if before else ()
    missing = [setting for setting in wanted if setting not in there]
    if before and not missing:
        return before
    made = _points(run, sources, missing, progress)
    sweep = Sweep(
        encoder=run.record.encoder,
        full=full,
        results=_results_digest(run),
        points=sorted([*(before.points if before else ()), *made], key=_order),
    )
    with write_aside(run.output_dir / SWEEP_FILE) as target:
        target.write_text(sweep.model_dump_json(indent=1) + "\n")
    return sweep


def _scored(run: Run) -> list[TaskResult]:
    """Return the results to sweep over. Raises UsageError for a run that has no vectors."""
    where, record = run.output_dir, run.record
    if record.imported is not None:
        raise UsageError(f"{where} was imported: it has scores and no vectors to sweep over")
    if record.limit is not None:
        raise UsageError(
            f"{where} is limited to {record.limit} queries a task: sweep over a run without --limit"
        )
    results = [result for result in run.tasks.values() if result.hit_at_1 is not None]
    if not results:
        raise UsageError(f"{where} has no scored task to sweep over")
    return results


def _settings(
    run: Run, full: int, dims: Sequence[int | None], precisions: Sequence[Precision]
) -> list[Setting]:
    beyond = sorted(dim for dim in dims if dim is not None and not 1 <= dim <= full)
    if beyond:
        raise UsageError(
            f"the vectors of {run.output_dir} have {full} dimensions: "
            f"{', '.join(map(str, beyond))} cannot be had (`full` is all of them)"
        )
    chosen = [Setting(dim or full, precision) for precision in precisions for dim in dims]
    return list(dict.fromkeys(chosen))


def _order(point: SweepPoint) -> tuple[int, int]:
    return PRECISIONS.index(point.precision), point.dimension


def _results_digest(run: Run) -> str:
    """Digest the results that a sweep goes with: data and scores by task."""
    return digest_of(
        {name: [result.data_digest, result.hit_at_1] for name, result in run.tasks.items()}
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One task at one setting."""

    hit_at_1: float
    clusters: tuple[Cluster, ...]


def _points(
    run: Run, sources: RunSources, settings: Sequence[Setting], progress: Progress
) -> list[SweepPoint]:
    """Make the points; task by task, so that data and vectors are read once."""
    parts: dict[Setting, dict[str, _Part]] = {setting: {} for setting in settings}
    for result in _scored(run):
        progress.gathering(result.name, len(settings))
        data, vectors = sources.load(result)
        hits = sources.hits(result.name)
        for setting in settings:
            part = _part(run, result.name, data, vectors, hits, setting)
            parts[setting][result.name] = part
            progress.gathered(1)
            if setting == (vectors.shape[1], "fp32") and part.hit_at_1 != result.hit_at_1:
                progress.warned(
                    f"{result.name} scores {part.hit_at_1:.2%} from the stored vectors and "
                    f"{result.hit_at_1:.2%} in the run: they were computed again since"
                )
    return [_point(run, setting, parts[setting]) for setting in settings]


def _part(
    run: Run, task: str, data: TaskData, vectors: Vectors, hits: Hits, setting: Setting
) -> _Part:
    try:
        stored = quantised(
            vectors[:, : setting.dimension],
            setting.precision,
            cast("Similarity", run.record.similarity),
        )
        outcomes = score_task(
            stored.vectors,
            data.queries,
            data.candidates,
            data.gold,
            similarity=stored.similarity,
            scoring=cast("Scoring", run.record.scoring),
        )
    except TaskError as error:
        raise UsageError(f"{task} in {setting.precision}: {error}") from None
    return _Part(
        hit_at_1=float(outcomes.hit_at_1.mean()),
        clusters=clusters_of(hits._replace(hit_at_1=outcomes.hit_at_1)),
    )


def _point(run: Run, setting: Setting, parts: Mapping[str, _Part]) -> SweepPoint:
    scores = {task: part.hit_at_1 for task, part in parts.items()}
    summary = summarise(run.record.suite_tasks, scores)
    averages = {"overall": summary.overall, "ind": summary.ind, "ood": summary.ood}
    return SweepPoint(
        dimension=setting.dimension,
        precision=setting.precision,
        bytes_per_million=bytes_per_million(*setting),
        tasks=scores,
        overall=summary.overall,
        ind=summary.ind,
        ood=summary.ood,
        intervals={
            key: average_interval(
                [
                    parts[task.name].clusters
                    for task in run.record.suite_tasks
                    if key in ("overall", task.split)
                ]
            )
            for key, average in averages.items()
            if average is not None
        },
    )
