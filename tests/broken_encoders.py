"""Encoders that are wrong in one way each, over the tiny Qwen2-VL; and a sound small one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mmeb_harness as mh
import numpy as np
from mmeb_harness.errors import ItemError
from mmeb_harness.item import Rendered
from mmeb_harness.plugins.qwen2_vl import Qwen2VL


class PoolsPadding(Qwen2VL):
    """Pools the last position under right padding, as if padding were on the left."""

    def forward(self, batch: Any) -> Any:
        mask_BL = batch.mask_BL.clone()
        mask_BL[:, -1] = 1
        return super().forward(replace(batch, mask_BL=mask_BL))


class ForgetsAdapter(Qwen2VL):
    """Loads the base and forgets the adapter."""

    def load_module(self) -> Any:
        from transformers import Qwen2VLModel

        return Qwen2VLModel.from_pretrained(self.base_folder)


class CutsImages(Qwen2VL):
    """Keeps two image tokens of whatever there are."""

    def with_image(self, text: str, image_tokens: int) -> list[int]:
        return super().with_image(text, min(image_tokens, 2))


class CutsAtMaxLength(Qwen2VL):
    """Cuts an item at its length, image tokens and all."""

    def with_image(self, text: str, image_tokens: int) -> list[int]:
        return super().with_image(text, image_tokens)[: self.max_length]


class CutsImagesForText(Qwen2VL):
    """Makes room for a long text by cutting image tokens."""

    def with_image(self, text: str, image_tokens: int) -> list[int]:
        return super().with_image(text, 2 if len(text) > 2000 else image_tokens)


class NotNormalised(Qwen2VL):
    """Says that its vectors are normalised."""

    def forward(self, batch: Any) -> Any:
        return 3 * super().forward(batch)


class SecretlyNormalised(Qwen2VL):
    """Says that its vectors are not normalised."""

    def forward(self, batch: Any) -> Any:
        import torch

        return torch.nn.functional.normalize(super().forward(batch), dim=-1)


class DependsOnBatch(Qwen2VL):
    """Takes the mean of the batch off each vector, where there is one."""

    def forward(self, batch: Any) -> Any:
        vectors_BD = super().forward(batch)
        return vectors_BD - vectors_BD.mean(0) * (len(vectors_BD) > 1)


class MixesRows(Qwen2VL):
    """Returns rows in the order of their lengths."""

    def forward(self, batch: Any) -> Any:
        return super().forward(batch)[batch.ids_BL.sum(1).argsort()]


class NanOnBlank(Qwen2VL):
    """Divides by the number of words."""

    def forward(self, batch: Any) -> Any:
        import torch

        vectors_BD = super().forward(batch)
        blank_B = (batch.mask_BL.sum(1) <= 1) & ~batch.is_image_BL.any(1)
        return torch.where(blank_B.unsqueeze(1), torch.nan, vectors_BD)


class IgnoresRole(Qwen2VL):
    """Has a template that tells roles apart, and words every item without its role."""

    def render(self, item: mh.Item) -> Rendered:
        return super().render(replace(item, role=None))


class AddsRole(Qwen2VL):
    """Words queries with a prefix of its own, which its card does not tell."""

    def render(self, item: mh.Item) -> Rendered:
        rendered = super().render(item)
        return replace(rendered, text=f"{item.role} {rendered.text}") if item.role else rendered


class IgnoresInstruction(Qwen2VL):
    """Leaves the instruction out, though its card says `stored`."""

    def render(self, item: mh.Item) -> Rendered:
        rendered = super().render(item)
        return replace(rendered, text=(rendered.text or "").replace(item.instruction or "\0", ""))


class KeepsInstruction(Qwen2VL):
    """Keeps the instruction, though its card says `plain`."""

    def render(self, item: mh.Item) -> Rendered:
        rendered = super().render(item)
        return replace(rendered, text=f"{rendered.text} {item.instruction or ''}")


class IgnoresImage(Qwen2VL):
    """Sees the same grey in every image."""

    def features(self, images: Any) -> Any:
        return super().features(images) * 0


class DropsAtRandom(Qwen2VL):
    """Leaves dropout on."""

    def forward(self, batch: Any) -> Any:
        import torch

        return torch.nn.functional.dropout(super().forward(batch), 0.5)


class RandomHead(Qwen2VL):
    """Has weights that no file holds."""

    def load_module(self) -> Any:
        import torch

        module: Any = super().load_module()
        with torch.no_grad():
            module.language_model.norm.weight.copy_(torch.rand(64))
        return module


class LosesItself(Qwen2VL):
    """Pickles without its pixel limits."""

    def __getstate__(self) -> Any:
        copy: Any = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, card=self.card.model_copy(update={"max_length": 4}))
        copy.__dict__.pop("max_length", None)
        return Qwen2VL.__getstate__(copy)


class PathsOnly(Qwen2VL):
    """Turns pictures that come as bytes upside down."""

    def picture(self, source: Any) -> Any:
        image = super().picture(source)
        return image.rotate(180) if isinstance(source, bytes) else image


class SizesNothing(Qwen2VL):
    """Says that items have no tokens."""

    def size(self, rendered: Rendered) -> int:
        return 0


class Detaches(Qwen2VL):
    """Gives vectors that no gradient goes through."""

    def forward(self, batch: Any) -> Any:
        return super().forward(batch).detach()


class SettlesElse(Qwen2VL):
    """Settles what another picture would give."""

    def settled(self, batch: Any) -> Any:
        batch = super().settled(batch)
        return replace(batch, seen=batch.seen.flip(0))


class NanBesideLonger(Qwen2VL):
    """Attends to nothing in rows that are padded."""

    def forward(self, batch: Any) -> Any:
        import torch

        padded_B1 = (batch.mask_BL == 0).any(1, keepdim=True)
        return torch.where(padded_B1, torch.nan, super().forward(batch))


class SeesHalf(Qwen2VL):
    """Sees the upper half of a picture, twice."""

    def picture(self, source: Any) -> Any:
        image = super().picture(source)
        upper = image.crop((0, 0, image.width, image.height // 2))
        return upper.resize(image.size)


class SeesOtherHalf(Qwen2VL):
    """Sees the lower half of a picture, twice."""

    def picture(self, source: Any) -> Any:
        image = super().picture(source)
        lower = image.crop((0, image.height // 2, image.width, image.height))
        return lower.resize(image.size)


class RefusesAll:
    """Refuses every item."""

    def encode(self, items: Any) -> Any:
        raise ItemError("no")


class Leaves:
    """Was a script once."""

    def encode(self, items: Any) -> Any:
        raise SystemExit("enough")


class Flat:
    """Returns one long row."""

    def encode(self, items: Any) -> Any:
        return np.ones(7 * len(items))


class Sound:
    """A sound level-1 encoder: counts of letters, and mean colours."""

    scale = 1.0

    def encode(self, items: Any) -> Any:
        return self.scale * np.array([self._row(item) for item in items], dtype=np.float32)

    def _row(self, item: mh.Item) -> Any:
        from mmeb_harness.image import load_image, to_rgb

        letters = np.bincount(np.frombuffer((item.text or "").encode(), np.uint8), minlength=256)
        colours = np.zeros(3)
        if item.image is not None:
            colours = np.asarray(to_rgb(load_image(item.image))).mean((0, 1))
        return np.concatenate([letters, colours, [1.0]])


class TextOnly(Sound):
    """Takes no images, and says so."""

    def encode(self, items: Any) -> Any:
        if any(item.image is not None for item in items):
            raise ItemError("takes no images")
        return super().encode(items)


class ImageOnly(Sound):
    """Takes no texts, and says so."""

    def encode(self, items: Any) -> Any:
        if any(item.text for item in items):
            raise ItemError("takes no texts")
        return super().encode(items)


class TinyBatch(Sound):
    """Has small values that depend on the batch."""

    def encode(self, items: Any) -> Any:
        return 1e-6 * super().encode(items) * len(items)
