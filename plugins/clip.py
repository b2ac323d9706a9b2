"""CLIP from transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmeb_harness.plugins.two_tower import TransformersTwoTower

if TYPE_CHECKING:
    import torch


class Clip(TransformersTwoTower):
    """An encoder over CLIP's two towers."""

    model_types = ("clip",)
    image_processor_class = "CLIPImageProcessorPil"

    def text_mask(self, rows: Sequence[Sequence[int]], ids_TL: torch.Tensor) -> torch.Tensor:
        # the original masks by `ids != pad`; where padding is the end token, that masks it too
        mask_TL: torch.Tensor = (ids_TL != self.tokenizer.pad_token_id).long()
        return mask_TL
