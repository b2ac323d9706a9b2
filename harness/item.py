"""What one embedding is made from, and what a model will see of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image"

Role = Literal["query", "candidate"]
Modality = Literal["text", "image"]

PLACEHOLDER = "<|image_1|>"
"""How MMEB writes an image into a text; each family puts its own token there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to embed: a text, an image, or both.

    `text` is verbatim as published, placeholder included, or a plain string.
    `instruction` is the part of `text` that is the instruction, where that is known, so that a
    family can leave it out. `image` is a path, a PIL image or the bytes of an image file.
    `modality` is set by a task that is one-sided in that direction (for `fusion=unimodal`).
    """

    text: str | None = None
    image: ImageSource | None = None
    instruction: str | None = None
    role: Role | None = None
    modality: Modality | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Exactly what a model will see of one item: text after its prompt form, and the image.

    `settings` holds whatever else decides the vector and differs from item to item. Two equal
    renderings with equal image bytes share one vector, whatever their task or role.
    """

    text: str | None = None
    image: ImageSource | None = None
    settings: tuple[str, ...] = ()


def mark_instruction(text: str, instruction: str | None) -> str | None:
    """Return the instruction if the text begins with it (after a placeholder), else None."""
    if not instruction:
        return None
    body = text.removeprefix(PLACEHOLDER).lstrip()
    return instruction if body.startswith(instruction) else None
