"""Chinese-CLIP from transformers: a RoBERTa, of which the first token is projected, and a ViT."""

from __future__ import annotations

from mmeb_harness.plugins.two_tower import TransformersTwoTower


class ChineseClip(TransformersTwoTower):
    """An encoder over Chinese-CLIP's two towers."""

    model_types = ("chinese_clip",)
    image_processor_class = "ChineseCLIPImageProcessorPil"
