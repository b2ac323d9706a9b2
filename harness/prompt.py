"""How an item is worded for a model: the published text as it is stored, bare, or a template's.

The one idea: the words a model sees are a pure function of the item and the card, so they can be
shown, compared with what a model's authors publish, and keyed, without loading anything.
"""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from functools import cache
from typing import Any

from mmeb_harness.card import Card
from mmeb_harness.errors import ItemError, UsageError
from mmeb_harness.item import PLACEHOLDER, Item


def worded(item: Item, card: Card) -> str:
    """Return the item's text in the card's prompt form, the card's image token in its place.

    `stored` is the published text verbatim, the image token standing where the placeholder stands,
    or on a line before the text. `plain` leaves out the instruction and the placeholder.
    `template` fills the card's template (Jinja) with `instruction` (or None), `text` (the rest of
    the text, bare), `verbatim` (the whole text as it is), `image` (whether there is one) and
    `role`; it may ask whether a text `is punctuated`. A placeholder in an item without an image
    (rows of WebQA and EDIS have one) is kept as the original did, or dropped, by the card's
    `stray_placeholder`; a template sees it in `verbatim` only.

    Raises:
        ItemError: where there is neither text nor image, or several placeholders for one image.
        UsageError: where the card has no template, or a broken one.
    """
    text = item.text or ""
    if item.image is None and not text:
        raise ItemError("has neither text nor image")
    if not _is_unicode(text):
        raise ItemError("its text holds half a character (a lone surrogate): decode it as UTF-8")
    if item.image is not None and text.count(PLACEHOLDER) > 1:
        raise ItemError(f"has {text.count(PLACEHOLDER)} placeholders {PLACEHOLDER} and one image")
    if card.prompt == "template":
        return _from_template(item, card)
    if card.prompt == "plain":
        return _with_image_token(_bare(text, item.instruction), item, card)
    if item.image is None and card.stray_placeholder == "drop":
        return text.replace(PLACEHOLDER, "").lstrip()
    return _with_image_token(text, item, card)


def check_wording(card: Card) -> None:
    """Word a sample, so that a missing or broken template is found before any item.

    Raises:
        UsageError: where items cannot be worded.
    """
    if card.prompt != "template" or (card.template is None and "template" not in card.options):
        return  # or it is an encoder's own business
    for role in ("query", "candidate"):
        for image in (b"", None):
            with suppress(ItemError):  # a template may ask of a text what the sample has not
                worded(Item(text="Find: a", instruction="Find:", image=image, role=role), card)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_image_token(text: str, item: Item, card: Card) -> str:
    if card.image_token is None:
        return text
    text = text.replace(PLACEHOLDER, card.image_token)
    if item.image is not None and card.image_token not in text:
        return f"{card.image_token}\n{text}"
    return text


def _bare(text: str, instruction: str | None) -> str:
    bare = text.replace(PLACEHOLDER, "")
    if instruction:
        bare = bare.replace(instruction, "", 1)
    return bare.strip()


def _from_template(item: Item, card: Card) -> str:
    if card.template is None:
        raise UsageError(f"{card.name} has no template: -M prompt=stored, or -M template=...")
    from jinja2 import TemplateError

    try:
        filled: str = _compiled(card.template).render(
            instruction=item.instruction,
            text=_bare(item.text or "", item.instruction),
            verbatim=item.text or "",
            image=item.image is not None,
            role=item.role,
        )
    except TemplateError as error:
        if "object has no" in str(error):  # of a value that only this item lacks
            raise ItemError(f"the template fails on it: {error}") from None
        raise UsageError(f"the template of {card.name} cannot be filled: {error}") from None
    except Exception as error:  # a template is a small program
        raise ItemError(f"the template fails on it: {type(error).__name__}: {error}") from None
    return filled


@cache
def _compiled(template: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.tests["punctuated"] = _punctuated
    return environment.from_string(template)


def _punctuated(text: str) -> bool:
    """Whether a text ends in a punctuation mark, of any script (Unicode category P)."""
    return bool(text) and unicodedata.category(text[-1]).startswith("P")
