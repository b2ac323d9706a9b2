"""How an item's text is worded for a model: as it is stored, or bare."""

from __future__ import annotations

from mmeb_harness.card import Card
from mmeb_harness.errors import ItemError
from mmeb_harness.item import PLACEHOLDER, Item


def worded(item: Item, card: Card) -> str:
    """Return the item's text in the card's prompt form, the placeholder still in it.

    `stored` is the published text verbatim; `plain` leaves out the instruction and the
    placeholder. A placeholder in an item without an image (rows of WebQA and EDIS have one) is
    kept as the original did, or dropped, by the card's `stray_placeholder`.

    Raises:
        ItemError: where there is neither text nor image, or several placeholders for one image.
    """
    text = item.text or ""
    if item.image is None and not text:
        raise ItemError("has neither text nor image")
    if item.image is not None and text.count(PLACEHOLDER) > 1:
        raise ItemError(f"has {text.count(PLACEHOLDER)} placeholders {PLACEHOLDER} and one image")
    if card.prompt == "plain":
        return _plain(text, item.instruction)
    if item.image is None and card.stray_placeholder == "drop":
        return text.replace(PLACEHOLDER, "").lstrip()
    return text


def _plain(text: str, instruction: str | None) -> str:
    bare = text.replace(PLACEHOLDER, "")
    if instruction:
        bare = bare.replace(instruction, "", 1)
    return bare.strip()
