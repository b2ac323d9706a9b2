"""What cannot be learnt from: pictures that are not there, numbers that are none.

A training leaves out what it may, stops with one clear line where it must, and never keeps what is
spoilt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import torch
import yaml
from mmeb_harness.card import read_card
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import TaskError
from mmeb_harness.task import Pair
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.batches import BatchOrder
from mmeb_harness.trainers.config import BatchSection
from mmeb_harness.trainers.lora import UnderTraining
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.step import Diverged
from toy_training import (
    NO_NUMBER,
    NO_SLOPE,
    PLUGIN,
    Heard,
    Toy,
    checkpoints,
    log_lines,
    numbers,
    pair,
    pairs,
    subsets,
    toy,
    train_toy,
    weights,
)
from training_parts import difference, picture, stepped, stepper

SKIP = {"data": {"dir": "pairs", "missing_images": "skip"}}


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    """A picture that is there."""
    path = tmp_path / "cat.png"
    picture(1).save(path)
    return path


def absent(folder: Path) -> list[Path]:
    """Return pictures that cannot be used, each in a way of its own."""
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").touch()
    picture(2, (64, 64)).save(folder / "whole.png")
    (folder / "half.png").write_bytes((folder / "whole.png").read_bytes()[:200])
    (folder / "a folder.png").mkdir()
    return [folder / f"{name}.png" for name in ("gone", "text", "empty", "half", "a folder")]


# -- pictures --------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_used_stops_training_and_is_named(
    tmp_path: Path, cat: Path
) -> None:
    for path in absent(tmp_path):
        data = [Subset(name="a", pairs=[*pairs(5), pair(5, image=cat), pair(6, image=path)])]
        with pytest.raises(TaskError, match=r"^step 1: query 'what is the 6th thing'") as told:
            train_toy(tmp_path / "out" / path.stem, data)
        assert str(path) in str(told.value)
        assert "data.missing_images=skip leaves such pairs out" in str(told.value)
        assert "\n" not in str(told.value)


def test_an_item_with_nothing_in_it_is_one_too(tmp_path: Path) -> None:
    nothing = replace(pair(6), positive=mh.Item(role="candidate"))
    with pytest.raises(TaskError, match="candidate: has neither text nor image"):
        train_toy(tmp_path, [Subset(name="a", pairs=[*pairs(7), nothing])])


def test_pairs_with_such_pictures_are_left_out_counted_and_told_of(
    tmp_path: Path, cat: Path
) -> None:
    bad = absent(tmp_path)
    rows = [pair(0, image=cat), pair(1, image=bad[0]), pair(2, image=bad[1])]
    rows += [pair(3), pair(4, image=bad[0]), replace(pair(5), positive=mh.Item(image=bad[2]))]
    rows += [replace(pair(6, image=bad[3]), positive=mh.Item(image=bad[4])), pair(7)]
    data = [Subset(name="a", pairs=rows)]
    heard = Heard()
    all_at_once = {"size": 8, "accumulate": 1}
    train_toy(tmp_path / "out", data, progress=heard, batch=all_at_once, run={"steps": 3}, **SKIP)
    lines = log_lines(tmp_path / "out")
    assert [line["skipped"] for line in lines] == [5, 5, 5]
    assert [line["pairs"] for line in lines] == [3, 3, 3]
    assert len(heard.warnings) == 15
    told = [line["message"] for line in log_lines(tmp_path / "out", "warning")]
    assert told == heard.warnings
    for number in (1, 2, 4, 6):
        assert sum(f"what is the {number}th thing" in one for one in heard.warnings) == 3
    for path, times in zip(bad, (6, 3, 3, 3, 0), strict=True):  # the last is another's target
        assert sum(str(path) in one for one in heard.warnings) == times


def test_only_the_first_are_told_of_one_by_one(tmp_path: Path) -> None:
    rows = [
        pair(number, image=tmp_path / "gone.png" if number < 40 else None) for number in range(48)
    ]
    heard = Heard()
    data = [Subset(name="a", pairs=rows)]
    train_toy(tmp_path / "out", data, progress=heard, batch={"size": 24}, run={"steps": 2}, **SKIP)
    assert [line["skipped"] for line in log_lines(tmp_path / "out")] == [40, 40]
    assert len(heard.warnings) < 25
    assert "not named" in heard.warnings[-1]


def test_the_step_is_that_of_the_other_pairs_alone(tmp_path: Path, cat: Path) -> None:
    rows = [pair(number, image=cat if number % 2 else None) for number in range(8)]
    gone = tmp_path / "gone.png"
    with_gaps = [
        *rows[:3],
        pair(20, image=gone),
        *rows[3:],
        pair(21, image=gone),
        replace(pair(22), positive=mh.Item(image=gone)),
        replace(pair(23), negative=mh.Item(image=gone)),
    ]
    for negatives in (False, True):
        rows[4] = with_gaps[5] = replace(rows[4], negative=mh.Item(text="another"))
        encoder = toy(dropout=0.0)
        chosen = UnderTraining(parameters=dict(encoder.module.named_parameters()), adapted=())
        alone = stepper(encoder, InfoNCE(temperature=0.1), negatives=negatives)
        alone.preparer = replace(alone.preparer, skips=True)
        others = rows if negatives else [*rows, pair(23)]
        given, expected = (stepped(alone, [one], chosen) for one in (with_gaps, others))
        assert given[0].loss == pytest.approx(expected[0].loss, rel=1e-6)
        assert difference(given[1], expected[1]) < 1e-5
        assert (given[0].pairs, given[0].skipped) == ((8, 4) if negatives else (9, 3))


@pytest.mark.thorough
def test_workers_leave_out_and_name_the_same(tmp_path: Path, cat: Path) -> None:
    rows = [
        pair(number, image=[cat, None, tmp_path / "gone.png"][number % 3]) for number in range(16)
    ]
    data = [Subset(name="a", pairs=rows)]
    told = {}
    for workers in (0, 1):
        heard, folder = Heard(), tmp_path / f"with {workers}"
        run, batch = {"workers": workers}, {"size": 8}
        train_toy(folder, data, progress=heard, batch=batch, run=run, **SKIP)
        told[workers] = heard.warnings
        assert sum(line["skipped"] for line in log_lines(folder)) > 5
        with pytest.raises(TaskError, match=r"step 1: .*gone\.png"):
            train_toy(tmp_path / f"strict {workers}", data, run={"workers": workers})
    assert numbers(tmp_path / "with 0") == numbers(tmp_path / "with 1")
    assert weights(tmp_path / "with 0") == weights(tmp_path / "with 1")
    assert told[0] == told[1]


@pytest.mark.parametrize(("usable", "told"), [(0, "none"), (1, "only 1")])
def test_a_batch_of_which_nothing_is_left_stops_training(
    tmp_path: Path, usable: int, told: str
) -> None:
    rows = [pair(number, image=tmp_path / "gone.png") for number in range(usable, 4)]
    data = [Subset(name="a", pairs=[*pairs(usable), *rows])]
    with pytest.raises(TaskError, match=f"step 1: {told} of the 4 pairs of a batch can be used"):
        train_toy(tmp_path / "out", data, **SKIP)
    negative = [replace(one, negative=mh.Item(text="no")) for one in data[0].pairs]
    settings = {"loss": {"hard_negatives": True}, "run": {"steps": 1}, **SKIP}
    if usable:
        train_toy(tmp_path / "out", [Subset(name="a", pairs=negative)], **settings)
        assert log_lines(tmp_path / "out")[0]["negatives"] == 1.0


# -- numbers that are none -------------------------------------------------------------------------


def marked(word: str, step: int) -> tuple[list[Subset], list[Pair]]:
    """Return subsets of which one pair has a word in its query, which is met in a step for the
    first time; and the pairs of that step."""
    data = subsets(20, 21)
    order = BatchOrder(data, BatchSection(size=4), 42)
    drawn = order.batches()
    batches = [[place for _ in range(2) for place in next(drawn)] for _ in range(step)]
    subset, row = next(one for one in batches[-1] if not any(one in rest for rest in batches[:-1]))
    rows = list(data[subset].pairs)
    rows[row] = pair(100 * subset + row, text=word)
    data[subset] = replace(data[subset], pairs=rows)
    return data, [data[subset].pairs[row] for subset, row in batches[-1]]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (NO_NUMBER, r"the loss is not finite \(1 of 4 query vectors\)"),
        (NO_SLOPE, "the gradient is not finite"),
    ],
    ids=["loss", "gradient"],
)
@pytest.mark.parametrize(
    ("step", "kept"),
    [(2, "there is no checkpoint"), (4, "the checkpoint of step 2 is kept")],
)
def test_an_item_without_numbers_stops_training_and_spoils_nothing(
    tmp_path: Path, word: str, told: str, step: int, kept: str
) -> None:
    data, _ = marked(word, step)
    for _ in range(2):  # the same command comes to the same end
        encoder, heard = toy(), Heard()
        with pytest.raises(
            Diverged, match=f"^step {step}: {told}; training stops, {kept}"
        ) as error:
            train_toy(tmp_path, data, encoder, progress=heard)
        assert error.value.exit_status == 1
        assert "\n" not in str(error.value)
        assert [line["step"] for line in log_lines(tmp_path)] == [*range(1, step)]
        assert heard.events[-1] == (("saved", 2) if step == 3 else ("stepped", step - 1))
        assert all(one.isfinite().all() for one in encoder.module.parameters())
    if step > 2:
        assert checkpoints(tmp_path) == [2]
        mh_vectors = Toy(read_card(tmp_path)).encode([mh.Item(text="a thing")])
        assert (mh_vectors == mh_vectors).all()


class Spoiling(Heard):
    """A listener that changes the encoder after a step."""

    def __init__(self, step: int, spoil: Callable[[], Any]) -> None:
        super().__init__()
        self.step, self.spoil = step, spoil

    def stepped(self, step: int, record: Mapping[str, Any]) -> None:
        super().stepped(step, record)
        if step == self.step:
            with torch.no_grad():
                self.spoil()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_spoilt_parameter_shows_in_the_vectors_of_both_sides(
    tmp_path: Path, value: float
) -> None:
    encoder = toy()
    spoil = partial(encoder.module.out.bias.fill_, value)
    told = r"^step 4: the loss is not finite \(4 of 4 query vectors, 4 of 4 target vectors\)"
    with pytest.raises(Diverged, match=told):
        train_toy(tmp_path, encoder=encoder, progress=Spoiling(3, spoil))
    assert checkpoints(tmp_path) == [2]


def test_weights_that_a_step_has_spoilt_are_not_kept(tmp_path: Path) -> None:
    encoder = toy()
    spoil = partial(encoder.module.words.weight[7].fill_, float("nan"))  # a word that nobody says
    with pytest.raises(Diverged, match=r"^step 4: it left weights that are not finite.*step 2 is"):
        train_toy(tmp_path, encoder=encoder, progress=Spoiling(4, spoil))
    assert checkpoints(tmp_path) == [2]
    train_toy(tmp_path)  # from there
    train_toy(tmp_path / "whole")
    assert numbers(tmp_path) == numbers(tmp_path / "whole")


def test_a_learning_rate_far_too_high_is_noticed_before_the_model_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(Diverged, match=r"^step [1-5]: .*A lower optimizer\.lr"):
        train_toy(tmp_path, optimizer={"name": "sgd", "lr": 1e38}, run={"checkpoint_every": 1})
    for step in checkpoints(tmp_path):
        saved = Toy(read_card(tmp_path / f"training/step-{step:06d}"))
        assert all(one.isfinite().all() for one in saved.module.parameters())


def test_vectors_whose_products_are_too_large_are_told_apart(tmp_path: Path) -> None:
    encoder = toy()
    spoil = partial(encoder.module.out.bias.fill_, 1e30)
    with pytest.raises(Diverged, match="not finite \\(though all vectors are\\)"):
        train_toy(
            tmp_path, encoder=encoder, progress=Spoiling(1, spoil), loss={"similarity": "dot"}
        )


def test_the_command_ends_with_status_1_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    install_plugin: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(install_plugin("toy-encoder", PLUGIN))
    (tmp_path / "pairs").mkdir()
    rows = [{"qry": f"{NO_NUMBER if row == 5 else 'what'} {row}", "pos_text": f"it {row}"}
            for row in range(8)]  # fmt: skip
    (tmp_path / "pairs/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"model": "toy:new", "data": "pairs", "lora": False, "batch": {"size": 8},
             "run": {"steps": 2, "output_dir": "out", "device": "cpu"}}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    assert _run(["train", "mine.yaml", "--json"]) == 1
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert error.startswith("step 1: the loss is not finite (1 of 8 query vectors); training stops")
    assert f"error: {error}\n" in told.err
    assert "Traceback" not in told.err
