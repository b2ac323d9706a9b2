"""The blank of `mini-vlm`: whole words, a token at the end, and weights drawn by the training."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from mmeb_harness.registry import build_registry
from training_parts import picture

MAKE = Path(__file__).parent.parent / "examples/mini-vlm/make.py"
TEXTS = ["Represent the given image.", "the red star and the blue star", "What is the word? tide"]


@pytest.fixture(scope="module")
def make() -> dict[str, Any]:
    return runpy.run_path(str(MAKE))


@pytest.fixture(scope="module")
def blank(make: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini-vlm") / "blank"
    make["write_blank"](folder, TEXTS)
    return folder


@pytest.fixture(scope="module")
def encoder(blank: Path) -> Any:
    return mh.load_encoder(f"qwen2-vl:{blank}", device="cpu", random_weights=1)


def pieces(encoder: Any, text: str) -> list[str]:
    return list(encoder.tokenizer.convert_ids_to_tokens(encoder.token_ids(text)))


def test_there_are_no_weights_in_it(blank: Path) -> None:
    names = {path.name for path in blank.iterdir()}
    assert {"config.json", "tokenizer.json", "preprocessor_config.json"} <= names
    assert not any("safetensors" in name for name in names)


def test_a_known_word_is_one_token_wherever_it_stands(encoder: Any) -> None:
    assert len(pieces(encoder, "star")) == 2
    assert len(pieces(encoder, "Represent the star. star")) == 6
    assert len(pieces(encoder, "the the")) == 3


def test_another_word_is_spelt_in_bytes_and_read_back(encoder: Any) -> None:
    spelt = pieces(encoder, "zebra")
    assert len(spelt) == 6
    ids = encoder.token_ids("zebra\u00e9")
    assert encoder.tokenizer.decode(ids, skip_special_tokens=True).strip() == "zebra\u00e9"


def test_a_text_ends_in_a_token_of_its_own_that_is_trained(encoder: Any) -> None:
    end = encoder.token_ids("star")[-1]
    assert {encoder.token_ids(text)[-1] for text in TEXTS} == {end}
    assert encoder.tokenizer.convert_ids_to_tokens(end) == "<|endoftext|>"
    embedding = encoder.module.get_input_embeddings()
    assert embedding.padding_idx is None  # the embedding of one is never trained
    assert embedding.weight[end].abs().max() > 0


def test_the_vocabulary_has_a_limit_and_prefers_what_is_frequent(make: dict[str, Any]) -> None:
    rare = [
        f"{first}{second}x" for first in "abcdefghijklmnop" for second in "bcdfghjklmnpqrst" * 5
    ]
    many = {f"{word}{third}" for word in rare for third in "aeiou"}
    words, spelt = make["vocabulary"]([" ".join(sorted(many)), "zz zz"])
    assert len(words) == make["VOCABULARY"]
    assert sorted(words.values()) == list(range(len(words)))
    assert any(word.endswith("zz") for word in words)
    assert spelt > 0


def test_it_has_the_size_and_sees_the_images_that_it_should(encoder: Any) -> None:
    numbers = sum(one.numel() for one in encoder.module.parameters())
    assert 2_000_000 < numbers < 3_000_000
    sizes = [(28, 28), (56, 56), (112, 112), (200, 200)]
    rendered = [
        encoder.render(mh.Item(text="<|image_1|>\nthe star", image=picture(number, size)))
        for number, size in enumerate(sizes)
    ]
    assert encoder.prepare(rendered).is_image_BL.sum(1).tolist() == [1, 4, 16, 16]
    vectors = encoder.encode([mh.Item(text=text) for text in TEXTS])
    assert vectors.shape == (3, build_registry().cards["mini-vlm"].thing.dimension)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_the_card_is_of_the_family_and_lies_in_the_package() -> None:
    card = build_registry().cards["mini-vlm"].thing
    assert card.factory == build_registry().cards["qwen2-vl"].thing.factory
    assert card.base == "package:mmeb_harness.plugins/mini_vlm"
