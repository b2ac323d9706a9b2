"""The hits of all tasks of a run in one table, so that hundreds of runs can be compared at once.

`hits.parquet` repeats two columns of the tables beside the results; opening one file a run and not
one a task is what it is for. It is written when a run ends, and what it says of a task counts only
while it is of that very result; else, and where it is absent, the task's own table is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mmeb_harness.errors import UsageError
from mmeb_harness.files import write_aside
from mmeb_harness.keys import digest_of
from mmeb_harness.result import Run, TaskResult
from mmeb_harness.rows import Hits, lists, read_hits

HITS_FILE = "hits.parquet"

TABLE = pa.schema(
    {
        "task": pa.string(),
        "result": pa.string(),
        "hit_at_1": pa.list_(pa.float64()),
        "cluster": pa.list_(pa.int32()),
    }
)
"""A row a task. `result` digests what its hits follow from: encoder, data, rule of scoring."""

FACTS = {"encoder", "scoring", "similarity", "limit", "data_digest", "n_queries", "score"}


class RunHits:
    """What became of the queries of each task of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._collected = _read(run.output_dir / HITS_FILE)

    def of(self, task: str) -> Hits | None:
        """Return the hits of a task, None where they are not kept or are not those of its result.

        Raises:
            UsageError: for a damaged table.
        """
        result = self._run.tasks[task]
        hits = self._collected.get((task, _digest(result)))
        if hits is None:
            hits = read_hits(self._run.output_dir, task)
        return hits


def fits(hits: Hits, result: TaskResult) -> bool:
    """Tell whether hits are those of a result."""
    if len(hits.hit_at_1) != result.n_queries or result.n_queries == 0 or result.score is None:
        return False
    return abs(float(hits.hit_at_1.mean()) - result.score) < 1e-9


def write_hits(run: Run) -> None:
    """Collect the hits of a run's tasks into its folder's one table."""
    found = {name: read_hits(run.output_dir, name) for name in run.tasks}
    kept = {
        name: hits
        for name, hits in found.items()
        if hits is not None and fits(hits, run.tasks[name])
    }
    columns = (
        list(kept),
        [_digest(run.tasks[name]) for name in kept],
        [hits.hit_at_1 for hits in kept.values()],
        [hits.clusters for hits in kept.values()],
    )
    arrays = [pa.array(column, kind) for column, kind in zip(columns, TABLE.types, strict=True)]
    with write_aside(run.output_dir / HITS_FILE) as target:
        pq.write_table(pa.table(arrays, schema=TABLE), target, compression="zstd")


def _digest(result: TaskResult) -> str:
    return digest_of({name: getattr(result, name) for name in FACTS})


def _read(path: Path) -> Mapping[tuple[str, str], Hits]:
    """Read the hits by task and digest of its result; none where there is no table.

    Raises:
        UsageError: where the table is damaged.
    """
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path, use_threads=False)
        if table.schema != TABLE:
            raise ValueError("it has other columns")
        names = zip(table["task"].to_pylist(), table["result"].to_pylist(), strict=True)
        columns = map(Hits, lists(table, "hit_at_1"), lists(table, "cluster"))
        found = dict(zip(names, columns, strict=True))
        if any(len(hits.hit_at_1) != len(hits.clusters) for hits in found.values()):
            raise ValueError("its lists are not of one length")
        return found
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): remove it, "
            "the tables of the tasks hold the same"
        ) from None
