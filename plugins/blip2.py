"""BLIP-2 from transformers: the two ways through its Q-Former behind the contrastive score.

An image has as many vectors as there are query tokens and the published score is the highest of
them; a vector each is wanted here, and the first query token's is taken, as in VLM2Vec's
`evaluation/eval_blip.py`. A text is its first token. `Blip2` passes both through the contrastive
projections; `Blip2Unprojected` takes them before, with the text prepared as that script's library
(LAVIS) does: that is what the script really computes, `image_embeds[0, 0]` and `text_embeds[0, 0]`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmeb_harness.item import Item, Rendered
from mmeb_harness.plugins.blip import ContrastiveHead

if TYPE_CHECKING:
    import torch

LEFT_OUT = re.compile(r'[.!"()*#:;~]')
MOST_WORDS = 50
"""Marks that LAVIS makes spaces of, and how many words it keeps (lavis/processors/
blip_processors.py)."""


class Blip2(ContrastiveHead):
    """An encoder over BLIP-2's Q-Former and the projections of its contrastive head."""

    model_types = ("blip-2",)
    model_class = "Blip2ForImageTextRetrieval"
    image_processor_class = "BlipImageProcessorPil"

    @property
    def text_positions(self) -> int:
        return int(self.config.qformer_config.max_position_embeddings)

    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        module: Any = self.module
        hidden_TD = self._text_hidden(ids_TL, mask_TL)
        features_TD: torch.Tensor = module.text_projection(
            hidden_TD.to(module.text_projection.weight.dtype)
        )
        return features_TD

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        hidden_ID = self._image_hidden(pixels)
        features_ID: torch.Tensor = module.vision_projection(
            hidden_ID.to(module.vision_projection.weight.dtype)
        )
        return features_ID

    def _text_hidden(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        """Return the Q-Former's state (T, D) of the first token of texts, no query beside them."""
        module: Any = self.module
        states_TLD: torch.Tensor = module.qformer(
            query_embeds=module.embeddings(input_ids=ids_TL),
            query_length=0,
            attention_mask=mask_TL,
        ).last_hidden_state
        return states_TLD[:, 0]

    def _image_hidden(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the Q-Former's state (I, D) of the first query token of images."""
        module: Any = self.module
        patches_IPD = module.vision_model(pixel_values=pixels).last_hidden_state
        states_IQD: torch.Tensor = module.qformer(
            query_embeds=module.query_tokens.expand(len(patches_IPD), -1, -1),
            encoder_hidden_states=patches_IPD,
        ).last_hidden_state
        return states_IQD[:, 0]


class Blip2Unprojected(Blip2):
    """The same before the projections, which do not share a space: the paper's BLIP-2 baseline."""

    text_features = Blip2._text_hidden
    image_features = Blip2._image_hidden

    def render(self, item: Item) -> Rendered:
        rendered = super().render(item)
        return rendered if rendered.text is None else replace(rendered, text=caption(rendered.text))


def caption(text: str) -> str:
    """Word a text as LAVIS's `blip_caption`: lower case, few marks, at most fifty words."""
    spaced = re.sub(r"\s{2,}", " ", LEFT_OUT.sub(" ", text.lower()))
    words = spaced.rstrip("\n").strip(" ").split(" ")  # one line break alone parts no words there
    return " ".join(words[:MOST_WORDS])
