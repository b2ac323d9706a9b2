"""LLaVA-NeXT (LLaVA-1.6) as an embedding model: VLM2Vec, E5-V and UniME over Mistral or Llama.

What the original code does, and why it is done so here: the placeholder becomes `<image>`, no chat
template; the tokenizer puts its start token in front; a picture becomes a small whole and a grid of
tiles ("anyres"), whose features are joined, cut free of padding and given a newline feature a row;
the vector is the last real token's, after the final norm. Grids are padded as the library did when
these models were made (`floor_padding`).

Shapes: B items, L tokens, D hidden size, T image tokens, I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.item import ImageSource
from mmeb_harness.plugins.decoder import Decoder
from mmeb_harness.plugins.pretrained import quiet_transformers

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL.Image import Image


class LlavaNext(Decoder):
    """An encoder over LLaVA-NeXT."""

    model_types = ("llava_next",)
    adapter_rules = (  # before transformers 4.52, or from today's generation class
        (r"^(model\.)?language_model\.(model\.)?", "language_model."),
        (r"^(model\.)?vision_tower\.(vision_model\.)?", "vision_tower."),
        (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    )

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def config(self) -> Any:
        """The configuration of the base."""
        from transformers import AutoConfig

        return read_saved(AutoConfig, self.base_folder, "config.json")

    @cached_property
    def image_processor(self) -> Any:
        """The image processor of the base, which must cut the tiles that the model expects."""
        from mmeb_harness.plugins.floor_padding import FloorPadding

        processor = read_saved(FloorPadding, self.base_folder, "preprocessor_config.json")
        cut = (processor.crop_size["height"], processor.image_grid_pinpoints)
        wanted = (self.config.vision_config.image_size, self.config.image_grid_pinpoints)
        if cut != wanted:
            raise EnvironmentFault(
                f"{self.base_folder}: the tiles of preprocessor_config.json ({cut[0]} pixels, "
                f"grids {cut[1]}) are not those of config.json ({wanted[0]} pixels, grids "
                f"{wanted[1]})"
            )
        return processor

    def image_tokens(self, source: ImageSource) -> int:
        width, height = self.picture_size(source)
        return self._tokens_of(height, width)

    def _tokens_of(self, height: int, width: int) -> int:
        """Count by the model's own functions: the whole, and what unpadding leaves of the grid."""
        import torch
        from transformers.models.llava_next import modeling_llava_next as library

        tile = self.config.vision_config.image_size
        side = tile // self.config.vision_config.patch_size
        rows, columns = library.get_anyres_image_grid_shape(
            (height, width), self.config.image_grid_pinpoints, tile
        )
        grid = torch.empty((1, rows * side, columns * side), device="meta")
        _, kept_rows, kept_columns = library.unpad_image(grid, (height, width)).shape
        return int(side * side + kept_rows * (kept_columns + 1))  # one newline a row

    def process(self, pictures: Sequence[Image]) -> tuple[Mapping[str, torch.Tensor], list[int]]:
        processed = self.image_processor(images=list(pictures), do_pad=True, return_tensors="pt")
        sizes_I2 = processed["image_sizes"]
        counts = [self._tokens_of(height, width) for height, width in sizes_I2.tolist()]
        return {"pixels": processed["pixel_values"], "sizes": sizes_I2}, counts

    # -- device half ---------------------------------------------------------------------------

    def features(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        module: Any = self.module
        outputs = module.get_image_features(images["pixels"], images["sizes"], return_dict=True)
        return torch.cat(list(outputs.pooler_output))


def read_saved(kind: Any, folder: Path, file: str) -> Any:
    """Read what a class of transformers saved as `file` in a model's folder."""
    with quiet_transformers():
        try:
            return kind.from_pretrained(folder)
        except Exception as error:  # every library layer has errors of its own here
            why = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            raise EnvironmentFault(
                f"{folder / file} is missing or cannot be used ({why}): "
                "the base model that it was made from has one"
            ) from error
