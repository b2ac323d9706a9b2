"""What a run would do, without doing it: how much, how long, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from mmeb_harness.encode import missing_batches
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.local import run_batches
from mmeb_harness.gather import Work
from mmeb_harness.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Items, tokens and batches to encode, vectors that are there, tasks that cannot be scored.

    `seconds` is the time of the middle batch on this device, scaled by tokens.
    """

    items: int
    tokens: int
    batches: int
    reused: int
    missing: Mapping[str, str]
    seconds: float | None


def forecast(
    encoder: PlannedEncoder, plan: Plan, work: Work, missing: Mapping[str, str]
) -> Forecast:
    """Measure a plan, and time one batch of it."""
    batches = missing_batches(plan, work)
    tokens = [int(plan.sizes[rows].sum()) for rows in batches]
    middle = len(batches) // 2
    seconds = None
    if batches:
        rate = _seconds(encoder, plan, work, batches[middle]) / max(1, tokens[middle])
        seconds = rate * sum(tokens)
    return Forecast(
        items=sum(len(rows) for rows in batches),
        tokens=sum(tokens),
        batches=len(batches),
        reused=len(work.stored),
        missing=missing,
        seconds=seconds,
    )


def _seconds(encoder: PlannedEncoder, plan: Plan, work: Work, rows: list[int]) -> float:
    """Time a batch, twice: the first pays for loading the weights."""
    rendered = [work.missing[plan.keys[row]] for row in rows]
    times = []
    for _ in range(2):
        started = perf_counter()
        list(run_batches(encoder, [rendered], 0))
        times.append(perf_counter() - started)
    return min(times)
