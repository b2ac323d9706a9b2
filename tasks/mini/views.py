"""Less than all of an item: what one modality alone, or words without order, could solve.

The one idea: what is taken away is replaced by the same for all, so that nothing about it is left
to tell items apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mmeb_harness.item import PLACEHOLDER, Item
from PIL import Image

GREY = (128, 128, 128)


def text_only(item: Item) -> Item:
    """Replace a picture by a grey square."""
    if item.image is None:
        return item
    return replace(item, image=Image.new("RGB", (56, 56), GREY))


def image_only(item: Item) -> Item:
    """Leave of a text its instruction only; of one without, nothing but a full stop."""
    if item.text is None:
        return item
    placeholder = f"{PLACEHOLDER}\n" if item.text.startswith(PLACEHOLDER) else ""
    return replace(item, text=placeholder + (item.instruction or "."))


def without_order(item: Item) -> Item:
    """Put the words after the instruction into alphabetical order."""
    if item.text is None:
        return item
    before, mark, after = item.text.partition(item.instruction or "\0")
    told = after if mark else before
    words = " ".join(sorted(told.split()))
    return replace(item, text=f"{before}{mark} {words}\n" if mark else words)


VIEWS: Mapping[str, Callable[[Item], Item]] = {
    "text-only": text_only,
    "image-only": image_only,
    "without-order": without_order,
}
