"""A tiny random Mllama: six decoder layers, two of which attend to images; tiles of 28 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmeb_harness.plugins.vision_ops import mend_torchvision

FAMILY = "mllama"

BEGIN, END, PAD, IMAGE = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|image|>",
)  # fmt: skip
SENTENCES = (
    "Represent the given image with the following question: What is in the image?",
    "Find me an everyday image that matches the given caption: a dog beside two red chairs.",
    "A cat and a tiger sleep in the garden, seen from a window above the street.",
)
TILE, PATCH = 28, 14


def make(folder: Path) -> str:
    """Save the model."""
    mend_torchvision()
    import torch
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessorPil

    tokenizer = tokenizer_of()
    tokenizer.save_pretrained(folder)
    size = {"height": TILE, "width": TILE}
    MllamaImageProcessorPil(size=size, max_image_tiles=4).save_pretrained(folder)
    image = tokenizer.convert_tokens_to_ids(IMAGE)  # the first of eight ids beyond the vocabulary
    config = MllamaConfig(
        text_config=_text(image, tokenizer), vision_config=_vision(), image_token_index=image
    )
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(config)
    shake(model)
    model.save_pretrained(folder)
    return f"{FAMILY}:{folder}"


def _text(vocabulary: int, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "cross_attention_layers": [1, 4],
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_global_layers": 2,
        "attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
        "intermediate_layers_indices": [0, 2],
        "vision_output_dim": 48,
    }


def tokenizer_of() -> Any:
    """Train a byte-level tokenizer of Llama 3's kind, which puts its begin token before a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(SENTENCES, trainer)
    raw.add_special_tokens([BEGIN, END, "<|python_tag|>", PAD, IMAGE])
    begin = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, raw.token_to_id(BEGIN))]
    )
    raw.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def shake(model: Any) -> None:
    """Give every parameter seeded values that are neither zero nor one, gates too."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.add_(0.3 * noise + 0.1)
