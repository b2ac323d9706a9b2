"""The last layer runs for the tokens that become vectors; the vectors are what they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.encoder import infer
from mmeb_harness.item import PLACEHOLDER, Item
from mmeb_harness.plugins.last_layer import only_at
from PIL import Image

PACKING = ["qwen2_vl", "gme", "qwen3_vl", "llava_next"]
WAYS = [(name, "padded") for name in (*PACKING, "phi3_v")] + [(name, "packed") for name in PACKING]
TEXTS = ("a cat", "find the dog on the left of the sofa", "boat", "two small boats, and a man")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def a_batch(encoder: Any, picture: str) -> Any:
    items = [Item(text=text) for text in TEXTS]
    items.insert(1, Item(text=f"{PLACEHOLDER}\n{TEXTS[1]}", image=picture))
    return encoder.prepare([encoder.render(item) for item in items])


def pack(encoder: Any, packing: str) -> None:
    encoder.pack("on" if packing == "packed" else "off")


class Seen:
    """How many tokens the MLPs of a decoder's layers see."""

    def __init__(self, encoder: Any) -> None:
        self.layers = encoder.module.language_model.layers
        self.tokens: list[int] = []

    def __enter__(self) -> Seen:
        def noting(whole: Any) -> Any:
            def forward(states: torch.Tensor) -> torch.Tensor:
                self.tokens.append(states.shape[:-1].numel())
                return whole(states)

            return forward

        for layer in self.layers:
            layer.mlp.forward = noting(layer.mlp.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            del layer.mlp.forward


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "packing"), WAYS)
def test_vectors_are_those_of_the_whole_layer(
    name: str, packing: str, side: str, encoders: Any, picture: str, monkeypatch: Any
) -> None:
    encoder = encoders(name)
    monkeypatch.setattr(encoder, "padding_side", side)
    pack(encoder, packing)
    batch = a_batch(encoder, picture)
    with Seen(encoder) as few:
        spared = infer(encoder, batch)
    with Seen(encoder) as all_tokens, torch.no_grad():
        whole = encoder.forward(batch).numpy()
    assert np.abs(spared - whole).max() <= 1e-6
    assert few.tokens == [*all_tokens.tokens[:-1], len(spared)]
    assert len(set(all_tokens.tokens)) == 1
    assert all_tokens.tokens[0] > 2 * len(spared)


def test_the_output_projection_is_spared_too(encoders: Any, picture: str) -> None:
    encoder = encoders("qwen2_vl")
    pack(encoder, "padded")
    seen: list[torch.Size] = []
    projection = encoder.module.language_model.layers[-1].self_attn.o_proj
    whole = projection.forward
    projection.forward = lambda states: (seen.append(states.shape), whole(states))[1]
    try:
        vectors = infer(encoder, a_batch(encoder, picture))
    finally:
        del projection.forward
    assert [shape[:-1].numel() for shape in seen] == [len(vectors)]


def test_the_layer_is_as_before_afterwards_and_after_an_error(encoders: Any) -> None:
    layer = encoders("qwen2_vl").module.language_model.layers[-1]

    def own(states: torch.Tensor) -> torch.Tensor:
        return states

    layer.self_attn.o_proj.forward = own
    nowhere = torch.zeros(0, dtype=torch.long)
    try:
        with (
            torch.inference_mode(),
            pytest.raises(ValueError, match="spoilt"),
            only_at(layer, nowhere, nowhere),
        ):
            assert "forward" in vars(layer.mlp)
            raise ValueError("spoilt")
        assert "forward" not in vars(layer.mlp)
        assert layer.self_attn.o_proj.forward is own
    finally:
        del layer.self_attn.o_proj.forward


@pytest.fixture
def under_training(encoders: Any) -> Iterator[Any]:
    encoder = encoders("qwen2_vl")
    encoder.module.train()
    yield encoder
    encoder.module.eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_training_runs_the_whole_layer(mode: Any, under_training: Any, picture: str) -> None:
    pack(under_training, "padded")
    batch = a_batch(under_training, picture)
    with Seen(under_training) as seen, mode():
        under_training.forward(batch)
    assert len(set(seen.tokens)) == 1


def test_threads_that_share_an_encoder_take_turns(encoders: Any, picture: str) -> None:
    encoder = encoders("qwen2_vl")
    pack(encoder, "padded")
    items = [[Item(text=text * (1 + number)) for text in TEXTS] for number in range(2)]
    expected = [encoder.encode(some) for some in items]
    worst = [0.0, 0.0]

    def work(number: int) -> None:
        for _ in range(25):
            found = encoder.encode(items[number])
            worst[number] = max(worst[number], float(np.abs(found - expected[number]).max()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) <= 1e-6
    assert "forward" not in vars(encoder.module.language_model.layers[-1].mlp)
