"""A training stopped anywhere goes on where it was, and ends as if it had not been, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import yaml
from dying_training import run_jobs
from mmeb_harness.errors import UsageError
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.log import read_log
from toy_training import (
    Heard,
    checkpoints,
    log_lines,
    numbers,
    pair,
    subsets,
    toy,
    train_toy,
    weights,
)
from training_parts import picture

pytestmark = pytest.mark.thorough

LOSS, NORM = 1, 2
"""Where they stand in `numbers`."""


def interrupted(folder: Path, step: int, **settings: Any) -> None:
    """Train until a step is done, but not what comes after it."""
    with pytest.raises(KeyboardInterrupt):
        train_toy(folder, progress=Heard(stops_after=step), **settings)


# -- in one process --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_going_on_ends_as_if_there_had_been_no_stop(tmp_path: Path, step: int) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_toy(whole)
    interrupted(stopped, step)
    heard = Heard()
    trained = train_toy(stopped, progress=heard)
    before = (step - 1) // 2 * 2  # the newest checkpoint, of every second step
    assert heard.events[0] == ("started", (5, before))
    assert [step for what, step in heard.events if what == "stepped"] == [*range(before + 1, 6)]
    assert numbers(stopped) == numbers(whole)
    assert weights(stopped) == weights(whole)
    assert trained.loss == numbers(whole)[-1][LOSS]
    assert len({loss for _, loss, *_ in numbers(whole)}) == 5
    # of all that is needed for it, dropout's random numbers are the easiest to forget
    unlike = tmp_path / "unlike"
    train_toy(unlike, encoder=toy(dropout=0.0))
    assert numbers(unlike)[0][LOSS] != numbers(whole)[0][LOSS]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": {"name": "sgd", "momentum": 0.9, "lr": 1e-3}},
        {"optimizer": {"weight_decay": 0.1, "schedule": "cosine", "warmup": 3}},
        {"batch": {"composition": "homogeneous", "sub_batch": 2, "accumulate": 3}},
        {"batch": {"composition": "round_robin", "sub_batch": 2, "distinct_positives": True}},
        {"batch": {"chunk_items": 1}, "loss": {"symmetric": True, "dimensions": [4, 8]}},
        {"run": {"epochs": 2.5, "checkpoint_every": 3}},
    ],
    ids=["momentum", "decay", "homogeneous", "distinct", "dimensions", "epochs"],
)
def test_all_that_a_training_remembers_comes_back(
    tmp_path: Path, settings: dict[str, dict[str, Any]]
) -> None:
    train_toy(tmp_path / "whole", **settings)
    for step in (2, 4):
        interrupted(tmp_path / "stopped", step, **settings)
    train_toy(tmp_path / "stopped", **settings)
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_the_log_has_no_step_twice_and_tells_where_it_went_on(tmp_path: Path) -> None:
    for step in (3, 4):
        interrupted(tmp_path, step)
    train_toy(tmp_path)
    lines = read_log(tmp_path / "training/log.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if line["kind"] == "checkpoint"] == [2, 4, 5]
    assert [line["step"] for line in lines if line["kind"] == "start"] == [0, 2, 2]
    assert all(one["step"] <= two["step"] for one, two in pairwise(lines))


def test_what_was_told_of_steps_done_again_is_told_once(tmp_path: Path) -> None:
    rows = [pair(number, image=tmp_path / "gone.png" if number == 2 else None)
            for number in range(8)]  # fmt: skip
    told = {
        "data": {"dir": "pairs", "missing_images": "skip"},
        "of": [Subset(name="a", pairs=rows)],
    }
    train_toy(tmp_path / "whole", **told)
    for step in (3, 4):
        interrupted(tmp_path / "stopped", step, **told)
    train_toy(tmp_path / "stopped", **told)
    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        assert [line["step"] for line in log_lines(folder, "warning")] == [1, 2, 3, 4, 5]
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")


def test_a_finished_training_computes_nothing_and_reports_the_same(tmp_path: Path) -> None:
    first = train_toy(tmp_path, evaluate=None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    heard, encoder = Heard(), toy()
    encoder._module = None
    encoder.card = encoder.card.model_copy(update={"base": "gone"})  # it loads no weights either
    again = train_toy(tmp_path, encoder=encoder, progress=heard)
    assert again == first
    assert heard.events == [("warned", None)]
    assert heard.warnings == ["finished after 5 steps: run.fresh=true starts again"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"optimizer": {"lr": 2e-2}}, "optimizer.lr was 0.01, is 0.02"),
        ({"batch": {"size": 5}}, "batch.size was 4, is 5"),
        ({"run": {"seed": 7}}, "run.seed was 42, is 7"),
        ({"run": {"steps": 6}}, "run.steps was 5, is 6"),
        ({"data": {"dir": "other"}}, "data.dir was 'pairs', is 'other'"),
        ({"model": "another"}, "model.name was 'tiny', is 'another'"),
        ({"train": ["hidden"]}, "train was ['.*'], is ['hidden']"),
        ({"loss": {"symmetric": True}}, "loss.symmetric was False, is True"),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    interrupted(tmp_path, 3)
    before = weights(tmp_path)
    with pytest.raises(UsageError, match=r"run\.fresh=true") as refused:
        train_toy(tmp_path, **changed)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert weights(tmp_path) == before


def test_a_training_that_left_no_checkpoint_may_be_begun_with_other_settings(
    tmp_path: Path,
) -> None:
    interrupted(tmp_path / "first", 1)
    train_toy(tmp_path / "first", run={"seed": 7})
    train_toy(tmp_path / "other", run={"seed": 7})
    assert numbers(tmp_path / "first") == numbers(tmp_path / "other")


def test_other_data_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    with pytest.raises(UsageError, match=r"subsets\.b was 6, is 8"):
        train_toy(tmp_path, subsets(7, 8))


@pytest.mark.parametrize("step", [1, 3, 5], ids=["at once", "half way", "finished"])
def test_fresh_starts_again(tmp_path: Path, step: int) -> None:
    trained = tmp_path / "trained"
    train_toy(trained) if step == 5 else interrupted(trained, step)
    train_toy(tmp_path / "other", run={"seed": 7})
    train_toy(trained, run={"seed": 7, "fresh": True})
    assert numbers(trained) == numbers(tmp_path / "other")
    assert weights(trained) == weights(tmp_path / "other")
    assert checkpoints(trained) == [4, 5]
    assert [line["step"] for line in log_lines(trained, "start")] == [0]


def test_fresh_can_be_stopped_too_before_it_has_a_checkpoint(tmp_path: Path) -> None:
    train_toy(tmp_path / "trained")
    again = {"run": {"seed": 7, "fresh": True}}
    interrupted(tmp_path / "trained", 1, **again)
    assert weights(tmp_path / "trained")  # the model that there was stays until there is another
    train_toy(tmp_path / "trained", run={"seed": 7})
    train_toy(tmp_path / "other", run={"seed": 7})
    assert numbers(tmp_path / "trained") == numbers(tmp_path / "other")


def test_fresh_can_be_stopped_while_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    train_toy(tmp_path / "trained")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mmeb_harness.trainers.train.choose_parameters", stop)
        train_toy(tmp_path / "trained", run={"seed": 7, "fresh": True})
    train_toy(tmp_path / "trained", run={"seed": 7})
    train_toy(tmp_path / "other", run={"seed": 7})
    assert numbers(tmp_path / "trained") == numbers(tmp_path / "other")


def test_settings_that_alter_nothing_may_change(tmp_path: Path) -> None:
    free = toy(dropout=0.0)
    train_toy(tmp_path / "whole", encoder=free)
    interrupted(tmp_path / "stopped", 3, encoder=toy(dropout=0.0))
    train_toy(
        tmp_path / "stopped",
        encoder=toy(dropout=0.0),
        batch={"chunk_items": 1},
        run={"checkpoint_every": 5, "keep": 1, "workers": 0, "fresh": False},
        evaluation={"every": 100},
    )
    assert checkpoints(tmp_path / "stopped") == [5]
    for one, other in zip(numbers(tmp_path / "stopped"), numbers(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert numbers(tmp_path / "stopped")[:2] == numbers(tmp_path / "whole")[:2]


@pytest.mark.thorough
def test_workers_change_nothing_nor_does_their_number_after_a_stop(tmp_path: Path) -> None:
    train_toy(tmp_path / "none")
    interrupted(tmp_path / "two", 3, run={"workers": 2})
    train_toy(tmp_path / "two", run={"workers": 1})
    assert multiprocessing.active_children() == []
    assert numbers(tmp_path / "two") == numbers(tmp_path / "none")
    assert weights(tmp_path / "two") == weights(tmp_path / "none")


# -- killed ----------------------------------------------------------------------------------------

SHORT = {"batch": {"accumulate": 1}, "run": {"steps": 2, "checkpoint_every": 1, "keep": 1}}


@pytest.mark.thorough
def test_killed_at_any_change_to_a_file_the_same_command_ends_the_same(tmp_path: Path) -> None:
    """Before every change that a training makes to its folder, checkpoints half written included,
    it is killed once; then it goes on, every third time to be killed again, and to its end."""

    def job(name: str, dies_at: int | None = None) -> dict[str, Any]:
        return {"folder": str(tmp_path / name), "sections": SHORT, "dies_at": dies_at}

    places, again = range(1, 71), random.Random(3)
    jobs = [job("whole")]
    for place in places:
        jobs += [job(f"killed {place}", place), job(f"killed {place}")]
        if place % 3 == 0:
            jobs.insert(-1, job(f"killed {place}", again.randint(1, 40)))
    whole, *ended = run_jobs(jobs)
    assert whole["status"] == 0
    assert 40 < whole["changes"] < 70
    places = places[: whole["changes"]]
    states = [one["status"] for one in ended]
    assert states.count(-signal.SIGKILL) > len(places) * 7 / 6
    assert set(states) == {0, -signal.SIGKILL}, [one for one in ended if one["error"]]
    expected = sorted(path.name for path in files(tmp_path / "whole"))
    for place in places:
        folder = tmp_path / f"killed {place}"
        assert numbers(folder) == numbers(tmp_path / "whole"), place
        assert weights(folder) == weights(tmp_path / "whole"), place
        newest = folder / "training/step-000002"
        assert (folder / "card.json").read_bytes() == (newest / "card.json").read_bytes(), place
        assert weights(newest) == weights(folder), place
        assert sorted(path.name for path in files(folder)) == expected, place


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def own_pairs(tmp_path: Path) -> Path:
    """Two subsets of pairs on disk, some with pictures, some with targets that are the same."""
    folder = tmp_path / "pairs"
    (folder / "images").mkdir(parents=True)
    for name, count in (("first", 14), ("second", 11)):
        rows: list[dict[str, str]] = []
        for number in range(count):
            rows.append({"qry": f"{name} question {number}", "pos_text": f"answer {number % 9}"})
            if number % 3 == 0:
                rows[-1]["qry_image_path"] = f"{name}{number}.png"
                picture(number).save(folder / "images" / f"{name}{number}.png")
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.mark.thorough
def test_a_command_killed_at_random_ends_bit_identical(
    tmp_path: Path, own_pairs: Path, goldens: Path
) -> None:
    """The real thing: low-rank adapters with dropout, two batches a step, four epochs, twice
    killed from without."""
    given = {
        "model": f"clip:{goldens}/models/tiny-clip",
        "data": str(own_pairs),
        "batch": {"size": 6, "accumulate": 2, "chunk_items": 4},
        "lora": {"rank": 4, "dropout": 0.2, "dora": True},
        "optimizer": {"lr": 1e-3, "warmup": 2},
        "run": {"steps": 9, "checkpoint_every": 3, "device": "cpu"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    mh.train(given, ["run.output_dir=whole"])

    draw = random.Random(os.getpid())
    command = [sys.executable, "-m", "mmeb_harness", "train", "mine.yaml", "run.output_dir=killed"]
    for wanted in (draw.choice([4, 5]), draw.choice([7, 8])):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_step(process, tmp_path / "killed", wanted)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert max(checkpoints(tmp_path / "killed")) <= wanted
    mh.train(given, ["run.output_dir=killed"])
    assert [line["step"] for line in log_lines(tmp_path / "killed")] == [*range(1, 10)]
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert weights(tmp_path / "killed") != weights(tmp_path / "killed/training/step-000006")


def wait_for_step(process: subprocess.Popen[bytes], folder: Path, wanted: int) -> None:
    """Wait until a step is in the log, or the process has ended."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if (folder / "training/log.jsonl").exists():
            done = log_lines(folder)
            if done and done[-1]["step"] >= wanted:
                return
        time.sleep(0.005)


def test_what_a_kill_leaves_aside_is_cleaned_up(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    half = tmp_path / "training/.step-000003"
    (half / "state").mkdir(parents=True)
    (half / "state/process-0.pt").write_bytes(b"half")
    shutil.copy(tmp_path / "card.json", tmp_path / ".card.json")
    train_toy(tmp_path)  # whose checkpoints are of other steps
    train_toy(tmp_path / "whole")
    assert numbers(tmp_path) == numbers(tmp_path / "whole")
    assert [path.name for path in files(tmp_path) if path.name.startswith(".")] == []
    assert not half.exists()
