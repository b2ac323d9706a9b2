"""A level-1 encoder seen as a planned one: what it is shown of an item is the whole item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from mmeb_harness.encoder import Encoder, PlannedEncoder, Vectors, as_vectors
from mmeb_harness.errors import ItemError, UsageError
from mmeb_harness.item import Item, Modality, Rendered, Role

IMAGE_SIZE = 256
"""Stands for the tokens of an image where an encoder does not say."""


class WholeItemEncoder(PlannedEncoder):
    """Wraps an object with `encode(items)`; its rendered input is the item, role included."""

    prepares = False

    def __init__(self, encoder: Encoder) -> None:
        if not callable(getattr(encoder, "encode", None)):
            raise UsageError(f"{encoder!r} is no encoder: it has no encode(items)")
        self.inner = encoder

    def render(self, item: Item) -> Rendered:
        if item.image is None and not item.text:
            raise ItemError("has neither text nor image")
        settings = (item.instruction or "", item.role or "", item.modality or "")
        return Rendered(text=item.text, image=item.image, settings=settings)

    def size(self, rendered: Rendered) -> int:
        return 1 + len(rendered.text or "") // 4 + IMAGE_SIZE * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> list[Item]:
        return [_item(one) for one in rendered]

    def forward(self, batch: Any) -> Vectors:
        return as_vectors(self.inner.encode(batch))

    def fingerprint(self) -> str | None:
        method = getattr(self.inner, "fingerprint", None)
        fingerprint = None if method is None else method()
        return None if fingerprint is None else str(fingerprint)


def _item(rendered: Rendered) -> Item:
    instruction, role, modality = rendered.settings
    return Item(
        text=rendered.text,
        image=rendered.image,
        instruction=instruction or None,
        role=cast("Role", role) if role else None,
        modality=cast("Modality", modality) if modality else None,
    )


def planned(encoder: Any) -> PlannedEncoder:
    """Return any encoder as a planned one."""
    return encoder if isinstance(encoder, PlannedEncoder) else WholeItemEncoder(encoder)
