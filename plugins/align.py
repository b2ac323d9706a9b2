"""ALIGN from transformers: a BERT and an EfficientNet.

The text vector is the projection of the first token, without BERT's pooler; the image vector is the
network's own pooled output, without a projection.
"""

from __future__ import annotations

from functools import cached_property

from mmeb_harness.plugins.two_tower import TransformersTwoTower

STRIDE = 32
"""Pixels of an image to one place of the last feature map: EfficientNet halves five times."""


class Align(TransformersTwoTower):
    """An encoder over ALIGN's two towers."""

    model_types = ("align",)
    image_processor_class = "EfficientNetImageProcessorPil"

    @cached_property
    def image_tokens(self) -> int:
        processor = self.image_processor
        size = processor.crop_size if processor.do_center_crop else processor.size
        return -(-int(size["height"]) // STRIDE) * -(-int(size["width"]) // STRIDE)
