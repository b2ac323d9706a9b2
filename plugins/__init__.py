"""Built-in encoders: a family a module, its cards in `cards/`, all found by looking there.

Adding a family is adding a module and a card file; no list is edited.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from importlib.resources import files

from mmeb_harness.card import Card
from mmeb_harness.hookspecs import hookimpl


@hookimpl
def register_encoders(register: Callable[[Card], None]) -> None:
    """Register every card in `cards/`."""
    for card in built_in_cards():
        register(card)


def built_in_cards() -> Iterator[Card]:
    """Read the card files: `[family]` holds what its cards share, each `[[card]]` its own."""
    for path in sorted((files(__package__) / "cards").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".toml"):
            facts = tomllib.loads(path.read_text())
            family = facts.get("family", {})
            if family:
                yield Card(**family)
            for card in facts.get("card", []):
                inherited = {"family": family["name"], **family} if family else {}
                yield Card(**{**inherited, **card})
