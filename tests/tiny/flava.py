"""A tiny FLAVA with random weights, saved as the whole pre-training model is published."""

from __future__ import annotations

from pathlib import Path

from tiny_parts import drawn, wordpieces

FAMILY = "flava"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import FlavaConfig, FlavaForPreTraining, FlavaImageProcessorPil

    tokenizer = wordpieces()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
    }
    config = FlavaConfig(
        text_config={**tower, "max_position_embeddings": 96},
        image_config={**tower, "image_size": 32, "patch_size": 8},
        multimodal_config={**tower, "num_hidden_layers": 1},
        image_codebook_config={"hidden_size": 4, "vocab_size": len(tokenizer)},
        hidden_size=32,
        projection_dim=24,
    )
    drawn(FlavaForPreTraining, config, 27).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    FlavaImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    return f"{FAMILY}:{folder}"
