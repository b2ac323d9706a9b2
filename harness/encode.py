"""Encodes what a plan says is missing, batch by batch, storing as it goes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from mmeb_harness.engines.batch import Encoded
from mmeb_harness.engines.engine import Engine
from mmeb_harness.errors import EncoderFailed
from mmeb_harness.gather import Work
from mmeb_harness.plan import Key, Plan
from mmeb_harness.store import VectorStore

BARREN = 4
"""Items that may fail from the start before the encoder itself is taken to be at fault."""


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
    plan: Plan, work: Work, store: VectorStore, engine: Engine
) -> Generator[Step, None, None]:
    """Encode and store the missing items; what cannot be encoded is added to `work.faults`.

    Raises:
        EncoderFailed: where the encoder does not keep its contract or fails on everything.
        EnvironmentFault: where weights cannot be loaded or vectors not be written.
    """
    batches = missing_batches(plan, work)
    rendered = [[work.missing[plan.keys[row]] for row in rows] for rows in batches]
    with contextlib.closing(engine.run(rendered)) as batches_done:
        try:
            for number, encoded in _fertile(batches_done):
                rows = batches[number]
                keys = [plan.keys[row] for row in rows]
                work.faults.update({keys[row]: why for row, why in encoded.failures.items()})
                done = [keys[row] for row in encoded.rows]
                changed = {key: why for key in done if (why := work.changed(key)) is not None}
                work.faults.update(changed)
                kept = [place for place, key in enumerate(done) if key not in changed]
                if kept:
                    vectors = encoded.vectors[kept] if changed else encoded.vectors
                    store.add([done[place] for place in kept], vectors)
                yield Step(
                    keys=keys,
                    computed=len(kept),
                    tokens=int(plan.sizes[rows].sum()),
                    recut=encoded.recut,
                )
        finally:
            store.flush()


def _fertile(done: Iterator[tuple[int, Encoded]]) -> Iterator[tuple[int, Encoded]]:
    """Pass on what is done; give up where nothing but failures has come from the start."""
    barren = 0
    for number, encoded in done:
        barren = -1 if len(encoded.rows) or barren < 0 else barren + len(encoded.failures)
        if barren >= BARREN:
            why = next(iter(encoded.failures.values()))
            raise EncoderFailed(f"the encoder fails on every item it is given: {why}")
        yield number, encoded
