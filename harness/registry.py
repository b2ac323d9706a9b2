"""Finds plugins and what they register; a broken plugin is listed and takes nothing else down.

There is no global registry: the command line, the Python API and each test make their own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any, TypeVar

import pluggy
from mmeb_harness import hookspecs
from mmeb_harness.card import Card
from mmeb_harness.errors import ANY_OF_OTHERS, UsageError
from mmeb_harness.reporter import Reporter
from mmeb_harness.task import Task
from mmeb_harness.trainer import Trainer

BUILT_IN = (
    "mmeb_harness.plugins",
    "mmeb_harness.tasks",
    "mmeb_harness.trainers",
    "mmeb_harness.reports",
)
"""The built-ins, as dotted names: they come through the same door as a stranger's."""

DISTRIBUTION = "mmeb-harness"
LOAD_PLUGINS = "MMEB_HARNESS_LOAD_PLUGINS"

Thing = TypeVar("Thing", Card, Task, Trainer, Reporter)


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin: where it comes from, and why it is broken if it is."""

    name: str
    distribution: str
    version: str
    broken: str | None = None


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A registered thing and the plugin that registered it."""

    thing: Any
    plugin: Plugin


@dataclass
class Registry:
    """All plugins of this process, and what they register, collected when first asked for."""

    manager: pluggy.PluginManager
    plugins: dict[str, Plugin] = field(default_factory=dict)

    @cached_property
    def cards(self) -> dict[str, Owned]:
        """Cards by name."""
        return self._collect("register_encoders", Card, lambda card: card.name)

    @cached_property
    def tasks(self) -> dict[tuple[str, str], Owned]:
        """Tasks by (suite, name), in the order of their registration."""
        owned = self._collect("register_tasks", Task, lambda task: (task.suite, task.name))
        suite_owner: dict[str, str] = {}
        for (suite, name), entry in owned.items():
            owner = suite_owner.setdefault(suite, entry.plugin.distribution)
            if owner != entry.plugin.distribution:
                raise UsageError(
                    f"{entry.plugin.distribution} adds task {name!r} to suite {suite!r}, which "
                    f"belongs to {owner}: its averages would change. Give it a suite of its own."
                )
        return owned

    @cached_property
    def trainers(self) -> dict[str, Owned]:
        """Trainers by name."""
        return self._collect("register_trainers", Trainer, lambda trainer: trainer.name)

    @cached_property
    def reporters(self) -> dict[str, Owned]:
        """Reporters by name."""
        return self._collect("register_reporters", Reporter, lambda reporter: reporter.name)

    def suites(self) -> dict[str, list[Task]]:
        """Tasks grouped by the suite they name."""
        grouped: dict[str, list[Task]] = {}
        for (suite, _), owned in self.tasks.items():
            grouped.setdefault(suite, []).append(owned.thing)
        return grouped

    def notify(self, notice: str, **values: Any) -> list[str]:
        """Send a notice to every plugin; return what went wrong in them, a line each."""
        faults = []
        for name, hook in self._hooks(notice):
            try:
                hook(**values)
            except ANY_OF_OTHERS as error:
                faults.append(f"plugin {name} failed in {notice}: {error}")
        return faults

    def _hooks(self, hook_name: str) -> Iterable[tuple[str, Callable[..., Any]]]:
        modules = dict(self.manager.list_name_plugin())
        for name, plugin in list(self.plugins.items()):
            if plugin.broken is None and hasattr(modules[name], hook_name):
                others = [module for other, module in modules.items() if other != name]
                yield name, self.manager.subset_hook_caller(hook_name, others)

    def _collect(
        self, hook_name: str, kind: type[Thing], key: Callable[[Any], Any]
    ) -> dict[Any, Owned]:
        found: dict[Any, Owned] = {}
        for name, hook in self._hooks(hook_name):
            things: list[Thing] = []
            try:
                hook(register=things.append)
                _check_kind(things, kind, hook_name)
            except ANY_OF_OTHERS as error:
                self._mark_broken(name, error)
                continue
            for thing in things:
                _add(found, key(thing), Owned(thing=thing, plugin=self.plugins[name]))
        return found

    def _mark_broken(self, name: str, error: BaseException) -> None:
        plugin = self.plugins[name]
        reason = f"{type(error).__name__}: {error}"
        self.plugins[name] = Plugin(**{**vars(plugin), "broken": reason})


def _check_kind(things: Iterable[Any], kind: type[Any], hook_name: str) -> None:
    for thing in things:
        if not isinstance(thing, kind):
            raise TypeError(f"{hook_name} registered {thing!r}, which is no {kind.__name__}")


def _add(found: dict[Any, Owned], key: Any, owned: Owned) -> None:
    if key in found:
        name = key if isinstance(key, str) else "/".join(key)
        raise UsageError(
            f"{name!r} is registered twice: by {_owner(found[key])} and by {_owner(owned)}. "
            f"Uninstall one, or choose plugins with {LOAD_PLUGINS}."
        )
    found[key] = owned


def _owner(owned: Owned) -> str:
    return f"{owned.plugin.distribution} ({owned.plugin.name})"


def build_registry(environment: Mapping[str, str] = os.environ) -> Registry:
    """Load the built-ins and the installed plugins, each guarded against the faults of the rest.

    `MMEB_HARNESS_LOAD_PLUGINS` unset loads all, empty the built-ins only, else a comma-separated
    list of entry-point or distribution names.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    registry = Registry(manager=manager)
    for dotted in BUILT_IN:
        _load(registry, dotted, DISTRIBUTION, partial(importlib.import_module, dotted))
    for entry in sorted(_chosen(environment.get(LOAD_PLUGINS)), key=lambda entry: entry.name):
        distribution = entry.dist.name if entry.dist is not None else "?"
        _load(registry, f"{distribution}:{entry.name}", distribution, entry.load)
    return registry


def _chosen(wanted: str | None) -> Iterable[EntryPoint]:
    found = entry_points(group=hookspecs.GROUP)
    if wanted is None:
        return found
    names = {name.strip() for name in wanted.split(",")}
    return [
        entry
        for entry in found
        if entry.name in names or (entry.dist is not None and entry.dist.name in names)
    ]


def _load(registry: Registry, name: str, distribution: str, load: Callable[[], Any]) -> None:
    try:
        release = version(distribution)
    except PackageNotFoundError:
        release = "unknown"
    plugin = Plugin(name=name, distribution=distribution, version=release)
    registry.plugins[name] = plugin
    try:
        registry.manager.register(load(), name=name)
        registry.manager.check_pending()
    except ANY_OF_OTHERS as error:
        if registry.manager.has_plugin(name):
            registry.manager.unregister(name=name)
        registry._mark_broken(name, error)
