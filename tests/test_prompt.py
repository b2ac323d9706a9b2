"""How items are worded: as stored, bare, by a template, and where the image token goes."""

from __future__ import annotations

from typing import Any

import mmeb_harness as mh
import pytest
from mmeb_harness.errors import ItemError, UsageError
from mmeb_harness.prompt import check_wording, worded

INSTRUCTION = "Represent the given image with the following question:"
STORED = f"<|image_1|>\n{INSTRUCTION} what is it?\n"
QUERY = mh.Item(text=STORED, instruction=INSTRUCTION, image=b"", role="query")
TEMPLATE = (
    "<s>{{ instruction or 'Default.' }}</s>{% if image %}<img>{% endif %}{{ text }}"
    "{% if role == 'candidate' %}<c>{% endif %}"
)


def card(**fields: Any) -> mh.Card:
    return mh.Card(name="x", factory="x:X", **fields)


@pytest.mark.parametrize(
    ("fields", "item", "wanted"),
    [
        ({}, QUERY, STORED),
        ({"image_token": "<i>"}, QUERY, STORED.replace("<|image_1|>", "<i>")),
        ({"image_token": "<i>"}, mh.Item(image=b""), "<i>\n"),
        ({"image_token": "<i>"}, mh.Item(text="a", image=b""), "<i>\na"),
        ({"image_token": "<i>"}, mh.Item(text="<|image_1|> a"), "<i> a"),
        ({"stray_placeholder": "drop"}, mh.Item(text="<|image_1|> a"), "a"),
        ({"prompt": "plain"}, QUERY, "what is it?"),
        ({"prompt": "plain", "image_token": "<i>"}, QUERY, "<i>\nwhat is it?"),
        ({"prompt": "template"}, QUERY, f"<s>{INSTRUCTION}</s><img>what is it?"),
        ({"prompt": "template"}, mh.Item(text="a"), "<s>Default.</s>a"),
        ({"prompt": "template"}, mh.Item(text="{{ a }}"), "<s>Default.</s>{{ a }}"),
        ({"prompt": "template"}, mh.Item(image=b"", role="candidate"), "<s>Default.</s><img><c>"),
        ({"prompt": "template"}, mh.Item(text="<|image_1|> a"), "<s>Default.</s>a"),
    ],
)
def test_words(fields: dict[str, Any], item: mh.Item, wanted: str) -> None:
    assert worded(item, card(template=TEMPLATE, **fields)) == wanted


def test_nothing_and_two_placeholders_are_refused_in_every_form() -> None:
    for prompt in ("stored", "plain", "template"):
        form = card(prompt=prompt, template=TEMPLATE)
        with pytest.raises(ItemError, match="neither text nor image"):
            worded(mh.Item(), form)
        with pytest.raises(ItemError, match="2 placeholders"):
            worded(mh.Item(text="<|image_1|><|image_1|>", image=b""), form)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no template"),
        ("{{ text", "cannot be filled"),
        ("{{ words }}", "'words' is undefined"),
        ("{{ text.__class__.__mro__[1].__subclasses__() }}", "cannot be filled"),
    ],
)
def test_a_template_that_cannot_be_filled_is_a_usage_error(
    template: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        worded(mh.Item(text="a"), card(prompt="template", template=template))


def test_half_a_character_is_refused_and_a_whole_one_is_not() -> None:
    for prompt in ("stored", "plain", "template"):
        form = card(prompt=prompt, template="{{ text }}")
        with pytest.raises(ItemError, match="lone surrogate"):
            worded(mh.Item(text="a \ud83d cat"), form)
        assert worded(mh.Item(text="a \U0001f600 cat"), form) == "a \U0001f600 cat"


def test_a_template_given_is_a_template_used() -> None:
    family = card(options=("base", "prompt", "template"))
    assert family.with_options({"template": "hello {{ text }}"}).prompt == "template"
    plain = family.with_options({"template": "hello {{ text }}", "prompt": "plain"})
    assert worded(mh.Item(text="a"), plain) == "a"


@pytest.mark.parametrize(
    "template", [None, "{{ words }}", "{% if role == 'candidate' %}{{ words }}{% endif %}"]
)
def test_a_template_is_tried_before_any_item(template: str | None) -> None:
    with pytest.raises(UsageError):
        check_wording(card(prompt="template", template=template, options=("template",)))


def test_a_template_may_ask_of_a_text_what_only_some_texts_have() -> None:
    form = card(prompt="template", template="{{ role.upper() }} {{ text.split(': ')[1] }}")
    check_wording(form)
    assert worded(mh.Item(text="a: b", role="query"), form) == "QUERY b"
    with pytest.raises(ItemError, match="fails on it"):
        worded(mh.Item(text="a", role="query"), card(prompt="template", template="{{ 1 / 0 }}"))


def test_a_strangers_words_are_its_own_business() -> None:
    check_wording(card(prompt="template"))
    with pytest.raises(UsageError, match="has no template"):
        check_wording(card(prompt="template", options=("base", "template")))
