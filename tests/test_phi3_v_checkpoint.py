"""Checkpoints of Phi-3.5-vision: what fits, what is refused and by which name, adapters, saving."""

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
from mmeb_harness.errors import AdapterMismatch, EnvironmentFault, UsageError
from mmeb_harness.plugins.phi3_v_checkpoint import rope_parameters, text_config, vision_config
from PIL import Image
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.thorough

PLACE = "model.vision_embed_tokens."
TOWER = f"{PLACE}img_processor.vision_model."
EMBEDDING, ALIAS, HEAD = "model.embed_tokens.weight", f"{PLACE}wte.weight", "lm_head.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"

PUBLISHED = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "rope_scaling": {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
}
"""Sizes of microsoft/Phi-3.5-vision-instruct."""

PUBLISHED_TOWER = {
    f"{TOWER}embeddings.patch_embedding.weight": (1024, 3, 14, 14),
    f"{TOWER}embeddings.position_embedding.weight": (577, 1024),
    f"{TOWER}encoder.layers.0.mlp.fc1.weight": (4096, 1024),
    f"{TOWER}encoder.layers.23.mlp.fc1.weight": (4096, 1024),
}

PARAMETERS = 4_146_621_440
"""Of TIGER-Lab/VLM2Vec-Full, as mteb lists them, the vocabulary head among them."""

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model_folder(goldens: Path) -> Path:
    return goldens / "models/tiny-phi35v"


@pytest.fixture(scope="module")
def vectors(model_folder: Path) -> Any:
    return encode(model_folder)


@pytest.fixture
def changed(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return `(change of tensors, **config) -> folder`: a changed copy of the tiny model."""

    def make(change: Callable[[Tensors], Any] = lambda _: None, **config: Any) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(model_folder, folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | config))
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


def items() -> list[mh.Item]:
    gradient = Image.linear_gradient("L")
    image = Image.merge("RGB", [gradient, gradient.rotate(90), gradient.rotate(30)])
    return [
        mh.Item(text="a cat and a boat"),
        mh.Item(text="<|image_1|>\nRepresent the given image.", image=image.resize((90, 70))),
    ]


def load(folder: Path | str, **options: Any) -> Any:
    reference = str(folder) if (Path(folder) / "card.json").is_file() else f"phi3-v:{folder}"
    return mh.load_encoder(reference, device="cpu", **options)


def encode(folder: Path | str, **options: Any) -> Any:
    return load(folder, num_crops=1, **options).encode(items())


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-6) -> None:
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


# -- what fits -------------------------------------------------------------------------------------


def move_to_alias(tensors: Tensors) -> None:
    tensors[ALIAS] = tensors.pop(EMBEDDING)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.pop(HEAD), id="no vocabulary head"),
        pytest.param(lambda t: t.update({ALIAS: t[EMBEDDING].clone()}), id="both names"),
        pytest.param(move_to_alias, id="the other name alone"),
        pytest.param(
            lambda t: t.update({f"{TOWER}embeddings.position_ids": torch.arange(577)[None]}),
            id="old position table",
        ),
    ],
)
def test_a_checkpoint_may_hold_what_is_harmless(
    change: Callable[[Tensors], Any], changed: Callable[..., Path], vectors: Any
) -> None:
    assert_close(encode(changed(change)), vectors)


def test_a_checkpoint_in_several_files_is_read_by_its_index(
    changed: Callable[..., Path], vectors: Any
) -> None:
    folder = changed()
    tensors = load_file(folder / "model.safetensors")
    names = {name: f"model-0000{number % 2 + 1}.safetensors" for number, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({n: tensors[n] for n in names if names[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "model.safetensors").unlink()
    assert_close(encode(folder), vectors)
    (folder / "model-00002.safetensors").unlink()
    with pytest.raises(EnvironmentFault, match=r"model-00002\.safetensors cannot be read"):
        encode(folder)
    index.unlink()
    with pytest.raises(EnvironmentFault, match=r"has neither model\.safetensors nor a usable"):
        encode(folder)


def test_the_module_has_the_parameters_and_names_of_the_published_checkpoint() -> None:
    from accelerate import init_empty_weights
    from mmeb_harness.plugins.phi3_v_model import Phi3VisionModel

    vision = vision_config({}, PUBLISHED_TOWER, "sdpa")
    sizes = (vision.num_attention_heads, vision.num_hidden_layers, vision.image_size)
    assert sizes == (16, 24, 336)
    with init_empty_weights(include_buffers=False):
        module = Phi3VisionModel(text_config(PUBLISHED, "sdpa"), vision)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert sum(value.numel() for value in module.parameters()) == PARAMETERS - 32064 * 3072
    assert shapes["model.layers.31.self_attn.qkv_proj.weight"] == (9216, 3072)
    assert shapes["model.layers.31.mlp.gate_up_proj.weight"] == (16384, 3072)
    assert shapes[f"{PLACE}glb_GN"] == (1, 1, 4096)
    assert shapes[f"{PLACE}sub_GN"] == (1, 1, 1, 4096)
    assert shapes[f"{PLACE}img_projection.2.weight"] == (3072, 3072)
    assert shapes[f"{TOWER}encoder.layers.23.self_attn.out_proj.weight"] == (1024, 1024)
    scale = module.model.rotary_emb.attention_scaling
    assert scale == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)
    assert module.short_context == 4096


def test_the_tiny_module_has_the_names_of_the_reference_and_no_others(model_folder: Path) -> None:
    stored = load_file(model_folder / "model.safetensors")
    assert load(model_folder).module.state_dict().keys() == stored.keys() - {HEAD}


def test_the_number_of_heads_can_be_stated(
    changed: Callable[..., Path], model_folder: Path, vectors: Any
) -> None:
    stored = json.loads((model_folder / "config.json").read_text())["img_processor"]
    two, four = (
        encode(changed(img_processor={**stored, "num_attention_heads": number}))
        for number in (2, 4)
    )
    assert_close(two, vectors)
    assert np.abs(four - vectors)[1].max() > 1e-3


def test_positions_without_scaling_are_plain(changed: Callable[..., Path], vectors: Any) -> None:
    folder = changed(rope_scaling=None)
    assert load(folder).module.short_context is None
    assert np.abs(encode(folder) - vectors).max() > 1e-3


def test_longrope_is_another_name_for_su() -> None:
    config = {**PUBLISHED, "rope_theta": 10000.0}
    renamed = {**PUBLISHED["rope_scaling"], "type": "longrope"}  # type: ignore[dict-item]  # mixed
    assert rope_parameters(config) == rope_parameters({**config, "rope_scaling": renamed})


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(lambda t: t.pop(DOWN), (f"lack 1 tensors ({DOWN})",), id="one missing"),
        pytest.param(
            lambda t: [t.pop(name) for name in [n for n in t if ".layers.1." in n and TOWER in n]],
            (f"lack 16 tensors ({TOWER}encoder.layers.1.layer_norm1.bias, ", ", ...)"),
            id="a layer of the tower missing",
        ),
        pytest.param(
            lambda t: t.update({"model.layers.7.mlp.down_proj.weight": torch.ones(2)}),
            ("have, unexpected, 1 tensors (model.layers.7.mlp.down_proj.weight)",),
            id="one too many",
        ),
        pytest.param(
            lambda t: t.update({DOWN: t[DOWN].T.contiguous()}),
            (DOWN, "(128, 64) where (64, 128) is needed"),
            id="one misshapen",
        ),
        pytest.param(
            lambda t: t.update({f"{PLACE}sub_Gn": t.pop(f"{PLACE}sub_GN")}),
            (f"lack 1 tensors ({PLACE}sub_GN)", f"unexpected, 1 tensors ({PLACE}sub_Gn)"),
            id="one renamed",
        ),
        pytest.param(
            lambda t: t.update({ALIAS: t[EMBEDDING] + 1}),
            (f"{EMBEDDING} and {ALIAS} differ",),
            id="two embeddings",
        ),
        pytest.param(
            lambda t: [t.pop(name) for name in [n for n in t if n.startswith(TOWER)]],
            (f"lacks {TOWER}embeddings.patch_embedding.weight",),
            id="no tower",
        ),
        pytest.param(
            lambda t: t.pop(f"{TOWER}embeddings.position_embedding.weight"),
            (f"lacks {TOWER}embeddings.position_embedding.weight",),
            id="no positions in the tower",
        ),
        pytest.param(
            lambda t: t.update(
                {f"{TOWER}embeddings.position_embedding.weight": torch.ones(257, 32)}
            ),
            ("takes 224 pixels; phi3-v cuts crops of 336",),
            id="a tower for smaller pictures",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    change: Callable[[Tensors], Any], named: tuple[str, ...], changed: Callable[..., Path]
) -> None:
    with pytest.raises(EnvironmentFault) as refusal:
        encode(changed(change))
    for name in named:
        assert name in str(refusal.value)


def test_a_damaged_file_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(EnvironmentFault, match=r"model\.safetensors cannot be read"):
        encode(folder)


SU = {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("config", "error", "why"),
    [
        ({"model_type": "phi3"}, UsageError, "model of type 'phi3'; phi3-v reads phi3_v"),
        ({"rope_scaling": {**SU, "type": "yarn"}}, UsageError, "'yarn' is not known to phi3-v"),
        ({"rope_scaling": {**SU, "long_factor": [1.0]}}, EnvironmentFault, "length 8, got 1"),
        ({"rope_scaling": {"type": "su"}}, EnvironmentFault, "lacks short_factor"),
        ({"embd_layer": {"hd_transform_order": "glb_sub"}}, UsageError, "hd_transform_order"),
        ({"embd_layer": {"use_hd_transform": False}}, UsageError, "use_hd_transform = False"),
        ({"img_processor": {"layer_idx": -1}}, UsageError, "layer_idx = -1"),
        ({"hidden_size": 32}, EnvironmentFault, "short_factor field must have length 4, got 8"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(
    config: dict[str, Any], error: type[Exception], why: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(error, match=why):
        encode(changed(**config))


# -- adapters --------------------------------------------------------------------------------------

TARGETS = (
    "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj",
)  # fmt: skip
"""What VLM2Vec adapts by default: in the decoder and in the vision tower."""

RANK, ALPHA = 3, 12


def adapted_weights(folder: Path) -> Tensors:
    """Read the weights that VLM2Vec's adapter changes."""
    tensors = load_file(folder / "model.safetensors")
    return {name: value for name, value in tensors.items() if name.split(".")[-2] in TARGETS
            and name.endswith(".weight")}  # fmt: skip


def make_adapter(model_folder: Path, folder: Path, *, dora: bool = True, **config: Any) -> Tensors:
    """Write an adapter in the published layout; return its tensors."""
    generator = torch.Generator().manual_seed(23)
    tensors = {}
    for name, weight in adapted_weights(model_folder).items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = weight.shape
        tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) / 8
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) / 8
        if dora:
            moved = 1 + 0.1 * torch.randn(rows, generator=generator)
            tensors[f"{stem}.lora_magnitude_vector"] = weight.norm(dim=1) * moved
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
        "use_dora": dora, "target_modules": list(TARGETS), "task_type": None,
        "base_model_name_or_path": str(model_folder), "init_lora_weights": "gaussian",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return tensors


@pytest.mark.parametrize(("dora", "task"), [(True, None), (False, "CAUSAL_LM")])
def test_an_adapter_in_the_published_layout_is_merged_into_both_towers(
    dora: bool, task: str | None, model_folder: Path, tmp_path: Path, vectors: Any
) -> None:
    tensors = make_adapter(model_folder, tmp_path / "adapter", dora=dora, task_type=task)
    encoder = load(model_folder, num_crops=1, adapter=str(tmp_path / "adapter"))
    found = encoder.encode(items())
    assert encoder.adapter_tensors == len(tensors) == (2 * 4 + 3 * 4) * (3 if dora else 2)
    assert np.abs(found - vectors).max(axis=1).min() > 1e-3
    stored, merged = load_file(model_folder / "model.safetensors"), encoder.module.state_dict()
    weights = adapted_weights(model_folder)
    for name, weight in weights.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        update = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        wanted = weight + ALPHA / RANK * update
        if dora:
            length = wanted.norm(dim=1, keepdim=True)
            wanted = tensors[f"{stem}.lora_magnitude_vector"][:, None] * wanted / length
        assert_close(merged[name], wanted)
        assert not torch.equal(wanted, weight)
    untouched = merged.keys() - weights.keys()
    assert all(torch.equal(merged[name], stored[name]) for name in untouched)


def test_an_adapter_folder_alone_is_put_onto_the_base_that_it_names(
    model_folder: Path, tmp_path: Path
) -> None:
    make_adapter(model_folder, tmp_path / "adapter")
    wanted = encode(model_folder, adapter=str(tmp_path / "adapter"))
    assert_close(encode(tmp_path / "adapter"), wanted)


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj", f"{TOWER}encoder.layers.2.self_attn.out_proj"]
)
def test_an_adapter_that_lacks_a_tensor_is_refused_by_its_name(
    name: str, model_folder: Path, tmp_path: Path
) -> None:
    tensors = make_adapter(model_folder, tmp_path / "adapter")
    tensors.pop(f"base_model.model.{name}.lora_magnitude_vector")
    save_file(tensors, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(AdapterMismatch, match=f"{name}.lora_magnitude_vector"):
        encode(model_folder, adapter=str(tmp_path / "adapter"))


# -- saving ----------------------------------------------------------------------------------------


def test_a_saved_encoder_is_a_checkpoint_in_the_published_layout(
    model_folder: Path, tmp_path: Path
) -> None:
    make_adapter(model_folder, tmp_path / "adapter")
    options = {"num_crops": 2, "normalize": False, "max_length": 9}
    encoder = load(model_folder, adapter=str(tmp_path / "adapter"), **options)
    saved = tmp_path / "saved"
    encoder.save(saved)
    again = load(saved)
    assert_close(again.encode(items()), encoder.encode(items()))
    assert (again.card.name, again.card.adapter) == ("saved", None)
    assert again.card.vector_settings() == encoder.card.vector_settings()
    stored = load_file(model_folder / "model.safetensors")
    found = load_file(saved / "model.safetensors")
    assert {n: v.shape for n, v in found.items()} | {HEAD: stored[HEAD].shape} == {
        name: value.shape for name, value in stored.items()
    }
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (saved / name).read_bytes() == (model_folder / name).read_bytes()


def test_an_encoder_can_be_trained_and_saved_over_the_checkpoint_it_came_from(
    changed: Callable[..., Path], vectors: Any
) -> None:
    folder = changed()
    encoder = load(folder, num_crops=1)
    before = encoder.fingerprint()
    with torch.no_grad():
        encoder.module.get_parameter(f"{PLACE}sub_GN").add_(1)
    assert encoder.fingerprint() != before
    wanted = encoder.encode(items())
    encoder.save(folder)
    assert_close(load(folder).encode(items()), wanted)
    assert np.abs(wanted - vectors)[1].max() > 1e-3
