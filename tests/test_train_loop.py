"""The loop: what it tells, what it scores on its way, what it does without memory, how it steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import torch
import toy_training
import yaml
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import EnvironmentFault, TaskError
from mmeb_harness.item import Item
from mmeb_harness.result import Run, RunRecord
from mmeb_harness.task import Pair
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.lora import UnderTraining
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import Processes
from toy_training import (
    PLUGIN,
    Heard,
    Memory,
    Toy,
    checkpoints,
    log_lines,
    numbers,
    pair,
    pairs,
    toy,
    train_toy,
    weights,
)
from training_parts import TINY, difference, stepped, stepper

# -- from Python -----------------------------------------------------------------------------------


@pytest.fixture
def site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, install_plugin: Callable[..., Path]
) -> Path:
    """A stranger's plugin with the toy, and pairs in a folder."""
    monkeypatch.syspath_prepend(install_plugin("toy-encoder", PLUGIN))
    (tmp_path / "pairs").mkdir()
    for name, count in (("a", 7), ("b", 6)):
        rows = [
            {"qry": f"what is the {row}th {name}", "pos_text": f"it is number {row % 5}"}
            for row in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"pairs/{name}.jsonl").write_text(text)
    return tmp_path


def given(**sections: Any) -> dict[str, Any]:
    """Return a configuration as a user writes it."""
    usual: dict[str, Any] = {
        "model": "toy:new",
        "data": "pairs",
        "lora": False,
        "batch": {"size": 4, "accumulate": 2},
        "optimizer": {"lr": 1e-2, "clip": None},
        "run": {"output_dir": "out", "steps": 5, "checkpoint_every": 2, "device": "cpu"},
    }
    return {**usual, **sections}


def test_a_mapping_a_file_and_changes_are_the_same_training(site: Path) -> None:
    heard = Heard()
    first = mh.train(given(), progress=heard)
    assert first == mh.Trained(output_dir=Path("out"), steps=5, loss=numbers(site / "out")[-1][1])
    assert heard.events == [
        ("started", (5, 0)),
        *[("stepped", 1), ("stepped", 2), ("saved", 2)],
        *[("stepped", 3), ("stepped", 4), ("saved", 4), ("stepped", 5), ("saved", 5)],
    ]
    other = given(run={"output_dir": "elsewhere", "epochs": 3}, optimizer={"lr": 1})
    (site / "mine.yaml").write_text(yaml.safe_dump(other))
    changes = ["optimizer.lr=1e-2", "optimizer.clip=null", "run.device=cpu", "run.epochs=null"]
    changes += ["run.output_dir=out2", "run.steps=5", "run.checkpoint_every=2"]
    for config in ("mine.yaml", site / "mine.yaml"):
        second = mh.train(config, [*changes, "run.fresh=true"])
        assert second.loss == first.loss
        assert numbers(site / "out2") == numbers(site / "out")
        assert weights(site / "out2") == weights(site / "out")
    assert not (site / "elsewhere").exists()


@pytest.mark.thorough
def test_the_length_in_epochs_is_that_of_all_pairs(site: Path) -> None:
    for epochs, steps in ((1, 2), (1.5, 3), (3, 5), (0.01, 1)):  # of 13 pairs, 8 a step
        run = {"output_dir": f"out {epochs}", "epochs": epochs, "device": "cpu"}
        assert mh.train(given(run=run)).steps == steps


def test_a_strangers_encoder_is_trained_saved_loaded_and_scored(site: Path) -> None:
    mh.train(given())
    assert (site / "out/weights.safetensors").exists()
    again = mh.load_encoder("out")
    assert again.card.name == "out"
    assert again.card.factory == "toy_training:Toy"
    told = again.encode([Item(text="what is the 3rd a")])
    untrained = mh.load_encoder("toy:new").encode([Item(text="what is the 3rd a")])
    assert abs(told - untrained).max() > 1e-2
    assert _run(["run", "-m", "out", "--suite", "mini", "-t", "GQA", "--limit", "2"]) == 0


TRAINER = """
import mmeb_harness as mh
from mmeb_harness.trainconfig import Section, TrainConfig

HEARD = []

@mh.hookimpl
def register_trainers(register):
    for name in ("everything", "little"):
        register(mh.Trainer(name=name, config="other_trainer:Config",
                            factory=f"other_trainer:{name}"))

class Own(Section):
    depth: int = 1

class Config(TrainConfig):
    own: Own = Own()

def everything(config, encoder, data, evaluate, progress):
    HEARD.append((config, encoder, data, evaluate, progress))
    return mh.Trained(output_dir=config.run.output_dir, steps=1, loss=None)

def little(data, config):
    HEARD.append((data, config))
    return mh.Trained(output_dir=config.run.output_dir, steps=2, loss=0.5)
"""


@pytest.fixture
def other_trainer(
    site: Path, monkeypatch: pytest.MonkeyPatch, install_plugin: Callable[..., Path]
) -> Iterator[Any]:
    """The module of a stranger's trainers."""
    folder = install_plugin("other-trainer", TRAINER, folder=site / "other")
    monkeypatch.syspath_prepend(folder)
    import other_trainer  # type: ignore[import-not-found]

    yield other_trainer
    sys.modules.pop("other_trainer")


def test_a_strangers_trainer_is_given_what_it_names(site: Path, other_trainer: Any) -> None:
    config = {"model": "toy:new", "data": "pairs", "run": {"output_dir": "out"}}
    heard = Heard()
    scored = {"every": 3, "tasks": "GQA", "limit": 2}
    told = mh.train(
        {**config, "trainer": "everything", "own": {"depth": 3}, "evaluation": scored},
        progress=heard,
    )
    assert told.steps == 1
    settings, encoder, data, evaluate, progress = other_trainer.HEARD.pop()
    assert isinstance(settings, other_trainer.Config)
    assert settings.own.depth == 3
    assert isinstance(encoder, Toy)
    assert [(subset.name, len(subset.pairs)) for subset in data] == [("a", 7), ("b", 6)]
    assert all(isinstance(one, Pair) for subset in data for one in subset.pairs)
    assert progress is heard
    run = evaluate(encoder, site / "scored")
    assert run.tasks["GQA"].status == "ok"

    told = mh.train({**config, "trainer": "little"})
    assert (told.steps, told.loss) == (2, 0.5)
    data, settings = other_trainer.HEARD.pop()
    assert [subset.name for subset in data] == ["a", "b"]
    assert settings.own.depth == 1


# -- scores on the way -----------------------------------------------------------------------------

SCORED = {"every": 2, "tasks": ["GQA", "ImageNet-1K"], "limit": 3}


def test_scoring_on_the_way_changes_nothing_and_leaves_runs_but_no_vectors(site: Path) -> None:
    mh.train(given(run={**given()["run"], "output_dir": "alone"}))
    heard = Heard()
    trained = mh.train(given(evaluation=SCORED), progress=heard)
    assert numbers(site / "out") == numbers(site / "alone")
    assert weights(site / "out") == weights(site / "alone")
    lines = log_lines(site / "out", "evaluation")
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert [event for event in heard.events if event[0] == "evaluated"] == [
        ("evaluated", step) for step in (0, 2, 4, 5)
    ]
    places = [site / f"out/training/evaluations/step-{step:06d}" for step in (0, 2, 4, 5)]
    for line, folder in zip(lines, places, strict=True):
        run = json.loads((folder / "run.json").read_text())
        assert run["suite"] == "mini"
        for name in SCORED["tasks"]:  # type: ignore[attr-defined]
            result = json.loads((folder / f"tasks/{name}.json").read_text())
            assert result["score"] == line["tasks"][name]
            assert result["n_queries"] == 3
        assert line["scores"] == {"overall": None, "ind": None, "ood": None}  # not all tasks
    assert trained.scores["GQA"] == lines[-1]["tasks"]["GQA"]
    assert _run(["report", *map(str, places)]) == 0
    stored = [path for path in site.rglob("*.arrow") if path.name != "plan.arrow"]
    assert stored == []
    assert not list(site.rglob("vectors"))


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["clip", "qwen2-vl"])
def test_scoring_an_adapted_model_under_training_changes_nothing(
    tmp_path: Path, goldens: Path, family: str, precision: str
) -> None:
    folder, options = TINY[family]
    config: dict[str, Any] = {
        "model": {"name": f"{family}:{goldens}/models/{folder}", **options},
        "data": {
            "suite": "mmeb",
            "dir": str(goldens / "data/train"),
            "image_dir": str(goldens / "data/train_images"),
            "subsets": "CIRR",
        },
        "batch": {"size": 4},
        "lora": {"rank": 2, "dropout": 0.2},
        "run": {"steps": 3, "device": "cpu", "precision": precision},
    }
    mh.train(config, ["run.output_dir=alone"])
    mh.train(config, ["run.output_dir=scored", "evaluation={every: 1, tasks: GQA, limit: 2}"])
    assert numbers(tmp_path / "scored") == numbers(tmp_path / "alone")
    assert weights(tmp_path / "scored") == weights(tmp_path / "alone")
    assert [line["step"] for line in log_lines(tmp_path / "scored", "evaluation")] == [0, 1, 2, 3]
    assert not log_lines(tmp_path / "scored", "warning")


@pytest.mark.thorough
def test_the_scores_are_those_that_run_gives_the_checkpoint(site: Path) -> None:
    mh.train(given(evaluation={"every": 3, "tasks": "ind,ood"}))
    run = mh.evaluate("out", suite="mini", output_dir=site / "scored")
    line = log_lines(site / "out", "evaluation")[-1]
    assert line["tasks"] == {name: result.score for name, result in run.tasks.items()}
    assert line["scores"] == {"overall": run.overall, "ind": run.ind, "ood": run.ood}
    assert None not in line["scores"].values()


def test_a_task_that_cannot_be_scored_is_told_of_and_training_goes_on(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_training, "NO_NUMBER", "question")  # a word of every query of GQA
    heard = Heard()
    mh.train(given(evaluation={**SCORED, "every": 4}), progress=heard)
    assert [line["step"] for line in log_lines(site / "out")] == [1, 2, 3, 4, 5]
    assert len(heard.warnings) == 3
    assert heard.warnings[0].startswith("GQA was not scored: query ")
    assert "not finite" in heard.warnings[0]
    lines = log_lines(site / "out", "evaluation")
    assert [line["step"] for line in lines] == [0, 4, 5]
    assert [line["tasks"]["GQA"] for line in lines] == [None, None, None]
    assert all(line["tasks"]["ImageNet-1K"] is not None for line in lines)
    assert [line["message"] for line in log_lines(site / "out", "warning")] == heard.warnings


@pytest.mark.thorough
def test_what_is_scored_when_may_change_on_the_way(site: Path) -> None:
    """After step 3 it is scored twice, the second time other tasks; after step 2, where it goes on,
    once it is known that it shall be."""
    with pytest.raises(KeyboardInterrupt):
        mh.train(given(evaluation={**SCORED, "every": 3}), progress=Heard(stops_after=4))
    mh.train(given(evaluation={"every": 1, "tasks": "GQA", "limit": 1}))
    mh.train(given(run={**given()["run"], "output_dir": "alone"}))
    assert numbers(site / "out") == numbers(site / "alone")
    first, *lines = log_lines(site / "out", "evaluation")
    assert first["step"] == 0
    assert len(first["tasks"]) > 1
    assert [(line["step"], *line["tasks"]) for line in lines] == [
        (step, "GQA") for step in (2, 3, 4, 5)
    ]
    run = json.loads((site / "out/training/evaluations/step-000003/run.json").read_text())
    assert (run["tasks"], run["limit"]) == (["GQA"], 1)


@pytest.mark.thorough
def test_scores_that_a_stop_came_before_are_made_up_for(site: Path) -> None:
    mh.train(given(run={**given()["run"], "output_dir": "whole"}, evaluation=SCORED))
    expected = log_lines(site / "whole", "evaluation")

    class Stopping(Heard):
        def saved(self, step: int, folder: Path) -> None:
            raise KeyboardInterrupt

    for step in (2, 4, 5):  # scores come after the checkpoint, so that they are no risk to it
        with pytest.raises(KeyboardInterrupt):
            mh.train(given(evaluation=SCORED), progress=Stopping())
        assert checkpoints(site / "out")[-1] == step
        assert [line["step"] for line in log_lines(site / "out", "evaluation")] == [
            one for one in (0, 2, 4) if one < step
        ]
    heard = Heard()
    trained = mh.train(given(evaluation=SCORED), progress=heard)
    assert heard.events == [("started", (5, 5)), ("evaluated", 5)]
    assert log_lines(site / "out", "evaluation") == expected
    assert trained.scores["GQA"] == expected[-1]["tasks"]["GQA"]
    assert numbers(site / "out") == numbers(site / "whole")
    again = Heard()
    assert mh.train(given(evaluation=SCORED), progress=again) == trained
    assert again.events == [("warned", None)]  # that it is finished


def test_scoring_may_draw_random_numbers_and_sees_no_dropout(tmp_path: Path) -> None:
    encoder, modes = toy(), []

    def evaluate(scored: Any, folder: Path) -> Run:
        modes.append((scored is encoder, encoder.module.training, folder.name))
        torch.rand(3)
        return Run(record=RunRecord.model_construct(suite_tasks=()), tasks={}, output_dir=folder)

    train_toy(tmp_path / "alone")
    train_toy(tmp_path / "out", encoder=encoder, evaluate=evaluate, evaluation={"every": 2})
    assert modes == [(True, False, f"step-{step:06d}") for step in (0, 2, 4, 5)]
    assert encoder.module.training
    assert numbers(tmp_path / "out") == numbers(tmp_path / "alone")
    assert weights(tmp_path / "out") == weights(tmp_path / "alone")


# -- memory ----------------------------------------------------------------------------------------


def uneven(count: int) -> list[Subset]:
    """Return pairs of items of 5 to 17 tokens, each other than all."""
    made = []
    for number in range(count):
        words = " ".join([f"thing {number}", *["more"] * (number % 13)])
        query, target = (Item(text=f"{side} {words} of it") for side in ("ask", "say"))
        made.append(Pair(query=query, positive=target))
    return [Subset(name="a", pairs=made)]


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("chunk", [{"chunk_tokens": 200}, {"chunk_items": 16}], ids=str)
@pytest.mark.parametrize("fits", [pytest.param(25, marks=pytest.mark.thorough), 110])
def test_where_memory_runs_out_smaller_chunks_give_the_same(
    tmp_path: Path, way: str, chunk: dict[str, int], fits: int
) -> None:
    batch = {"size": 16, "accumulate": 2, **chunk}
    train_toy(tmp_path / "whole", uneven(40), toy(dropout=0.0), batch=batch)
    heard, short = Heard(), toy(dropout=0.0)
    short.memory = Memory(**{way: fits})
    train_toy(tmp_path / "short", uneven(40), short, progress=heard, batch=batch)
    for one, other in zip(numbers(tmp_path / "short"), numbers(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
        assert one[1] == pytest.approx(other[1], rel=1e-5)
    (told,) = heard.warnings
    kind = "tokens" if "chunk_tokens" in chunk else "items"
    assert told.startswith("memory ran out: chunks of ")
    assert told.endswith(f" {kind} from now on")
    now = int(told.split()[5])
    least = fits // 4 if kind == "tokens" else fits // 40  # not much smaller than needed
    assert least <= now < max(chunk.values())
    assert {line["step"] for line in log_lines(tmp_path / "short", "warning")} == {1}
    # later batches are cut smaller before they are tried
    assert 0 < len(short.memory.failed) <= 6


def test_vectors_are_compared_as_the_card_compares_them(tmp_path: Path) -> None:
    dotted = toy(dropout=0.0)
    dotted.card = dotted.card.model_copy(update={"similarity": "dot"})
    train_toy(tmp_path / "card", encoder=dotted)
    train_toy(tmp_path / "told", encoder=toy(dropout=0.0), loss={"similarity": "dot"})
    train_toy(tmp_path / "cosine", encoder=toy(dropout=0.0))
    assert numbers(tmp_path / "card") == numbers(tmp_path / "told")
    assert numbers(tmp_path / "card") != numbers(tmp_path / "cosine")


def test_each_process_draws_its_own_dropout_and_begins_with_the_first_ones_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    sent: list[int] = []

    class Second(Processes):
        def broadcast(self, tensors: Any) -> None:
            sent.append(len(list(tensors)))

    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    monkeypatch.setattr(
        "mmeb_harness.trainers.processes.start", lambda device: Second(rank=1, count=1)
    )
    encoder = toy(dropout=0.0)
    with pytest.raises(TaskError, match="step 1"):  # no share is left to a second of one
        train_toy(tmp_path, encoder=encoder)
    assert seeds[-2:] == [42, 43]  # what was drawn before is the toy's
    assert sent == [len(encoder.module.state_dict())]


def test_a_batch_that_fits_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """Of two batches of a step one must be cut smaller; the other has single items already, which
    fit."""
    encoder = toy(dropout=0.0)
    chosen = UnderTraining(parameters=dict(encoder.module.named_parameters()), adapted=())
    small, large = pairs(8), [pair(50 + number, text="long " * 20) for number in range(4)]
    large = [replace(one, positive=Item(text="w " * (24 + at))) for at, one in enumerate(large)]
    for batches in ([small, large], [large, small]):
        encoder.memory = Memory()
        expected = stepped(stepper(encoder, InfoNCE(temperature=0.1), tokens=40), batches, chosen)
        for way in ("there", "back"):
            one = stepper(encoder, InfoNCE(temperature=0.1), tokens=40)
            encoder.memory = Memory(**{way: 30})
            result, gradients = stepped(one, batches, chosen)
            assert encoder.memory.failed
            assert one.preparer.tokens == 20
            assert result.loss == pytest.approx(expected[0].loss, rel=1e-6)
            assert difference(gradients, expected[1]) < 1e-5


def test_cutting_anew_does_not_forget_what_was_left_out(tmp_path: Path) -> None:
    rows = [pair(number, image=tmp_path / "gone.png" if number % 3 == 0 else None)
            for number in range(16)]  # fmt: skip
    short = toy(dropout=0.0)
    short.memory = Memory(there=30, back=20)
    data = {"dir": "pairs", "missing_images": "skip"}
    train_toy(tmp_path / "out", [Subset(name="a", pairs=rows)], short, data=data,
              batch={"size": 16, "accumulate": 1})  # fmt: skip
    assert [line["skipped"] for line in log_lines(tmp_path / "out")] == [6] * 5


@pytest.mark.parametrize("way", ["there", "back"])
def test_an_item_that_does_not_fit_alone_ends_it_clearly(tmp_path: Path, way: str) -> None:
    short = toy()
    short.memory = Memory(**{way: 16})
    with pytest.raises(EnvironmentFault, match="one item alone does not fit") as told:
        train_toy(tmp_path, uneven(13), short, batch={"size": 13, "accumulate": 1})
    assert told.value.exit_status == 3
    assert "run.checkpointing=true" in str(told.value)
    assert "\n" not in str(told.value)


def test_memory_that_runs_out_elsewhere_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(EnvironmentFault, match="step 1: memory ran out where smaller chunks"):
        train_toy(tmp_path)
