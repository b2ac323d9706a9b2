"""Training as the reference trains: its losses, gradients, steps and trained weights.

From the images that the reference resized, so that no other image library has a say; once from the
files. All numbers within 1e-5 of the reference's, relative; vectors within 2e-6. Its run in two
processes is in `distributed/training.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.task import Pair
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.batches import BatchOrder
from mmeb_harness.trainers.config import ContrastiveConfig
from mmeb_harness.trainers.log import read_log
from mmeb_harness.trainers.lora import UnderTraining
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.step import StepResult
from mmeb_harness.trainers.train import train
from training_parts import (
    GOLDENS,
    Gradients,
    check_final_norms,
    check_golden_run,
    config,
    golden_config,
    golden_encoder,
    golden_name,
    golden_pairs,
    golden_subsets,
    stepped,
    stepper,
    under_training,
)

NEAR = 1e-5
EXPECTED = GOLDENS / "expected/train"
LOSS = InfoNCE(temperature=0.02, mask_equal_targets=False)
BATCHES = ("cls8", "t2i8", "cirr8", "mixed8")
CUTS = [*({"items": count} for count in (1, 2, 4, 8)), *({"tokens": n} for n in (64, 256, 1 << 20))]


def expected(name: str) -> Any:
    return json.loads((EXPECTED / name).read_text())


def rows(batch: str) -> list[int]:
    found: list[int] = expected("step0_losses_and_grads.json")[batch][
        "row_indices_in_concatenated_train_set"
    ]
    return found


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return golden_pairs()


@pytest.fixture(scope="module")
def random_b() -> tuple[Any, UnderTraining]:
    """An encoder with the adapter whose B was drawn, under training."""
    encoder = golden_encoder("randB")
    return encoder, under_training(encoder, lora={"go_on": True, "dropout": 0.0})


def step(
    under: tuple[Any, UnderTraining], batch: Sequence[Pair], cut: Mapping[str, int]
) -> tuple[StepResult, Gradients]:
    encoder, chosen = under
    return stepped(stepper(encoder, LOSS, **cut), [batch], chosen)


def check_norms(found: Gradients, norms: Mapping[str, float]) -> None:
    assert found.keys() == {golden_name(name) for name in norms}
    assert len(norms) == 30
    for name, norm in norms.items():
        assert found[golden_name(name)].norm().item() == pytest.approx(norm, rel=NEAR), name


# -- the first step --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
def test_loss_and_gradient_norms_of_the_first_step(
    batch: str, random_b: tuple[Any, UnderTraining], pairs: list[Pair]
) -> None:
    check_first_step(random_b, [pairs[row] for row in rows(batch)], batch, {"items": 2})


@pytest.mark.thorough
@pytest.mark.parametrize(("batch", "cut"), list(product(BATCHES, CUTS)), ids=str)
def test_loss_and_gradient_norms_by_any_chunks(
    batch: str, cut: Mapping[str, int], random_b: tuple[Any, UnderTraining], pairs: list[Pair]
) -> None:
    check_first_step(random_b, [pairs[row] for row in rows(batch)], batch, cut)


@pytest.mark.thorough
@pytest.mark.parametrize("batch", BATCHES)
def test_loss_and_gradient_norms_from_the_files(
    batch: str, random_b: tuple[Any, UnderTraining]
) -> None:
    from_files = golden_pairs("files")
    check_first_step(random_b, [from_files[row] for row in rows(batch)], batch, {"tokens": 256})


def check_first_step(
    under: tuple[Any, UnderTraining], batch: Sequence[Pair], name: str, cut: Mapping[str, int]
) -> None:
    golden = expected("step0_losses_and_grads.json")[name]
    result, found = step(under, batch, cut)
    assert result.loss == pytest.approx(golden["loss_full"], rel=NEAR)
    assert (result.pairs, result.negatives) == (8, 7)
    check_norms(found, golden["grad_norms_full"])
    check_norms(found, golden["grad_norms_chunk2"])
    whole = torch.cat([one.flatten() for one in found.values()]).norm().item()
    assert whole == pytest.approx(golden["total_grad_norm_full"], rel=NEAR)


@pytest.mark.parametrize("cut", [{"items": 4}, {"tokens": 300}], ids=str)
def test_every_number_of_a_gradient(
    cut: Mapping[str, int], random_b: tuple[Any, UnderTraining], pairs: list[Pair]
) -> None:
    """As a share of the largest number of its tensor."""
    golden = np.load(EXPECTED / "step0_reps_and_grads.npz")
    named = {key.removeprefix("mixed8/grad/"): golden[key] for key in golden if "/grad/" in key}
    _, found = step(random_b, [pairs[row] for row in rows("mixed8")], cut)
    assert found.keys() == {golden_name(name) for name in named}
    for name, values in named.items():
        gradient = found[golden_name(name)].numpy()
        assert np.abs(gradient - values).max() <= NEAR * np.abs(values).max(), name


def test_vectors_of_the_first_step(random_b: tuple[Any, UnderTraining], pairs: list[Pair]) -> None:
    golden = np.load(EXPECTED / "step0_reps_and_grads.npz")
    encoder, _ = random_b
    for batch in BATCHES:
        ready = stepper(encoder, LOSS, items=3).preparer([pairs[row] for row in rows(batch)])
        with torch.no_grad():
            vectors = [encoder.forward(encoder.settled(chunk.batch)) for chunk in ready.chunks]
        vectors_ID = torch.cat(vectors).numpy()
        for side, places in (("qry", ready.queries_P), ("pos", ready.positives_P)):
            assert np.abs(vectors_ID[places] - golden[f"{batch}/{side}_reps"]).max() <= 2e-6


def test_an_image_of_the_right_size_stays_as_it_is(
    random_b: tuple[Any, UnderTraining], pairs: list[Pair]
) -> None:
    """The stored images have been resized by the reference: here that must do nothing more."""
    encoder, _ = random_b
    images: Any = [pair.query.image for pair in pairs if pair.query.image is not None]
    assert len(images) == 32
    for image in images:
        assert image.size == (128, 128)
        assert np.array_equal(np.asarray(encoder.picture(image)), np.asarray(image))


def test_the_adapter_as_it_is_initialised(pairs: list[Pair]) -> None:
    """B is 0 there, so that A has no gradient."""
    golden = expected("step0_ref_init_mixed8.json")
    encoder = golden_encoder("ref")
    under = (encoder, under_training(encoder, lora={"go_on": True, "dropout": 0.0}))
    result, found = step(under, [pairs[row] for row in rows("mixed8")], {"items": 2})
    assert result.loss == pytest.approx(golden["loss"], rel=NEAR)
    check_norms(found, golden["grad_norms"])
    assert sum(not one.any() for one in found.values()) == 10


# -- trajectories ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd_lr1e-4": {"name": "sgd", "lr": 1e-4},
    "adamw_lr1e-3_wd0": {"name": "adamw", "lr": 1e-3},
}


@pytest.mark.thorough
@pytest.mark.parametrize("batches", ["fixed_batch", "sequence"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trajectories_of_the_optimisers(
    optimizer: str, batches: str, pairs: list[Pair], tmp_path: Path
) -> None:
    golden = expected("trajectories_manual_optim.json")[f"{optimizer}/{batches}"]
    wanted = [pairs[row] for batch in golden["batches"] for row in rows(batch)]
    chosen = config(
        tmp_path / "trained",
        lora={"go_on": True, "dropout": 0.0},
        batch={"size": 8, "chunk_items": 2},
        loss={"mask_equal_targets": False},
        optimizer={**OPTIMIZERS[optimizer], "schedule": "constant", "clip": None},
        run={"steps": len(golden["losses"])},
    )
    train(chosen, golden_encoder("randB"), [ordered(wanted, chosen)])
    log = read_log(tmp_path / "trained/training/log.jsonl")
    steps = [line for line in log if line["kind"] == "step"]
    assert [one["loss"] for one in steps] == pytest.approx(golden["losses"], rel=NEAR)
    assert [one["grad_norm"] for one in steps] == pytest.approx(golden["grad_norms"], rel=NEAR)
    check_final_norms(tmp_path / "trained", golden)


def ordered(wanted: Sequence[Pair], chosen: ContrastiveConfig) -> Subset:
    """Return a subset of which training takes the pairs in this order."""
    rows_to = BatchOrder([Subset(name="pairs", pairs=wanted)], chosen.batch, chosen.run.seed)
    batches = rows_to.batches()
    taken = [row for _ in range(len(wanted) // 8) for _, row in next(batches)]
    placed = dict(zip(taken, wanted, strict=True))
    return Subset(name="pairs", pairs=[placed[row] for row in range(len(wanted))])


# -- the whole trainer, in one process -------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["as it was", "checkpointed", "from files, by tokens"])
def test_six_steps_of_the_reference_trainer(how: str, tmp_path: Path) -> None:
    sections: Mapping[str, Mapping[str, Any]] = {
        "checkpointed": {"run": {"checkpointing": True}},
        "from files, by tokens": {"batch": {"chunk_items": None, "chunk_tokens": 300}},
    }
    folder = tmp_path / "trained"
    images = "files" if "files" in how else "stored"
    chosen = golden_config(folder, **sections.get(how, {}))
    trained = train(chosen, golden_encoder("ref"), golden_subsets(images))
    golden = expected("trainer_run_single.json")
    check_golden_run(read_log(folder / "training/log.jsonl"), golden)
    assert (trained.steps, trained.output_dir) == (6, folder)
    assert trained.loss == pytest.approx(golden["steps"][-1]["loss"], rel=NEAR)
    check_final_norms(folder, golden)
