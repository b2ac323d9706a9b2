"""A tiny random Qwen3-VL: four decoder layers, features from three depths of its vision tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmeb_harness.plugins.vision_ops import mend_torchvision

FAMILY = "qwen3-vl"

END = "<|endoftext|>"
SPECIAL = (
    END, "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
SENTENCES = (
    "Represent the user's input.",
    "Represent the given image with the following question: What is in the image?",
    "Find me an everyday image that matches the given caption: a dog beside two red chairs.",
    "You are a helpful assistant.\nA cat and a tiger sleep in the garden, seen from above.",
)


def make(folder: Path, *, closing: bool = False) -> str:
    """Save the model; `closing`: its tokenizer puts an end token behind every text."""
    mend_torchvision()
    import torch
    from transformers import (
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    tokenizer = tokenizer_of(closing=closing)
    tokenizer.save_pretrained(folder)
    mean = [0.5, 0.5, 0.5]
    Qwen2VLImageProcessorPil(patch_size=16, image_mean=mean, image_std=mean).save_pretrained(folder)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        )
    }
    config = Qwen3VLConfig(text_config=_text(len(tokenizer)), vision_config=_vision(), **ids)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    shake(model)
    model.save_pretrained(folder)
    return f"{FAMILY}:{folder}"


def _text(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    }


def _vision() -> dict[str, Any]:
    return {
        "depth": 4,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1, 2],
    }


def tokenizer_of(*, closing: bool) -> Any:
    """Train a byte-level tokenizer of Qwen's kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import Qwen2Tokenizer

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(SENTENCES, trainer)
    model = json.loads(raw.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        extra_special_tokens=list(SPECIAL[1:]),
    )
    if closing:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, tokenizer.convert_tokens_to_ids(END))]
        )
    return tokenizer


def shake(model: Any) -> None:
    """Give every parameter seeded values that are neither zero nor one, and far enough apart."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.15 * noise)
            else:
                parameter.add_(0.3 * noise)
