"""The one table of a run's hits says what the tasks' tables say, and never something older."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mmeb_harness as mh
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import made_run
from mmeb_harness.errors import UsageError
from mmeb_harness.hits import HITS_FILE, RunHits, write_hits
from mmeb_harness.reports.board.ranking import _rows
from mmeb_harness.result import Run
from mmeb_harness.rows import read_hits, rows_path
from mmeb_harness.runfolder import clear


@pytest.fixture
def run(tmp_path: Path) -> Run:
    given = {"GQA": [1.0, 0.0, 0.5], "MSCOCO": [0.0, 1.0, 1.0]}
    made = made_run(tmp_path, given, rows=True, task={"data_digest": "data"})
    write_hits(made)
    return made


def without_tables(run: Run) -> None:
    """Remove the tables of the tasks: what is then found comes from the one table."""
    for task in run.tasks:
        rows_path(run.output_dir, task).unlink()


def test_a_run_collects_its_hits_when_it_ends(tmp_path: Path) -> None:
    run = mh.evaluate("random", suite="mini", tasks="GQA,MSCOCO_i2t", output_dir=tmp_path, limit=6)
    first = {task: read_hits(tmp_path, task) for task in run.tasks}
    assert len(first) == 2
    without_tables(run)
    for task, hits in first.items():
        found = RunHits(run).of(task)
        assert hits is not None
        assert found is not None
        assert np.array_equal(found.hit_at_1, hits.hit_at_1)
        assert np.array_equal(found.clusters, hits.clusters)
        assert (found.hit_at_1.dtype, found.clusters.dtype) == (np.float64, np.int32)


def test_tasks_of_an_earlier_run_of_the_folder_stay_in_it(tmp_path: Path) -> None:
    for task in ("GQA", "MSCOCO_i2t"):
        mh.evaluate("random", suite="mini", tasks=task, output_dir=tmp_path, limit=6)
    table = pq.read_table(tmp_path / HITS_FILE)
    assert table["task"].to_pylist() == ["GQA", "MSCOCO_i2t"]


@pytest.mark.parametrize(
    "change",
    [
        {"score": 0.75, "clusters": ()},
        {"n_queries": 4, "clusters": ()},
        {"data_digest": "others"},
        {"encoder": "1" * 64},
        {"scoring": "reference"},
        {"similarity": "dot"},
        {"limit": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hits_of_another_result_do_not_count(run: Run, change: dict[str, object]) -> None:
    without_tables(run)
    assert RunHits(run).of("GQA") is not None
    other = run.tasks["GQA"].model_copy(update=change)
    later = Run(record=run.record, tasks={**run.tasks, "GQA": other}, output_dir=run.output_dir)
    assert RunHits(later).of("GQA") is None
    assert RunHits(later).of("MSCOCO") is not None


def test_without_the_table_each_tasks_own_is_read(run: Run) -> None:
    (run.output_dir / HITS_FILE).unlink()
    found = RunHits(run).of("GQA")
    assert found is not None
    assert found.hit_at_1.tolist() == [1.0, 0.0, 0.5]


def test_ranking_needs_the_one_table_alone(run: Run) -> None:
    before = _rows(run)
    without_tables(run)
    after = _rows(run)
    assert before is not None
    assert after is not None
    assert [hits.hit_at_1.tolist() for hits in after] == [[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]]
    assert [hits.clusters.tolist() for hits in after] == [hits.clusters.tolist() for hits in before]


def test_rows_that_are_not_those_of_their_result_are_not_collected(tmp_path: Path) -> None:
    made = made_run(tmp_path, {"GQA": [1.0, 0.0]}, rows=True)
    other = made.tasks["GQA"].model_copy(update={"score": 1.0, "clusters": ()})
    write_hits(Run(record=made.record, tasks={"GQA": other}, output_dir=tmp_path))
    assert pq.read_table(tmp_path / HITS_FILE).num_rows == 0


def longer(table: pa.Table) -> pa.Table:
    column = pa.array([[1.0]] * len(table), table.schema.field("hit_at_1").type)
    return table.set_column(2, table.schema.field("hit_at_1"), column)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def changed(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [cut_off, changed(lambda table: table.drop_columns("cluster")), changed(longer), a_folder],
    ids=["cut off", "a column less", "lists of two lengths", "a folder"],
)
def test_a_spoilt_table_is_told_with_what_to_do(run: Run, spoil: Callable[[Path], None]) -> None:
    spoil(run.output_dir / HITS_FILE)
    with pytest.raises(UsageError, match=f"{HITS_FILE} cannot be read .*: remove it"):
        RunHits(run)


def test_a_cleared_folder_keeps_no_hits(tmp_path: Path) -> None:
    mh.evaluate("random", suite="mini", tasks="GQA", output_dir=tmp_path, limit=4)
    assert (tmp_path / HITS_FILE).is_file()
    clear(tmp_path)
    assert not (tmp_path / HITS_FILE).exists()
