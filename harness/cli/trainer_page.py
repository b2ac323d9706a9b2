"""A trainer's configuration as commented YAML, from its model: a file to start from.

It holds every key with its default, what it takes, and what its section says of itself. What must
be filled in says so; sections that are off unless written are commented out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmeb_harness.trainer import Trainer

WIDTH, COLUMN = 100, 34
"""Characters of a line, and before the comment behind a value."""

NEEDED = object()
"""Stands for the value of a key that has no default."""

TYPES = {"string": "text", "integer": "a whole number", "number": "a number",
         "boolean": "true or false", "array": "a list", "object": "names with values"}  # fmt: skip
MANY = {"text": "texts", "a path": "paths", "a number": "numbers",
        "a whole number": "whole numbers"}  # fmt: skip

BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above",
          "maximum": "at most", "exclusiveMaximum": "below"}  # fmt: skip

Schema = Mapping[str, Any]


def config_schema(trainer: Trainer) -> dict[str, Any]:
    """Return the JSON schema of a trainer's configuration."""
    from mmeb_harness.loading import load_object
    from pydantic.json_schema import GenerateJsonSchema

    class Tolerant(GenerateJsonSchema):
        """One that says nothing of a type that JSON cannot describe."""

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}

    schema: dict[str, Any] = load_object(trainer.config).model_json_schema(
        schema_generator=Tolerant
    )
    return schema


def trainer_page(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a configuration: `facts` are trainer, summary, plugin and config."""
    schema = facts["config"]
    told = f": {facts['summary']}" if facts["summary"] else ""
    yield from _comment(f"Trainer {facts['trainer']}, from {facts['plugin']}{told}")
    if about := schema.get("description"):
        yield "#"
        yield from _comment(about)
    yield from _entries(schema, schema.get("$defs", {}), {"trainer": facts["trainer"]})


def _entries(schema: Schema, types: Schema, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of each key; the values `given` go before the schema's defaults."""
    behind_section = False
    for name, one in schema.get("properties", {}).items():
        needed = name not in given and "default" not in one
        value = given.get(name, one.get("default"))
        section = _section(one, types)
        if section is None:
            if behind_section:
                yield ""
                behind_section = False
            yield _entry(name, one, types, NEEDED if needed else value)
            continue
        behind_section = True
        yield ""
        yield from _comment(one.get("description") or section.get("description", ""))
        off = "" if needed or value is not None else "# "
        yield f"{off}{name}:"
        inner = value if isinstance(value, Mapping) else {}
        yield from (f"{off}  {line}" for line in _entries(section, types, inner) if line)


def _section(one: Schema, types: Schema) -> Schema | None:
    """Return what a key holds if it is a section of keys of its own."""
    for choice in one.get("anyOf", [one]):
        kind = _named(choice, types)
        if "properties" in kind:
            return kind
    return None


def _named(one: Schema, types: Schema) -> Schema:
    """Follow a reference to a definition."""
    found: Schema = types.get(one.get("$ref", "").rpartition("/")[2], one)
    return found


def _entry(name: str, one: Schema, types: Schema, value: Any) -> str:
    """Return the line of a key that is no section: its value, and what it takes."""
    import yaml

    takes = _takes(one, types)
    if about := one.get("description"):
        takes = f"{takes}; {about}" if takes else about
    if value is NEEDED:
        return f"{name}:".ljust(COLUMN) + f"# needed: {takes}"
    written = yaml.safe_dump(value, default_flow_style=True, width=1000).partition("\n")[0]
    line = f"{name}: {written}"
    return f"{line:{COLUMN - 1}} # {takes}" if takes and takes != TYPES["boolean"] else line


def _takes(one: Schema, types: Schema) -> str:
    """Say in words what a key takes."""
    one = _named(one, types)
    if "anyOf" in one:
        choices = dict.fromkeys(_takes(choice, types) for choice in one["anyOf"])
        return " or ".join(words for words in choices if words)
    if "enum" in one:
        *most, last = map(str, one["enum"])
        return f"{', '.join(most)} or {last}" if most else last
    if one.get("type") == "array" and "items" in one:
        words = _takes(one["items"], types)
        return f"a list of {MANY.get(words, words)}"
    if isinstance(one.get("additionalProperties"), Mapping):
        words = _takes(one["additionalProperties"], types)
        return f"names, each with {words}" if words else TYPES["object"]
    if "prefixItems" in one:
        return f"a list of {len(one['prefixItems'])}"
    words = "a path" if one.get("format") == "path" else TYPES.get(one.get("type", ""), "")
    bounds = [f"{bound} {one[key]}" for key, bound in BOUNDS.items() if key in one]
    return ", ".join([words, *bounds])


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        lines = textwrap.wrap(paragraph, WIDTH - 2)
        yield from (f"# {line}" for line in lines)
