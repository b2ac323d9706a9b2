"""A tiny MetaCLIP 2 with random weights."""

from __future__ import annotations

from pathlib import Path

from tiny_parts import drawn, sentencepieces

FAMILY = "metaclip-2"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import CLIPImageProcessorPil, MetaClip2Config, MetaClip2Model

    tokenizer = sentencepieces()
    tower = {"intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "hidden_size": 40,
        "max_position_embeddings": 40,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {**tower, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    config = MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
    drawn(MetaClip2Model, config, 26).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return f"{FAMILY}:{folder}"
