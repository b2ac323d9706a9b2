"""What tiny models of several families are made of: real tokenizers, and parameters all drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmeb_harness.plugins.vision_ops import mend_torchvision

mend_torchvision()  # before a model class of transformers is imported

SENTENCES = (
    "a photo of a cat and a dog on a red sofa",
    "a photo of two small boats beside a green house",
    "represent the given image with the following question: what is in the image?",
    "find me an everyday image that matches the given caption.",
    "the man holds a large umbrella, while it rains in the street",
    "一张猫的照片",
    "一张狗的照片",
    "杰尼龟 妙蛙种子 小火龙 皮卡丘",
)
ALPHABET = [chr(code) for code in range(32, 127)]


def drawn(kind: Any, config: Any, seed: int) -> Any:
    """Build a model and draw every parameter anew, so that none is 0 or 1 by initialisation."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(config)
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim < 2:
                parameter += 0.2 * noise
            elif "embedding" in name and "patch" not in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return model.eval()


def wordpieces(**settings: Any) -> Any:
    """Return BERT's tokenizer over the words of the sentences and every printable character."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    split = BertPreTokenizer().pre_tokenize_str
    clean = BertNormalizer(lowercase=True).normalize_str
    words = {word for sentence in SENTENCES for word, _ in split(clean(sentence))}
    characters = {clean(one) for one in ALPHABET[1:]} | {one for word in words for one in word}
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *sorted(words | characters), *sorted(f"##{one}" for one in characters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, **settings)


def sentencepieces(**settings: Any) -> Any:
    """Return XLM-R's tokenizer over the words of the sentences and every printable character."""
    from transformers import XLMRobertaTokenizer

    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    words = sorted({f"▁{word}" for sentence in SENTENCES for word in sentence.split()})
    characters = sorted({*ALPHABET, *"".join(SENTENCES), "▁"} - {" "})
    scored = [(piece, 0.0) for piece in specials]
    scored += [(piece, -4.0 - number / 100) for number, piece in enumerate(words)]
    scored += [(piece, -9.0 - number / 100) for number, piece in enumerate(characters)]
    return XLMRobertaTokenizer(vocab=[*scored, ("<mask>", 0.0)], **settings)


def save_gemma_tokenizer(folder: Path) -> int:
    """Write a tokenizer as SigLIP 2's are published; return how many tokens it has.

    The facts are those of `transformers:src/transformers/models/siglip2/convert_siglip2_to_hf.py`:
    Gemma's tokenizer, an end token added, none at the start, padding on the right, no mask. Like
    the published files it names a class that does not lower-case, and no maximal length.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *ALPHABET[1:]]
    merges: list[tuple[str, str]] = []
    for word in sorted({word for sentence in SENTENCES[:5] for word in sentence.split()}):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(specials)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "add_eos_token": True,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "mask_token": "<mask>",
        "model_input_names": ["input_ids"],
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "padding_side": "right",
        "tokenizer_class": "GemmaTokenizerFast",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces)
