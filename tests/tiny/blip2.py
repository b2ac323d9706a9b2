"""A tiny BLIP-2 with its contrastive head and random weights."""

from __future__ import annotations

from pathlib import Path

from tiny_parts import drawn, wordpieces

FAMILY = "blip-2"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import (
        Blip2Config,
        Blip2ForImageTextRetrieval,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
        OPTConfig,
    )

    tokenizer = wordpieces()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**tower, image_size=32, patch_size=8),
        qformer_config=Blip2QFormerConfig(
            **tower,
            encoder_hidden_size=32,
            vocab_size=len(tokenizer) + 1,
            max_position_embeddings=96,
            use_qformer_text_input=True,
        ),
        text_config=OPTConfig(hidden_size=8, vocab_size=16, num_hidden_layers=1),
        num_query_tokens=4,
        image_text_hidden_size=24,
    )
    drawn(Blip2ForImageTextRetrieval, config, 32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return f"{FAMILY}:{folder}"
