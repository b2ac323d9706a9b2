"""What of a model is trained, and that what was trained is what loads again."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import UsageError
from mmeb_harness.loading import load_object
from mmeb_harness.trainers.lora import choose_parameters, matching, to_training
from mmeb_harness.trainers.loss import InfoNCE
from safetensors.torch import load_file
from torch import nn
from training_parts import (
    GOLDENS,
    TINY,
    config,
    golden_encoder,
    load,
    mixed_pairs,
    stepped,
    stepper,
    under_training,
)

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
ITEMS = [one for pair in mixed_pairs(5) for one in (pair.query, pair.positive)]

NAMES = [
    "tower.layers.0.q_proj",
    "tower.layers.1.q_proj",
    "tower.layers.1.my_q_proj",
    "tower.layers.10.k_proj",
    "head",
]


# -- patterns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "places"),
    [
        (["q_proj"], [0, 1]),
        (["head"], [4]),
        (["[qk]_proj"], [0, 1, 3]),
        (["q_proj|head"], [0, 1, 4]),
        (["layers.1"], [1, 2]),
        ([r"layers\.1.*"], [1, 2, 3]),
        (["tower"], [0, 1, 2, 3]),
        (["tower.layers.10", "head"], [3, 4]),
        (["layers.*q_proj"], [0, 1, 2]),
        ([".*"], [0, 1, 2, 3, 4]),
    ],
)
def test_a_pattern_names_the_end_of_a_module_and_all_below(
    patterns: Sequence[str], places: Sequence[int]
) -> None:
    assert matching(NAMES, patterns, "lora.targets") == {NAMES[place] for place in places}


def test_a_pattern_without_a_match_names_its_setting_and_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        matching(NAMES, ["q_proj", "query"], "lora.exclude")
    assert str(caught.value) == (
        "lora.exclude: 'query' matches nothing; names end in: head, k_proj, my_q_proj, q_proj"
    )
    with pytest.raises(UsageError, match=r"^train: '\(' is no regular expression: "):
        matching(NAMES, ["("], "train")


# -- a new adapter ---------------------------------------------------------------------------------

DEFAULTS = {
    "qwen2-vl": (14, "language_model."),
    "llava-next": (14, "language_model."),
    "phi3-v": (8, "model.layers."),
    "clip": (26, ""),
}
"""How many modules the defaults name in a tiny model, and where: all that are linear there."""


@pytest.mark.parametrize("family", TINY)
def test_default_targets(family: str) -> None:
    encoder = load(family)
    linear = [name for name, one in encoder.module.named_modules() if type(one) is nn.Linear]
    chosen = choose_parameters(encoder, config(lora=LORA))
    count, where = DEFAULTS[family]
    assert len(chosen.adapted) == len(set(chosen.adapted)) == count
    assert set(chosen.adapted) == {name for name in linear if name.startswith(where)}
    check_adapted(encoder, chosen.adapted)


def check_adapted(encoder: Any, adapted: Sequence[str]) -> None:
    """The modules named are those that carry an adapter, and nothing but adapters is trained."""
    carried = [name for name, one in encoder.module.named_modules() if hasattr(one, "lora_A")]
    assert sorted(carried) == sorted(adapted)
    for name, parameter in encoder.module.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        assert name.partition(".lora_")[0] in adapted or not parameter.requires_grad


PATTERNS: Sequence[tuple[Mapping[str, Any], str]] = [
    ({"targets": ["q_proj"]}, r"language_model\.layers\.\d\.self_attn\.q_proj"),
    ({"targets": ["visual"]}, r"visual\..*"),
    ({"targets": ["layers.1.mlp"]}, r"language_model\.layers\.1\.mlp\..*"),
    ({"targets": [r"blocks\.[01]\.attn.*", "k_proj"]}, r"visual\.blocks\..*attn.*|.*k_proj"),
    ({"exclude": ["mlp"]}, r"language_model\..*self_attn.*"),
    ({"targets": [".*"], "exclude": ["visual", "layers.0"]}, r"language_model\.layers\.1\..*"),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("given", "pattern"), PATTERNS, ids=str)
def test_targets_by_pattern(given: Mapping[str, Any], pattern: str, tmp_path: Path) -> None:
    encoder = load("qwen2-vl")
    linear = [name for name, one in encoder.module.named_modules() if type(one) is nn.Linear]
    chosen = choose_parameters(encoder, config(lora={**LORA, **given}))
    wanted = {name for name in linear if re.fullmatch(pattern, name)}
    assert wanted
    assert set(chosen.adapted) == wanted
    check_adapted(encoder, chosen.adapted)
    encoder.save(tmp_path / "saved")
    stored = load_file(tmp_path / "saved/adapter_model.safetensors")
    prefix = "base_model.model."
    assert {one.partition(".lora_")[0].removeprefix(prefix) for one in stored} == wanted


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": ["q_proj", "query"]}, r"^lora\.targets: 'query' matches nothing; names end"),
        ({"exclude": ["query"]}, r"^lora\.exclude: 'query' matches nothing; names end"),
        ({"targets": ["q_proj"], "exclude": ["layers"]}, r"^lora.* leave no module to adapt$"),
        ({"go_on": True}, r"^lora\.go_on: the model has no adapter to go on with \(model\.adap"),
    ],
)
def test_what_cannot_be_adapted_is_refused(given: Mapping[str, Any], message: str) -> None:
    lora = given if "go_on" in given else {**LORA, **given}
    with pytest.raises(UsageError, match=message):
        choose_parameters(load("qwen2-vl"), config(lora=lora))


def test_an_adapter_is_put_on_no_other() -> None:
    with pytest.raises(UsageError, match=r"comes with an adapter already: lora\.go_on: true"):
        choose_parameters(golden_encoder("randB"), config(lora=LORA))


def test_a_rank_that_cannot_be_orthogonal_is_refused() -> None:
    with pytest.raises(UsageError, match="init orthogonal needs an even rank, not 3"):
        config(lora={"rank": 3, "init": "orthogonal"})


@pytest.mark.parametrize("family", ["open_clip:OpenClip", "uniir:UniirClipSF"])
def test_families_that_cannot_save_an_adapter_are_refused(family: str) -> None:
    kind = load_object(f"mmeb_harness.plugins.{family}")
    stub: Any = SimpleNamespace(adapter_targets=kind.adapter_targets, module=nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"cannot save an adapter: lora: false trains weights"):
        choose_parameters(stub, config(lora={**LORA, "targets": [".*"]}))


def test_attention_that_uses_weights_without_calling_them_is_left_out() -> None:
    """As SigLIP's pooling head: an adapter on it would do nothing."""
    encoder = mh.load_encoder(f"siglip:{GOLDENS}/models/tiny-siglip", device="cpu")
    chosen = choose_parameters(encoder, config(lora={**LORA, "targets": ["head"]}))
    heads = [name for name in chosen.adapted if "vision_model.head" in name]
    assert sorted(heads) == ["vision_model.head.mlp.fc1", "vision_model.head.mlp.fc2"]


@pytest.mark.thorough
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_adapter_changes_nothing_yet(init: str, dora: bool, dtype: str) -> None:
    encoder = load("qwen2-vl", dtype=dtype)
    before = encoder.encode(ITEMS[:4])
    weights = {name: one.clone() for name, one in encoder.module.named_parameters()}
    sections = config(lora={**LORA, "init": init, "dora": dora})
    if (init, dtype) == ("orthogonal", "bfloat16"):
        with pytest.raises(UsageError, match="orthogonal needs float32 weights"):
            choose_parameters(encoder, sections)
        return
    chosen = choose_parameters(encoder, sections)
    assert np.abs(encoder.encode(ITEMS[:4]) - before).max() <= 1e-6
    for name, parameter in encoder.module.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, weights.pop(name.replace(".base_layer", "")))
    assert not weights
    drawn = [one for name, one in chosen.parameters.items() if ".lora_A." in name]
    zero = [one for name, one in chosen.parameters.items() if ".lora_B." in name]
    assert all(one.any() for one in drawn)
    assert all(one.any() == (init == "orthogonal") for one in zero)
    spread = torch.cat([one.flatten() for one in drawn]).std().item()
    expected = {"default": 0.072, "gaussian": 1 / 4, "orthogonal": 0.071}
    assert spread == pytest.approx(expected[init], rel=0.2)
    assert ("lora_magnitude" in "".join(chosen.parameters)) == dora


@pytest.mark.thorough
@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / 4**0.5)])
def test_settings_of_an_adapter(rslora: bool, scale: float) -> None:
    encoder = load("qwen2-vl")
    lora = {**LORA, "targets": ["q_proj"], "dropout": 0.25, "rslora": rslora}
    chosen = choose_parameters(encoder, config(lora=lora))
    assert chosen.numbers == 2 * 4 * (64 + 64)
    for name in chosen.adapted:
        layer = encoder.module.get_submodule(name)
        assert layer.r == {"default": 4}
        assert layer.scaling == {"default": scale}
        assert layer.lora_dropout["default"].p == 0.25


@pytest.mark.thorough
@pytest.mark.parametrize("go_on", [False, True])
def test_adapters_are_float32_on_a_base_of_fewer_bits(go_on: bool) -> None:
    adapter = str(GOLDENS / "models/tiny-qwen2vl-dora-init-randB") if go_on else None
    encoder = load("qwen2-vl", dtype="bfloat16", adapter=adapter)
    lora = {"go_on": True} if go_on else {**LORA, "dora": True}
    chosen = choose_parameters(encoder, config(lora=lora))
    for name, parameter in encoder.module.named_parameters():
        assert parameter.dtype == (torch.float32 if name in chosen.parameters else torch.bfloat16)


# -- an adapter that goes on -----------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_goes_on_with_the_models_own_adapter(dropout: float) -> None:
    encoder = golden_encoder("randB")
    merged = golden_encoder("randB").encode(ITEMS[:4])
    chosen = choose_parameters(encoder, config(lora={"go_on": True, "dropout": dropout}))
    assert len(chosen.adapted) == 10
    assert all(re.search("[qkvo]_proj$|down_proj$", name) for name in chosen.adapted)
    assert (len(chosen.parameters), chosen.numbers) == (30, 10752)
    check_adapted(encoder, chosen.adapted)
    assert np.abs(encoder.encode(ITEMS[:4]) - merged).max() <= 2e-6
    stored = load_file(GOLDENS / "models/tiny-qwen2vl-dora-init-randB/adapter_model.safetensors")
    norms = sorted(one.norm().item() for one in stored.values())
    assert sorted(one.norm().item() for one in chosen.parameters.values()) == pytest.approx(norms)
    for name in chosen.adapted:
        inner = encoder.module.get_submodule(name).lora_dropout["default"]
        assert getattr(inner, "p", 0.0) == dropout
    to_training(encoder.module)
    ready = encoder.prepare([encoder.render(one) for one in ITEMS[:4]])
    again = [encoder.forward(ready).detach().numpy() for _ in range(2)]
    assert np.array_equal(*again) == (dropout == 0)


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("sections", "trained", "not_trained"),
    [
        ({}, [""], []),
        ({"train": ["language_model"]}, ["language_model"], ["visual"]),
        ({"freeze": ["visual", "embed_tokens"]}, ["language_model.layers"], ["visual", "embed"]),
        (
            {"train": [r"layers\.1", "norm.weight"], "freeze": ["bias"]},
            ["language_model.layers.1.mlp", "language_model.norm"],
            ["visual", "layers.0.mlp", ".bias"],
        ),
    ],
)
def test_weights_by_pattern(
    sections: Mapping[str, Any], trained: Sequence[str], not_trained: Sequence[str]
) -> None:
    encoder = load("qwen2-vl")
    chosen = choose_parameters(encoder, config(lora=False, **sections))
    assert not chosen.adapted
    everything = dict(encoder.module.named_parameters())
    asked = {name for name, one in everything.items() if one.requires_grad}
    assert asked == chosen.parameters.keys()
    for part in trained:
        assert {name for name in everything if part in name and ".bias" not in name} <= asked
    for part in not_trained:
        assert not [name for name in asked if part in name]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": ["decoder"]}, r"^train: 'decoder' matches nothing; names end in: 0, 2, down"),
        ({"freeze": ["visual", "head"]}, r"^freeze: 'head' matches nothing"),
        ({"train": ["visual"], "freeze": ["visual"]}, "^train and freeze leave no weight"),
    ],
)
def test_weights_that_leave_nothing_are_refused(sections: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_parameters(load("qwen2-vl"), config(lora=False, **sections))


def test_statistics_of_batches_stay_as_they_are() -> None:
    """A vector must not depend on its chunk, nor the base of an adapter move."""
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    to_training(module)
    assert [one.training for one in module] == [False, True]
    module(torch.randn(4, 3, 2, 2))
    assert not module[0].running_mean.any()  # type: ignore[union-attr]


# -- what is written, and loads again --------------------------------------------------------------

WAYS: Mapping[str, Mapping[str, Any]] = {
    "adapter": {"lora": LORA},
    "DoRA": {"lora": {**LORA, "dora": True, "rslora": True}},
    "weights": {"lora": False},
}


def moved(encoder: Any, **sections: Any) -> Any:
    """Return the vectors of an encoder whose parameters under training have moved."""
    chosen = under_training(encoder, **sections)
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in chosen.parameters.values():
            parameter += 0.02 * torch.randn_like(parameter)
    encoder.module.eval()
    return encoder.encode(ITEMS)


def near(found: Any, expected: Any) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max())


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", TINY)
def test_what_is_saved_loads_with_equal_vectors(family: str, way: str, tmp_path: Path) -> None:
    encoder = load(family)
    before = encoder.encode(ITEMS)
    vectors = moved(encoder, **WAYS[way])
    assert not near(vectors, before)
    encoder.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert ("adapter_model.safetensors" in names) == (way != "weights")
    assert ("model.safetensors" in names) == (way == "weights")
    loaded = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert loaded.card.name == "saved"
    assert near(_exactly(loaded), _exactly(encoder))


def _exactly(encoder: Any) -> Any:
    """Return the vectors of its float32 weights by arithmetic of float64: the rounding of a forward
    pass with a merged and with an unmerged adapter is 1e-6 apart."""
    encoder.module.double()
    return encoder.encode(ITEMS)


FAMILIES = {path.stem for path in (Path(__file__).parent / "tiny").glob("*.py")}
OTHERS = sorted(FAMILIES - {name.replace("-", "_") for name in TINY})


@pytest.mark.thorough
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_family_is_trained_and_loads_again(name: str, tmp_path: Path) -> None:
    """Its first step leaves nothing changed that is not saved; an adapter where it can have one."""
    reference = importlib.import_module(f"tiny.{name}").make(tmp_path / "model")
    encoder = mh.load_encoder(reference, device="cpu")
    before = encoder.encode(ITEMS)
    lora = LORA if encoder.adapter_targets else False
    chosen = under_training(encoder, lora=lora)
    one = stepper(encoder, InfoNCE(temperature=0.05), items=3)
    result, found = stepped(one, [mixed_pairs(4)], chosen)
    assert result.loss > 0
    assert found
    with torch.no_grad():
        for parameter in chosen.parameters.values():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad / parameter.grad.norm().clamp(min=1e-3)
    encoder.module.eval()
    vectors = encoder.encode(ITEMS)
    assert not near(vectors, before)
    encoder.save(tmp_path / "saved")
    loaded = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert np.abs(loaded.encode(ITEMS) - vectors).max() <= 5e-6 * np.abs(vectors).max()


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["adapter", "weights"])
def test_a_base_by_relative_path_is_found_from_anywhere(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(GOLDENS)
    encoder = mh.load_encoder(
        "qwen2-vl:models/tiny-qwen2vl", device="cpu", image_resolution="low", max_length=256
    )
    vectors = moved(encoder, **WAYS[way])
    encoder.save(tmp_path / "saved")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert near(mh.load_encoder("../saved", device="cpu").encode(ITEMS), vectors)
    (tmp_path / "saved").rename(tmp_path / "moved")
    assert near(mh.load_encoder("../moved", device="cpu").encode(ITEMS), vectors)


@pytest.mark.thorough
def test_goes_on_with_what_it_saved(tmp_path: Path) -> None:
    """Adapter onto base, saved; loaded, trained on, saved: the base is still the first one."""
    encoder = load("qwen2-vl")
    moved(encoder, **WAYS["DoRA"])
    encoder.save(tmp_path / "first")
    again = mh.load_encoder(str(tmp_path / "first"), device="cpu")
    vectors = moved(again, lora={"go_on": True, "dropout": 0.0})
    again.save(tmp_path / "second")
    stored = json.loads((tmp_path / "second/adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(GOLDENS / "models/tiny-qwen2vl")
    (tmp_path / "first").rename(tmp_path / "gone")
    assert near(mh.load_encoder(str(tmp_path / "second"), device="cpu").encode(ITEMS), vectors)


@pytest.mark.thorough
def test_weights_with_an_adapter_merged_in_are_trained_and_saved(tmp_path: Path) -> None:
    encoder = golden_encoder("randB")
    vectors = moved(encoder, lora=False)
    encoder.save(tmp_path / "saved")
    loaded = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert loaded.card.adapter is None
    assert near(loaded.encode(ITEMS), vectors)
