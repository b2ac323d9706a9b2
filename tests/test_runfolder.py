"""A run's folder that is not as we left it: one clear line, and nothing outside it is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import HarnessError, UsageError
from mmeb_harness.reporter import Reporter, ReportOptions
from mmeb_harness.rows import items_path, read_hits, read_items, read_rows, rows_path
from mmeb_harness.runfolder import clear, read_run

TASK = "GQA"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of one task of `mini`, drawn at random."""
    mh.evaluate("random", suite="mini", tasks=TASK, output_dir=tmp_path / "run", limit=4)
    return tmp_path / "run"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = _run([str(argument) for argument in arguments])
    return status, capsys.readouterr().err.strip()


@pytest.mark.parametrize("name", ["../../pwned", "/pwned", "a/b", "..", "a\0b", "x" * 100_000])
def test_a_task_that_cannot_name_files_is_refused(folder: Path, name: str) -> None:
    outside = folder.parent.parent / "pwned.json"
    outside.write_text("theirs")
    edit(folder / "run.json", lambda record: record["suite_tasks"][0].update(name=name))
    for work in (read_run, clear):
        with pytest.raises(UsageError, match="cannot name files"):
            work(folder)
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize(
    "change",
    [{"name": "EDIS"}, {"meta_task": "grounding"}, {"split": "ind"}],
    ids=["name", "meta-task", "split"],
)
def test_the_result_of_another_task_does_not_count(folder: Path, change: dict[str, str]) -> None:
    edit(folder / f"tasks/{TASK}.json", lambda result: result.update(change))
    with pytest.raises(UsageError, match="holds the result of another task"):
        read_run(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"clusters": [[1, 1.0, 4]], "score": 0.0},
        {"clusters": [[0, 0, 64]]},
        {"clusters": [[1, 2.0, 4]]},
        {"clusters": [[1, 0.0, 10**30]]},
        {"ci": [-3, 7]},
        {"ci": [0.9, 0.1]},
        {"ci": [float("nan"), float("nan")]},
        {"score": float("inf")},
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_told(
    folder: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / f"tasks/{TASK}.json", lambda result: result.update(change))
    status, said = told(capsys, "report", folder)
    assert status == 2
    assert "cannot be read as a result" in said
    assert said.count("\n") == 0


def test_no_infinite_number_reaches_a_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / "run.json", lambda run: run["card"].update(published={"overall": float("nan")}))
    status, said = told(capsys, "report", folder, "--format", "json")
    assert (status, said.count("\n")) == (2, 0)


def table_without(path: Path, name: str) -> None:
    pq.write_table(pq.read_table(path).drop_columns([name]), path)


def retyped(path: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: table_without(path, "top_scores"), "no column top_scores"),
        (lambda path: table_without(path, "hit_at_1"), "no column hit_at_1"),
        (lambda path: retyped(path, "hit_at_1", pa.array(list("abcd"))), "is string, not double"),
        (
            lambda path: retyped(path, "gold_items", pa.array([[]] * 4, pa.list_(pa.int32()))),
            "has empty lists",
        ),
        (
            lambda path: retyped(path, "gold_items", pa.array([None] * 4, pa.list_(pa.int32()))),
            "has gaps",
        ),
        (lambda path: path.write_bytes(b"PAR1 no"), "cannot be read"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is not a file"),
        (lambda path: (path.unlink(), path.mkdir()), "it is not a file"),
    ],
    ids=["no scores", "no hits", "texts", "no gold", "gaps", "damaged", "pipe", "folder"],
)
def test_a_spoilt_table_is_one_clear_line(
    folder: Path, spoil: Callable[[Path], Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(rows_path(folder, TASK))
    with pytest.raises(UsageError, match="remove it and run again") as error:
        read_rows(folder, TASK)
    assert why in str(error.value)
    status, said = told(capsys, "report", folder, "--format", "html")
    assert (status, said.count("\n")) == (2, 0)


def test_items_without_their_texts_are_told(folder: Path) -> None:
    table_without(items_path(folder, TASK), "text")
    with pytest.raises(UsageError, match="no column text"):
        read_items(folder, TASK)


def test_rows_of_a_release_before_clusters_are_no_rows(folder: Path) -> None:
    path = rows_path(folder, TASK)
    older = ["query_item", "gold_items", "top_items", "cluster"]
    pq.write_table(pq.read_table(path).drop_columns(older), path)
    assert read_rows(folder, TASK) is None
    assert read_hits(folder, TASK) is None


def test_a_pipe_in_place_of_a_result_is_told(folder: Path) -> None:
    path = folder / f"tasks/{TASK}.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="it is not a file"):
        read_run(folder)


def test_a_page_is_the_same_bytes_whatever_the_terminal_writes(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    assert _run(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    capfdbinary.readouterr()
    assert _run(["report", str(folder), "--format", "html"]) == 0
    assert capfdbinary.readouterr().out == (tmp_path / "page.html").read_bytes()


def leaving(*_: Any) -> str:
    """A reporter that was a script once."""
    raise SystemExit("enough")


def test_a_reporter_that_fails_or_gives_no_text_is_named() -> None:
    def render(factory: str) -> str:
        return Reporter(name="mine", formats=("x",), factory=factory).render([], ReportOptions())

    with pytest.raises(HarnessError, match=r"reporter mine \(builtins:len\) failed: TypeError"):
        render("builtins:len")
    with pytest.raises(HarnessError, match=r"reporter mine .* failed: SystemExit: enough"):
        render("test_runfolder:leaving")
    with pytest.raises(HarnessError, match="reporter mine gave bool, not a text"):
        render("operator:is_")
    with pytest.raises(TypeError, match="dotted path"):
        Reporter(name="mine", formats=("x",), factory=len)  # type: ignore[arg-type]
