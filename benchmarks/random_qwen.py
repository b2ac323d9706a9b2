"""Qwen2-VL with random weights in several sizes, as an encoder: speed and memory need no more.

`tiny` is for trying a benchmark out. `100m` has the proportions of the real 2B where they decide a
step's time: the vision tower holds a third of the parameters, and for an image at low resolution
does as much arithmetic as the decoder; its vocabulary is small, so that the embedding is no large
part. `2b` and `7b` are the published configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.models import resolve_model
from mmeb_harness.plugins.qwen2_vl import Qwen2VL
from mmeb_harness.plugins.vision_ops import mend_torchvision
from mmeb_harness.registry import build_registry
from mmeb_harness.trainers.config import ContrastiveConfig
from mmeb_harness.trainers.lora import choose_parameters

if TYPE_CHECKING:
    import torch

IMAGE_TOKEN, PAD_TOKEN = "<|image_pad|>", "<|endoftext|>"
WORDS = 8000
LONGEST = 4096


@dataclass(frozen=True, kw_only=True)
class Size:
    """The numbers of a configuration; a head has `hidden / heads` numbers."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vocabulary: int = WORDS + 192
    tied: bool = True


SIZES = {
    "tiny": Size(
        hidden=64, inner=128, layers=2, heads=4, key_heads=2,
        vision_width=32, vision_layers=2, vision_heads=2,
    ),
    "10m": Size(
        hidden=256, inner=1024, layers=6, heads=4, key_heads=2,
        vision_width=160, vision_layers=6, vision_heads=5,
    ),
    "100m": Size(
        hidden=512, inner=3072, layers=12, heads=8, key_heads=2,
        vision_width=448, vision_layers=12, vision_heads=7,
    ),
    "2b": Size(
        hidden=1536, inner=8960, layers=28, heads=12, key_heads=2,
        vision_width=1280, vision_layers=32, vision_heads=16, vocabulary=151936,
    ),
    "7b": Size(
        hidden=3584, inner=18944, layers=28, heads=28, key_heads=4,
        vision_width=1280, vision_layers=32, vision_heads=16, vocabulary=152064, tied=False,
    ),
}  # fmt: skip


class RandomQwen(Qwen2VL):
    """The harness's own Qwen2-VL encoder, its weights drawn where they are to lie."""

    def fetch_weights(self) -> Path:
        return self.base_folder

    def load_base(self) -> Any:
        import torch
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(self.base_folder)
        torch.manual_seed(0)
        with torch.device(self.device):
            return AutoModel.from_config(
                config, dtype=getattr(torch, self.dtype), attn_implementation="sdpa"
            )


def make_encoder(
    size: str, folder: Path, *, device: str, dtype: str, resolution: str
) -> RandomQwen:
    """Write the configuration into a folder and return the encoder."""
    card = resolve_model(
        build_registry(),
        f"qwen2-vl:{_written(folder, SIZES[size])}",
        {"image_resolution": resolution},
    ).card
    return RandomQwen(card, device, dtype)


def put_under_training(encoder: RandomQwen, config: ContrastiveConfig) -> list[torch.nn.Parameter]:
    """Put the adapter on, as the trainer does; return what is trained."""
    import torch

    torch.manual_seed(config.run.seed)
    chosen = choose_parameters(encoder, config)
    module: Any = encoder.module
    if config.run.checkpointing:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    module.train()
    for name, parameter in chosen.parameters.items():  # fresh ones are 0: half the gradients, too
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return list(chosen.parameters.values())


def shape_of(encoder: RandomQwen) -> str:
    """Say how many parameters the model has, and where."""
    module: Any = encoder.module
    parts = {"vision tower": module.visual, "embedding": module.get_input_embeddings()}
    counts = {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}
    total = sum(one.numel() for one in module.parameters())
    trained = sum(one.numel() for one in module.parameters() if one.requires_grad)
    told = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in counts.items())
    return f"{total / 1e6:.1f}M parameters ({told}; {trained / 1e6:.2f}M under training)"


def word(number: int) -> str:
    """Return a word that is one token."""
    return f"w{number % WORDS}"


def _written(folder: Path, size: Size) -> Path:
    """Write configuration, tokenizer and image processor into a folder, and no weights."""
    mend_torchvision()
    from transformers import Qwen2VLConfig, Qwen2VLImageProcessorPil

    tokenizer = _tokenizer()
    place = tokenizer.convert_tokens_to_ids
    half = size.hidden // size.heads // 2
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": size.vocabulary,
            "hidden_size": size.hidden,
            "intermediate_size": size.inner,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.key_heads,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
            },
            "tie_word_embeddings": size.tied,
            **{f"{one}_token_id": place(PAD_TOKEN) for one in ("pad", "bos", "eos")},
        },
        vision_config={
            "depth": size.vision_layers,
            "embed_dim": size.vision_width,
            "num_heads": size.vision_heads,
            "hidden_size": size.hidden,
        },
        image_token_id=place(IMAGE_TOKEN),
        tie_word_embeddings=size.tied,
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    ).save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """Return a tokenizer to which every word is a token, so that lengths are what they say."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [PAD_TOKEN, IMAGE_TOKEN, "?", *(word(number) for number in range(WORDS))]
    backend = Tokenizer(
        models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="?")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        unk_token="?",
        additional_special_tokens=[IMAGE_TOKEN],
        model_max_length=LONGEST,
    )
