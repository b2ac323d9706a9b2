"""Tiny SigLIP 2 models with random weights: of fixed resolution, and native (`naflex`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_parts import drawn, save_gemma_tokenizer

FAMILY = "siglip2"

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}


def make(folder: Path) -> str:
    """Save a model of fixed resolution, of model type `siglip` as published; return its name."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    config = _config(SiglipConfig, folder, {"image_size": 32, "patch_size": 8})
    drawn(SiglipModel, config, 21).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    SiglipImageProcessorPil(size=size, resample=2).save_pretrained(folder)
    return f"{FAMILY}:{folder}"


def make_native(folder: Path) -> str:
    """Save a model that keeps an image's own shape, of model type `siglip2`; return its name."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    config = _config(Siglip2Config, folder, {"num_patches": 16, "patch_size": 8})
    drawn(Siglip2Model, config, 22).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20).save_pretrained(folder)
    return f"{FAMILY}:{folder}"


def _config(kind: Any, folder: Path, vision: dict[str, int]) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    tokens = save_gemma_tokenizer(folder)
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    text = {**TOWER, **special, "vocab_size": tokens, "max_position_embeddings": 24}
    return kind(text_config=text, vision_config={**TOWER, **vision})
