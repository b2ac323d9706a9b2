"""`run.saved_precision`: the finished model in half the room, and nothing else touched by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import torch
from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.halving import write_halved
from mmeb_harness.trainers.train import train
from safetensors.torch import load_file, save_file
from training_parts import config, golden_subsets, load

pytestmark = pytest.mark.thorough

LAST, STEPS = "training/step-000002", 2


def trained(folder: Path, **run: Any) -> None:
    settings = {"steps": STEPS, "checkpoint_every": 1, **run}
    given = config(
        folder,
        lora=False,
        train=["language_model"],
        batch={"size": 4},
        optimizer={"lr": 1e-3},
        run=settings,
    )
    train(given, load("qwen2-vl"), golden_subsets())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def digests(folder: Path) -> Mapping[str, str]:
    """Return the digest of every checkpoint's weights and state."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "training").rglob("*"))
        if path.suffix in (".safetensors", ".pt")
    }


def is_halved(folder: Path) -> bool:
    top, kept = weights(folder), weights(folder / LAST)
    assert {one.dtype for one in kept.values()} == {torch.float32}
    assert top.keys() == kept.keys()
    if {one.dtype for one in top.values()} == {torch.float32}:
        return not all(torch.equal(top[name], one) for name, one in kept.items())
    assert all(torch.equal(top[name], one.bfloat16()) for name, one in kept.items())
    return True


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halved") / "trained"
    trained(folder, saved_precision="bfloat16")
    return folder


def test_the_finished_model_is_the_last_checkpoint_rounded(halved: Path) -> None:
    assert is_halved(halved)
    size = (halved / "model.safetensors").stat().st_size
    assert size < 0.6 * (halved / LAST / "model.safetensors").stat().st_size
    items = [mh.Item(text="a cat"), mh.Item(text="a dog")]
    ours, full = (
        mh.load_encoder(str(one), device="cpu", dtype="float32").encode(items)
        for one in (halved, halved / LAST)
    )
    assert 0 < abs(ours - full).max() < 0.05


@pytest.mark.thorough
def test_checkpoints_are_those_of_a_training_without_it(halved: Path, tmp_path: Path) -> None:
    trained(tmp_path / "full")
    assert not is_halved(tmp_path / "full")
    assert digests(halved) == digests(tmp_path / "full")


def test_until_training_ends_the_model_is_whole(halved: Path, tmp_path: Path) -> None:
    """Stopped after a step and taken up again: the same to the bit, halved at the end only."""
    folder = tmp_path / "stopped"
    from mmeb_harness.trainer import TrainingProgress

    class Stops(TrainingProgress):
        def saved(self, step: int, folder: Path) -> None:
            raise KeyboardInterrupt

    given = config(
        folder,
        lora=False,
        train=["language_model"],
        batch={"size": 4},
        optimizer={"lr": 1e-3},
        run={"steps": STEPS, "checkpoint_every": 1, "saved_precision": "bfloat16"},
    )
    with pytest.raises(KeyboardInterrupt):
        train(given, load("qwen2-vl"), golden_subsets(), None, Stops())
    assert {one.dtype for one in weights(folder).values()} == {torch.float32}
    train(given, load("qwen2-vl"), golden_subsets())
    assert is_halved(folder)
    expected = weights(halved)
    assert all(torch.equal(one, expected[name]) for name, one in weights(folder).items())


def test_the_same_command_again_leaves_it_and_another_changes_it(halved: Path) -> None:
    trained(halved, saved_precision="bfloat16")
    assert is_halved(halved)
    trained(halved)
    assert not is_halved(halved)
    trained(halved, saved_precision="bfloat16")
    assert is_halved(halved)


def test_what_is_no_wide_number_stays(tmp_path: Path) -> None:
    values = {
        "wide": torch.tensor([1 / 3]),
        "wider": torch.tensor([1 / 3], dtype=torch.float64),
        "half": torch.tensor([1 / 3], dtype=torch.float16),
        "whole": torch.tensor([7]),
    }
    save_file(values, tmp_path / "a.safetensors", metadata={"format": "pt"})
    write_halved(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    wanted = ("bfloat16", "bfloat16", "float16", "int64")
    assert [str(found[name].dtype) for name in values] == [f"torch.{one}" for one in wanted]
    raw = (tmp_path / "b.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_an_adapter_is_not_halved(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lora: false"):
        config(tmp_path, run={"saved_precision": "bfloat16"})
