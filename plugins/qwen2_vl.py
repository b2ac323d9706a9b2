"""Qwen2-VL and Qwen2.5-VL as embedding models: VLM2Vec and its kin.

What the original code does, and why it is done so here: the placeholder becomes `<|image_pad|>`
without `<|vision_start|>`, no chat template; image tokens get plain sequential positions, because
the original finds images by a token that its prompts never hold (`positions`); the vector is the
last real token's, after the final norm.

Shapes: B items, L tokens, D hidden size, P patches of all images, I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import ItemError
from mmeb_harness.image import image_size, load_image, resize_square, square_side, to_rgb
from mmeb_harness.item import PLACEHOLDER, ImageSource, Item, Rendered
from mmeb_harness.plugins.adapter import bind_adapter, merge_adapter
from mmeb_harness.plugins.pretrained import Pretrained, load_checked, quiet_transformers
from mmeb_harness.plugins.prompt import worded

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IMAGE_TOKEN = "<|image_pad|>"

ADAPTER_RULES = (
    (r"^model\.(language_model|visual)\.", r"\1."),  # saved from today's generation class
    (r"^model\.", "language_model."),  # saved before transformers 4.52: `model.layers...`
)

SMALL_SIDE, SMALL_REPLACEMENT = 28, 56
"""VLM2Vec's V2 code makes an image with a side under 28 pixels one of 56 x 56."""


@dataclass(frozen=True, kw_only=True)
class QwenBatch:
    """A prepared batch, padded on one side; `pixels` (P, patch) and `grids` (I, 3) may be None."""

    ids_BL: torch.Tensor
    mask_BL: torch.Tensor
    is_image_BL: torch.Tensor
    pixels: torch.Tensor | None
    grids: torch.Tensor | None
    left: bool


class Qwen2VL(Pretrained):
    """An encoder over Qwen2-VL or Qwen2.5-VL. `padding_side` changes no vector, only padding."""

    model_types = ("qwen2_vl", "qwen2_5_vl")
    padding_side = "right"

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def image_processor(self) -> Any:
        """The PIL image processor of the base, with the card's pixel limits."""
        from transformers import Qwen2VLImageProcessorPil

        with quiet_transformers():
            processor = Qwen2VLImageProcessorPil.from_pretrained(self.base_folder)
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
        processor.size = {
            "shortest_edge": self.card.min_pixels or least,
            "longest_edge": self.card.max_pixels or most,
        }
        return processor

    @cached_property
    def max_length(self) -> int:
        """Tokens of an item at most, image tokens included."""
        return int(self.card.max_length or self.tokenizer.model_max_length)

    @cached_property
    def _image_token_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))

    def render(self, item: Item) -> Rendered:
        text = worded(item, self.card).replace(PLACEHOLDER, IMAGE_TOKEN)
        if item.image is not None and IMAGE_TOKEN not in text:
            text = f"{IMAGE_TOKEN}\n{text}"
        return Rendered(text=text, image=item.image)

    def size(self, rendered: Rendered) -> int:
        images = 0 if rendered.image is None else self._image_tokens(rendered.image)
        return len(self._ids(rendered, images))

    def prepare(self, rendered: Sequence[Rendered]) -> QwenBatch:
        import torch

        pictures = [self._picture(one.image) for one in rendered if one.image is not None]
        processed = self.image_processor(images=pictures, return_tensors="pt") if pictures else None
        grids = None if processed is None else processed["image_grid_thw"]
        counts = iter([] if grids is None else self._token_counts(grids))
        rows = [self._ids(one, 0 if one.image is None else next(counts)) for one in rendered]
        has_image = torch.tensor([[one.image is not None] for one in rendered])
        ids_BL, mask_BL = self._padded(rows)
        return QwenBatch(
            ids_BL=ids_BL,
            mask_BL=mask_BL,
            is_image_BL=(ids_BL == self._image_token_id) & mask_BL.bool() & has_image,
            pixels=None if processed is None else processed["pixel_values"],
            grids=grids,
            left=self.padding_side == "left",
        )

    def _ids(self, rendered: Rendered, image_tokens: int) -> list[int]:
        """Token ids with the image token repeated; the text is cut to what images leave of it."""
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(rendered.text or "").ids
        if rendered.image is None:
            ids = ids[: self.max_length]
        else:
            ids = self._with_image(ids, image_tokens)
        if not ids:
            raise ItemError("its text has no tokens")
        return ids

    def _with_image(self, ids: list[int], image_tokens: int) -> list[int]:
        if ids.count(self._image_token_id) != 1:
            raise ItemError(f"its text has {ids.count(self._image_token_id)} image tokens, not one")
        place = ids.index(self._image_token_id)
        room = max(0, self.max_length - image_tokens)
        before, after = ids[:place][:room], ids[place + 1 :][: max(0, room - place)]
        return [*before, *[self._image_token_id] * image_tokens, *after]

    def _picture(self, source: ImageSource) -> Image:
        image = resize_square(load_image(source), self._resolution)
        if min(image.size) < SMALL_SIDE:
            image = image.resize((SMALL_REPLACEMENT, SMALL_REPLACEMENT))
        return to_rgb(image)

    @property
    def _resolution(self) -> Any:
        return self.card.image_resolution or "processor"

    def _image_tokens(self, source: ImageSource) -> int:
        """Tokens of an image, from its header; a fixed square needs not even that."""
        width, height = self._processed_size(source)
        try:
            patches = self.image_processor.get_number_of_image_patches(height, width)
        except ValueError as error:
            raise ItemError(f"its image of {width}x{height} pixels does not fit: {error}") from None
        return int(patches) // int(self.image_processor.merge_size) ** 2

    def _processed_size(self, source: ImageSource) -> tuple[int, int]:
        """Width and height that `_picture` gives an image."""
        fixed = square_side((0, 0), self._resolution)
        size = (fixed, fixed) if fixed else image_size(source)
        side = square_side(size, self._resolution)
        if side is not None:
            return (side, side)
        return (SMALL_REPLACEMENT, SMALL_REPLACEMENT) if min(size) < SMALL_SIDE else size

    def _token_counts(self, grids_I3: torch.Tensor) -> list[int]:
        counts: list[int] = (grids_I3.prod(-1) // self.image_processor.merge_size**2).tolist()
        return counts

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        width = max(len(row) for row in rows)
        ids_BL = torch.full((len(rows), width), self.tokenizer.pad_token_id or 0)
        mask_BL = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            start = width - len(row) if self.padding_side == "left" else 0
            ids_BL[number, start : start + len(row)] = torch.tensor(row)
            mask_BL[number, start : start + len(row)] = 1
        return ids_BL, mask_BL

    # -- device half ---------------------------------------------------------------------------

    def load_module(self) -> torch.nn.Module:
        from transformers import AutoModel

        model = load_checked(AutoModel, self.fetch_weights(), self.dtype, self.attention)
        if self.adapter_folder is not None:
            model = merge_adapter(bind_adapter(model, self.adapter_folder, ADAPTER_RULES))
        loaded: torch.nn.Module = model
        return loaded

    def forward(self, batch: QwenBatch) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        module: Any = self.module
        mask_BL = batch.mask_BL.to(self.device)
        embedded_BLD = self._embed(batch)
        hidden_BLD = module.language_model(
            inputs_embeds=embedded_BLD,
            position_ids=self._positions(batch),
            # with right padding the causal mask alone keeps padding out of every real token
            attention_mask=mask_BL if batch.left else None,
            use_cache=False,
        ).last_hidden_state
        last_B = mask_BL.shape[1] - 1 - mask_BL.flip(1).argmax(1)
        rows_B = torch.arange(len(last_B), device=last_B.device)
        vectors_BD = hidden_BLD[rows_B, last_B].float()
        return normalize(vectors_BD, dim=-1) if self.card.normalize else vectors_BD

    def _embed(self, batch: QwenBatch) -> torch.Tensor:
        """Token embeddings with the images' features at their tokens; a stray token stays text."""
        import torch

        module: Any = self.module
        embedded_BLD: torch.Tensor = module.get_input_embeddings()(batch.ids_BL.to(self.device))
        if batch.pixels is None or batch.grids is None:
            return embedded_BLD
        features = module.get_image_features(
            batch.pixels.to(self.device), batch.grids.to(self.device), return_dict=True
        ).pooler_output
        features_TD = torch.cat(list(features)).to(embedded_BLD.dtype)
        places_BL1 = batch.is_image_BL.to(self.device).unsqueeze(-1)
        return embedded_BLD.masked_scatter(places_BL1, features_TD)

    def _positions(self, batch: QwenBatch) -> torch.Tensor:
        """Positions (3, B, L), counted from the first real token."""
        import torch

        if self.card.positions == "mrope":
            module: Any = self.module
            positions, _ = module.get_rope_index(
                batch.ids_BL,
                mm_token_type_ids=batch.is_image_BL.int(),
                image_grid_thw=batch.grids,
                attention_mask=batch.mask_BL,
            )
            return torch.as_tensor(positions).to(self.device)
        if batch.left:
            positions_BL = (batch.mask_BL.cumsum(1) - 1).clamp(min=0)
        else:
            positions_BL = torch.arange(batch.ids_BL.shape[1]).expand_as(batch.ids_BL)
        return positions_BL.expand(3, -1, -1).to(self.device)
