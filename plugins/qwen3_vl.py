"""Qwen3-VL as an embedding model: Qwen3-VL-Embedding.

Unlike its forebears it gets features from several depths of its vision tower, each added to the
hidden states behind one of the first decoder layers ("deepstack"), and is used with a chat
template and three-dimensional positions. The vector is the last token's, after the final norm.
Sources: QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_embedding.py, and qwen-vl-utils 0.0.14.

Shapes: B items, L tokens, D hidden size, T image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import ItemError
from mmeb_harness.image import to_rgb
from mmeb_harness.item import ImageSource, Rendered
from mmeb_harness.plugins.decoder import IMAGE, DecoderBatch, Seen
from mmeb_harness.plugins.qwen2_vl import FittedQwen, fit

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

LONGEST = 200
"""How many times as long as wide an image may be."""


class Qwen3VL(FittedQwen):
    """An encoder over Qwen3-VL."""

    model_types = ("qwen3_vl",)
    processor_settings: Mapping[str, Any] = {"do_resize": False}

    # -- CPU half ------------------------------------------------------------------------------

    def plain(self, image: Image) -> Image:
        """Make an image plain RGB; one with an alpha channel lies on white, as in the original."""
        from PIL import Image as pillow

        if image.mode != "RGBA":
            return to_rgb(image)
        white = pillow.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white

    @property
    def _factor(self) -> int:
        return int(self.image_processor.patch_size * self.image_processor.merge_size)

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        if max(size) > LONGEST * min(size):
            raise ItemError(
                f"its image of {size[0]}x{size[1]} pixels is more than {LONGEST} times as long as "
                "wide"
            )
        limits = self.image_processor.size
        return fit(size, self._factor, limits["shortest_edge"], limits["longest_edge"])

    def image_tokens(self, source: ImageSource) -> int:
        width, height = self.picture_size(source)
        return (width // self._factor) * (height // self._factor)

    @cached_property
    def closing(self) -> list[int]:
        """The ids that the tokenizer itself puts behind a text."""
        encoding = self.tokenizer.backend_tokenizer.encode("a")
        own = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
        ids: list[int] = encoding.ids[own[-1] + 1 :]
        return ids

    def _row(self, rendered: Rendered, image_tokens: int) -> list[int]:
        """Return an item's ids; a cut keeps what the tokenizer puts behind, as its own cut does."""
        row = super()._row(rendered, image_tokens)
        end = row[len(row) - len(self.closing) :]
        if end == self.closing or IMAGE in end or len(row) < len(self.closing):
            return row
        return [*row[: len(row) - len(self.closing)], *self.closing]

    # -- device half ---------------------------------------------------------------------------

    def see(self, images: Mapping[str, torch.Tensor]) -> Seen:
        """Return the (T, D) features of the images, and those of each depth."""
        import torch

        module: Any = self.module
        seen = module.get_image_features(images["pixels"], images["grids"], return_dict=True)
        depths = [joined(depth) for depth in seen.deepstack_features]
        return torch.cat(list(seen.pooler_output)), depths

    def inputs(self, batch: DecoderBatch) -> dict[str, Any]:
        """Return embeddings with the images' features in their places, and those of each depth."""
        if batch.images is None:
            return super().inputs(batch)
        module: Any = self.module
        features_TD, depths = self.seen(batch)
        is_image_BL = batch.is_image_BL.to(self.device)
        embedded_BLD = module.get_input_embeddings()(batch.ids_BL.to(self.device))
        return {
            "inputs_embeds": embedded_BLD.masked_scatter(
                is_image_BL.unsqueeze(-1), features_TD.to(embedded_BLD.dtype)
            ),
            "visual_pos_masks": is_image_BL,
            "deepstack_visual_embeds": depths,
        }


def joined(features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the (T, D) features of one depth; newer versions of transformers split them."""
    import torch

    return features if isinstance(features, torch.Tensor) else torch.cat(list(features))
