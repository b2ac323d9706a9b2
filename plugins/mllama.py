"""Mllama (Llama 3.2 Vision) as an embedding model: mmE5.

Its text never holds image features: some decoder layers attend to them instead, from the image's
token on. So an image takes one token of the sequence, and its work is that of the vision tower,
which always sees as many tiles as there may be.

The one trap: where a row may attend to nothing, the library's cross-attention does not skip it but
averages over everything, and only the layer behind it is masked. Rows without an image would
therefore change with their neighbours; they run apart, through the layers that are left.

Shapes: B items, L tokens, D hidden size, I images (items with one), T tiles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card
from mmeb_harness.errors import UsageError
from mmeb_harness.image import load_image
from mmeb_harness.item import ImageSource, Rendered
from mmeb_harness.plugins.decoder import Decoder, DecoderBatch

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class Mllama(Decoder):
    """An encoder over Mllama."""

    model_types = ("mllama",)
    image_processor_class = "MllamaImageProcessorPil"
    shares_pictures = packs = False
    adapter_rules = (
        (r"^(model\.)?language_model\.model\.", "language_model."),  # before transformers 4.52
        (r"^model\.", ""),  # saved from today's generation class
    )

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        if card.attention == "flash":
            raise UsageError("Mllama has no flash attention: -M attention=sdpa, or eager")
        super().__init__(card, device, dtype)

    # -- CPU half ------------------------------------------------------------------------------

    def size(self, rendered: Rendered) -> int:
        """Return the tokens of the text, and those of the vision tower if there is an image."""
        return super().size(rendered) + self.vision_tokens * (rendered.image is not None)

    @cached_property
    def vision_tokens(self) -> int:
        """Tokens that the vision tower makes of any image: every tile's patches and its class."""
        from transformers import AutoConfig

        vision = AutoConfig.from_pretrained(self.base_folder).vision_config
        return int(vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1))

    def image_tokens(self, source: ImageSource) -> int:
        return 1

    def token_ids(self, text: str) -> list[int]:
        """Return the ids, the begin token put where `MllamaProcessor` puts it if there is none:
        behind an image in front, or in front. The tokenizer adds its own."""
        begin, image = self.tokenizer.bos_token, self.card.image_token or ""
        if begin not in text:
            rest = text.removeprefix(image)
            text = text[: len(text) - len(rest)] + begin + rest
        return super().token_ids(text)

    def picture(self, source: ImageSource) -> Image:
        """Decode an image, resize it as the card says, and lay what is transparent on white."""
        from PIL import Image as pillow

        image = self.resized(load_image(source))
        if not image.has_transparency_data:
            return image.convert("RGB")
        white = pillow.new("RGBA", image.size, "white")
        return pillow.alpha_composite(white, image.convert("RGBA")).convert("RGB")

    def process(self, pictures: Sequence[Image]) -> tuple[Mapping[str, torch.Tensor], list[int]]:
        processed = self.image_processor(images=[[one] for one in pictures], return_tensors="pt")
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        return {name: processed[name] for name in names}, [1] * len(pictures)

    # -- device half ---------------------------------------------------------------------------

    @property
    def trunk(self) -> None:
        """Nothing: items without an image run apart, through fewer layers."""

    def features(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError("the decoder attends to an image's features by itself")

    def settled(self, batch: DecoderBatch) -> DecoderBatch:
        return batch

    def taking(
        self, rows_B: torch.Tensor, places_B: torch.Tensor
    ) -> contextlib.AbstractContextManager[None]:
        """Nothing is spared: the rows that run together are not those of the batch."""
        return contextlib.nullcontext()

    def hidden_states(self, batch: DecoderBatch) -> torch.Tensor:
        """Return the (B, L, D) hidden states; items with and without an image run apart."""
        import torch

        has_image_B = batch.is_image_BL.any(1)
        order_B, parts = [], []
        for rows, images in ((~has_image_B, None), (has_image_B, batch.images)):
            if rows.any():
                order_B.append(rows.nonzero().squeeze(1))
                parts.append(self._hidden_states(_only(batch, rows, images)))
        return torch.cat(parts)[torch.cat(order_B).argsort().to(self.device)]

    def _hidden_states(self, batch: DecoderBatch) -> torch.Tensor:
        """Run items that all have an image, or none."""
        module: Any = self.module
        vision = {} if batch.images is None else self.on_device(batch.images)
        if vision:
            vision["cross_attention_mask"] = self._sight(batch, vision["aspect_ratio_mask"])
        hidden_BLD: torch.Tensor = module(
            input_ids=batch.ids_BL.to(self.device),
            attention_mask=self.attention_mask(batch),
            position_ids=self.positions(batch),
            use_cache=False,
            **vision,
        ).last_hidden_state
        return hidden_BLD

    def _sight(self, batch: DecoderBatch, tiles_I1T: torch.Tensor) -> torch.Tensor:
        """Return (I, L, 1, T): which tiles a token attends to; all real ones from the image on."""
        from_image_IL = batch.is_image_BL.cumsum(1).to(self.device)
        return from_image_IL[:, :, None, None] * tiles_I1T[:, None]


def _only(
    batch: DecoderBatch, rows: torch.Tensor, images: Mapping[str, torch.Tensor] | None
) -> DecoderBatch:
    """Return some rows of a batch, and their images."""
    return replace(
        batch,
        ids_BL=batch.ids_BL[rows],
        mask_BL=batch.mask_BL[rows],
        is_image_BL=batch.is_image_BL[rows],
        images=images,
    )
