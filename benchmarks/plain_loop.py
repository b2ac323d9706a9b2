"""The plain way from items to vectors: what VLM2Vec's evaluation does, and no worse.

Each dataset's distinct queries, then its distinct candidates, in the order of the data and in
batches of 16: the collator decodes, resizes, runs the image processor and the tokenizer and pads on
the right; the generation model, its attention transformers' own, returns the hidden states of all
layers and the logits of all positions; a vector is the last layer's state at a row's last token,
normalised. Nothing is written.

Where the original is slower for reasons of its own, this is not: there is inference mode, the
processors see a batch and not an item at a time, and on a GPU one set of worker processes, with
pinned memory, serves all datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from eval_mix import Subset, distinct
from mmeb_harness.encoder import Vectors
from mmeb_harness.engines.workers import in_workers
from mmeb_harness.item import Item
from random_qwen import RandomQwen

if TYPE_CHECKING:
    import torch

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Collated:
    """What the generation model is given."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None

    def pin_memory(self) -> Collated:
        """Return it in memory that a device fetches from while it computes."""
        return Collated(**{name: value.pin_memory() for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what there is, by name."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(kw_only=True)
class Counted:
    """Tokens that went through the model."""

    real: int = 0
    padded: int = 0


class PlainLoop:
    """The loop over an encoder's weights, tokenizer and image processor."""

    def __init__(self, encoder: RandomQwen, workers: int = 0) -> None:
        self.encoder, self.workers = encoder, workers
        self.model = generation_model(encoder)
        self.counted = Counted()

    def __call__(self, subsets: Sequence[Subset]) -> list[Vectors]:
        """Return the vectors of each dataset's distinct queries, and of its distinct candidates."""
        import torch

        self.counted = Counted()
        sides = [distinct(side) for subset in subsets for side in subset.sides]
        batches = [side[at : at + BATCH] for side in sides for at in range(0, len(side), BATCH)]
        on_cuda = str(self.encoder.device).startswith("cuda")
        with torch.inference_mode():
            collated = in_workers(self.collate, batches, self.workers, pin=on_cuda)
            return list(_regrouped(map(self.vectors, collated), sides))

    @property
    def collate(self) -> Collator:
        """What makes a batch of items."""
        return Collator(self.encoder)

    def vectors(self, batch: Collated) -> Vectors:
        """Return the vectors of a batch."""
        import torch

        self.counted.real += int(batch.attention_mask.sum())
        self.counted.padded += batch.attention_mask.numel()
        device = self.encoder.device
        given: Mapping[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in batch.tensors().items()
        }
        ids_BL = given["input_ids"]
        positions = torch.arange(ids_BL.shape[1], device=device).expand(3, *ids_BL.shape)
        states = self.model(**given, position_ids=positions, output_hidden_states=True)
        last_BLD = states.hidden_states[-1]
        last_B = given["attention_mask"].sum(1) - 1
        vectors_BD = last_BLD[torch.arange(len(last_B), device=device), last_B].float()
        found: Vectors = torch.nn.functional.normalize(vectors_BD, dim=-1).cpu().numpy()
        return found


@dataclass(frozen=True)
class Collator:
    """Makes batches of items; it travels to worker processes without weights."""

    encoder: RandomQwen

    def __call__(self, items: Sequence[Item]) -> Collated:
        encoder = self.encoder
        rendered = [encoder.render(item) for item in items]
        texts = [one.text or "" for one in rendered]
        pictures = [encoder.picture(one.image) for one in rendered if one.image is not None]
        seen: dict[str, Any] = {}
        if pictures:
            processor: Any = encoder.image_processor
            seen = dict(processor(images=pictures, return_tensors="pt"))
            counts = seen["image_grid_thw"].prod(-1) // processor.merge_size**2
            token = str(encoder.card.image_token)
            texts = [
                text.replace(token, token * count)
                for text, count in zip(texts, counts.tolist(), strict=True)
            ]
        tokens = encoder.tokenizer(
            texts, padding=True, padding_side="right", truncation=True, return_tensors="pt"
        )
        return Collated(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=seen.get("pixel_values"),
            image_grid_thw=seen.get("image_grid_thw"),
        )


def generation_model(encoder: RandomQwen) -> Any:
    """Return the generation model with the encoder's weights, which it shares, and a head."""
    import torch
    from transformers import AutoConfig, Qwen2VLForConditionalGeneration

    module: Any = encoder.module
    kind: Any = Qwen2VLForConditionalGeneration
    config = AutoConfig.from_pretrained(encoder.base_folder)
    with torch.inference_mode(False), torch.device(encoder.device):
        model = kind._from_config(
            config, dtype=getattr(torch, encoder.dtype), attn_implementation="sdpa"
        )
    state = {f"model.{name}": value for name, value in module.state_dict().items()}
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    assert not unknown
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


def _regrouped(batches: Iterator[Vectors], sides: Sequence[Sequence[Item]]) -> Iterator[Vectors]:
    """Yield the vectors of each side; an empty one has none."""
    for side in sides:
        parts = [next(batches) for _ in range(0, len(side), BATCH)]
        yield np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
