"""Trackers that accelerate knows by name hear what the log holds, and alter nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.result import Run, RunRecord, TaskName
from toy_training import Heard, log_lines, numbers, toy, train_toy, weights


class Notebook(GeneralTracker):  # type: ignore[misc]
    """A tracker that remembers what it is told, and keeps a file as others do."""

    name = "notebook"
    requires_logging_directory = True
    made: list[Notebook] = []  # noqa: RUF012
    fails_at = ""

    def __init__(self, run_name: str, logging_dir: str, **_: Any) -> None:
        super().__init__()
        self._fail("init")
        self.run_name, self.folder = run_name, Path(logging_dir)
        self.settings: dict[str, Any] = {}
        self.heard: list[tuple[int | None, dict[str, Any]]] = []
        self.finished = False
        (self.folder / "notes").mkdir(parents=True, exist_ok=True)
        (self.folder / "notes/events").touch()
        self.made.append(self)

    @property
    def tracker(self) -> Notebook:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = dict(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._fail("log")
        self.heard.append((step, dict(values)))

    def finish(self) -> None:
        self.finished = True

    def _fail(self, where: str) -> None:
        if self.fails_at == where:
            raise ConnectionError("the server is away\n  at line 3")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the tracker known to accelerate, whose state is of this process alone."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setattr(Notebook, "made", [])
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


TRACKED = {"trackers": ["notebook"]}


def test_a_tracker_hears_every_step_and_the_settings(tmp_path: Path) -> None:
    train_toy(tmp_path, run=TRACKED)
    (book,) = Notebook.made
    assert book.run_name == "mmeb-harness"
    assert book.settings["optimizer.lr"] == 1e-2
    assert book.settings["batch.size"] == 4
    assert book.settings["run.steps"] == 5
    assert all(isinstance(value, int | float | str) for value in book.settings.values())
    assert [step for step, _ in book.heard] == [1, 2, 3, 4, 5]
    for line, (_, heard) in zip(log_lines(tmp_path), book.heard, strict=True):
        assert heard == {name: line[name] for name in line.keys() - {"kind", "step"}}
        assert {"loss", "grad_norm", "lr", "pairs"} <= heard.keys()
    assert book.finished


def evaluated(_: Any, folder: Path) -> Run:
    """Score a task of two."""
    record = RunRecord.model_construct(
        suite_tasks=(
            TaskName(name="GQA", meta_task="vqa", split="ood"),
            TaskName(name="MSCOCO_t2i", meta_task="retrieval", split="ind"),
        )
    )
    result = type("Result", (), {"score": 0.25, "status": "ok", "error": None})()
    return Run(record=record, tasks={"GQA": result}, output_dir=folder)


def test_a_tracker_hears_the_scores_that_there_are(tmp_path: Path) -> None:
    train_toy(tmp_path, run=TRACKED, evaluate=evaluated, evaluation={"every": 2})
    (book,) = Notebook.made
    scores = [(step, heard) for step, heard in book.heard if "loss" not in heard]
    assert scores == [(step, {"ood": 0.25, "GQA": 0.25}) for step in (0, 2, 4, 5)]


def test_trackers_alter_nothing_and_may_come_and_go(tmp_path: Path) -> None:
    train_toy(tmp_path / "without")
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path / "with", run=TRACKED, progress=Heard(stops_after=3))
    train_toy(tmp_path / "with")
    assert numbers(tmp_path / "with") == numbers(tmp_path / "without")
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    train_toy(tmp_path / "with", run=TRACKED)  # finished: there is nothing to be told of
    (book,) = Notebook.made
    assert [step for step, _ in book.heard] == [1, 2, 3]


def test_starting_again_takes_no_file_from_a_tracker_at_work(tmp_path: Path) -> None:
    train_toy(tmp_path)
    train_toy(tmp_path, run={**TRACKED, "fresh": True})
    (book,) = Notebook.made
    assert (book.folder / "notes/events").exists()
    assert book.folder == tmp_path / "training"


def test_a_tracker_writes_nothing_into_a_folder_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(UsageError, match="of no training"):
        train_toy(tmp_path, run=TRACKED)
    assert Notebook.made == []
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_an_unknown_tracker_is_named_with_the_nearest_before_weights_are_loaded(
    tmp_path: Path,
) -> None:
    encoder = toy()
    encoder._module = None
    with pytest.raises(UsageError, match=r"unknown run\.trackers 'tensorbord'.*'tensorboard'"):
        train_toy(tmp_path / "out", encoder=encoder, run={"trackers": ["tensorbord"]})
    assert encoder._module is None
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_is_not_installed_is_named_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    assert get_available_trackers() == []
    encoder = toy()
    encoder._module = None
    with pytest.raises(EnvironmentFault, match="wandb is not installed: pip install wandb"):
        train_toy(tmp_path / "out", encoder=encoder, run={"trackers": ["notebook", "wandb"]})
    assert encoder._module is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["init", "log"])
def test_what_goes_wrong_in_a_tracker_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(Notebook, "fails_at", where)
    told = r"^run\.trackers: ConnectionError: the server is away \(the same command goes on without"
    with pytest.raises(EnvironmentFault, match=told):
        train_toy(tmp_path, run=TRACKED)
    train_toy(tmp_path)
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3, 4, 5]
