"""Write what the two-minute recipe trains: a small random model, and digits with their labels.

    python examples/digits/make.py [FOLDER]        (FOLDER: digits)

    FOLDER/model/          a Qwen2-VL with random weights: real classes, 0.6 million numbers
    FOLDER/digits.jsonl    3,000 pairs of a handwritten digit in coloured ink and its label, as
                           `red three`
    FOLDER/shuffled.jsonl  the same with labels dealt out anew, each as often to every old one as
                           any other: nothing can be learnt from them
    FOLDER/images/         the pictures of both

The pairs are of the training part of `ImageNet-1K` in the suite `mini`, whose evaluation part shows
other digits.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmeb_harness.tasks.mini.recipes import recipe_of
from mmeb_harness.tasks.mini.training import GeneratedPairs

PAIRS = GeneratedPairs(recipe_of("ImageNet-1K"))[:3_000]
LABELS = [str(target.meaning) for target in PAIRS.recipe.listed]


def main() -> None:
    """Write into the folder that the command line names."""
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit("usage: python examples/digits/make.py [FOLDER]")
    folder = Path(sys.argv[1] if sys.argv[1:] else "digits")
    print(f"{write_pairs(folder):,} pairs in {folder}")
    print(f"{write_model(folder / 'model'):,} random numbers in {folder / 'model'}")


def write_pairs(folder: Path) -> int:
    """Write the pictures and the two tables; return how many pairs there are."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    texts, labels = [], []
    for number, pair in enumerate(PAIRS):
        pair.query.image.save(folder / "images" / f"{number:04}.png")
        texts.append(pair.query.text)
        labels.append(LABELS.index(pair.positive.text))
    write_table(folder / "digits.jsonl", texts, labels)
    write_table(folder / "shuffled.jsonl", texts, dealt_anew(labels))
    return len(labels)


def write_table(path: Path, texts: Iterable[str], labels: Iterable[int]) -> None:
    """Write a line for each picture: the query (text and image), and its target (text)."""
    rows = (
        {"qry": text, "qry_image_path": f"{number:04}.png", "pos_text": LABELS[label]}
        for number, (text, label) in enumerate(zip(texts, labels, strict=True))
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def dealt_anew(labels: Sequence[int]) -> list[int]:
    """Return labels that tell nothing of the old ones, drawn from a fixed seed."""
    drawn = random.Random(0)
    order = list(range(len(labels)))
    drawn.shuffle(order)
    order.sort(key=labels.__getitem__)  # one label after the other, in each the order is drawn
    dealt = [0] * len(labels)
    for place, number in enumerate(order):
        dealt[number] = place % len(LABELS)
    return dealt


def write_model(folder: Path) -> int:
    """Write a random Qwen2-VL with its tokenizer and image processor; return how large it is."""
    from mmeb_harness.plugins.vision_ops import mend_torchvision

    mend_torchvision()  # one that does not fit torch would break the import of transformers
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    words = tokenizer()
    config = transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 6, 6],
            },
            "initializer_range": 0.06,
            "bos_token_id": None,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_ratio": 2,
            "initializer_range": 0.06,
        },
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        initializer_range=0.06,
    )
    torch.manual_seed(0)
    model = transformers.Qwen2VLModel(config)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil().save_pretrained(folder)
    return sum(one.numel() for one in model.parameters())


def tokenizer() -> Any:
    """Return a tokenizer of Qwen's class over all bytes and the words that occur here."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    pieces = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    merges = []
    cut = ByteLevel(add_prefix_space=False).pre_tokenize_str
    texts = [PAIRS[0].query.text.removeprefix("<|image_1|>"), *LABELS]
    for word in sorted({word for text in texts for word, _ in cut(text)}):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=1024)
    made.add_special_tokens({"additional_special_tokens": ["<|image_pad|>"]})
    return made


if __name__ == "__main__":
    main()
