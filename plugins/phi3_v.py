"""Phi-3.5-vision as an embedding model, as VLM2Vec uses it.

What the original code does, and why it is done so here: the published placeholder is the model's
own image tag; the texts before and after it are tokenised apart, each with a beginning-of-sequence
token; an item with an image is never cut, `max_length` is for text alone; a picture becomes up to
`num_crops` squares and a view of the whole; the vector is the last real token's, after the final
norm.

The original chooses between the short and the long rope factors by the longest row of a batch, so
that a neighbour of more than 4,096 tokens changes a vector. Here every item gets what it would get
alone: a batch that holds both kinds is run in two parts.

Shapes: B items, L tokens, D hidden size, T image tokens, I images, C crops of all images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import EnvironmentFault, ItemError
from mmeb_harness.image import image_size
from mmeb_harness.item import ImageSource
from mmeb_harness.plugins.decoder import IMAGE, Decoder, DecoderBatch, picture_rows
from mmeb_harness.plugins.phi3_v_checkpoint import load_model, save_model
from mmeb_harness.plugins.phi3_v_images import (
    ImageSettings,
    crop_grid,
    crops_of,
    read_settings,
    token_count,
)
from mmeb_harness.plugins.pretrained import KERNELS, quiet_transformers

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IMAGE_TAG = r"<\|image_\d+\|>"


class Phi3V(Decoder):
    """An encoder over Phi-3.5-vision."""

    model_types = ("phi3_v",)
    adapter_targets = (r"model\.layers",)
    packs = False

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def image_processor(self) -> ImageSettings:
        """How pictures are cut and normalised."""
        return read_settings(self.base_folder, self.card.num_crops)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the base, its tokenizer.json taken at its word.

        Made anew from the vocabulary by transformers' class for Llama, it would drop the space mark
        at the head of a text. Whether a text begins with a token of its own is what that class made
        of tokenizer_config.json in the original.
        """
        from transformers import PreTrainedTokenizerFast

        folder = self.base_folder
        try:
            stored = json.loads((folder / "tokenizer_config.json").read_text())
            llama = str(stored.get("tokenizer_class")).startswith("LlamaTokenizer")
            starts = {"add_bos_token": stored.get("add_bos_token", True)} if llama else {}
            with quiet_transformers():
                tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, **starts)
        except (OSError, ValueError, TypeError) as error:
            raise EnvironmentFault(
                f"{folder} has no usable tokenizer.json and tokenizer_config.json: "
                f"{str(error).splitlines()[0]}"
            ) from None
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        return tokenizer

    @cached_property
    def image_token_id(self) -> int:
        """An id for the places of image tokens, whose embeddings are replaced."""
        return 0

    def with_image(self, text: str, image_tokens: int) -> list[int]:
        """Return the ids of the texts around the image tag, each a text of its own, none cut."""
        texts = re.split(IMAGE_TAG, text)
        if len(texts) != 2:
            raise ItemError(f"its text has {len(texts) - 1} image tags, not one")
        before, after = (self.token_ids(part) for part in texts)
        return [*before, *[IMAGE] * image_tokens, *after]

    def image_tokens(self, source: ImageSource) -> int:
        return token_count(*crop_grid(*image_size(source), self.image_processor.num_crops))

    def process(self, pictures: Sequence[Image]) -> tuple[Mapping[str, torch.Tensor], list[int]]:
        import torch

        settings = self.image_processor
        grids = [crop_grid(*picture.size, settings.num_crops) for picture in pictures]
        crops_C3HW = torch.cat([crops_of(picture, settings) for picture in pictures])
        images = {"crops": crops_C3HW, "grids": torch.tensor(grids)}
        return images, [token_count(rows, columns) for rows, columns in grids]

    # -- device half ---------------------------------------------------------------------------

    @property
    def trunk(self) -> None:
        """Nothing: a batch of short and long items runs twice, and the decoder holds the tower."""

    def load_base(self) -> Any:
        with quiet_transformers():
            return load_model(self.fetch_weights(), self.dtype, KERNELS[self.attention])

    def features(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        module: Any = self.module
        features_TD: torch.Tensor = module.image_embedding(images["crops"], images["grids"])
        return features_TD

    def forward(self, batch: DecoderBatch) -> torch.Tensor:
        import torch

        module: Any = self.module
        parts = parts_by_length(batch, module.short_context)
        if len(parts) == 1:
            return super().forward(batch)
        vectors_BD = torch.cat([Decoder.forward(self, rows_of(batch, rows)) for rows in parts])
        return vectors_BD[torch.cat(parts).argsort().to(vectors_BD.device)]

    def save_model(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        state = self.module.state_dict() if state is None else state
        save_model(state, self.base_folder, folder)


def parts_by_length(batch: DecoderBatch, limit: int | None) -> list[torch.Tensor]:
    """Return the numbers of the rows up to `limit` tokens long, and of the longer ones, if any."""
    lengths_B = batch.mask_BL.sum(1)
    is_long_B = lengths_B > (limit or lengths_B.max())
    parts = [(~is_long_B).nonzero()[:, 0], is_long_B.nonzero()[:, 0]]
    return [rows for rows in parts if len(rows)]


def rows_of(batch: DecoderBatch, rows: torch.Tensor) -> DecoderBatch:
    """Return some rows of a batch as a batch, padded to the longest of them."""
    import torch

    mask_BL = batch.mask_BL[rows]
    used_L = mask_BL.any(0)
    has_image_B = batch.is_image_BL.any(1)
    images: dict[str, torch.Tensor] | None = None
    seen: torch.Tensor | None = None
    if batch.images is not None and has_image_B[rows].any():
        is_chosen_I = torch.isin(has_image_B.nonzero()[:, 0], rows)
        grids_I2 = batch.of_items(batch.images["grids"])
        images = {"grids": grids_I2[is_chosen_I]}
        if batch.seen is None:
            is_chosen_C = is_chosen_I.repeat_interleave(crop_counts(grids_I2))
            images["crops"] = _crops_of_items(batch)[is_chosen_C]
        else:
            token_rows_T = batch.is_image_BL.nonzero()[:, 0]
            all_seen = batch.seen if batch.features_T is None else batch.seen[batch.features_T]
            seen = all_seen[torch.isin(token_rows_T, rows)]
    return DecoderBatch(
        ids_BL=batch.ids_BL[rows][:, used_L],
        mask_BL=mask_BL[:, used_L],
        is_image_BL=batch.is_image_BL[rows][:, used_L],
        images=images,
        left=batch.left,
        seen=seen,
    )


def crop_counts(grids_I2: torch.Tensor) -> torch.Tensor:
    """Return how many crops pictures have, the view of the whole included."""
    return grids_I2.prod(1) + 1


def _crops_of_items(batch: DecoderBatch) -> torch.Tensor:
    """Return the crops of each item's picture, in order; those of a shared one more than once."""
    assert batch.images is not None
    crops_C3HW = batch.images["crops"]
    if batch.pictures_I is None:
        return crops_C3HW
    return crops_C3HW[picture_rows(batch.pictures_I, crop_counts(batch.images["grids"]))]
