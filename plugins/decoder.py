"""The base of vision-language decoders used as embedding models: the last token's hidden state.

The one idea: an item becomes token ids in which `IMAGE` marks where image features go; the rows are
padded, the features are put in their places, and the vector is the last real token's, after the
final norm. A family says how it words and counts image tokens, and which features they get.

Shapes: B items, L tokens, D hidden size, T image tokens of all items.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mmeb_harness.encoder import Packing
from mmeb_harness.errors import ItemError
from mmeb_harness.image import distinct, image_size, load_image, resize_square, square_side, to_rgb
from mmeb_harness.item import ImageSource, Item, Rendered
from mmeb_harness.plugins.last_layer import only_at
from mmeb_harness.plugins.pretrained import Pretrained
from mmeb_harness.plugins.weights import wide
from mmeb_harness.prompt import worded

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IMAGE = -1
"""Stands among token ids for a place that gets an image feature, which no text can ask for."""


Seen = Any
"""What a vision tower makes of some images: the (T, D) features, or a tuple that begins so."""


@dataclass(frozen=True, kw_only=True)
class DecoderBatch:
    """A prepared batch, padded on one side; `images` is what the image processor gave, if any.

    `seen` is what the vision tower made of them, where that is computed already. Where items share
    a picture, `images` holds it once: `pictures_I` says which one each item with an image shows,
    and `features_T` where among the features each image token finds its own.
    """

    ids_BL: torch.Tensor
    mask_BL: torch.Tensor
    is_image_BL: torch.Tensor
    images: Mapping[str, torch.Tensor] | None
    left: bool
    seen: Seen | None = None
    pictures_I: torch.Tensor | None = None
    features_T: torch.Tensor | None = None

    def of_items(self, of_pictures: torch.Tensor) -> torch.Tensor:
        """Return for each item with an image, in order, what there is of its picture."""
        return of_pictures if self.pictures_I is None else of_pictures[self.pictures_I]


class Decoder(Pretrained):
    """An encoder over a causal language model that sees images as tokens.

    `padding_side` changes no vector, only padding.
    """

    padding_side = "right"
    adapter_targets = ("language_model",)

    shares_pictures = True
    """Whether a picture that several items of a batch show is prepared and seen once."""

    packs = True
    """Whether the rows of a batch may be run end to end, without padding."""

    packing = False
    """Whether they are."""

    # -- what a family says --------------------------------------------------------------------

    @abstractmethod
    def image_tokens(self, source: ImageSource) -> int:
        """Return how many tokens an image takes, without decoding it."""

    @abstractmethod
    def process(self, pictures: Sequence[Image]) -> tuple[Mapping[str, torch.Tensor], list[int]]:
        """Return what the model takes of some RGB pictures, and how many tokens each takes."""

    @abstractmethod
    def features(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the (T, D) features of the images, in order."""

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def max_length(self) -> int:
        """Tokens of an item at most, image tokens included."""
        return int(self.card.max_length or self.tokenizer.model_max_length)

    @cached_property
    def image_token_id(self) -> int:
        """Id of the card's image token."""
        return int(self.tokenizer.convert_tokens_to_ids(self.card.image_token))

    def render(self, item: Item) -> Rendered:
        return Rendered(text=worded(item, self.card), image=item.image)

    def size(self, rendered: Rendered) -> int:
        images = 0 if rendered.image is None else self.image_tokens(rendered.image)
        return len(self._row(rendered, images))

    def prepare(self, rendered: Sequence[Rendered]) -> DecoderBatch:
        shown = [one.image for one in rendered if one.image is not None]
        sources, places = distinct(shown) if self.shares_pictures else (shown, [*range(len(shown))])
        pictures = [self.picture(source) for source in sources]
        images, tokens = self.process(pictures) if pictures else (None, [])
        counts = (tokens[place] for place in places)
        rows = [self._row(one, 0 if one.image is None else next(counts)) for one in rendered]
        marked_BL, mask_BL = self._padded(rows)
        is_image_BL = marked_BL == IMAGE
        return DecoderBatch(
            ids_BL=marked_BL.masked_fill(is_image_BL, self.image_token_id),
            mask_BL=mask_BL,
            is_image_BL=is_image_BL,
            images=images,
            left=self.padding_side == "left",
            **(_shared(places, tokens) if len(sources) < len(shown) else {}),
        )

    def _row(self, rendered: Rendered, image_tokens: int) -> list[int]:
        if rendered.image is None:
            ids = self.token_ids(rendered.text or "")[: self.max_length]
        else:
            ids = self.with_image(rendered.text or "", image_tokens)
        if not ids:
            raise ItemError("its text has no tokens")
        return ids

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, with the special tokens that the tokenizer adds."""
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text).ids
        return ids

    def with_image(self, text: str, image_tokens: int) -> list[int]:
        """Return ids with `IMAGE` repeated; the text gets the room that the image leaves."""
        ids = self.token_ids(text)
        if ids.count(self.image_token_id) != 1:
            raise ItemError(f"its text has {ids.count(self.image_token_id)} image tokens, not one")
        place = ids.index(self.image_token_id)
        room = max(0, self.max_length - image_tokens)
        before, after = ids[:place][:room], ids[place + 1 :][: max(0, room - place)]
        return [*before, *[IMAGE] * image_tokens, *after]

    def picture(self, source: ImageSource) -> Image:
        """Decode an image, resize it as the card says, in its own mode, and make it plain RGB."""
        return to_rgb(self.resized(load_image(source)))

    def resized(self, image: Image) -> Image:
        """Resize an image in its own mode, as the card says."""
        return resize_square(image, self._resolution)

    def picture_size(self, source: ImageSource) -> tuple[int, int]:
        """Return the width and height that `picture` gives an image, without decoding it."""
        fixed = square_side((0, 0), self._resolution)
        size = (fixed, fixed) if fixed else image_size(source)
        side = square_side(size, self._resolution)
        return size if side is None else (side, side)

    @property
    def _resolution(self) -> Any:
        return self.card.image_resolution or "processor"

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

    @property
    def trunk(self) -> torch.nn.Module | None:
        """The decoder, which runs once for every batch."""
        module: Any = self.module
        trunk: torch.nn.Module = module.language_model
        return trunk

    def pack(self, wanted: Packing) -> bool:
        if wanted == "on" and not self.packs:
            return super().pack(wanted)
        # any other kernel computes a mask of all tokens by all tokens
        quick = self.attention == "flash"
        self.packing = self.packs and (wanted == "on" or (wanted == "auto" and quick))
        return self.packing

    def forward(self, batch: DecoderBatch) -> torch.Tensor:
        from torch.nn.functional import normalize

        last = self.last_packed if self.packing else self.last_padded
        vectors_BD = wide(last(batch))
        return normalize(vectors_BD, dim=-1) if self.card.normalize else vectors_BD

    def last_padded(self, batch: DecoderBatch) -> torch.Tensor:
        """Return the (B, D) hidden states of each row's last real token, of rows side by side."""
        import torch

        mask_BL = batch.mask_BL.to(self.device)
        last_B = mask_BL.shape[1] - 1 - mask_BL.flip(1).argmax(1)
        rows_B = torch.arange(len(last_B), device=last_B.device)
        with self.taking(rows_B, last_B):
            return self.hidden_states(batch)[rows_B, last_B]

    def last_packed(self, batch: DecoderBatch) -> torch.Tensor:
        """Return the same of rows end to end, N tokens in all: one row, in which each token attends
        to its own item, since the library sees from the positions where an item begins."""
        import torch

        module: Any = self.module
        is_real_BL = batch.mask_BL.bool().to(self.device)
        starts_1N = (is_real_BL.cumsum(1) - 1)[is_real_BL].unsqueeze(0)
        positions = self.positions(batch)[..., is_real_BL].unsqueeze(-2)
        if positions.ndim == 3:  # of a Qwen: where items begin is in a row of its own, in front
            positions = torch.cat([starts_1N.unsqueeze(0), positions])
        packed = {
            name: value[is_real_BL].unsqueeze(0) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs(batch).items()
        }
        last_B = is_real_BL.sum(1).cumsum(0) - 1
        with self.taking(torch.zeros_like(last_B), last_B):
            hidden_1ND: torch.Tensor = module.language_model(
                **packed, position_ids=positions, attention_mask=None, use_cache=False
            ).last_hidden_state
        return hidden_1ND[0, last_B]

    def taking(
        self, rows_B: torch.Tensor, places_B: torch.Tensor
    ) -> contextlib.AbstractContextManager[None]:
        """Say that of all hidden states only those at (row, place) will be taken."""
        module: Any = self.module
        return only_at(module.language_model.layers[-1], rows_B, places_B)

    def hidden_states(self, batch: DecoderBatch) -> torch.Tensor:
        """Return the (B, L, D) hidden states after the final norm."""
        module: Any = self.module
        hidden_BLD: torch.Tensor = module.language_model(
            **self.inputs(batch),
            position_ids=self.positions(batch),
            attention_mask=self.attention_mask(batch),
            use_cache=False,
        ).last_hidden_state
        return hidden_BLD

    def inputs(self, batch: DecoderBatch) -> dict[str, Any]:
        """Return what the decoder is given: tensors (B, L, ...), a place each, or lists of what
        belongs to image tokens."""
        return {"inputs_embeds": self.embed(batch)}

    def attention_mask(self, batch: DecoderBatch) -> torch.Tensor | None:
        """Return the mask of a left-padded batch.

        With right padding the causal mask alone keeps padding out of every real token.
        """
        return batch.mask_BL.to(self.device) if batch.left else None

    def embed(self, batch: DecoderBatch) -> torch.Tensor:
        """Return token embeddings with the images' features in their places."""
        module: Any = self.module
        embedded_BLD: torch.Tensor = module.get_input_embeddings()(
            batch.ids_BL.to(self.device, non_blocking=True)
        )
        if batch.images is None:
            return embedded_BLD
        seen = self.seen(batch)
        features_TD = seen[0] if isinstance(seen, list | tuple) else seen
        places_BL1 = batch.is_image_BL.to(self.device).unsqueeze(-1)
        return embedded_BLD.masked_scatter(places_BL1, features_TD.to(embedded_BLD.dtype))

    def see(self, images: Mapping[str, torch.Tensor]) -> Seen:
        """Run the vision tower on what the model takes of some images, on its device."""
        return self.features(images)

    def seen(self, batch: DecoderBatch) -> Seen:
        """Return what the vision tower makes of a batch's images, if that is not there already."""
        seen = self.seen_once(batch)
        return seen if batch.features_T is None else spread(seen, batch.features_T)

    def seen_once(self, batch: DecoderBatch) -> Seen:
        """Return what the vision tower makes of the pictures, each of them once."""
        if batch.seen is not None:
            return moved(batch.seen, self.device)
        return self.see(self.on_device(batch.images or {}))

    def settled(self, batch: DecoderBatch) -> DecoderBatch:
        """Run the vision tower, if it is not under training, and let its pixels go."""
        if batch.images is None or batch.seen is not None:
            return batch
        seen = self.settled_part("vision", partial(self.seen_once, batch))
        if seen is None:
            return batch
        sizes = {k: v for k, v in batch.images.items() if not v.is_floating_point()}
        return replace(batch, images=sizes, seen=moved(seen, "cpu"))

    def on_device(self, images: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move what the model takes of the images to its device."""
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in images.items()}

    def positions(self, batch: DecoderBatch) -> torch.Tensor:
        """Return positions (B, L), counted from the first real token."""
        import torch

        if batch.left:
            positions_BL = (batch.mask_BL.cumsum(1) - 1).clamp(min=0)
        else:
            positions_BL = torch.arange(batch.ids_BL.shape[1]).expand_as(batch.ids_BL)
        return positions_BL.to(self.device)


def _shared(places: Sequence[int], tokens: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the fields of a batch whose items share pictures of so many tokens each."""
    import torch

    pictures_I = torch.tensor(places)
    return {"pictures_I": pictures_I, "features_T": picture_rows(pictures_I, torch.tensor(tokens))}


def picture_rows(pictures_I: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return where the rows of each item's picture lie, `counts` being those of each picture."""
    import torch

    ends, lengths = counts.cumsum(0).tolist(), counts.tolist()
    parts = [torch.arange(ends[one] - lengths[one], ends[one]) for one in pictures_I.tolist()]
    return torch.cat(parts)


def spread(seen: Seen, rows_T: torch.Tensor) -> Seen:
    """Return what a vision tower gave for each image token, from what it gave for each picture."""
    if isinstance(seen, list | tuple):
        return [spread(one, rows_T) for one in seen]
    return seen[rows_T.to(seen.device)]


def moved(seen: Seen, device: str) -> Seen:
    """Return what a vision tower gave on another device."""
    if isinstance(seen, list | tuple):
        return [moved(one, device) for one in seen]
    return seen.to(device)
