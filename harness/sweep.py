"""Scores at fewer dimensions and lower precision, from stored vectors: nothing is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mmeb_harness.summary import Interval
from pydantic import BaseModel, ConfigDict

Precision = Literal["fp32", "fp16", "int8", "binary"]

SWEEP_FILE = "sweep.json"


class SweepPoint(BaseModel):
    """One setting: the vectors cut to `dimension` and stored in `precision`.

    `tasks` holds hit@1 by task; averages are None over an incomplete set.
    """

    model_config = ConfigDict(frozen=True)

    dimension: int
    precision: Precision
    bytes_per_million: int
    tasks: Mapping[str, float]
    overall: float | None
    ind: float | None
    ood: float | None
    intervals: Mapping[str, Interval] = {}


class Sweep(BaseModel):
    """What `sweep.json` in a run's folder holds; `encoder` is the run's, or it does not count."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    encoder: str
    full: int
    points: Sequence[SweepPoint]


def read_sweep(folder: Path, encoder: str) -> Sweep | None:
    """Read the sweep of a run, None where there is none of this encoder."""
    raise NotImplementedError
