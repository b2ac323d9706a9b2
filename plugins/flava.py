"""FLAVA from transformers: its text tower and its image tower, not its multimodal encoder.

The contrastive vectors are the projections of each tower's first token; `get_text_features` and
`get_image_features` project every token, so the first is taken here.

Shapes: T texts, I images, L tokens, D features.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.plugins.two_tower import TransformersTwoTower

if TYPE_CHECKING:
    import torch


class Flava(TransformersTwoTower):
    """An encoder over FLAVA's two unimodal towers."""

    model_types = ("flava",)
    image_processor_class = "FlavaImageProcessorPil"

    @cached_property
    def image_tokens(self) -> int:
        image = self.config.image_config
        return int((image.image_size // image.patch_size) ** 2 + 1)

    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        return super().text_features(ids_TL, mask_TL)[:, 0]

    def image_features(self, pixels: Any) -> torch.Tensor:
        return super().image_features(pixels)[:, 0]
