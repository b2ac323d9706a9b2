"""A tiny ALIGN with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_parts import drawn, wordpieces

FAMILY = "align"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessorPil

    tokenizer = wordpieces(model_max_length=64)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 96,
    }
    vision = {
        "image_size": 60,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "in_channels": [32, 8, 8, 16],
        "out_channels": [8, 8, 16, 24],
        "kernel_sizes": [3, 3, 5, 3],
        "strides": [1, 2, 2, 2],
        "num_block_repeats": [1, 2, 1, 1],
        "expand_ratios": [1, 2, 2, 2],
        "depthwise_padding": [3],
        "hidden_dim": 40,
    }
    config = AlignConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = drawn(AlignModel, config, 23)
    _measure_statistics(model.vision_model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # as in transformers:src/transformers/models/align/convert_align_tf_to_hf.py, but for the size
    EfficientNetImageProcessorPil(
        size={"height": 60, "width": 60},
        crop_size={"height": 50, "width": 50},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
        resample=2,
    ).save_pretrained(folder)
    return f"{FAMILY}:{folder}"


def _measure_statistics(network: Any) -> None:
    """Set the running statistics to those of plain and noisy pictures: others drown a picture."""
    import torch

    norms = [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    generator = torch.Generator().manual_seed(23)
    plain = torch.rand(64, 3, 1, 1, generator=generator) * 2 - 1
    noise = torch.randn(64, 3, 50, 50, generator=generator)
    with torch.no_grad():
        network(plain + noise * torch.linspace(0, 0.5, 64)[:, None, None, None])
    for norm in norms:
        norm.eval()
