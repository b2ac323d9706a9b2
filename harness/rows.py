"""What became of each query, and what was shown for it, as it lies beside a task's result.

`tasks/NAME.parquet` holds a row a query, `tasks/NAME.items.parquet` a row an item in the order of
the task's data. With both, a report shows the query that went wrong, and a sweep finds the stored
vectors again, without the benchmark's data and without the model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mmeb_harness.errors import UsageError
from mmeb_harness.files import is_tidy, write_aside
from mmeb_harness.gather import Gathered
from mmeb_harness.score import Outcomes
from mmeb_harness.summary import Cluster
from mmeb_harness.taskdata import TaskData
from numpy.typing import NDArray

INDICES = pa.list_(pa.int32())

ROWS = pa.schema(
    {
        **dict.fromkeys(("query", "better", "tied", "tied_gold"), pa.int32()),
        "hit_at_1": pa.float64(),
        "top_candidates": INDICES,
        "top_scores": pa.list_(pa.float32()),
        "query_item": pa.int32(),
        **dict.fromkeys(("gold_items", "top_items"), INDICES),
        "cluster": pa.int32(),
    }
)
"""A row a query. Nothing is null, and no list is empty."""

ITEMS = pa.schema(
    {
        "key": pa.binary(16),
        **dict.fromkeys(("text", "instruction", "image", "image_digest"), pa.string()),
    }
)
"""A row an item."""


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """A row a query (N): its outcome, which items it is about, and its cluster.

    `clusters` (N,) numbers the images of the queries: queries of one number show the same image.
    `query_items` (N,), `gold_items` and `top_items` point at rows of the items; `top_candidates`
    are places in the query's own candidate list, best first, with `top_scores`.
    """

    better: NDArray[np.int32]
    tied: NDArray[np.int32]
    tied_gold: NDArray[np.int32]
    hit_at_1: NDArray[np.float64]
    top_candidates: Sequence[NDArray[np.int32]]
    top_scores: Sequence[NDArray[np.float32]]
    query_items: NDArray[np.int32]
    gold_items: Sequence[NDArray[np.int32]]
    top_items: Sequence[NDArray[np.int32]]
    clusters: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.hit_at_1)


@dataclass(frozen=True, kw_only=True)
class TaskItems:
    """The items of a task (M): `keys` of their vectors, what they say and show.

    `images` are absolute paths, or None where there is no image or it lay in memory only;
    `image_digests` are there for every image.
    """

    keys: Sequence[bytes]
    texts: Sequence[str | None]
    instructions: Sequence[str | None]
    images: Sequence[str | None]
    image_digests: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)


def rows_of(outcomes: Outcomes, data: TaskData, gathered: Gathered) -> TaskRows:
    """Put the outcomes of a task beside the items they are about."""
    shown = [gathered.images[item] or f"no image, query {n}" for n, item in enumerate(data.queries)]
    numbers = {image: number for number, image in enumerate(dict.fromkeys(shown))}
    return TaskRows(
        better=outcomes.better,
        tied=outcomes.tied,
        tied_gold=outcomes.tied_gold,
        hit_at_1=outcomes.hit_at_1,
        top_candidates=outcomes.top_candidates,
        top_scores=outcomes.top_scores,
        query_items=data.queries,
        gold_items=list(data.gold),
        top_items=[row[top] for row, top in zip(data.candidates, outcomes.top_candidates)],
        clusters=np.array([numbers[image] for image in shown], dtype=np.int32),
    )


def items_of(data: TaskData, gathered: Gathered) -> TaskItems:
    """Tell what the items of a task say and show."""
    paths = [
        item.image if isinstance(item.image, str | os.PathLike) else None for item in data.items
    ]
    return TaskItems(
        keys=gathered.keys,
        texts=[item.text for item in data.items],
        instructions=[item.instruction for item in data.items],
        images=[None if path is None else _absolute(os.fspath(path)) for path in paths],
        image_digests=gathered.images,
    )


def _absolute(path: str) -> str:
    """Return `Path.absolute`, which takes long to find that there is nothing to do."""
    return path if is_tidy(path) else str(Path(path).absolute())


def clusters_of(rows: TaskRows | Hits) -> tuple[Cluster, ...]:
    """Count the clusters of queries by their size and hits: all that resampling them needs."""
    sizes = np.bincount(rows.clusters)
    hits = np.bincount(rows.clusters, weights=rows.hit_at_1)
    counts = Counter(zip(sizes.tolist(), np.round(hits, 12).tolist(), strict=True))
    return tuple(Cluster(size, hit, count) for (size, hit), count in sorted(counts.items()))


def rows_path(folder: Path, task: str) -> Path:
    """Return where a run's folder keeps the rows of a task."""
    return folder / "tasks" / f"{task}.parquet"


def items_path(folder: Path, task: str) -> Path:
    """Return where a run's folder keeps the items of a task."""
    return folder / "tasks" / f"{task}.items.parquet"


def write_rows(folder: Path, task: str, rows: TaskRows, items: TaskItems) -> None:
    """Write both tables of a task."""
    _write(items_path(folder, task), _items_table(items))
    _write(rows_path(folder, task), _rows_table(rows))


def _rows_table(rows: TaskRows) -> pa.Table:
    return pa.table(
        {
            "query": pa.array(range(len(rows)), pa.int32()),
            "better": rows.better,
            "tied": rows.tied,
            "tied_gold": rows.tied_gold,
            "hit_at_1": rows.hit_at_1,
            "top_candidates": pa.array(rows.top_candidates, INDICES),
            "top_scores": pa.array(rows.top_scores, pa.list_(pa.float32())),
            "query_item": rows.query_items,
            "gold_items": pa.array(rows.gold_items, INDICES),
            "top_items": pa.array(rows.top_items, INDICES),
            "cluster": rows.clusters,
        }
    )


def _items_table(items: TaskItems) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(items.keys, pa.binary(16)),
            "text": pa.array(items.texts, pa.string()),
            "instruction": pa.array(items.instructions, pa.string()),
            "image": pa.array(items.images, pa.string()),
            "image_digest": pa.array(items.image_digests, pa.string()),
        }
    )


def _write(path: Path, table: pa.Table) -> None:
    with write_aside(path) as target:
        pq.write_table(table, target, compression="zstd")


def read_rows(folder: Path, task: str) -> TaskRows | None:
    """Read the rows of a task, None where there are none (scores that were imported, or made by
    a release that did not keep them).

    Raises:
        UsageError: where the file is damaged.
    """
    table = _read(rows_path(folder, task), ROWS)
    if table is None:
        return None
    return TaskRows(
        better=table["better"].to_numpy(),
        tied=table["tied"].to_numpy(),
        tied_gold=table["tied_gold"].to_numpy(),
        hit_at_1=table["hit_at_1"].to_numpy(),
        top_candidates=lists(table, "top_candidates"),
        top_scores=lists(table, "top_scores"),
        query_items=table["query_item"].to_numpy(),
        gold_items=lists(table, "gold_items"),
        top_items=lists(table, "top_items"),
        clusters=table["cluster"].to_numpy(),
    )


def lists(table: Any, name: str) -> list[NDArray[Any]]:
    """Return a column of lists as arrays, a row each."""
    column = table[name].combine_chunks()
    values, ends = column.values.to_numpy(), column.offsets.to_numpy()
    return [values[start:stop] for start, stop in pairwise(ends.tolist())]


HITS = pa.schema([ROWS.field(name) for name in ("hit_at_1", "cluster")])


class Hits(NamedTuple):
    """The part of a task's rows that comparing two runs needs: hit@1 and cluster of each query."""

    hit_at_1: NDArray[np.float64]
    clusters: NDArray[np.int32]


def read_hits(folder: Path, task: str) -> Hits | None:
    """Read hits and clusters alone, None where `read_rows` gives None. Raises UsageError."""
    table = _read(rows_path(folder, task), HITS)
    if table is None:
        return None
    return Hits(table["hit_at_1"].to_numpy(), table["cluster"].to_numpy())


def read_items(folder: Path, task: str) -> TaskItems | None:
    """Read the items of a task, None where there are none. Raises UsageError for a damaged file."""
    table = _read(items_path(folder, task), ITEMS)
    if table is None:
        return None
    return TaskItems(
        keys=table["key"].to_pylist(),
        texts=table["text"].to_pylist(),
        instructions=table["instruction"].to_pylist(),
        images=table["image"].to_pylist(),
        image_digests=table["image_digest"].to_pylist(),
    )


def _read(path: Path, schema: pa.Schema) -> Any:
    """Read columns; None where the file, or the newest of them, is not there."""
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with pq.ParquetFile(path, pre_buffer=False) as file:  # sooner, on small tables
            if schema.names[-1] not in file.schema.names and "cluster" in schema.names:
                return None  # a release before clusters were kept
            table = file.read(columns=schema.names, use_threads=False)
        _check(table, schema)
        return table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): remove it and run again"
        ) from None


def _check(table: pa.Table, schema: pa.Schema) -> None:
    for field in schema:
        if field.name not in table.column_names:
            raise ValueError(f"it has no column {field.name}")
        column = table[field.name]
        if column.type != field.type:
            raise ValueError(f"its column {field.name} is {column.type}, not {field.type}")
        if schema is ITEMS and field.name != "key":
            continue
        if column.null_count:
            raise ValueError(f"its column {field.name} has gaps")
        if pa.types.is_list(field.type) and _has_empty(column):
            raise ValueError(f"its column {field.name} has empty lists")


def _has_empty(column: Any) -> bool:
    offsets = column.combine_chunks().offsets.to_numpy()
    return bool((np.diff(offsets) == 0).any())
