"""A tiny BLIP with its contrastive head and random weights."""

from __future__ import annotations

from pathlib import Path

from tiny_parts import drawn, wordpieces

FAMILY = "blip"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessorPil

    tokenizer = wordpieces()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    config = BlipConfig(
        text_config={
            **tower,
            "encoder_hidden_size": 32,
            "bos_token_id": len(tokenizer),
            "sep_token_id": tokenizer.sep_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "vocab_size": len(tokenizer) + 2,  # as published: two tokens that no text has
            "max_position_embeddings": 96,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        image_text_hidden_size=24,
    )
    drawn(BlipForImageTextRetrieval, config, 31).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return f"{FAMILY}:{folder}"
