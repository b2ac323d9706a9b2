"""What a run would do, without doing it: how much, how long, in how much memory, what is missing.

The one idea: a batch of large images and one of short texts cost differently a token, so a few
batches are timed, each from the middle of an equal share of the tokens, and stand for that share.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from mmeb_harness.encode import missing_batches
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded, encode_prepared, prepare_batch
from mmeb_harness.engines.engine import EngineSettings
from mmeb_harness.engines.local import chosen_workers, device_of
from mmeb_harness.gather import Work
from mmeb_harness.plan import Key, Plan

SHARES = 4
"""Shares of the tokens, each with a batch that is timed."""

PATIENCE = 30.0
"""Seconds after which no further batch is timed."""

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class TaskForecast:
    """One task: its distinct items, those whose vectors are to be computed, and their tokens.

    What several tasks share is counted in each of them.
    """

    name: str
    items: int
    to_encode: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Items, tokens and batches to encode, vectors that are there, tasks that cannot be scored.

    `seconds` is for the devices and processes asked for. `memory_bytes` is the most that the
    largest batch took, weights included, on the device (on a CPU: of this process); `store_bytes`
    is what the new vectors take on disk. All three are None where nothing is to be encoded.
    `is_cut` says that the largest batch did not fit or failed, and was cut into smaller ones;
    `fault` why an item of it has no vector; `by_ray` that Ray must start first, which is not
    among the seconds.
    """

    items: int
    tokens: int
    batches: int
    reused: int
    missing: Mapping[str, str]
    tasks: Sequence[TaskForecast]
    seconds: float | None = None
    memory_bytes: int | None = None
    store_bytes: int | None = None
    is_cut: bool = False
    fault: str | None = None
    by_ray: bool = False


class Place(NamedTuple):
    """How a run would be spread: how many times as fast as one copy of the encoder on the device
    that is measured, how many processes prepare for each copy, and whether Ray starts them."""

    copies: int = 1
    workers: int = 0
    by_ray: bool = False


def expected_place(settings: EngineSettings, encoder: PlannedEncoder, batches: int) -> Place:
    """Tell how a run would be spread.

    Copies on a CPU share its cores: they are as many times as fast as it has more cores than the
    threads measured. Of a cluster that is not joined yet, what is not asked for is not known.
    """
    workers = chosen_workers(encoder, batches, settings.workers)
    if not settings.wants_ray:
        return Place(workers=workers)
    from mmeb_harness.engines.actors.ray_cluster import this_machine, wanted_address
    from mmeb_harness.engines.actors.seats import seats, stated_device

    if wanted_address() is not None:
        return Place(settings.gpus or settings.actors or 1, workers, by_ray=True)
    machine = this_machine()
    spread = seats(settings, stated_device(encoder), machine)
    if spread.on_gpu:
        return Place(spread.actors, workers, by_ray=True)
    torch: Any = sys.modules.get("torch")
    threads = 1 if torch is None else torch.get_num_threads()
    copies = max(1, min(spread.actors, machine.cores // threads))
    return Place(copies, workers, by_ray=True)


class _Timed(NamedTuple):
    tokens: int
    preparing: float
    running: float
    encoded: Encoded

    def rate(self, workers: int) -> float:
        """Return seconds a token: of the slower of two that overlap, or of one after the other."""
        spent = (self.preparing, self.running)
        return (max(spent[0] / workers, spent[1]) if workers else sum(spent)) / max(1, self.tokens)


def forecast(
    encoder: PlannedEncoder,
    plan: Plan,
    work: Work,
    keys_of: Mapping[str, Sequence[Key]],
    missing: Mapping[str, str],
    place: Place,
) -> Forecast:
    """Count a plan, and time a few batches of it. `keys_of` are the keys of each task's items."""
    batches = missing_batches(plan, work)
    sizes = dict(zip(plan.keys, plan.sizes.tolist(), strict=True))
    counted = Forecast(
        items=sum(map(len, batches)),
        tokens=sum(int(plan.sizes[rows].sum()) for rows in batches),
        batches=len(batches),
        reused=len(work.stored),
        missing=missing,
        tasks=[_task(name, keys, work, sizes) for name, keys in keys_of.items()],
    )
    return _timed(counted, encoder, plan, work, batches, place) if batches else counted


def _task(name: str, keys: Sequence[Key], work: Work, sizes: Mapping[Key, int]) -> TaskForecast:
    distinct = set(keys)
    wanted = [key for key in distinct if key in work.missing]
    tokens = sum(sizes[key] for key in wanted)
    return TaskForecast(name=name, items=len(distinct), to_encode=len(wanted), tokens=tokens)


def _timed(
    counted: Forecast,
    encoder: PlannedEncoder,
    plan: Plan,
    work: Work,
    batches: Sequence[Sequence[int]],
    place: Place,
) -> Forecast:
    """Add to what is counted what a few batches show, the largest of them first."""
    tokens = [int(plan.sizes[rows].sum()) for rows in batches]

    def run(number: int) -> _Timed:
        rendered = [work.missing[plan.keys[row]] for row in batches[number]]
        started = perf_counter()
        prepared = prepare_batch(encoder, rendered)
        ready = perf_counter()
        encoded = encode_prepared(encoder, rendered, prepared)
        return _Timed(tokens[number], ready - started, perf_counter() - ready, encoded)

    run(len(batches) - 1)  # loads the weights
    timed = largest = run(0)
    memory = _peak_memory(device_of(encoder))
    seconds, began = 0.0, perf_counter()
    for share in _shares(tokens):
        if perf_counter() - began < PATIENCE:
            timed = run(share.middle)
        seconds += share.tokens * timed.rate(place.workers)
    return replace(
        counted,
        seconds=seconds / place.copies,
        memory_bytes=memory,
        store_bytes=counted.items * largest.encoded.vectors.shape[1] * FLOAT_BYTES,
        is_cut=largest.encoded.recut,
        fault=next(iter(largest.encoded.failures.values()), None),
        by_ray=place.by_ray,
    )


class _Share(NamedTuple):
    """Neighbouring batches: their tokens, and the number of the one in their middle."""

    tokens: int
    middle: int


def _shares(tokens: Sequence[int]) -> list[_Share]:
    """Part batches into shares of about as many tokens, each of one batch at least."""
    ends = np.array(list(accumulate(tokens)))
    last = min(SHARES, len(tokens))
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, last) / last, side="left") + 1
    edges = sorted({0, *cuts.tolist(), len(tokens)})
    return [_Share(sum(tokens[a:b]), (a + b) // 2) for a, b in pairwise(edges)]


def _peak_memory(device: str) -> int | None:
    """Return the most bytes in use so far, on a CUDA device or by this process."""
    torch: Any = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.max_memory_allocated(device))
    if device != "cpu":
        return None
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
