"""Two runs are compared only where both answered the very same queries, and the rest is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmeb_harness.cli.compare import _show
from mmeb_harness.cli.main import _run
from mmeb_harness.comparison import Comparison, Difference, compare
from mmeb_harness.errors import UsageError
from mmeb_harness.result import Run, RunRecord, TaskName, TaskResult
from mmeb_harness.rows import rows_path
from mmeb_harness.runfolder import read_run, write_record, write_task
from mmeb_harness.significance import holm
from numpy.random import default_rng

TASKS = (
    TaskName(name="First", meta_task="classification", split="ind"),
    TaskName(name="Second", meta_task="classification", split="ood"),
    TaskName(name="Third", meta_task="vqa", split="ind"),
)
QUERIES = 120

Make = Callable[..., Run]
Rows = Mapping[str, Sequence[float]]


def hits(share: float, seed: int) -> list[float]:
    return [float(value < share) for value in default_rng(seed).random(QUERIES)]


def rows_at(*shares: float, seed: int = 0) -> dict[str, list[float]]:
    """Return the hits of each task: a run that is better misses none that another one hits."""
    return {task.name: hits(share, seed) for task, share in zip(TASKS, shares)}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return `(name, rows, cluster size, fields of the record) -> run`, read from its folder."""

    def run(
        name: str,
        rows: Rows,
        *,
        size: int = 1,
        tasks: Sequence[TaskName] = TASKS,
        clusters: Sequence[int] | None = None,
        **fields: Any,
    ) -> Run:
        record = RunRecord(
            **{
                "model": name, "encoder": "e", "suite": "toy", "suite_tasks": tuple(tasks),
                "tasks": tuple(rows), "scoring": "expected", "similarity": "cosine",
                "batch_tokens": 1, "workers": 0, "started": "", **fields,
            }
        )  # fmt: skip
        folder = tmp_path / name
        write_record(folder, record)
        for task in tasks:
            if task.name in rows:
                values = np.array(rows[task.name], dtype=np.float64)
                write_task(folder, result_of(record, task, values), None)
                numbers = np.arange(len(values)) // size if clusters is None else clusters
                write_hits(folder, task.name, values, np.array(numbers, dtype=np.int32))
        return read_run(folder)

    return run


def result_of(record: RunRecord, task: TaskName, values: np.ndarray, **fields: Any) -> TaskResult:
    score = float(values.mean()) if len(values) else None
    return TaskResult(
        **{
            **task.model_dump(), "suite": record.suite, "metric": "hit@1", "status": "ok",
            "score": score, "hit_at_1": score, "n_queries": len(values), "encoder": "e",
            "scoring": record.scoring, "similarity": "cosine", "limit": record.limit,
            "data_digest": "d", **fields,
        }
    )  # fmt: skip


def write_hits(folder: Path, task: str, values: np.ndarray, clusters: np.ndarray) -> None:
    table = pa.table({"hit_at_1": values, "cluster": clusters})
    pq.write_table(table, rows_path(folder, task))


def changed(run: Run, task: str, **fields: Any) -> Run:
    """Return the run with other facts of a task."""
    write_task_only(run, run.tasks[task].model_copy(update=fields))
    return read_run(run.output_dir)


def write_task_only(run: Run, result: TaskResult) -> None:
    (run.output_dir / "tasks" / f"{result.name}.json").write_text(result.model_dump_json())


def by_key(differences: Sequence[Difference]) -> dict[str, Difference]:
    return {one.key: one for one in differences}


# -- what is compared ---------------------------------------------------------------------------


def test_each_task_and_each_whole_set_is_compared(make: Make) -> None:
    found = compare(make("a", rows_at(0.9, 0.5, 0.5)), make("b", rows_at(0.4, 0.5, 0.45)))
    assert [one.key for one in found.tasks] == ["First", "Second", "Third"]
    keys = ["overall", "ind", "ood", "classification", "vqa"]
    assert [one.key for one in found.averages] == keys
    tasks, averages = by_key(found.tasks), by_key(found.averages)
    first = tasks["First"]
    assert first.difference == pytest.approx(first.a - first.b)
    assert first.difference > 0.3
    assert first.interval.low < first.difference < first.interval.high
    assert first.is_significant
    assert not tasks["Second"].is_significant
    assert tasks["Second"].p_value == 1
    mean = sum(one.difference for one in found.tasks) / 3
    assert averages["overall"].difference == pytest.approx(mean)
    assert averages["overall"].queries == 3 * QUERIES
    assert averages["ood"].difference == 0
    assert averages["vqa"].interval == pytest.approx(tasks["Third"].interval)
    assert averages["overall"].corrected is None
    corrected = [one.corrected for one in found.tasks]
    assert corrected == holm([one.p_value for one in found.tasks])
    assert tasks["Third"].corrected > tasks["Third"].p_value
    assert found.left_out == {}


def test_turned_round_it_says_the_same_of_the_other(make: Make) -> None:
    a, b = make("a", rows_at(0.9, 0.5, 0.5)), make("b", rows_at(0.4, 0.5, 0.6, seed=1))
    one, other = compare(a, b), compare(b, a)
    for left, right in zip([*one.tasks, *one.averages], [*other.tasks, *other.averages]):
        assert right.difference == -left.difference
        assert right.p_value == pytest.approx(left.p_value)
        assert right.interval.low == pytest.approx(-left.interval.high)


def test_a_run_with_itself_gives_no_finding(make: Make) -> None:
    run = make("a", rows_at(0.9, 0.0, 1.0))
    found = compare(run, run)
    assert len(found.tasks) == 3
    for one in [*found.tasks, *found.averages]:
        assert one.p_value == 1
        assert one.difference == 0
        assert not one.is_significant
    assert "no difference was found" in found.conclusion
    assert "A is better on 0, B on 0; on 3" in found.conclusion


def test_queries_of_one_image_count_together(make: Make) -> None:
    values = {"First": np.repeat(hits(0.7, 0)[:30], 4), "Second": hits(0.5, 1)}
    others = {"First": np.repeat(hits(0.3, 5)[:30], 4), "Second": hits(0.5, 1)}
    apart = compare(make("a", values), make("b", others)).tasks[0]
    together = compare(make("c", values, size=4), make("d", others, size=4)).tasks[0]
    assert together.difference == apart.difference
    assert together.p_value > 2 * apart.p_value
    assert together.interval.low < apart.interval.low


# -- what is left out -----------------------------------------------------------------------------


def damage_score(run: Run) -> Run:
    return changed(run, "First", score=0.123)


def drop_rows(run: Run) -> Run:
    rows_path(run.output_dir, "First").unlink()
    return run


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: changed(run, "First", status="failed", score=None, error="no x.png"),
         "failed in B: no x.png"),
        (lambda run: changed(run, "First", data_digest="other"), "different data"),
        (lambda run: changed(run, "First", n_queries=7), "A has 120 queries, B 7"),
        (damage_score, "the rows of B do not give its score"),
        (drop_rows, "B keeps no rows"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_compared_is_left_out_with_its_reason(
    make: Make, spoil: Callable[[Run], Run], reason: str
) -> None:
    found = compare(make("a", rows_at(0.9, 0.5, 0.5)), spoil(make("b", rows_at(0.4, 0.5, 0.5))))
    assert [one.key for one in found.tasks] == ["Second", "Third"]
    assert list(found.left_out) == ["First"]
    assert reason in found.left_out["First"]
    assert [one.key for one in found.averages] == ["ood", "vqa"]
    assert "Only 2 of 3 tasks" in found.conclusion
    assert "corrected for 2" in found.conclusion


def test_a_task_that_one_run_lacks_is_left_out(make: Make) -> None:
    rows = rows_at(0.9, 0.5, 0.5)
    del rows["Third"]
    found = compare(make("a", rows), make("b", rows_at(0.4, 0.5, 0.5)))
    assert found.left_out == {"Third": "not run in A"}
    assert [one.key for one in found.averages] == ["ood", "classification"]


def test_clusters_may_be_numbered_otherwise_but_not_be_others(make: Make) -> None:
    rows = rows_at(0.9, 0.5, 0.5)
    numbers = np.arange(QUERIES) // 4
    a = make("a", rows, clusters=numbers)
    assert compare(a, make("b", rows, clusters=numbers.max() - numbers)).left_out == {}
    with pytest.raises(UsageError, match="different images"):
        compare(a, make("c", rows, clusters=np.arange(QUERIES) // 5))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"suite": "other"}, "different suites cannot be compared: toy and other"),
        ({"limit": 5}, "different limits of queries cannot be compared: none and 5"),
        ({"scoring": "reference"}, "different rules of scoring .*: expected and reference"),
        ({"tasks": TASKS[:2]}, "the suite toy had other tasks"),
    ],
)
def test_runs_of_another_kind_are_refused(make: Make, fields: dict[str, Any], told: str) -> None:
    rows = rows_at(0.9, 0.5, 0.5)
    with pytest.raises(UsageError, match=told) as caught:
        compare(make("a", rows), make("b", rows, **fields))
    assert "\n" not in str(caught.value)


def test_a_damaged_table_is_named(make: Make) -> None:
    a, b = make("a", rows_at(0.9, 0.5, 0.5)), make("b", rows_at(0.9, 0.5, 0.5))
    rows_path(b.output_dir, "Second").write_bytes(b"PAR1 no more")
    with pytest.raises(UsageError, match=r"Second\.parquet cannot be read"):
        compare(a, b)


# -- the command ----------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = _run(["compare", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_table_says_it_all_in_80_columns(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["RefCOCO-Matching", "Visual7W-Pointing", "InfographicsVQA"]
    tasks = [task.model_copy(update={"name": name}) for task, name in zip(TASKS, names)]
    shares = ((1.0, 0.5, 0.5), (0.0, 0.5, 0.55))
    rows = [dict(zip(names, rows_at(*share).values())) for share in shares]
    rows[1][names[2]] = rows[1][names[2]][:100]
    a, b = (make(name, row, tasks=tasks) for name, row in zip("ab", rows))
    monkeypatch.setattr("mmeb_harness.cli.compare.WIDTH", 80)
    status, out, errors = printed(capsys, a.output_dir, b.output_dir)
    assert (status, errors) == (0, "")
    table = out[: out.index("Only 2 of 3")].splitlines()[2:]
    assert max(map(len, table)) <= 80
    lines = {line.split()[0]: line.split() for line in table if line.strip()}
    numbers = ["100.0", "0.0", "+100.0", "+96.2", "to", "+100.0", "<0.001", "<0.001", "*"]
    assert lines["RefCOCO-Matching"][1:4] + lines["RefCOCO-Matching"][5:] == (
        numbers[:3] + numbers[4:]
    )
    assert lines["Visual7W-Pointing"][3] == "+0.0"
    assert lines["Visual7W-Pointing"][-1] == "1.000"
    assert "OOD" in lines
    assert "IND" not in lines
    assert "left out, A has 120 queries, B 100: InfographicsVQA" in out


def test_json_is_one_object(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make("a", rows_at(0.9, 0.5, 0.5)), make("b", rows_at(0.4, 0.5, 0.45))
    status, out, _ = printed(capsys, a.output_dir, b.output_dir, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["a"] == {"model": "a", "output_dir": str(a.output_dir)}
    assert found["tasks"]["First"]["significant"] is True
    assert set(found["tasks"]["First"]) == {
        "a", "b", "difference", "interval", "p_value", "corrected", "queries", "significant",
    }  # fmt: skip
    low, high = found["averages"]["overall"]["interval"]
    assert low < found["averages"]["overall"]["difference"] < high
    assert found["left_out"] == {}
    assert "A is better" in found["conclusion"]


def test_what_cannot_be_compared_is_status_2(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    a = make("a", rows_at(0.9, 0.5, 0.5))
    b = make("b", rows_at(0.9, 0.5, 0.5), suite="other")
    status, out, errors = printed(capsys, a.output_dir, b.output_dir, "--json")
    assert status == 2
    assert errors.startswith("error: runs over different suites")
    assert json.loads(out)["tasks"] == {}
    assert "different suites" in json.loads(out)["error"]
    assert printed(capsys, a.output_dir, a.output_dir / "none")[0] == 2
    assert printed(capsys, a.output_dir)[0] == 2


def test_names_from_files_are_shown_as_text(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]x[/] \x1b[31m\u202e" + "y" * 100_000
    a = make("a", rows_at(0.9, 0.5, 0.5))
    write_record(a.output_dir, a.record.model_copy(update={"model": name}))
    status, out, _ = printed(capsys, a.output_dir, a.output_dir)
    assert status == 0
    assert "[bold]x[/] " in out
    assert not {"\x1b", "\u202e"} & set(out)
    found = compare(read_run(a.output_dir), a)  # no folder can hold a task of this name
    named = replace(found.tasks[0], key="[red]t\x1b\u202e")
    _show(replace(found, tasks=[named, *found.tasks[1:]]))
    out = capsys.readouterr().out
    assert "[red]t" in out
    assert not {"\x1b", "\u202e"} & set(out)
    assert len(out) < 10_000


def test_the_conclusion_names_the_better_one(make: Make) -> None:
    good, bad = make("a", rows_at(0.9, 0.9, 0.9)), make("b", rows_at(0.3, 0.3, 0.3))
    assert "Overall, A is better" in compare(good, bad).conclusion
    assert "Overall, B is better" in compare(bad, good).conclusion
    assert "A is better on 0, B on 3" in compare(bad, good).conclusion
    assert isinstance(compare(good, bad), Comparison)
