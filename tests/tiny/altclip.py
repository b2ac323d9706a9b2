"""A tiny AltCLIP with random weights."""

from __future__ import annotations

from pathlib import Path

from tiny_parts import drawn, sentencepieces

FAMILY = "altclip"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import AltCLIPConfig, AltCLIPModel, CLIPImageProcessorPil

    tokenizer = sentencepieces()
    tower = {"intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "hidden_size": 40,
        "project_dim": 28,
        "max_position_embeddings": 42,
    }
    vision = {**tower, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    drawn(AltCLIPModel, config, 25).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return f"{FAMILY}:{folder}"
