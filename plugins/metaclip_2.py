"""MetaCLIP 2 from transformers: CLIP's towers with a multilingual tokenizer."""

from __future__ import annotations

from mmeb_harness.plugins.two_tower import TransformersTwoTower


class MetaClip2(TransformersTwoTower):
    """An encoder over MetaCLIP 2's two towers."""

    model_types = ("metaclip_2",)
    image_processor_class = "CLIPImageProcessorPil"
