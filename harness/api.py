"""The Python API: load an encoder, evaluate one, train one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_args

from mmeb_harness.encoder import Packing
from mmeb_harness.engines.engine import EngineName, EngineSettings, check_engine
from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.files import FileIndex, cache_root
from mmeb_harness.models import build_encoder, resolve_model
from mmeb_harness.progress import Progress
from mmeb_harness.registry import Registry, build_registry
from mmeb_harness.result import Run
from mmeb_harness.run import Job, RunSettings
from mmeb_harness.runfolder import default_folder
from mmeb_harness.score import Scoring
from mmeb_harness.selection import select_tasks, suite_tasks
from mmeb_harness.subject import Subject, subject_from_name, subject_from_object
from mmeb_harness.task import DataLocation
from mmeb_harness.training import train

__all__ = ["Request", "evaluate", "load_encoder", "prepare_job", "train"]

DEFAULT_MODEL, DEFAULT_SUITE = "mini-vlm", "mini"
"""What a bare `run` runs, with nothing downloaded."""


LEAST = {"limit": 1, "batch_tokens": 1, "gpus": 1, "actors": 1, "workers": 0}
"""The least of each number that can be asked for."""


def load_encoder(
    model: str, *, device: str | None = None, dtype: str | None = None, **overrides: Any
) -> Any:
    """Return the encoder that `-m MODEL` names, with card fields changed as by `-M`.

    >>> load_encoder("qwen2-vl:./my-checkpoint", image_resolution="low")  # doctest: +SKIP

    Raises:
        UsageError: for an unknown model, field or value.
        EnvironmentFault: where weights or a required package are missing.
    """
    resolved = resolve_model(build_registry(), model, overrides)
    encoder = build_encoder(resolved.card, device=device, dtype=dtype)
    with contextlib.suppress(AttributeError):  # a class with __slots__ is then a live object
        encoder.mmeb_model = resolved
    return encoder


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for, as `run`'s options and `evaluate`'s arguments give it."""

    model: Any = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tasks: str | Sequence[str] | None = None
    suite: str | None = None
    data_dir: str | os.PathLike[str] | None = None
    image_dir: str | os.PathLike[str] | None = None
    output_dir: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    fresh: bool = False
    limit: int | None = None
    scoring: str = "expected"
    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    packing: str = "auto"
    engine: str | None = None
    gpus: int | None = None
    actors: int | None = None
    workers: int | None = None


def prepare_job(
    request: Request, *, registry: Registry | None = None, progress: Progress | None = None
) -> Job:
    """Resolve a request into a job, finding every wrong name before anything is loaded."""
    registry = registry or build_registry()
    suite = request.suite or (DEFAULT_SUITE if request.model is None else "mmeb")
    everything = suite_tasks(registry, suite)
    chosen = select_tasks(everything, request.tasks)
    _check_numbers(request)
    if suite == DEFAULT_SUITE and (request.data_dir or request.image_dir):
        raise UsageError(
            f"suite {suite!r} comes with its data: for data of your own name a model with -m"
        )
    cache = cache_root(_path(request.cache_dir))
    index = FileIndex(cache)
    subject = _subject(request, registry, index)
    engine = EngineSettings(
        name=cast("EngineName | None", request.engine),
        gpus=request.gpus,
        actors=request.actors,
        workers=request.workers,
    )
    check_engine(engine, subject.encoder)
    named = _path(request.data_dir or os.environ.get("MMEB_HARNESS_DATA_DIR"))
    data_dir = None if suite == DEFAULT_SUITE else named or cache / "data" / suite
    settings = RunSettings(
        suite=suite,
        suite_tasks=everything,
        tasks=chosen,
        location=DataLocation(
            data_dir=data_dir,
            image_dir=_path(request.image_dir),
        ),
        output_dir=_path(request.output_dir) or default_folder(subject.name),
        cache_dir=cache,
        fresh=request.fresh,
        limit=request.limit,
        scoring=cast("Scoring", request.scoring),
        batch_tokens=request.batch_tokens,
        packing=cast("Packing", request.packing),
        engine=engine,
    )
    return Job(subject, settings, registry, index, progress)


def _subject(request: Request, registry: Registry, index: FileIndex) -> Subject:
    model = DEFAULT_MODEL if request.model is None else request.model
    if isinstance(model, str):
        return subject_from_name(
            registry,
            model,
            request.overrides,
            index,
            device=request.device,
            dtype=request.dtype,
        )
    return subject_from_object(model, index)


def _check_numbers(request: Request) -> None:
    if request.scoring not in ("expected", "reference"):
        raise unknown_name("scoring", request.scoring, ("expected", "reference"))
    if request.packing not in get_args(Packing):
        raise unknown_name("packing", request.packing, get_args(Packing))
    if request.engine not in (None, "local", "ray"):
        raise unknown_name("engine", str(request.engine), ("local", "ray"))
    if request.engine == "local" and (request.gpus or request.actors):
        raise UsageError("--gpus and --actors are for the engine ray: leave --engine local out")
    if request.gpus and request.actors:
        raise UsageError("--gpus N is N actors of a GPU each: leave --actors out")
    for name, least in LEAST.items():
        value = getattr(request, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


def evaluate(model: Any = None, *, progress: Progress | None = None, **options: Any) -> Run:
    """Score an encoder: a name, one from `load_encoder`, or any object with `encode(items)`.

    The options are those of Request: `tasks`, `suite`, `data_dir`, `image_dir`, `output_dir` (the
    run's folder), `cache_dir`, `fresh`, `limit`, `scoring`, `device`, `dtype`, `batch_tokens`,
    `packing`, `engine`, `gpus`, `actors`, `workers` (0 unless given: a script that starts processes
    must guard its main module), and `overrides` (card fields, as `-M`). Failed tasks are in the
    result, not raised.

    Raises:
        UsageError: for an unknown name or option.
        EnvironmentFault: for missing data, broken weights, a full or read-only disk.
    """
    known = {one.name for one in fields(Request)} - {"model"}
    for name in options:
        if name not in known:
            raise unknown_name("option of evaluate", name, known)
    request = Request(model=model, **{"workers": 0, **options})
    return prepare_job(request, progress=progress).run()
