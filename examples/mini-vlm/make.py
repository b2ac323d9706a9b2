"""Write the blank from which `mini-vlm` is trained: a small Qwen2-VL without any weights.

    python examples/mini-vlm/make.py [FOLDER]        (FOLDER: mini-vlm)

    FOLDER/blank/    configuration, tokenizer and image processor

The one idea: the training draws the weights itself (`random_weights`), so that a seed and this
folder are all it starts from. A word that occurs in the suite's training texts is one token,
wherever it stands, capital or not; everything else is spelt in bytes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

PAIRS_READ = 2000
"""Pairs of each training part whose words are learnt."""

VOCABULARY = 1024
"""Tokens at most: the specials, 256 bytes, and the words that occur most often."""

SPECIALS = ("<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
END, START_OF_IMAGE, END_OF_IMAGE, IMAGE, VIDEO = SPECIALS

PATCH, MERGE = 14, 2
LEAST_PIXELS, MOST_PIXELS = 28 * 28, 112 * 112
WIDTH, VISION_WIDTH = 192, 128
SPREAD = 0.06
"""Standard deviation of the drawn weights; at Qwen's own, 0.02, so small a model learns slower."""


def main() -> None:
    """Write into the folder that the command line names."""
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit("usage: python examples/mini-vlm/make.py [FOLDER]")
    folder = Path(sys.argv[1] if sys.argv[1:] else "mini-vlm") / "blank"
    tokens, spelt = write_blank(folder, training_texts())
    print(f"{tokens:,} tokens in {folder}; {spelt:,} words of the texts are spelt in bytes")


def training_texts() -> Iterator[str]:
    """Yield the texts of the first pairs of every training part."""
    from mmeb_harness.task import DataLocation
    from mmeb_harness.tasks.table import mini_tasks

    for task in mini_tasks():
        if task.training_loader is not None:
            for pair in islice(task.training("original", DataLocation()), PAIRS_READ):
                items = (pair.query, pair.positive, pair.negative)
                yield from (item.text for item in items if item is not None and item.text)


def write_blank(folder: Path, texts: Iterable[str]) -> tuple[int, int]:
    """Write the folder; return the size of the vocabulary, and how many words found no place."""
    from mmeb_harness.plugins.vision_ops import mend_torchvision

    mend_torchvision()  # one that does not fit torch would break the import of transformers
    import transformers

    words, spelt = vocabulary(texts)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(words).save_pretrained(folder)
    configuration(words).save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        size={"shortest_edge": LEAST_PIXELS, "longest_edge": MOST_PIXELS},
    ).save_pretrained(folder)
    return len(words), spelt


def vocabulary(texts: Iterable[str]) -> tuple[dict[str, int], int]:
    """Return the numbers of all tokens, and how many words of the texts are none of them."""
    from tokenizers.pre_tokenizers import ByteLevel

    cut, normal = pre_tokenizer().pre_tokenize_str, normalizer().normalize_str
    counted = Counter(word for text in texts for word, _ in cut(normal(text)))
    known = dict.fromkeys([*SPECIALS, *sorted(ByteLevel.alphabet())])
    ranked = [word for word, _ in sorted(counted.items(), key=lambda one: (-one[1], one[0]))]
    spelt = 0
    for word in ranked:
        if len(known) < VOCABULARY:
            known.setdefault(word)
        elif word not in known:
            spelt += 1
    return {piece: number for number, piece in enumerate(known)}, spelt


def normalizer() -> Any:
    """Return what makes a word the same at the beginning of a sentence."""
    from tokenizers import normalizers

    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def pre_tokenizer() -> Any:
    """Return what cuts a text into words and signs, without spaces, and writes them in bytes."""
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Whitespace

    return Sequence([Whitespace(), ByteLevel(add_prefix_space=False, use_regex=False)])


def tokenizer(words: dict[str, int]) -> Any:
    """Return a tokenizer that ends every text with a token of its own, from which the vector is
    taken."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(vocab=words, merges=[], ignore_merges=True))
    made.normalizer = normalizer()
    made.pre_tokenizer = pre_tokenizer()
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIALS))
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, words[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=END, model_max_length=1024
    )


def configuration(words: dict[str, int]) -> Any:
    """Return the configuration: 2.6 million numbers with a thousand tokens."""
    import transformers

    return transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 480,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 6, 6],
            },
            "tie_word_embeddings": True,
            "initializer_range": SPREAD,
            "bos_token_id": None,
            "eos_token_id": words[END],
            "pad_token_id": None,  # whose embedding would not be trained
        },
        vision_config={
            "depth": 4,
            "embed_dim": VISION_WIDTH,
            "hidden_size": WIDTH,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "initializer_range": SPREAD,
        },
        image_token_id=words[IMAGE],
        video_token_id=words[VIDEO],
        vision_start_token_id=words[START_OF_IMAGE],
        vision_end_token_id=words[END_OF_IMAGE],
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        architectures=["Qwen2VLModel"],
    )


if __name__ == "__main__":
    main()
