"""The quick ways through a vision tower give what the library gives, forward and backward."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import torch
from mmeb_harness.plugins import qwen_vision
from mmeb_harness.plugins.qwen_vision import BY_SIZE, quick_gelu
from training_parts import GOLDENS, load, picture

NO_WEIGHTS = shutil.ignore_patterns("*.safetensors*")
MIXED = [(56, 56), (84, 56), (56, 56), (28, 28), (84, 84), (56, 84), (28, 28), (56, 56)]
ALIKE = [(56, 56)] * 5


def qwen(**options: Any) -> Any:
    """Load a tiny model that computes in float64, where only a mistake makes a difference."""
    given = {"image_resolution": "processor", "min_pixels": 784, **options}
    return load("qwen2-vl", dtype="float64", **given)


def images(encoder: Any, sizes: Sequence[tuple[int, int]]) -> Any:
    taken = encoder.process([picture(number, size) for number, size in enumerate(sizes)])[0]
    return {**taken, "pixels": taken["pixels"].double()}


def seen(encoder: Any, taken: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return features of images, and the gradients of a made-up loss of them."""
    encoder.module.zero_grad()
    features_TD = encoder.features(taken)
    assert features_TD.dtype == torch.float64
    drawn = torch.Generator().manual_seed(0)
    slopes_TD = torch.randn(features_TD.shape, generator=drawn, dtype=torch.float64)
    (features_TD * slopes_TD).sum().backward()
    return features_TD.detach(), [one.grad.clone() for one in encoder.module.visual.parameters()]


@pytest.fixture(scope="module")
def quick() -> Any:
    return qwen()


@pytest.fixture(scope="module")
def usual() -> Any:
    """The library's own way: a picture at a time, through a convolution."""
    encoder = qwen()
    as_the_library(encoder)
    return encoder


def as_the_library(encoder: Any) -> None:
    tower = encoder.module.visual
    assert tower.config._attn_implementation == BY_SIZE
    tower.config._attn_implementation = "sdpa"
    del tower.patch_embed.proj.forward


@pytest.mark.parametrize("sizes", [MIXED, ALIKE, MIXED[:1]])
@pytest.mark.parametrize("limits", [{}, {"TOGETHER": 20}, {"LARGE": 30}])
def test_features_and_gradients_are_the_library_s(
    sizes: Sequence[tuple[int, int]],
    limits: Mapping[str, int],
    quick: Any,
    usual: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, patches in limits.items():  # some lots are cut, and some pictures are larger
        monkeypatch.setattr(qwen_vision, name, patches)
    taken = images(quick, sizes)
    (found_TD, found), (wanted_TD, wanted) = seen(quick, taken), seen(usual, taken)
    assert (found_TD - wanted_TD).abs().max() <= 1e-10 * wanted_TD.abs().max()
    largest = max(one.abs().max() for one in wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= 1e-10 * largest


def test_a_tower_that_attends_in_windows_is_the_library_s(tmp_path: Path) -> None:
    """Qwen2.5-VL: windows of several sizes within a picture, and whole pictures in some layers."""

    def windowed() -> Any:
        encoder = mh.load_encoder(f"qwen2-vl:{folder}", device="cpu", **drawn)
        encoder.module.double()
        return encoder

    folder, drawn = tmp_path / "blank", {"dtype": "float32", "random_weights": 1}
    shutil.copytree(GOLDENS / "models/tiny-qwen2vl", folder, ignore=NO_WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    vision |= {"out_hidden_size": config["vision_config"]["hidden_size"], "window_size": 56}
    config |= {
        "model_type": "qwen2_5_vl",
        "vision_config": {**vision, "fullatt_block_indexes": [1]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    quick, usual = windowed(), windowed()
    as_the_library(usual)
    taken = images(quick, [(112, 84), (140, 56), (112, 84)])
    (found_TD, found), (wanted_TD, wanted) = seen(quick, taken), seen(usual, taken)
    assert (found_TD - wanted_TD).abs().max() <= 1e-10 * wanted_TD.abs().max()
    largest = max(one.abs().max() for one in wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= 1e-10 * largest


def test_pictures_of_one_size_are_attended_to_at_once(
    quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AttentionInterface

    shapes: list[tuple[int, ...]] = []
    attend = AttentionInterface()["sdpa"]

    def counted(module: Any, query: Any, *rest: Any, **more: Any) -> Any:
        shapes.append((query.shape[0], query.shape[2]))
        return attend(module, query, *rest, **more)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", counted)
    with torch.no_grad():
        quick.features(images(quick, MIXED))
    layers = len(quick.module.visual.blocks)
    assert sorted(shapes) == sorted([(2, 4), (3, 16), (2, 24), (1, 36)] * layers)


def test_the_patches_are_a_product(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the convolution was run")

    monkeypatch.setattr(torch.nn.Conv3d, "_conv_forward", never)
    with torch.no_grad():
        quick.features(images(quick, ALIKE))


def test_the_activation_is_the_library_s_bit_for_bit() -> None:
    from transformers.activations import QuickGELUActivation

    library = QuickGELUActivation()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.linspace(-9, 9, 1001, dtype=dtype)
        before = x.clone()
        with torch.inference_mode():
            assert torch.equal(quick_gelu(library, x), library(x))
        assert torch.equal(x, before)
    x = torch.linspace(-9, 9, 1001, requires_grad=True)
    (ours,) = torch.autograd.grad(quick_gelu(library, x).sum(), x)
    (theirs,) = torch.autograd.grad(library(x).sum(), x)
    assert torch.equal(ours, theirs)


def test_the_activation_of_the_tower_is_ours(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kept = torch.Tensor.sigmoid_
    monkeypatch.setattr(torch.Tensor, "sigmoid_", lambda one: calls.append(1) or kept(one))
    quick.encode([mh.Item(text="<|image_1|>\nwhat is it?", image=picture(1, (56, 56)))])
    assert len(calls) == len(quick.module.visual.blocks)


def test_another_kernel_is_the_library_s(quick: Any) -> None:
    eager = qwen(attention="eager")
    assert eager.module.visual.config._attn_implementation == "eager"
    taken = images(quick, MIXED)
    with torch.no_grad():
        difference = (eager.features(taken) - quick.features(taken)).abs().max()
    assert difference <= 1e-5  # its softmax is in float32


def test_a_saved_model_does_not_tell_of_it(quick: Any, tmp_path: Path) -> None:
    quick.save(tmp_path / "saved")
    assert BY_SIZE not in (tmp_path / "saved/config.json").read_text()
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    items = [mh.Item(text="<|image_1|>\nRepresent it.", image=picture(1, (56, 56)))]
    assert abs(again.encode(items) - quick.encode(items)).max() <= 1e-5
