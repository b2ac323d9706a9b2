"""What a training leaves on disk: whole checkpoints, the newest of them a model like any other."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from dying_training import run_jobs
from mmeb_harness.card import read_card
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.trainer import TrainingProgress
from safetensors import SafetensorError
from toy_training import Heard, Toy, checkpoints, numbers, toy, train_toy, weights

pytestmark = pytest.mark.thorough

ITEM = mh.Item(text="what is the 3rd thing")


def same_files(folder: Path) -> bool:
    """Whether the files at the top of a training are those of its newest checkpoint."""
    if not checkpoints(folder):
        return False
    newest = folder / f"training/step-{checkpoints(folder)[-1]:06d}"
    own = sorted(path.name for path in newest.iterdir() if path.is_file())
    there = sorted(path.name for path in folder.iterdir() if path.is_file())
    return own == there and all((folder / name).samefile(newest / name) for name in own)


class Looking(TrainingProgress):
    """A listener that looks at the training's folder after each step and after each checkpoint."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.look = look
        self.after_steps: dict[int, Any] = {}
        self.after_checkpoints: dict[int, Any] = {}

    def stepped(self, step: int, record: Mapping[str, Any]) -> None:
        self.after_steps[step] = self.look()

    def saved(self, step: int, folder: Path) -> None:
        self.after_checkpoints[step] = self.look()


# -- which there are -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "after"),
    [
        ({"keep": 2}, {2: [2], 4: [2, 4], 5: [4, 5]}),
        ({"keep": 1}, {2: [2], 4: [4], 5: [5]}),
        ({"keep": 9, "checkpoint_every": 1}, {step: [*range(1, step + 1)] for step in range(1, 6)}),
        ({"checkpoint_every": 9}, {5: [5]}),
        (
            {"checkpoint_every": None, "steps": 25, "keep": 2},
            {3: [3], **{step: [step - 3, step] for step in range(6, 25, 3)}, 25: [24, 25]},
        ),
    ],
)
def test_the_newest_are_kept_and_the_last_is_the_model(
    tmp_path: Path, run: dict[str, Any], after: dict[int, list[int]]
) -> None:
    looking = Looking(lambda: (checkpoints(tmp_path), same_files(tmp_path)))
    train_toy(tmp_path, run=run, progress=looking)
    assert {step: kept for step, (kept, _) in looking.after_checkpoints.items()} == after
    assert all(same for _, same in looking.after_checkpoints.values())
    between = {step: seen for step, seen in looking.after_steps.items() if step > min(after)}
    assert all(same for _, same in between.values())


def test_the_model_at_the_top_takes_no_room_of_its_own(tmp_path: Path) -> None:
    train_toy(tmp_path, run={"keep": 1})
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    apart = sum(path.stat().st_size for path in paths)
    together = sum({path.stat().st_ino: path.stat().st_size for path in paths}.values())
    model = sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file())
    assert model > 0
    assert together == apart - model


def test_where_files_cannot_be_linked_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path, progress=Heard(stops_after=3))
    assert weights(tmp_path) == weights(tmp_path / "training/step-000002")
    train_toy(tmp_path)
    newest = tmp_path / "training/step-000005"
    assert weights(tmp_path) == weights(newest) != weights(tmp_path / "training/step-000004")
    assert (tmp_path / "card.json").read_text() == (newest / "card.json").read_text()


# -- a model like any other ------------------------------------------------------------------------


@pytest.fixture
def golden_training(goldens: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return `(listener, **sections)`: three steps of the tiny CLIP on two golden subsets."""

    def train(listener: TrainingProgress, **sections: Any) -> Any:
        shutil.copytree(goldens / "models/tiny-clip", tmp_path / "models/base")
        given = {
            "model": "clip:models/base",  # relative to where it is trained
            "data": {
                "suite": "mmeb",
                "dir": str(goldens / "data/train"),
                "image_dir": str(goldens / "data/train_images"),
                "subsets": ["ImageNet-1K", "MSCOCO_t2i"],
            },
            "batch": {"size": 4},
            "optimizer": {"lr": 1e-2},
            "run": {"output_dir": "out/my clip", "steps": 3, "checkpoint_every": 2},
        }
        return mh.train({**given, **sections}, progress=listener)

    return train


@pytest.mark.thorough
@pytest.mark.parametrize("lora", [{"rank": 2, "dropout": 0.0, "dora": True}, False])
def test_it_loads_and_is_scored_while_training_goes_on_and_from_elsewhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden_training: Callable[..., Any],
    lora: Any,
) -> None:
    folder, elsewhere = tmp_path / "out/my clip", tmp_path / "elsewhere"
    elsewhere.mkdir()

    def look() -> Any:
        if not (folder / "card.json").is_file():
            return None
        with monkeypatch.context() as patch:
            patch.chdir(elsewhere)
            encoder = mh.load_encoder(str(folder), device="cpu")
            return encoder.card, encoder.encode([ITEM])

    looking = Looking(look)
    golden_training(looking, lora=lora)
    card, vectors = looking.after_steps[3]
    assert np.array_equal(looking.after_checkpoints[2][1], vectors)
    assert not np.allclose(looking.after_checkpoints[3][1], vectors, atol=1e-4)
    assert card.name == "my clip"
    assert card.family == "clip"
    assert card.training_datasets == ("ImageNet-1K", "MSCOCO_t2i")
    assert card.verified == "no"
    if lora:
        assert card.base == str(tmp_path / "models/base")
        assert card.adapter == str(folder / ".") or Path(card.adapter) == folder
    else:
        assert Path(card.base) == folder
        assert card.adapter is None

    monkeypatch.chdir(elsewhere)
    arguments = ["run", "-m", str(folder), "--suite", "mini", "-t", "ImageNet-1K,GQA"]
    monkeypatch.setenv("MMEB_HARNESS_DEVICE", "cpu")
    assert _run([*arguments, "--limit", "2", "-o", "scored"]) == 0
    record = json.loads((elsewhere / "scored/run.json").read_text())
    assert record["model"] in (str(folder), "my clip")


def test_the_saved_model_is_the_one_under_training(tmp_path: Path) -> None:
    encoder = toy()

    def apart() -> float | None:
        if not (tmp_path / "card.json").is_file():
            return None
        encoder.module.eval()
        there = Toy(read_card(tmp_path)).encode([ITEM])
        apart = float(np.abs(there - encoder.encode([ITEM])).max())
        encoder.module.train()
        return apart

    looking = Looking(apart)
    train_toy(tmp_path, encoder=encoder, progress=looking)
    assert looking.after_checkpoints == {2: 0.0, 4: 0.0, 5: 0.0}
    assert looking.after_steps[3] > 1e-3


# -- what goes wrong on a disk ---------------------------------------------------------------------


@pytest.mark.thorough
def test_a_full_disk_leaves_the_checkpoint_before_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    """A limit on the size of files stops writing half way, as a full disk does."""
    train_toy(tmp_path / "whole")
    state = tmp_path / "whole/training/step-000005/state/process-0.pt"
    room = [state.stat().st_size - 1, 8_000]
    for size in room:
        with pytest.raises(KeyboardInterrupt):
            train_toy(tmp_path / f"full {size}", progress=Heard(stops_after=3))
    before = [files_of_step(tmp_path / f"full {size}", 2) for size in room]
    jobs = [{"folder": str(tmp_path / f"full {size}"), "file_size": size} for size in room]
    for size, kept, full in zip(room, before, run_jobs(jobs), strict=True):
        assert full["status"] == EnvironmentFault.exit_status, size
        assert "the checkpoint step-000004 was not written" in full["error"]
        assert "those before it are whole: ['step-000002']" in full["error"]
        assert "Is the disk full? The same command goes on" in full["error"]
        assert "\n" not in full["error"]
        folder = tmp_path / f"full {size}"
        assert checkpoints(folder) == [2]
        assert files_of_step(folder, 2) == kept
        assert not list((folder / "training").glob(".*"))
        assert same_files(folder)
        train_toy(folder)
        assert numbers(folder) == numbers(tmp_path / "whole")
        assert weights(folder) == weights(tmp_path / "whole")


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2816 vs 2710"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("what", ["model", "state"])
def test_each_library_s_word_for_a_full_disk_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path, progress=Heard(stops_after=3))
    before = files_of_step(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(*((Toy, "save") if what == "model" else (torch, "save")), full)
        with pytest.raises(EnvironmentFault, match="Is the disk full") as told:
            train_toy(tmp_path)
    assert "step-000004 was not written" in str(told.value)
    assert "step-000002" in str(told.value)
    assert checkpoints(tmp_path) == [2]
    assert same_files(tmp_path)
    assert files_of_step(tmp_path, 2) == before
    assert not [*(tmp_path / "training").glob(".*")]
    train_toy(tmp_path)
    train_toy(tmp_path / "whole")
    assert numbers(tmp_path) == numbers(tmp_path / "whole")


def files_of_step(folder: Path, step: int) -> dict[Path, bytes]:
    found = (folder / f"training/step-{step:06d}").rglob("*")
    return {path: path.read_bytes() for path in found if path.is_file()}


@pytest.mark.parametrize("name", ["config.json", "card.json", "model.safetensors", "notes.txt"])
def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    for run in ({}, {"fresh": True}):
        with pytest.raises(UsageError, match=r"of no training: choose another run\.output_dir"):
            train_toy(tmp_path, run=run)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "{}"}


def test_a_folder_that_cannot_be_written_is_named_before_any_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    heard = Heard()
    for folder in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nothing/here")):
        with pytest.raises(EnvironmentFault, match=r"(cannot|could not) be written"):
            train_toy(folder, progress=heard)
    assert heard.events == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_a_damaged_state_is_named_and_the_one_before_can_be_gone_on_from(
    tmp_path: Path, damage: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path, progress=Heard(stops_after=5))
    newest = tmp_path / "training/step-000004"
    state = newest / "state/process-0.pt"
    if damage == "gone":
        state.unlink()
    else:
        state.write_bytes(state.read_bytes()[:5000] if damage == "cut" else b"garbage")
    with pytest.raises(EnvironmentFault, match=f"{state} cannot be read") as told:
        train_toy(tmp_path)
    assert f"remove {newest} to go on from the one before" in str(told.value)
    assert "\n" not in str(told.value)
    shutil.rmtree(newest)
    heard = Heard()
    train_toy(tmp_path, progress=heard)
    assert heard.events[0] == ("started", (5, 2))
    train_toy(tmp_path / "whole")
    assert numbers(tmp_path) == numbers(tmp_path / "whole")


def test_a_damaged_record_is_named_and_fresh_helps(tmp_path: Path) -> None:
    train_toy(tmp_path)
    (tmp_path / "training/record.json").write_text('{"identity": {"ba')
    with pytest.raises(UsageError, match=r"record\.json cannot be read.*run\.fresh=true"):
        train_toy(tmp_path)
    train_toy(tmp_path, run={"fresh": True})
    assert numbers(tmp_path)


def test_the_record_tells_what_was_trained_with_what(tmp_path: Path) -> None:
    train_toy(tmp_path)
    record = json.loads((tmp_path / "training/record.json").read_text())
    assert record["config"]["optimizer"]["lr"] == 1e-2
    assert record["pairs"] == {"a": 7, "b": 6}
    assert record["versions"]["torch"] == torch.__version__
    assert record["device"] == "cpu"
    assert record["command"]
    assert record["started"]


# -- whose folder it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_two_trainings_at_once_in_one_folder_are_refused(tmp_path: Path, fresh: bool) -> None:
    faults: list[str] = []

    def start_another() -> None:
        with pytest.raises(EnvironmentFault, match="another process is training in") as told:
            train_toy(tmp_path, run={"fresh": fresh})
        faults.append(str(told.value))

    train_toy(tmp_path, progress=Looking(start_another))
    assert len(faults) >= 5
    assert [step for step, *_ in numbers(tmp_path)] == [1, 2, 3, 4, 5]
    train_toy(tmp_path, run={"fresh": True})  # it is let go at the end


def test_hidden_files_make_a_folder_nobodys(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    train_toy(tmp_path)
    assert checkpoints(tmp_path)
