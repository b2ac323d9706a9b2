"""Cards tell the truth: words as the authors publish them, sources named, all of it offline."""

from __future__ import annotations

import socket
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
from mmeb_harness.cli.main import _run as run_command
from mmeb_harness.hub import PACKAGE
from mmeb_harness.prompt import worded
from mmeb_harness.registry import DISTRIBUTION, build_registry
from packaging.specifiers import SpecifierSet

STRENGTH = ("no", "library", "goldens", "published")

PROMPTS = [
    prompt
    for path in sorted((Path(__file__).parent / "prompts").glob("*.toml"))
    for prompt in tomllib.loads(path.read_text())["prompt"]
]


@cache
def our_cards() -> dict[str, mh.Card]:
    return {
        name: owned.thing
        for name, owned in build_registry().cards.items()
        if owned.plugin.distribution == DISTRIBUTION
    }


def named_cards() -> dict[str, mh.Card]:
    return {name: card for name, card in our_cards().items() if card.base is not None}


@pytest.mark.parametrize(
    "prompt", PROMPTS, ids=[f"{one['card']}-{row}" for row, one in enumerate(PROMPTS)]
)
def test_the_words_are_those_that_the_authors_publish(prompt: dict[str, Any]) -> None:
    assert prompt["source"]
    item = mh.Item(
        text=prompt.get("text"),
        instruction=prompt.get("instruction"),
        image=b"" if prompt.get("image") else None,
        role=prompt.get("role"),
    )
    assert item.instruction is None or item.instruction in (item.text or "")
    assert worded(item, our_cards()[prompt["card"]]) == prompt["rendered"]


def test_every_named_card_has_published_words_to_compare_with() -> None:
    published = {
        n for n, card in named_cards().items() if not (card.base or "").startswith(PACKAGE)
    }
    assert published <= {prompt["card"] for prompt in PROMPTS}


@pytest.mark.parametrize("name", sorted(our_cards()))
def test_a_card_names_its_sources_and_how_it_was_verified(name: str) -> None:
    card = our_cards()[name]
    assert card.sources
    assert card.summary
    for wanted in card.proven_with.values():
        SpecifierSet(wanted)
    if card.base is not None:
        assert card.dimension
        assert card.family in our_cards()
        family = our_cards()[card.family or ""]
        assert STRENGTH.index(card.verified) <= STRENGTH.index(family.verified)


@pytest.mark.parametrize("name", sorted(our_cards()))
def test_show_works_offline_for_every_card(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert run_command(["show", name]) == 0
    shown = capsys.readouterr().out
    assert f"name                {name}\n" in shown
    assert f"verified            {our_cards()[name].verified}\n" in shown
    if "prompt" in our_cards()[name].options:
        assert "samples             query, image and text: " in shown


def test_list_models_tells_how_each_was_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["list", "models"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "verified" in head
    place = head.index("verified")
    told = {row.split()[0].partition(":")[0]: row[place:].split()[0] for row in rows}
    assert told == {name: card.verified for name, card in our_cards().items()}


def test_published_scores_fit_together() -> None:
    """Overall is the mean over 36 tasks: 10, 10, 12 and 4 in a meta-task, 20 IND and 16 OOD."""
    published = {name: card for name, card in named_cards().items() if card.published_as}
    assert len(published) >= 12
    for name, card in published.items():
        scores = card.published
        weights = {"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4}
        overall = sum(weight * scores[meta] for meta, weight in weights.items()) / 36
        assert overall == pytest.approx(scores["overall"], abs=0.1), name
        if "ind" in scores:
            by_split = (20 * scores["ind"] + 16 * scores["ood"]) / 36
            assert by_split == pytest.approx(scores["overall"], abs=0.1), name
    assert [
        name for name, card in our_cards().items() if card.published and not card.published_as
    ] == []


SETTINGS = [  # as the authors evaluate them: README and eval scripts, named in each card's sources
    ("vlm2vec-qwen2vl-2b", {"image_resolution": "high", "max_length": 4096,
                            "positions": "sequential"}),
    ("vlm2vec-qwen2vl-7b", {"image_resolution": "high", "max_length": 4096,
                            "positions": "sequential"}),
    ("vlm2vec-v2.0-qwen2vl-2b", {"image_resolution": "processor", "min_pixels": 4 * 28**2,
                                 "max_pixels": 1280 * 28**2, "positions": "sequential"}),
    ("vlm2vec-llava-next", {"image_resolution": "high", "max_length": None}),
    ("vlm2vec-phi3.5v-full", {"num_crops": 4, "max_length": 256}),
    ("vlm2vec-phi3.5v-lora", {"num_crops": 4, "max_length": 256}),
    ("gme-qwen2vl-2b", {"max_length": 1800, "max_pixels": 1280 * 28**2, "positions": "sequential"}),
    ("qwen3-vl-embedding-8b", {"max_length": 8192, "min_pixels": 4 * 32**2,
                               "max_pixels": 1800 * 32**2, "positions": "mrope"}),
    ("mme5-mllama-11b-instruct", {"max_length": 256}),
    ("siglip-base-patch16-224", {"text_padding": "max_length"}),
    ("siglip2-base-patch16-224", {"text_padding": "max_length"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_settings_are_those_that_the_authors_evaluate_with(
    name: str, settings: dict[str, Any]
) -> None:
    card = our_cards()[name]
    assert {field: getattr(card, field) for field in settings} == settings


def test_show_words_a_model_of_ones_own(goldens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["show", f"clip:{goldens}/models/tiny-clip"]) == 0
    assert f"base                {goldens}/models/tiny-clip" in capsys.readouterr().out
    assert run_command(["show", f"{goldens}/models/tiny-clip"]) == 2
    said = capsys.readouterr().err
    assert f"-m FAMILY:{goldens}/models/tiny-clip (its config.json says model_type 'clip')" in said


def test_an_unknown_field_names_those_that_the_family_takes(
    goldens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", "-m", f"clip:{goldens}/models/tiny-clip", "-M", "image_resolution=low"]
    assert run_command(command) == 2
    assert "(it takes attention, fusion, max_length, normalize, " in capsys.readouterr().err
