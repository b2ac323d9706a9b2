"""SigLIP and SigLIP 2 from transformers, of fixed resolution or native (`naflex`).

What decides a vector here is where a text is padded to, because the text tower pools the last
position, padding or not. `text_padding = "max_length"` is how the models were trained and how their
authors use them: every text padded to the tower's length, no attention mask. `"longest"` is what
VLM2Vec's baseline script does, here without its defect that a text's vector depends on the batch:
each text pools its own last token, as in a batch of one, and the mask hides tokens that equal
the padding token, which for SigLIP is the end token.

Shapes: T texts, I images, L tokens, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card
from mmeb_harness.errors import UsageError
from mmeb_harness.plugins.two_tower import Pixels, TransformersTwoTower

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

NATIVE = "siglip2"
"""The `model_type` of checkpoints that keep an image's own shape; those of SigLIP 2 with a fixed
resolution are of type `siglip`."""


TOKENIZERS = {
    "SiglipTokenizer": "siglip", "GemmaTokenizer": "siglip2", "Siglip2Tokenizer": "siglip2"
}  # fmt: skip
"""Which family a tokenizer belongs to; others tell nothing."""


class Siglip(TransformersTwoTower):
    """An encoder over the two towers of SigLIP or SigLIP 2."""

    model_types = ("siglip", NATIVE)
    image_processor_class = "SiglipImageProcessorPil"
    native_image_processor_class = "Siglip2ImageProcessorPil"

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        super().__init__(card, device, dtype)
        self._check_generation()

    def _check_generation(self) -> None:
        """Tell SigLIP from SigLIP 2, whose configurations are of one type, by their tokenizers:
        each family has the texts' padding and case of its own."""
        try:
            settings = json.loads((self.base_folder / "tokenizer_config.json").read_text())
        except (OSError, ValueError):
            return  # reading the tokenizer says what is wrong with it
        found = TOKENIZERS.get(str(settings.get("tokenizer_class")).removesuffix("Fast"))
        family = self.card.family or self.card.name
        if found is not None and family in TOKENIZERS.values() and found != family:
            raise UsageError(
                f"{self.base} has the tokenizer of {found}: name it -m {found}:{self.base}"
            )

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def image_processor(self) -> Any:
        """The image processor of the base."""
        if self.config.model_type == NATIVE:
            self.image_processor_class = self.native_image_processor_class
        return super().image_processor

    @cached_property
    def image_tokens(self) -> int:
        if self.config.model_type == NATIVE:
            return int(self.image_processor.max_num_patches)
        vision = self.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2)

    def token_ids(self, text: str) -> list[int]:
        return super().token_ids(self._cased(text))

    def _cased(self, text: str) -> str:
        """SigLIP 2 was trained on lower case, which Gemma's tokenizer does not see to."""
        cleans_itself = type(self.tokenizer).__name__ == "SiglipTokenizer"
        return text if cleans_itself else text.lower()

    def text_mask(self, rows: Sequence[Sequence[int]], ids_TL: torch.Tensor) -> torch.Tensor | None:
        return None if self.pads_to_max_length else super().text_mask(rows, ids_TL)

    def pixels(self, pictures: Sequence[Image]) -> Pixels:
        processed = self.image_processor(images=list(pictures), return_tensors="pt")
        return {name: processed[name] for name in self.image_processor.model_input_names}

    # -- device half ---------------------------------------------------------------------------

    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        if mask_TL is None:
            return super().text_features(ids_TL, None)
        return self._pooled_at_own_end(ids_TL, mask_TL)

    def _pooled_at_own_end(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor) -> torch.Tensor:
        import torch

        seen_TL = mask_TL * (ids_TL != self.tokenizer.pad_token_id)
        seen_TL = torch.where(seen_TL.any(1, keepdim=True), seen_TL, mask_TL)  # nothing but an end
        tower: Any = self.module.text_model
        hidden_TLD = tower(input_ids=ids_TL, attention_mask=seen_TL).last_hidden_state
        rows_T = torch.arange(len(ids_TL), device=ids_TL.device)
        features_TD: torch.Tensor = tower.head(hidden_TLD[rows_T, mask_TL.sum(1) - 1])
        return features_TD

    def image_features(self, pixels: Any) -> torch.Tensor:
        module: Any = self.module
        features_ID: torch.Tensor = module.get_image_features(**pixels).pooler_output
        return features_ID
