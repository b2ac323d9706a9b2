"""A tiny LLaVA-NeXT: the golden one over Mistral, and one over Llama with Llama's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

FAMILY = "llava-next"
TILE, PATCH = 56, 14
GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
WORDS = "the image given what is in a cat dog and square blue following question represent with"


def make(folder: Path) -> str:
    """Return the reference of the golden model; `folder` stays empty."""
    return f"{FAMILY}:{Path(__file__).parents[1] / 'goldens/models/tiny-llava-next'}"


def make_llama(folder: Path) -> str:
    """Save a random model over Llama (as Vicuna and E5-V are), in today's layout."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
    )

    folder.mkdir(parents=True, exist_ok=True)
    image, size = _save_tokenizer(folder)
    text = LlamaConfig(
        vocab_size=size, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        image_size=TILE, patch_size=PATCH, projection_dim=32,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_grid_pinpoints=GRIDS, image_token_index=image
    )
    model = LlavaNextForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 + (1 if "norm" in name and "weight" in name else 0))
    model.save_pretrained(folder)
    side = {"height": TILE, "width": TILE}
    LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size=side, image_grid_pinpoints=GRIDS
    ).save_pretrained(folder)
    return f"{FAMILY}:{folder}"


def _save_tokenizer(folder: Path) -> tuple[int, int]:
    """Save a tokenizer of Llama's kind; return the image token's id and the number of tokens.

    Words and bytes, a space in front of every stretch of text: as sentencepiece models become.
    """
    from tokenizers import AddedToken, Tokenizer, normalizers, processors
    from tokenizers.models import BPE

    letters = sorted({*"▁", *(chr(code) for code in range(33, 127))})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = []
    for word in dict.fromkeys(f"▁{word}" for word in WORDS.split()):
        for end, letter in enumerate(word[1:], 1):
            if word[: end + 1] not in pieces:
                merges.append((word[:end], letter))
                pieces.append(word[: end + 1])
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        BPE(numbers, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    special = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer", "legacy": False, "padding_side": "left",
                "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
                "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
                "model_max_length": 10**30,
            }
        )
    )  # fmt: skip
    return tokenizer.token_to_id("<image>"), tokenizer.get_vocab_size()
