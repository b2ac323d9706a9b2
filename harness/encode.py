"""Encodes what a plan says is missing, batch by batch, storing as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.local import run_batches
from mmeb_harness.gather import Work
from mmeb_harness.plan import Key, Plan
from mmeb_harness.store import VectorStore


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch that is done: its keys, how many have a vector now, its tokens, how it was cut."""

    keys: Sequence[Key]
    computed: int
    tokens: int
    recut: bool


def missing_batches(plan: Plan, work: Work) -> list[list[int]]:
    """Return, for each batch of the plan with anything left to encode, the rows that are."""
    batches = [
        [row for row in rows if plan.keys[row] in work.missing] for rows in plan.rows_by_batch()
    ]
    return [rows for rows in batches if rows]


def encode_missing(
    encoder: PlannedEncoder, plan: Plan, work: Work, store: VectorStore, workers: int
) -> Iterator[Step]:
    """Encode and store the missing items; what cannot be encoded is added to `work.faults`.

    Raises:
        EncoderFailed: where the encoder does not keep its contract or fails on everything.
        EnvironmentFault: where weights cannot be loaded or vectors not be written.
    """
    batches = missing_batches(plan, work)
    rendered = [[work.missing[plan.keys[row]] for row in rows] for rows in batches]
    encoded_batches = run_batches(encoder, rendered, workers)
    try:
        for rows, encoded in zip(batches, encoded_batches, strict=True):
            keys = [plan.keys[row] for row in rows]
            if len(encoded.rows):
                store.add([keys[row] for row in encoded.rows], encoded.vectors)
            work.faults.update({keys[row]: why for row, why in encoded.failures.items()})
            yield Step(
                keys=keys,
                computed=len(encoded.rows),
                tokens=int(plan.sizes[rows].sum()),
                recut=encoded.recut,
            )
    finally:
        store.flush()
