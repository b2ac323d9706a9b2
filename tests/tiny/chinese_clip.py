"""A tiny Chinese-CLIP with random weights."""

from __future__ import annotations

from pathlib import Path

from tiny_parts import drawn, wordpieces

FAMILY = "chinese-clip"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import ChineseCLIPConfig, ChineseCLIPImageProcessorPil, ChineseCLIPModel

    tokenizer = wordpieces()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 96}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    config = ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    drawn(ChineseCLIPModel, config, 24).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ChineseCLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False
    ).save_pretrained(folder)
    return f"{FAMILY}:{folder}"
