"""What is to be computed, in which batches: decided once, written down, and kept to.

The one idea: keys sorted by size (largest first, so that too large a batch shows at once) and cut
by a token budget make full batches; written into the run's folder, they let a resumed run continue
the very same batches, and so end bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from mmeb_harness.files import write_aside
from numpy.typing import NDArray

Key = bytes
"""Digest of all that determines one vector within an encoder's namespace: 16 bytes."""

PLAN_FILE = "plan.arrow"
MAX_BATCH_ITEMS = 256

ALIKE = 0.85
"""Items are of like size if none has less than this share of another's tokens. Those of one image
are then batched together: what is padded is far less than an image."""

ENOUGH = 256
"""Tokens that are worth a batch of their own, though the next items are much smaller."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The batches of a run: `keys` and `sizes` (tokens) in order, `batches` their numbers (n,).

    `identity` digests what was asked for, `name` tells this plan from any other; `fresh` says
    that only vectors computed under this very plan count.
    """

    identity: str
    name: str
    keys: Sequence[Key]
    sizes: NDArray[np.int32]
    batches: NDArray[np.int32]
    fresh: bool = False

    @property
    def tokens(self) -> int:
        """Tokens to encode, padding not counted."""
        return int(self.sizes.sum())

    def rows_by_batch(self) -> Iterator[range]:
        """Yield, for each batch in order, the rows it holds."""
        bounds = np.flatnonzero(np.diff(self.batches)) + 1
        edges = [0, *bounds.tolist(), len(self.keys)]
        for start, stop in pairwise(edges):
            if stop > start:
                yield range(start, stop)


def cut_batches(
    sizes: NDArray[np.int32],
    budget: int,
    pictures: Sequence[int] | None = None,
    *,
    pads: bool = True,
) -> list[NDArray[np.int64]]:
    """Cut items into batches of similar size, largest first, padded tokens within the budget.

    Returns the indices of each batch. Equal sizes keep their order; a single item may exceed the
    budget alone. `pictures` numbers the image of each item (-1: none): items of similar size that
    show one image come together, so that it is prepared and seen once. A batch that is padded ends
    sooner where items become much smaller.
    """
    rooms, companies = sizes.astype(np.int64), np.arange(len(sizes))
    if pictures is not None:
        _bring_together(rooms, companies, np.asarray(pictures, dtype=np.int64))
    order = np.lexsort((companies, -rooms))
    batches, start = [], 0
    while start < len(order):
        room = max(1, budget // max(1, int(rooms[order[start]])))
        stop = min(start + min(room, MAX_BATCH_ITEMS), len(order))
        if pads:
            stop = start + _of_like_size(rooms[order[start:stop]])
        batches.append(order[start:stop])
        start = stop
    return batches


def _of_like_size(falling: NDArray[np.int64]) -> int:
    """Return after how many items a batch ends: where they become much smaller than its first, once
    there are tokens enough for a device to be busy."""
    tokens = np.cumsum(falling) - falling
    ends = np.flatnonzero((falling < ALIKE * falling[0]) & (tokens >= ENOUGH))
    return int(ends[0]) if len(ends) else len(falling)


def _bring_together(
    rooms: NDArray[np.int64], companies: NDArray[np.int64], pictures: NDArray[np.int64]
) -> None:
    """Give items of one image and similar size one number and the room of their largest."""
    order = np.lexsort((-rooms, pictures))
    # the items without an image come first, and their beginning is no edge
    edges = np.flatnonzero(np.diff(pictures[order], prepend=-1, append=-1))
    for start, stop in pairwise(edges.tolist()):
        members = order[start:stop]
        if len(members) < 2:
            continue
        sizes = rooms[members]
        first = 0
        for place in range(1, len(members) + 1):
            if place == len(members) or sizes[place] < ALIKE * sizes[first]:
                rooms[members[first:place]] = sizes[first]
                companies[members[first:place]] = members[first:place].min()
                first = place


def make_plan(
    keys: Sequence[Key],
    sizes: NDArray[np.int32],
    *,
    budget: int,
    identity: str,
    name: str,
    fresh: bool = False,
    pictures: Sequence[int] | None = None,
    pads: bool = True,
) -> Plan:
    """Sort and cut the missing keys into batches, as `cut_batches` does."""
    chosen = cut_batches(sizes, budget, pictures, pads=pads)
    order = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    numbers = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
    return Plan(
        identity=identity,
        name=name,
        keys=[keys[row] for row in order],
        sizes=sizes[order],
        batches=numbers.astype(np.int32),
        fresh=fresh,
    )


def plan_identity(namespace: str, keys: Sequence[Key], budget: int) -> str:
    """Digest what is asked for: the same encoder, items and budget continue the same plan."""
    digest = hashlib.sha256(f"{namespace} {budget} {MAX_BATCH_ITEMS}".encode())
    for key in keys:
        digest.update(key)
    return digest.hexdigest()


def new_plan_name() -> str:
    """Return a name that no other plan has."""
    return uuid.uuid4().hex


def write_plan(plan: Plan, folder: Path) -> None:
    """Write the plan into a run's folder, whole or not at all."""
    metadata = {"identity": plan.identity, "name": plan.name, "fresh": str(int(plan.fresh))}
    schema = pa.schema(
        [("key", pa.binary(16)), ("size", pa.int32()), ("batch", pa.int32())], metadata=metadata
    )
    columns = [pa.array(plan.keys, pa.binary(16)), pa.array(plan.sizes), pa.array(plan.batches)]
    with write_aside(folder / PLAN_FILE) as target, pa.ipc.new_file(str(target), schema) as writer:
        writer.write_table(pa.table(columns, schema=schema))


def read_plan(folder: Path) -> Plan | None:
    """Read a run's plan; None where there is none that can be read."""
    try:
        with pa.OSFile(str(folder / PLAN_FILE)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
        metadata = table.schema.metadata
        plan = Plan(
            identity=metadata[b"identity"].decode(),
            name=metadata[b"name"].decode(),
            keys=table["key"].to_pylist(),
            sizes=table["size"].to_numpy(),
            batches=table["batch"].to_numpy(),
            fresh=metadata[b"fresh"] == b"1",
        )
    except Exception:  # whatever is wrong with the file, a plan can be made anew
        return None
    return plan if len(plan.keys) == len(plan.sizes) == len(plan.batches) else None
