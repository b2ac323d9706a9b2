"""Qwen2-VL and Qwen2.5-VL as embedding models: VLM2Vec and its kin; and what all Qwens share.

What the original code does, and why it is done so here: the placeholder becomes `<|image_pad|>`
without `<|vision_start|>`, no chat template; image tokens get plain sequential positions, because
the original finds images by a token that its prompts never hold (`positions`); the vector is the
last real token's, after the final norm.

Shapes: B items, L tokens, D hidden size, T image tokens, I images.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import ItemError
from mmeb_harness.image import to_rgb
from mmeb_harness.item import ImageSource
from mmeb_harness.plugins.decoder import Decoder, DecoderBatch
from mmeb_harness.plugins.qwen_pixels import Patches
from mmeb_harness.plugins.qwen_vision import quicken

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SMALL_SIDE, SMALL_REPLACEMENT = 28, 56
"""VLM2Vec's V2 code makes an image with a side under 28 pixels one of 56 x 56."""


class QwenDecoder(Decoder):
    """An encoder over a Qwen that sees images as grids of patches."""

    image_processor_class = "Qwen2VLImageProcessorPil"
    processor_settings: Mapping[str, Any] = {}
    """What the image processor is told at each call."""

    adapter_rules = (
        (r"^model\.(language_model|visual)\.", r"\1."),  # saved from today's generation class
        (r"^model\.", "language_model."),  # saved before transformers 4.52: `model.layers...`
    )

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def image_processor(self) -> Any:
        """The image processor of the base, with the card's pixel limits."""
        processor = super().image_processor
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
        processor.size = {
            "shortest_edge": self.card.min_pixels or least,
            "longest_edge": self.card.max_pixels or most,
        }
        return processor

    def image_tokens(self, source: ImageSource) -> int:
        width, height = self.picture_size(source)
        try:
            patches = self.image_processor.get_number_of_image_patches(height, width)
        except ValueError as error:
            raise ItemError(f"its image of {width}x{height} pixels does not fit: {error}") from None
        return int(patches) // int(self.image_processor.merge_size) ** 2

    def process(self, pictures: Sequence[Image]) -> tuple[Mapping[str, torch.Tensor], list[int]]:
        pixels, grids_I3 = self._patches(pictures)
        counts: list[int] = (grids_I3.prod(-1) // self.image_processor.merge_size**2).tolist()
        return {"pixels": pixels, "grids": grids_I3}, counts

    @cached_property
    def _patches(self) -> Patches:
        return Patches(self.image_processor, self.processor_settings)

    # -- device half ---------------------------------------------------------------------------

    def load_base(self) -> Any:
        module = super().load_base()
        if self.attention == "sdpa":
            quicken(module.visual)
        return module

    def features(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        module: Any = self.module
        outputs = module.get_image_features(images["pixels"], images["grids"], return_dict=True)
        return torch.cat(list(outputs.pooler_output))

    def positions(self, batch: DecoderBatch) -> torch.Tensor:
        """Return positions (3, B, L)."""
        import torch

        if self.card.positions == "mrope":
            module: Any = self.module
            positions, _ = module.get_rope_index(
                batch.ids_BL,
                mm_token_type_ids=batch.is_image_BL.int(),
                image_grid_thw=None
                if batch.images is None
                else batch.of_items(batch.images["grids"]),
                attention_mask=batch.mask_BL,
            )
            return torch.as_tensor(positions).to(self.device)
        return super().positions(batch).expand(3, -1, -1)


class Qwen2VL(QwenDecoder):
    """An encoder over Qwen2-VL or Qwen2.5-VL, with VLM2Vec's treatment of small images."""

    model_types = ("qwen2_vl", "qwen2_5_vl")

    def resized(self, image: Image) -> Image:
        image = super().resized(image)
        if min(image.size) < SMALL_SIDE:
            image = image.resize((SMALL_REPLACEMENT, SMALL_REPLACEMENT))
        return image

    def picture_size(self, source: ImageSource) -> tuple[int, int]:
        size = super().picture_size(source)
        return (SMALL_REPLACEMENT, SMALL_REPLACEMENT) if min(size) < SMALL_SIDE else size


class FittedQwen(QwenDecoder):
    """A Qwen whose authors make an image plain RGB and resize it before the processor sees it."""

    @abstractmethod
    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height that an image gets."""

    def plain(self, image: Image) -> Image:
        """Make an image plain RGB."""
        return to_rgb(image)

    def resized(self, image: Image) -> Image:
        image = super().resized(self.plain(image))
        return image.resize(self.fitted(image.size))

    def picture_size(self, source: ImageSource) -> tuple[int, int]:
        return self.fitted(super().picture_size(source))


def fit(size: tuple[int, int], factor: int, least: int, most: int) -> tuple[int, int]:
    """Return the multiples of `factor` nearest to a size, their area within two limits.

    As `smart_resize` of the package qwen-vl-utils, whose sides are never less than `factor`;
    transformers' function of that name rounds a thin side to nothing and then enlarges the image.
    """
    width, height = (max(factor, round(side / factor) * factor) for side in size)
    if width * height > most:
        scale = math.sqrt(size[0] * size[1] / most)
        width, height = (max(factor, math.floor(side / scale / factor) * factor) for side in size)
    elif width * height < least:
        scale = math.sqrt(least / (size[0] * size[1]))
        width, height = (math.ceil(side * scale / factor) * factor for side in size)
    return width, height
