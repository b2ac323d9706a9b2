"""`mmeb-harness list` and `show`: what there is, without importing torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from mmeb_harness.cli import options
from mmeb_harness.errors import unknown_name
from mmeb_harness.registry import Registry, build_registry

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
        {"trainer": name, "summary": owned.thing.summary}
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model or a task.")],
    as_json: options.AsJson = False,
) -> None:
    """Show all that is declared of a model (its card) or of a task."""
    registry = build_registry()
    found = _find(registry, name)
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    for key, value in found.items():
        for line in _lines(key.replace("_", "-"), value):
            typer.echo(line)


def _find(registry: Registry, name: str) -> dict[str, Any]:
    if name in registry.cards:
        owned = registry.cards[name]
        facts: dict[str, Any] = owned.thing.model_dump(mode="json")
        return {**facts, "plugin": f"{owned.plugin.distribution} {owned.plugin.version}"}
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
    known = [*registry.cards, *(task for _, task in registry.tasks)]
    raise unknown_name("model or task", name, known, "(see `list models`, `list tasks`)")


def _lines(key: str, value: Any) -> list[str]:
    if isinstance(value, list) and value:
        rest = [f"{'':20}{_cell(one)}" for one in value[1:]]
        return [f"{key:20}{_cell(value[0])}", *rest]
    return [f"{key:20}{'-' if value in (None, [], '') else _cell(value)}"]
