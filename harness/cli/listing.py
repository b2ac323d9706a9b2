"""`mmeb-harness list` and `show`: what there is, without importing torch."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from mmeb_harness.card import Card
from mmeb_harness.cli import options
from mmeb_harness.cli.trainer_page import config_schema, trainer_page
from mmeb_harness.errors import unknown_name
from mmeb_harness.hub import PACKAGE
from mmeb_harness.item import PLACEHOLDER, Item
from mmeb_harness.prompt import worded
from mmeb_harness.registry import Plugin, Registry, build_registry
from mmeb_harness.trainer import Trainer

Rows = list[dict[str, Any]]


def list_things(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="models, tasks, suites, trainers, reporters or plugins."
        ),
    ],
    as_json: options.AsJson = False,
) -> None:
    """List what is installed: models, tasks, suites, trainers, reporters or plugins."""
    if kind not in LISTINGS:
        raise unknown_name("kind", kind, LISTINGS)
    rows = LISTINGS[kind](build_registry())
    if as_json:
        typer.echo(json.dumps({kind: rows}))
    else:
        _print_table(rows)


def _models(registry: Registry) -> Rows:
    rows = []
    for owned in registry.cards.values():
        card = owned.thing
        rows.append(
            {
                "model": f"{card.name}:REFERENCE" if card.is_family else card.name,
                "parameters": card.parameters,
                "dimension": card.dimension,
                "verified": card.verified,
                "from": owned.plugin.distribution,
                "summary": card.summary,
            }
        )
    return rows


def _tasks(registry: Registry) -> Rows:
    return [
        {
            "task": owned.thing.name,
            "suite": owned.thing.suite,
            "meta_task": owned.thing.meta_task,
            "split": owned.thing.split,
            "summary": owned.thing.summary,
        }
        for owned in registry.tasks.values()
    ]


def _suites(registry: Registry) -> Rows:
    return [
        {
            "suite": name,
            "tasks": len(tasks),
            "ind": sum(task.split == "ind" for task in tasks),
            "ood": sum(task.split == "ood" for task in tasks),
        }
        for name, tasks in registry.suites().items()
    ]


def _trainers(registry: Registry) -> Rows:
    return [
        {"trainer": name, "from": owned.plugin.distribution, "summary": owned.thing.summary}
        for name, owned in registry.trainers.items()
    ]


def _reporters(registry: Registry) -> Rows:
    return [
        {
            "reporter": name,
            "formats": ", ".join(owned.thing.formats),
            "summary": owned.thing.summary,
        }
        for name, owned in registry.reporters.items()
    ]


def _plugins(registry: Registry) -> Rows:
    _ = registry.cards, registry.tasks, registry.trainers, registry.reporters  # finds the broken
    return [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "state": f"BROKEN: {plugin.broken}" if plugin.broken else "ok",
        }
        for plugin in registry.plugins.values()
    ]


LISTINGS: dict[str, Callable[[Registry], Rows]] = {
    "models": _models,
    "tasks": _tasks,
    "suites": _suites,
    "trainers": _trainers,
    "reporters": _reporters,
    "plugins": _plugins,
}


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        typer.echo("none")
        return
    texts = [[_cell(value) for value in row.values()] for row in rows]
    heads = [head.replace("_", "-") for head in rows[0]]
    widths = [max(len(row[i]) for row in [heads, *texts]) for i in range(len(heads))]
    for row in [heads, *texts]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        typer.echo("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and value >= 1_000_000:
        return f"{value / 1e9:.2f} B" if value >= 1e9 else f"{value / 1e6:.0f} M"
    return str(value)


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A model (also FAMILY:REFERENCE), a task or a trainer."
        ),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Show all that is declared of a model (its card), of a task, or of a trainer.

    Of a trainer it prints a configuration with all keys, what they take and their defaults:

      mmeb-harness show contrastive > mine.yaml
    """
    registry = build_registry()
    found = _find(registry, name)
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    if "trainer" in found:
        typer.echo("\n".join(trainer_page(found)))
        return
    family = "base" in found and not found["base"]
    for key, value in found.items():
        if value is None and family:
            continue  # facts of weights, which a family has none of
        if key == "revision" and str(found.get("base")).startswith(PACKAGE):
            continue  # it has the package's version
        for line in _lines(key, value):
            typer.echo(line)


def _find(registry: Registry, name: str) -> dict[str, Any]:
    if name in registry.cards:
        return _card_facts(registry.cards[name].thing, registry.cards[name].plugin)
    tasks = [owned.thing for (_, task), owned in registry.tasks.items() if task == name]
    if tasks:
        task = tasks[0]
        return {
            "name": task.name,
            "suites": ", ".join(task.suite for task in tasks),
            "metric": task.metric,
            "loader": task.loader,
            **{key: value for key, value in task.facts.items() if key != "name"},
        }
    if name in registry.trainers:
        return _trainer_facts(registry.trainers[name].thing, registry.trainers[name].plugin)
    if ":" in name or Path(name).is_dir():
        from mmeb_harness.models import resolve_model

        model = resolve_model(registry, name, {})
        return _card_facts(model.card, model.plugin)
    known = [*registry.cards, *(task for _, task in registry.tasks), *registry.trainers]
    hint = "(see `list models`, `list tasks`, `list trainers`)"
    raise unknown_name("model, task or trainer", name, known, hint)


def _card_facts(card: Card, plugin: Plugin) -> dict[str, Any]:
    facts: dict[str, Any] = card.model_dump(mode="json")
    return {
        **facts,
        "plugin": f"{plugin.distribution} {plugin.version}",
        "samples": _samples(card),
    }


def _trainer_facts(trainer: Trainer, plugin: Plugin) -> dict[str, Any]:
    return {
        "trainer": trainer.name,
        "summary": trainer.summary,
        "plugin": f"{plugin.distribution} {plugin.version}",
        "config": config_schema(trainer),
    }


def _samples(card: Card) -> dict[str, str]:
    """Word a sample query and two sample candidates as the card does, nothing loaded."""
    if "prompt" not in card.options:
        return {}
    asked = "Represent the given image with the following question:"
    shown = "Represent the given image."
    samples = {
        "query, image and text": Item(
            text=f"{PLACEHOLDER}\n{asked} What is in the image\n",
            instruction=asked, image=b"", role="query",
        ),
        "candidate, text": Item(text="A cat and a dog", role="candidate"),
        "candidate, image": Item(
            text=f"{PLACEHOLDER}\n{shown}\n", instruction=shown, image=b"", role="candidate"
        ),
    }  # fmt: skip
    return {kind: json.dumps(worded(item, card)) for kind, item in samples.items()}


UNKNOWN = {
    "revision": "not pinned: public facts give no commit (a run records the one it used)",
    "licence": "not known from public facts",
    "parameters": "not known from public facts",
    "dimension": "not known from public facts",
    "training_datasets": "not known from public facts",
}
"""What `show` says of facts that a card leaves out; other absent fields are not shown."""

WIDTH, INDENT = 100, 20


def _lines(key: str, value: Any) -> list[str]:
    """Lay out one field of a card: name, then its value on as many lines as it needs."""
    if value is None or value in ("", {}):
        return [_line(key, UNKNOWN[key])] if key in UNKNOWN else []
    if key == "training_datasets":
        return _wrapped(key, ", ".join(value) or "none of MMEB's")
    if key == "published":
        return _wrapped(key, ", ".join(f"{name} {score:.1f}" for name, score in value.items()))
    if key == "template":
        return [_line(key, json.dumps(value))]
    if key == "probes":
        value = [line for probe in value for line in _probe_lines(probe)]
    if isinstance(value, dict):
        value = [f"{name}: {text}" for name, text in value.items()]
    if key == "options":
        return _wrapped(key, ", ".join(value))
    if isinstance(value, list):
        return [_line(key if not row else "", _cell(one)) for row, one in enumerate(value)]
    return [_line(key, _cell(value))]


def _line(key: str, text: str) -> str:
    return f"{key.replace('_', '-'):{INDENT}}{text}"


def _wrapped(key: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - INDENT) or [""]
    return [_line(key if not row else "", line) for row, line in enumerate(lines)]


def _probe_lines(probe: dict[str, Any]) -> list[str]:
    settings = ", ".join(f"{name}={value}" for name, value in probe["settings"].items())
    own = json.dumps(probe["text"]) + (f" with {probe['image']}" if probe["image"] else "")
    others = [
        f"  against {json.dumps(text)}: {', '.join(f'{one:.4f}' for one in published)}"
        for text, published in probe["others"].items()
    ]
    note = [f"  ({probe['note']})"] if probe["note"] else []
    return [own + (f" under {settings}" if settings else ""), *others, *note]
