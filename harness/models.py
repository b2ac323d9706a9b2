"""From what a user types after `-m` to an encoder: card, overrides, factory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmeb_harness.card import CARD_FILE, Card, read_card
from mmeb_harness.errors import (
    ANY_OF_OTHERS,
    EnvironmentFault,
    HarnessError,
    UsageError,
    unknown_name,
)
from mmeb_harness.keys import installed_version
from mmeb_harness.loading import call_with_known, load_object
from mmeb_harness.prompt import check_wording
from mmeb_harness.registry import DISTRIBUTION, Plugin, Registry

EXTRAS = {
    "open-clip-torch": "openclip",
    "sentence-transformers": "sentence-transformers",
    "sentencepiece": "sentencepiece",
    "httpx2": "openai",
    "ray": "ray",
}
"""Distributions that some models or engines need, and the extra that brings each."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A resolved model: its card with the overrides in it, and the plugin it comes from."""

    card: Card
    plugin: Plugin
    overrides: Mapping[str, Any]


def resolve_model(registry: Registry, name: str, overrides: Mapping[str, Any]) -> Model:
    """Find the card of `name`: a card, `FAMILY:REFERENCE`, or a folder that carries its card.

    Raises:
        UsageError: for an unknown name, field or value.
    """
    card, owner = _find(registry, name)
    plugin = registry.cards[owner].plugin if owner in registry.cards else _built_in(registry)
    chosen = card.with_options(overrides)
    check_wording(chosen)
    return Model(
        card=chosen, plugin=plugin, overrides={key: getattr(chosen, key) for key in overrides}
    )


def _find(registry: Registry, name: str) -> tuple[Card, str]:
    if name in registry.cards:
        card: Card = registry.cards[name].thing
        if card.is_family:
            raise UsageError(f"{name} needs a reference: -m {name}:FOLDER_OR_HUB_ID")
        return card, name
    if (Path(name) / CARD_FILE).is_file():
        card = read_card(Path(name))
        return card, card.family or card.name
    family, colon, reference = name.partition(":")
    if colon and family in registry.cards and registry.cards[family].thing.is_family:
        template: Card = registry.cards[family].thing
        if not reference:
            raise UsageError(f"{name} needs a reference: -m {family}:FOLDER_OR_HUB_ID")
        return template.model_copy(
            update={"name": name, "family": family, "base": reference}
        ), family
    if Path(name).is_dir():
        raise UsageError(f"{name} is a folder without a card; name its family: {_of_folder(name)}")
    raise unknown_name("model", name, registry.cards, _hint(registry))


def _of_folder(name: str) -> str:
    """Say how to name a folder of weights, and of which type its configuration says it is."""
    try:
        kind = json.loads((Path(name) / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"-m FAMILY:{name}"
    return f"-m FAMILY:{name} (its config.json says model_type {kind!r})"


def _hint(registry: Registry) -> str:
    broken = [plugin.name for plugin in registry.plugins.values() if plugin.broken]
    trouble = f" Broken plugins: {', '.join(broken)} (`list plugins`)." if broken else ""
    return f"`mmeb-harness list models` shows all.{trouble}"


def _built_in(registry: Registry) -> Plugin:
    return next(p for p in registry.plugins.values() if p.distribution == DISTRIBUTION)


def unproven(card: Card) -> list[str]:
    """Say which libraries are installed in versions that the card was not proven with."""
    from packaging.specifiers import SpecifierSet

    installed = [(name, installed_version(name)) for name in card.proven_with]
    return [
        f"{card.name} was proven with {name} {card.proven_with[name]}; installed is {found}"
        for name, found in installed
        if found and not SpecifierSet(card.proven_with[name]).contains(found, prereleases=True)
    ]


def build_encoder(card: Card, *, device: str | None = None, dtype: str | None = None) -> Any:
    """Import the card's factory and make the encoder, with those of card, device, dtype it takes.

    Raises:
        EnvironmentFault: where a required distribution is missing or the factory fails to import.
    """
    for requirement in card.requires:
        _require(card, requirement)
    factory = load_object(card.factory)
    try:
        return call_with_known(factory, {"card": card, "device": device, "dtype": dtype})
    except HarnessError:
        raise
    except ANY_OF_OTHERS as error:
        raise EnvironmentFault(
            f"{card.name} cannot be built: {type(error).__name__}: {error}"
        ) from error


def _require(card: Card, requirement: str) -> None:
    try:
        version(requirement)
    except PackageNotFoundError:
        extra = EXTRAS.get(requirement)
        wanted = requirement if extra is None else f'"mmeb-harness[{extra}]"'
        raise EnvironmentFault(
            f"{card.name} needs {requirement}, which is not installed: pip install {wanted}"
        ) from None
