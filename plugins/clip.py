"""CLIP, and models that transformers gives the same two towers.

As in the original baselines: an item with text and image is the plain sum of the two unnormalised
features (`fusion=sum`), or one of them only where the task is one-sided (`fusion=unimodal`).

Shapes: T texts, I images, B items, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import ItemError
from mmeb_harness.image import load_image, to_rgb
from mmeb_harness.item import Item, Rendered
from mmeb_harness.plugins.pretrained import Pretrained, load_checked, quiet_transformers
from mmeb_harness.plugins.prompt import worded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TwoTowerBatch:
    """A prepared batch; `text_rows` and `image_rows` say which items have which side."""

    items: int
    text_rows: Sequence[int]
    ids_TL: torch.Tensor | None
    mask_TL: torch.Tensor | None
    image_rows: Sequence[int]
    pixels: torch.Tensor | None


class Clip(Pretrained):
    """An encoder over CLIP's two towers."""

    model_types = ("clip",)

    @cached_property
    def image_processor(self) -> Any:
        """The PIL image processor of the base."""
        from transformers import CLIPImageProcessorPil

        with quiet_transformers():
            return CLIPImageProcessorPil.from_pretrained(self.base_folder)

    @cached_property
    def config(self) -> Any:
        """The configuration of both towers."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.base_folder)

    @cached_property
    def max_length(self) -> int:
        """Text tokens at most: what the tower has positions for."""
        positions = int(self.config.text_config.max_position_embeddings)
        return min(self.card.max_length or positions, positions)

    @cached_property
    def _image_tokens(self) -> int:
        vision = self.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2 + 1)

    def render(self, item: Item) -> Rendered:
        text: str | None = worded(item, self.card) or None
        image = item.image
        if self.card.fusion == "unimodal" and text is not None and image is not None:
            text = None if item.modality == "image" else text
            image = None if item.modality == "text" else image
        if text is None and image is None:
            raise ItemError("nothing is left of it without its instruction (see -M prompt=stored)")
        return Rendered(text=text, image=image)

    def size(self, rendered: Rendered) -> int:
        text = 0 if rendered.text is None else len(self._ids(rendered.text))
        return text + self._image_tokens * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> TwoTowerBatch:
        text_rows = [row for row, one in enumerate(rendered) if one.text is not None]
        images = [(row, one.image) for row, one in enumerate(rendered) if one.image is not None]
        ids_TL, mask_TL = self._tokens([rendered[row].text or "" for row in text_rows])
        pictures = [to_rgb(load_image(image)) for _, image in images]
        return TwoTowerBatch(
            items=len(rendered),
            text_rows=text_rows,
            ids_TL=ids_TL,
            mask_TL=mask_TL,
            image_rows=[row for row, _ in images],
            pixels=self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
            if pictures
            else None,
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=self.max_length)[
            "input_ids"
        ]
        return ids

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        import torch

        if not texts:
            return None, None
        rows = [self._ids(text) for text in texts]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids_TL = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        # the original masks by `ids != pad`; where padding is the end token, that masks it too
        return ids_TL, (ids_TL != pad).long()

    def load_module(self) -> torch.nn.Module:
        from transformers import AutoModel

        model = load_checked(AutoModel, self.fetch_weights(), self.dtype, self.attention)
        loaded: torch.nn.Module = model
        return loaded

    def forward(self, batch: TwoTowerBatch) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        module: Any = self.module
        parts = []
        if batch.ids_TL is not None and batch.mask_TL is not None:
            text_TD = module.get_text_features(
                input_ids=batch.ids_TL.to(self.device), attention_mask=batch.mask_TL.to(self.device)
            ).pooler_output
            parts.append((batch.text_rows, text_TD))
        if batch.pixels is not None:
            image_ID = module.get_image_features(
                pixel_values=batch.pixels.to(self.device, module.dtype)
            ).pooler_output
            parts.append((batch.image_rows, image_ID))
        vectors_BD = torch.zeros(batch.items, parts[0][1].shape[1], device=self.device)
        for rows, features in parts:
            index = torch.tensor(rows, device=self.device)
            vectors_BD = vectors_BD.index_add(0, index, features.float())
        return normalize(vectors_BD, dim=-1) if self.card.normalize else vectors_BD
