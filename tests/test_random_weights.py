"""Weights drawn from a seed: an untrained control, and where a training from nothing begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.card import read_card
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.files import FileIndex
from mmeb_harness.subject import subject_from_object
from training_parts import GOLDENS, picture

pytestmark = pytest.mark.thorough

STORED = GOLDENS / "models/tiny-qwen2vl"
ITEMS = [
    mh.Item(text="a cat"),
    mh.Item(text="<|image_1|>\nRepresent the given image.", image=picture(1)),
]


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """A folder without weights."""
    folder = tmp_path / "blank"
    shutil.copytree(STORED, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    return folder


@pytest.fixture
def drawn(blank: Path) -> Callable[..., Any]:
    """Return `(seed, folder=blank, **options) -> encoder`."""

    def load(seed: int | None, folder: Path = blank, **options: Any) -> Any:
        given = {"dtype": "float32", "image_resolution": "low", **options}
        return mh.load_encoder(f"qwen2-vl:{folder}", device="cpu", random_weights=seed, **given)

    return load


def values(encoder: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: one.float().numpy() for name, one in encoder.module.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    left, right = values(one), values(other)
    return left.keys() == right.keys() and all((left[n] == right[n]).all() for n in left)


def namespace(encoder: Any, tmp_path: Path) -> str:
    index = FileIndex(tmp_path / "index")
    try:
        return subject_from_object(encoder, index).namespace
    finally:
        index.close()


def test_a_seed_gives_the_weights_of_the_class_s_own_initialisation(
    drawn: Callable[..., Any], blank: Path
) -> None:
    found = values(drawn(7))
    import transformers  # now that a torchvision which does not fit is mended

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = transformers.AutoConfig.from_pretrained(blank)
        expected = transformers.AutoModel.from_config(config, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all((found[name] == one.numpy()).all() for name, one in expected.items())
    assert not same(drawn(7), drawn(8))


def test_stored_weights_have_no_say_in_drawn_ones(drawn: Callable[..., Any]) -> None:
    assert same(drawn(7), drawn(7, STORED))
    assert not same(drawn(7, STORED), drawn(None, STORED))


def test_half_as_many_bits_are_the_same_numbers_rounded(drawn: Callable[..., Any]) -> None:
    wide, half = drawn(7).module.state_dict(), drawn(7, dtype="bfloat16").module.state_dict()
    assert all((wide[name].bfloat16() == one).all() for name, one in half.items())
    assert {one.dtype for one in half.values()} == {torch.bfloat16}


def test_nobody_else_s_random_numbers_move(drawn: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert drawn(7).module is not None
    assert torch.equal(torch.rand(4), expected)


def test_vectors_are_kept_apart_by_seed_and_by_configuration(
    drawn: Callable[..., Any], blank: Path, tmp_path: Path
) -> None:
    wider = tmp_path / "wider"
    shutil.copytree(blank, wider)
    config = json.loads((wider / "config.json").read_text())
    config["text_config" if "text_config" in config else "initializer_range"] = (
        {**config["text_config"], "initializer_range": 0.5} if "text_config" in config else 0.5
    )
    (wider / "config.json").write_text(json.dumps(config))
    told = [drawn(7), drawn(8), drawn(7, wider), drawn(7, STORED), drawn(None, STORED)]
    assert len({namespace(one, tmp_path) for one in told}) == len(told)
    assert namespace(drawn(7), tmp_path) == namespace(told[0], tmp_path)
    used = drawn(7)
    used.encode(ITEMS)
    assert namespace(used, tmp_path) == namespace(told[0], tmp_path)
    assert drawn(7).fingerprint() != drawn(8).fingerprint()


def test_a_folder_without_weights_is_refused_unless_they_are_drawn(
    drawn: Callable[..., Any],
) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be loaded"):
        _ = drawn(None).module


def test_what_is_saved_has_weights_of_its_own(drawn: Callable[..., Any], tmp_path: Path) -> None:
    encoder = drawn(7)
    with torch.no_grad():
        encoder.module.language_model.norm.weight += 1  # learnt
    encoder.save(tmp_path / "saved")
    assert read_card(tmp_path / "saved").random_weights is None
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu", dtype="float32")
    assert same(again, encoder)
    assert not same(again, drawn(7))
    assert np.abs(again.encode(ITEMS) - encoder.encode(ITEMS)).max() <= 1e-6


def test_an_adapter_over_drawn_weights_finds_them_again(
    drawn: Callable[..., Any], tmp_path: Path
) -> None:
    from training_parts import under_training

    encoder = drawn(7)
    under_training(encoder, lora={"rank": 2})
    encoder.module.eval()
    encoder.save(tmp_path / "saved")
    assert read_card(tmp_path / "saved").random_weights == 7
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu", dtype="float32")
    assert np.abs(again.encode(ITEMS) - encoder.encode(ITEMS)).max() <= 1e-5
    assert np.abs(again.encode(ITEMS) - drawn(7).encode(ITEMS)).max() > 1e-3


def test_an_adapter_of_other_weights_is_not_put_over_drawn_ones() -> None:
    with pytest.raises(UsageError, match="name the base itself"):
        mh.load_encoder("vlm2vec-qwen2vl-2b", random_weights=1)


@pytest.mark.parametrize("seed", [-1, 2**63, "seven"])
def test_what_is_no_seed_is_refused(seed: Any, drawn: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="random_weights"):
        drawn(seed)


def test_families_whose_own_weights_cannot_be_drawn_say_so(goldens: Path) -> None:
    with pytest.raises(UsageError, match="random_weights"):
        mh.load_encoder(f"clip:{goldens}/models/tiny-clip", random_weights=1)
