"""What this machine has for a run: libraries, device, plugins, folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmeb_harness.environment import device_name, versions
from mmeb_harness.errors import HarnessError
from mmeb_harness.files import cache_root, check_writable
from mmeb_harness.keys import installed_version
from mmeb_harness.models import EXTRAS
from mmeb_harness.patient import Finding
from mmeb_harness.registry import Registry


def examine_machine(registry: Registry, cache_dir: Path | None = None) -> Iterator[Finding]:
    """Yield a finding for each thing that a run needs."""
    for name, version in versions().items():
        if version is not None and name not in EXTRAS:
            yield Finding(check=name, status="ok", detail=version)
    for name, extra in EXTRAS.items():
        yield _extra(name, extra)
    yield _device()
    yield from _plugins(registry)
    yield _cache(cache_dir)


def _extra(name: str, extra: str) -> Finding:
    version = installed_version(name)
    if version is not None:
        return Finding(check=name, status="ok", detail=version)
    detail = f'not installed: pip install "mmeb-harness[{extra}]" brings it'
    return Finding(check=name, status="skipped", detail=detail)


def _device() -> Finding:
    import torch

    for name, there in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        if there.is_available():
            return Finding(check="device", status="ok", detail=f"{name}: {device_name(name)}")
    detail = f"cpu: {device_name('cpu')}; no accelerator, a model of billions takes days here"
    return Finding(check="device", status="warned", detail=detail)


def _plugins(registry: Registry) -> Iterator[Finding]:
    cards = len(registry.cards)  # collecting finds the plugins that break when they register
    _ = registry.tasks, registry.trainers, registry.reporters
    broken = [plugin for plugin in registry.plugins.values() if plugin.broken]
    for plugin in broken:
        detail = f"{plugin.distribution} is broken: {plugin.broken}"
        yield Finding(check="plugin", status="failed", detail=detail)
    detail = f"{len(registry.plugins) - len(broken)} plugins, {cards} models"
    yield Finding(check="plugins", status="ok", detail=detail)


def _cache(cache_dir: Path | None) -> Finding:
    folder = cache_root(cache_dir)
    try:
        check_writable(folder)
    except HarnessError as error:
        return Finding(check="cache", status="failed", detail=str(error))
    return Finding(check="cache", status="ok", detail=str(folder))
