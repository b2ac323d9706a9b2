"""The base of models with a text tower and an image tower, as the paper's baselines use them.

The one idea: an item with text and image is the plain sum of the two unnormalised features
(`fusion=sum`), or one of them only where the task is one-sided (`fusion=unimodal`). A family says
which feature each tower gives; `tests` compare it with the library called by hand.

Shapes: T texts, I images, B items, L tokens, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card
from mmeb_harness.errors import ItemError, UsageError
from mmeb_harness.image import distinct, load_image, to_rgb
from mmeb_harness.item import ImageSource, Item, Rendered
from mmeb_harness.plugins.pretrained import Pretrained, quiet_transformers
from mmeb_harness.plugins.weights import LazyWeights, wide
from mmeb_harness.prompt import worded

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


Pixels = Any
"""What an image tower takes of some pictures: a tensor, or several by name."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerBatch:
    """A prepared batch; `text_rows` and `image_rows` say which items have which side.

    A picture that several items show is in `pixels` once; `pictures_I` says which one each item
    shows. `text_TD` and `image_ID` are features, where they are computed already.
    """

    items: int
    text_rows: Sequence[int]
    ids_TL: torch.Tensor | None
    mask_TL: torch.Tensor | None
    image_rows: Sequence[int]
    pixels: Pixels | None
    pictures_I: torch.Tensor | None = None
    text_TD: torch.Tensor | None = None
    image_ID: torch.Tensor | None = None


class TwoTower(LazyWeights):
    """An encoder over a text tower and an image tower."""

    # -- what a family says --------------------------------------------------------------------

    @property
    @abstractmethod
    def image_tokens(self) -> int:
        """Tokens of any image, for planning."""

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text as the tower takes them, cut to its length."""

    @abstractmethod
    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ids (T, L), padded, and the mask (T, L) that the tower is given, if any."""

    @abstractmethod
    def pixels(self, pictures: Sequence[Image]) -> Pixels:
        """Return what the image tower takes of some RGB pictures, one first-axis row each."""

    @abstractmethod
    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        """Return the unnormalised (T, D) features of texts."""

    @abstractmethod
    def image_features(self, pixels: Any) -> torch.Tensor:
        """Return the unnormalised (I, D) features of images, from what `pixels` gave."""

    def text_tokens(self, text: str) -> int:
        """Return how many tokens the tower computes for a text, for planning."""
        return len(self.token_ids(text))

    def picture(self, source: ImageSource) -> Image:
        """Open an image in the mode in which `pixels` takes it: plain RGB."""
        return to_rgb(load_image(source))

    # -- CPU half ------------------------------------------------------------------------------

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
        text = 0 if rendered.text is None else self.text_tokens(rendered.text)
        return text + self.image_tokens * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> TwoTowerBatch:
        import torch

        text_rows = [row for row, one in enumerate(rendered) if one.text is not None]
        image_rows = [row for row, one in enumerate(rendered) if one.image is not None]
        ids_TL = mask_TL = None
        if text_rows:
            ids_TL, mask_TL = self.padded(
                [self.token_ids(rendered[row].text or "") for row in text_rows]
            )
        sources, places = distinct([one.image for one in rendered if one.image is not None])
        pictures = [self.picture(source) for source in sources]
        shared = len(sources) < len(places)
        return TwoTowerBatch(
            items=len(rendered),
            text_rows=text_rows,
            ids_TL=ids_TL,
            mask_TL=mask_TL,
            image_rows=image_rows,
            pixels=self.pixels(pictures) if pictures else None,
            pictures_I=torch.tensor(places) if shared else None,
        )

    # -- device half ---------------------------------------------------------------------------

    def forward(self, batch: TwoTowerBatch) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        sides = ((batch.text_rows, self._texts), (batch.image_rows, self._images))
        parts = [(rows, wide(features(batch))) for rows, features in sides if rows]
        vectors_BD = parts[0][1].new_zeros(batch.items, parts[0][1].shape[1])
        for rows, features in parts:
            index = torch.tensor(rows, device=self.device)
            vectors_BD = vectors_BD.index_add(0, index, features)
        return normalize(vectors_BD, dim=-1) if self.card.normalize else vectors_BD

    def _texts(self, batch: TwoTowerBatch) -> torch.Tensor:
        """Return the (T, D) features of a batch's texts, computed unless they are there."""
        if batch.text_TD is not None:
            return batch.text_TD.to(self.device)
        assert batch.ids_TL is not None
        mask_TL = None if batch.mask_TL is None else batch.mask_TL.to(self.device)
        return self.text_features(batch.ids_TL.to(self.device), mask_TL)

    def _images(self, batch: TwoTowerBatch) -> torch.Tensor:
        """Return the (I, D) features of a batch's images, computed unless they are there."""
        if batch.image_ID is not None:
            return batch.image_ID.to(self.device)
        features_ID = self.image_features(self._on_device(batch.pixels))
        if batch.pictures_I is None:
            return features_ID
        return features_ID[batch.pictures_I.to(features_ID.device)]

    def settled(self, batch: TwoTowerBatch) -> TwoTowerBatch:
        """Compute the features of a tower that is not under training, and let its input go."""
        if batch.text_rows and batch.text_TD is None:
            text_TD = self.settled_part("text", partial(self._texts, batch))
            if text_TD is not None:
                batch = replace(batch, ids_TL=None, mask_TL=None, text_TD=text_TD.cpu())
        if batch.image_rows and batch.image_ID is None:
            image_ID = self.settled_part("image", partial(self._images, batch))
            if image_ID is not None:
                batch = replace(batch, pixels=None, image_ID=image_ID.cpu())
        return batch

    def _on_device(self, pixels: Pixels) -> Pixels:
        """Move pixels to the tower's device, what is no whole number to its numeric type."""
        import torch

        if isinstance(pixels, Mapping):
            return {name: self._on_device(tensor) for name, tensor in pixels.items()}
        dtype = getattr(torch, self.dtype) if pixels.is_floating_point() else pixels.dtype
        return pixels.to(self.device, dtype, non_blocking=True)


class TransformersTwoTower(TwoTower, Pretrained):
    """Two towers that transformers gives `get_text_features` and `get_image_features`."""

    padding = "longest"
    """`longest`: to the longest text of the batch; `max_length`: to the tower's length, always.
    The card's `text_padding` goes before."""

    @cached_property
    def config(self) -> Any:
        """The configuration of both towers."""
        from transformers import AutoConfig

        with quiet_transformers():
            return AutoConfig.from_pretrained(self.base_folder)

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        super().__init__(card, device, dtype)
        if card.max_length is not None:
            special = int(self.tokenizer.num_special_tokens_to_add())
            if card.max_length <= special:
                raise UsageError(
                    f"-M max_length={card.max_length}: {special} special tokens go around a text, "
                    f"so that at least {special + 1} are needed"
                )

    @cached_property
    def max_length(self) -> int:
        """Text tokens at most: what the tower has positions for."""
        return min(self.card.max_length or self.text_positions, self.text_positions)

    @property
    def text_positions(self) -> int:
        """How many tokens the text tower has positions for."""
        return int(self.config.text_config.max_position_embeddings)

    @property
    def pads_to_max_length(self) -> bool:
        """Whether every text is padded to the same length."""
        return (self.card.text_padding or self.padding) == "max_length"

    @cached_property
    def image_tokens(self) -> int:
        vision = self.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2 + 1)

    def token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=self.max_length)[
            "input_ids"
        ]
        return ids

    def text_tokens(self, text: str) -> int:
        return self.max_length if self.pads_to_max_length else super().text_tokens(text)

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        width = self.max_length if self.pads_to_max_length else max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids_TL = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        return ids_TL, self.text_mask(rows, ids_TL)

    def text_mask(self, rows: Sequence[Sequence[int]], ids_TL: torch.Tensor) -> torch.Tensor | None:
        """Return the mask (T, L) that the text tower is given: 1 at what is no padding."""
        import torch

        width = ids_TL.shape[1]
        return torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])

    def pixels(self, pictures: Sequence[Image]) -> Pixels:
        return self.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]

    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        module: Any = self.module
        features_TD: torch.Tensor = module.get_text_features(
            input_ids=ids_TL, attention_mask=mask_TL
        ).pooler_output
        return features_TD

    def image_features(self, pixels: Any) -> torch.Tensor:
        module: Any = self.module
        features_ID: torch.Tensor = module.get_image_features(pixel_values=pixels).pooler_output
        return features_ID
