"""BLIP from transformers: the towers behind its image-text contrastive score.

A text is its first token's last hidden state through `text_proj`, an image its first token's
through `vision_proj`, as `BlipForImageTextRetrieval` and LAVIS's `compute_itc` take them (LAVIS
names them `text_embeds_proj[:, 0]` and `image_embeds_proj[:, 0]`). Both normalise before the dot
product; here, as in all of the paper's baselines, the features are added as they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import UsageError
from mmeb_harness.plugins.two_tower import TransformersTwoTower

if TYPE_CHECKING:
    import torch


HEADLESS = ("ForConditionalGeneration", "ForQuestionAnswering")
"""Endings of the classes whose checkpoints generate, and lack the contrastive head."""


class ContrastiveHead(TransformersTwoTower):
    """Two towers of a family with checkpoints of other kinds, which are refused unread."""

    def _check_family(self) -> None:
        super()._check_family()
        config = json.loads((self.base_folder / "config.json").read_text())
        for name in config.get("architectures") or ():
            if str(name).endswith(HEADLESS):
                raise UsageError(
                    f"{self.base} is a {name} and has no contrastive head, which makes vectors of "
                    f"texts and images comparable: take a {self.model_class}"
                )


class Blip(ContrastiveHead):
    """An encoder over BLIP's text and image towers."""

    model_types = ("blip",)
    model_class = "BlipForImageTextRetrieval"
    image_processor_class = "BlipImageProcessorPil"

    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        module: Any = self.module
        states_TLD = module.text_encoder(input_ids=ids_TL, attention_mask=mask_TL).last_hidden_state
        features_TD: torch.Tensor = module.text_proj(states_TLD[:, 0])
        return features_TD

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        states_ILD = module.vision_model(pixel_values=pixels).last_hidden_state
        features_ID: torch.Tensor = module.vision_proj(states_ILD[:, 0])
        return features_ID
