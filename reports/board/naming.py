"""What entries are called: a variant where two runs are of one model, and a key for each.

The one idea: what tells runs apart is looked for in the order in which a reader would ask: what was
changed of the model, how it was scored, and only then where it lies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from mmeb_harness.result import Run

KEY_LENGTH = 48
"""Characters of a key, but for a number that tells it from another."""

VALUE_LENGTH = 40
"""Characters of a changed setting's value; what is cut is told apart by the folder."""

SCORED = ("scoring", "similarity", "dtype", "limit", "device")
"""Fields of the record, beside `overrides`, by which runs of one model may differ."""


def variants(runs: Sequence[Run]) -> list[str]:
    """Return what is to be said of each run beside its model's name: its overrides always, and as
    much more as tells it from the others of the same model and suite."""
    names = [" ".join(changed(run.record.overrides).values()) for run in runs]
    ways: list[Callable[[Run], str]] = [_scored(name) for name in SCORED]
    ways += [_tail(parts) for parts in range(1, _depth(runs) + 1)]
    for way in ways:
        names = [
            _joined(name, way(runs[index])) if index in told else name
            for told in [_alike(runs, names, way)]
            for index, name in enumerate(names)
        ]
    return names


def keys(entries: Iterable[tuple[Hashable, str]]) -> dict[Hashable, str]:
    """Return a key for each (identity, name): unique, of a-z, 0-9 and dashes, not first a digit.

    The entries must come in an order of their own, so that the keys do not depend on the runs'.
    """
    found: dict[Hashable, str] = {}
    used: set[str] = set()
    for identity, name in entries:
        stem = _slug(name)
        key, number = stem, 1
        while key in used:
            number += 1
            key = f"{stem}-{number}"
        used.add(key)
        found[identity] = key
    return found


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name[: 4 * KEY_LENGTH].lower()).strip("-")[:KEY_LENGTH]
    slug = slug.strip("-") or "model"
    return slug if slug[0].isalpha() else f"m-{slug}"


def changed(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Return `KEY=VALUE` for each changed field of a card, by field, long values cut."""
    return {key: f"{key}={_cut(str(value))}" for key, value in sorted(overrides.items())}


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_LENGTH else text[:VALUE_LENGTH] + "..."


def _alike(runs: Sequence[Run], names: Sequence[str], way: Callable[[Run], str]) -> set[int]:
    """Return which runs still share model, suite and name with one from which `way` tells them."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, (run, name) in enumerate(zip(runs, names)):
        groups.setdefault((run.record.suite, run.record.model, name), []).append(index)
    return {
        index
        for group in groups.values()
        if len({way(runs[index]) for index in group}) > 1
        for index in group
    }


def _scored(name: str) -> Callable[[Run], str]:
    def told(run: Run) -> str:
        value = getattr(run.record, name)
        return "" if value is None else f"{name}={value}"

    return told


def _tail(parts: int) -> Callable[[Run], str]:
    """Return the `parts`th part of the folder's path, from the right."""

    def told(run: Run) -> str:
        names = run.output_dir.absolute().parts[1:]
        return names[-parts] if parts <= len(names) else ""

    return told


def _depth(runs: Sequence[Run]) -> int:
    several = Counter((run.record.suite, run.record.model) for run in runs)
    return max(
        (
            len(run.output_dir.absolute().parts)
            for run in runs
            if several[run.record.suite, run.record.model] > 1
        ),
        default=0,
    )


def _joined(name: str, more: str) -> str:
    return f"{name} {more}".strip()
