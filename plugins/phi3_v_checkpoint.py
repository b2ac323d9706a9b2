"""Checkpoints in the published layout of Phi-3.5-vision, read and written.

The one idea: the module has the published names, so a checkpoint fits it name by name and shape by
shape, or is refused by the names that do not. config.json says what the decoder is like; it says
nothing of the vision tower, whose sizes are those of its tensors.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.hub import CONFIGURATION
from mmeb_harness.plugins.phi3_v_images import SIDE

if TYPE_CHECKING:
    import torch

EMBEDDING, ALIAS = "model.embed_tokens.weight", "model.vision_embed_tokens.wte.weight"
"""The original class has one parameter under two names; a file may hold either, or both."""

HARMLESS = r"^lm_head\.weight$|\.position_ids$|\.rotary_emb\.inv_freq$"
"""Stored, but of no use here: the vocabulary head, and tables that are computed."""

TOWER = "model.vision_embed_tokens.img_processor.vision_model."

HEAD_SIZE = 64
"""What an attention head of every CLIP tower that OpenAI published takes: 1024 / 16 in this one."""

TEXT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "rms_norm_eps", "max_position_embeddings",
    "original_max_position_embeddings", "sliding_window", "attention_dropout", "resid_pdrop",
    "embd_pdrop", "bos_token_id", "eos_token_id",
)  # fmt: skip

BUILT_FOR = {
    "embd_layer": {
        "embedding_cls": "image",
        "use_hd_transform": True,
        "with_learnable_separator": True,
        "hd_transform_order": "sub_glb",
        "projection_cls": "mlp",
    },
    "img_processor": {"name": "clip_vision_model", "layer_idx": -2, "type_feature": "patch"},
}
"""What config.json says of the image embedding, where it says it; nothing else is built here."""


# -- what a checkpoint is like ---------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        UsageError: where it describes an image embedding that is not the one built here.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    for part, wanted in BUILT_FOR.items():
        for name, value in (config.get(part) or {}).items():
            if name in wanted and value != wanted[name]:
                raise UsageError(
                    f"{folder / 'config.json'} has {part}.{name} = {value!r}; "
                    f"phi3-v is built for {wanted[name]!r}"
                )
    return config


def text_config(config: Mapping[str, Any], attention: str) -> Any:
    """Return transformers' configuration of the decoder."""
    from transformers import Phi3Config

    fields = {name: config[name] for name in TEXT_FIELDS if name in config}
    fields["pad_token_id"] = config.get("pad_token_id")
    fields["rope_parameters"] = rope_parameters(config)
    fields["attn_implementation"] = attention
    return Phi3Config(**fields)


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the published rope_scaling; its type `su` is what transformers calls `longrope`.

    Both scale cosine and sine by sqrt(1 + ln(factor) / ln(original length)).

    Raises:
        UsageError: for another type.
    """
    theta = config.get("rope_theta", 10000.0)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("type") or scaling.get("rope_type")
    if not scaling:
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("su", "longrope"):
        raise UsageError(f"rope_scaling of type {kind!r} is not known to phi3-v, which knows 'su'")
    original = config["original_max_position_embeddings"]
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "factor": config["max_position_embeddings"] / original,
        "short_factor": scaling["short_factor"],
        "long_factor": scaling["long_factor"],
        "original_max_position_embeddings": original,
    }


def vision_config(
    config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], attention: str
) -> Any:
    """Return the tower's configuration, which is a constant in the original code.

    Its sizes are taken from its tensors, so that a smaller tower loads as well. No tensor tells the
    number of heads: it is `img_processor.num_attention_heads` where config.json has that, else as
    many as are 64 wide, but at least two.

    Raises:
        EnvironmentFault: where the tower does not take the crops that are cut here.
    """
    from transformers import CLIPVisionConfig

    size, channels, patch, _ = shapes[TOWER + "embeddings.patch_embedding.weight"]
    positions = shapes[TOWER + "embeddings.position_embedding.weight"][0]
    numbered = re.compile(re.escape(TOWER) + r"encoder\.layers\.(\d+)\.")
    layers = [int(found[1]) for found in map(numbered.match, shapes) if found]
    side = patch * math.isqrt(positions - 1)
    if side != SIDE:
        raise EnvironmentFault(f"the vision tower takes {side} pixels; phi3-v cuts crops of {SIDE}")
    stated = (config.get("img_processor") or {}).get("num_attention_heads")
    fields: dict[str, Any] = {
        "hidden_size": size,
        "intermediate_size": shapes[TOWER + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": stated or max(2, size // HEAD_SIZE),
        "num_channels": channels,
        "image_size": side,
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "attn_implementation": attention,
    }
    return CLIPVisionConfig(**fields)


# -- loading ---------------------------------------------------------------------------------------


def load_model(folder: Path, dtype: str, attention: str) -> torch.nn.Module:
    """Load the module from a checkpoint in the published layout, every tensor of both used.

    Raises:
        UsageError: for a configuration of another kind.
        EnvironmentFault: for missing, unexpected, misshapen or unreadable tensors, or a kernel that
            is not installed.
    """
    import torch

    tensors = read_tensors(folder)
    model = _empty_model(folder, {name: value.shape for name, value in tensors.items()}, attention)
    _check_fit(folder, tensors, model.state_dict())
    kind = getattr(torch, dtype)
    own = {name: value.to(kind, copy=True) for name, value in tensors.items()}  # the file may go
    model.load_state_dict(own, assign=True)
    loaded: torch.nn.Module = model.eval()
    return loaded


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint but the harmless ones, each parameter under one name."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for path in _files(folder):
        tensors.update(_read_file(path))
    tensors = {name: value for name, value in tensors.items() if not re.search(HARMLESS, name)}
    alias = tensors.pop(ALIAS, None)
    if alias is not None and not torch.equal(tensors.setdefault(EMBEDDING, alias), alias):
        raise EnvironmentFault(f"the weights in {folder}: {EMBEDDING} and {ALIAS} differ")
    return tensors


def _files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return [single]
    try:
        return [folder / name for name in sorted({*_read_json(index)["weight_map"].values()})]
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentFault(
            f"{folder} has neither {single.name} nor a usable {index.name}: {error}"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise EnvironmentFault(f"the weights in {path} cannot be read: {error}") from None


def _empty_model(folder: Path, shapes: Mapping[str, Sequence[int]], attention: str) -> Any:
    """Build the module without memory for its parameters."""
    from accelerate import init_empty_weights
    from huggingface_hub.errors import StrictDataclassError
    from mmeb_harness.plugins.phi3_v_model import Phi3VisionModel

    config = read_config(folder)
    try:
        text, vision = text_config(config, attention), vision_config(config, shapes, attention)
        with init_empty_weights(include_buffers=False):
            return Phi3VisionModel(text, vision)
    except KeyError as error:
        raise EnvironmentFault(f"{folder} is not whole: it lacks {error.args[0]}") from None
    except (StrictDataclassError, ImportError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())
        raise EnvironmentFault(f"{folder} cannot be loaded: {why}") from error


def _check_fit(
    folder: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> None:
    misshapen = [
        f"{name} {tuple(found[name].shape)} where {tuple(wanted[name].shape)} is needed"
        for name in sorted(found.keys() & wanted.keys())
        if found[name].shape != wanted[name].shape
    ]
    problems = {
        "lack": sorted(wanted.keys() - found.keys()),
        "have, unexpected,": sorted(found.keys() - wanted.keys()),
        "have in another shape": misshapen,
    }
    told = [
        f"{fault} {len(names)} tensors ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
        for fault, names in problems.items()
        if names
    ]
    if told:
        raise EnvironmentFault(f"the weights in {folder} do not fit: they {'; they '.join(told)}")


# -- saving ----------------------------------------------------------------------------------------


def save_model(state: Mapping[str, torch.Tensor], base: Path, folder: Path) -> None:
    """Write a module's state in the published layout, with the base's configuration and tokenizer.

    There is no vocabulary head in it: the module has none.
    """
    from huggingface_hub import save_torch_state_dict

    for pattern in CONFIGURATION:
        for path in base.glob(pattern):
            if not path.name.endswith(".index.json") and path.parent.resolve() != folder.resolve():
                shutil.copyfile(path, folder / path.name)
    save_torch_state_dict(dict(state), folder)
