"""AltCLIP from transformers: CLIP's image tower, and XLM-R in the place of its text tower."""

from __future__ import annotations

from mmeb_harness.plugins.two_tower import TransformersTwoTower


class AltClip(TransformersTwoTower):
    """An encoder over AltCLIP's two towers."""

    model_types = ("altclip",)
    image_processor_class = "CLIPImageProcessorPil"

    @property
    def text_positions(self) -> int:
        """How many tokens the text tower has positions for: XLM-R counts from after padding's."""
        return super().text_positions - int(self.config.text_config.pad_token_id) - 1
