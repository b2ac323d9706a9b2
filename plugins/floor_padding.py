"""LLaVA-NeXT's image processor as it was when the published models were trained and evaluated.

A picture is fitted into a grid of tiles and the rest is padded. Until transformers 4.51 each side
got half of the rest, rounded down: where the rest is odd the grid is one pixel short, and its last
tiles are stretched to full size. Since then (huggingface/transformers, pull request 37819) the odd
pixel goes to the far side. The models here saw the former; square resizes (high, mid, low) fit the
grid without a rest and are equal in both.

This module imports transformers and is imported only when pictures are processed: workers unpickle
the class from here.
"""

from __future__ import annotations

from typing import Any

from transformers import LlavaNextImageProcessorPil


class FloorPadding(LlavaNextImageProcessorPil):
    """The library's processor, with half of the rest, rounded down, on either side."""

    def _get_padding_size(self, original_resolution: Any, target_resolution: Any) -> Any:
        sides = zip(original_resolution, target_resolution, strict=True)
        return tuple(((whole - part) // 2,) * 2 for part, whole in sides)

    def to_dict(self) -> dict[str, Any]:
        """Tell the library's own class, so that a saved folder loads anywhere."""
        return {**super().to_dict(), "image_processor_type": "LlavaNextImageProcessor"}
