"""Less than all of an item: what one of two modalities, or words without order, could solve.

The one idea: what is taken away is replaced by the same for all, so that nothing about it is left
to tell items apart. An item that is a picture alone, or a text alone, keeps it: without it there
would be nothing to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mmeb_harness.item import PLACEHOLDER, Item
from PIL import Image

SIDE, GREY = 56, (128, 128, 128)


def text_only(item: Item) -> Item:
    """Replace a picture beside a text by a grey square."""
    if item.image is None or not _own_text(item):
        return item
    return replace(item, image=Image.new("RGB", (SIDE, SIDE), GREY))


def image_only(item: Item) -> Item:
    """Leave of a text beside a picture its instruction only."""
    if item.image is None or not _own_text(item):
        return item
    return replace(item, text=f"{PLACEHOLDER}\n{item.instruction or ''}\n")


def without_order(item: Item) -> Item:
    """Put the words after the instruction into alphabetical order."""
    own = _own_text(item)
    before, _, _ = str(item.text).rpartition(own) if own else ("", "", "")
    words = " ".join(sorted(own.split()))
    end = "\n" if str(item.text).endswith("\n") else ""
    return replace(item, text=before + words + end) if own else item


VIEWS: Mapping[str, Callable[[Item], Item]] = {
    "text-only": text_only,
    "image-only": image_only,
    "without-order": without_order,
}


def _own_text(item: Item) -> str:
    """Return what an item's text says beside placeholder and instruction."""
    text = (item.text or "").removeprefix(PLACEHOLDER).strip()
    return text.removeprefix(item.instruction or "").strip()
