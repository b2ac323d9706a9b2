"""From the section `data` of a training to its subsets: read, chosen, cut down, weighted."""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from mmeb_harness.errors import DataMissing, TaskError, UsageError, unknown_name
from mmeb_harness.imagepaths import SAMPLE, holding_root
from mmeb_harness.pairfiles import own_pairs
from mmeb_harness.pairs import PairTable
from mmeb_harness.registry import Registry
from mmeb_harness.selection import select_tasks, suite_tasks
from mmeb_harness.task import DataLocation, Pair, Task
from mmeb_harness.trainconfig import DataSection
from mmeb_harness.trainer import Subset
from numpy.typing import NDArray

ORIGINAL = "original"
"""The split that is trained on unless another is named."""


def training_folder(cache: Path, suite: str) -> Path:
    """Return where the training data of a suite is put and looked for."""
    return cache / "training" / suite


def training_tasks(tasks: Sequence[Task], wanted: str | Sequence[str] | None) -> list[Task]:
    """Choose as `-t` does, among the tasks that have a training part, in the order of the words.

    Raises:
        UsageError: for an unknown name, and where what is named has no training part.
    """
    words = _words(wanted)
    chosen = {task.name: task for word in words for task in select_tasks(tasks, word)}
    trained = [task.name for task in tasks if task.training_loader is not None]
    without = [word for word in words if word in chosen and word not in trained]
    having = [task for task in chosen.values() if task.name in trained]
    if without or not having:
        raise UsageError(
            f"{', '.join(without or words)}: without a training part in suite "
            f"{tasks[0].suite!r}; these have one: {', '.join(trained) or 'none'}"
        )
    return having


def load_training_data(
    section: DataSection, registry: Registry, cache: Path, seed: int
) -> list[Subset]:
    """Return the subsets to train on, each with at least one pair.

    With `weights`, a subset that they do not name has weight 1, and weight 0 leaves one out.

    Raises:
        UsageError: for an unknown suite, task, subset or split, and for unusable weights.
        DataMissing: where data is not on this machine; the message has the command for it.
        TaskError: for data that cannot be used.
    """
    found = _own(section) if section.suite is None else _of_suite(section, registry, cache)
    weights = _weights(section.weights, list(found))
    subsets = []
    for name, pairs in found.items():
        if weights.get(name) == 0:
            continue
        chosen = _cut(name, pairs, section, seed)
        if not len(chosen):
            raise TaskError(f"subset {name} has no pairs")
        if isinstance(chosen, PairTable):
            chosen = replace(chosen, lenient=section.missing_images == "skip")
        _check(name, chosen)
        subsets.append(Subset(name=name, pairs=chosen, weight=weights.get(name)))
    return subsets


def _own(section: DataSection) -> dict[str, Iterable[Pair]]:
    """Read a folder of one's own."""
    place = _expanded(section.dir) or Path()
    tables = own_pairs(place, _expanded(section.image_dir), section.split)
    if section.split != ORIGINAL and not any(
        Path(name).stem.partition("-")[0] == section.split
        for pairs in tables.values()
        for name, _ in pairs.sources
    ):
        raise UsageError(f"data.split: {place} has no files named {section.split!r}")
    chosen: dict[str, Iterable[Pair]] = {}
    for word in _words(section.subsets):
        if word not in tables and word != "all":
            raise unknown_name("subset", word, tables)
        chosen |= tables if word == "all" else {word: tables[word]}
    return chosen


def _of_suite(section: DataSection, registry: Registry, cache: Path) -> dict[str, Iterable[Pair]]:
    """Read the training parts of a suite's tasks."""
    suite = str(section.suite)
    tasks = training_tasks(suite_tasks(registry, suite), section.subsets)
    location = DataLocation(
        data_dir=_expanded(section.dir) or training_folder(cache, suite),
        image_dir=_expanded(section.image_dir),
    )
    found: dict[str, Iterable[Pair]] = {}
    missing: dict[str, DataMissing] = {}
    for task in tasks:
        try:
            found[task.name] = task.training(section.split, location)
        except DataMissing as error:
            missing[task.name] = error
    if missing:
        everything = not found and _words(section.subsets) == ["all"]
        raise _missing(
            [task for task in tasks if task.name in missing], missing, section, everything
        )
    return found


def _missing(
    tasks: Sequence[Task],
    errors: Mapping[str, DataMissing],
    section: DataSection,
    everything: bool,
) -> DataMissing:
    """Say what is not there (perhaps `everything`), and the command that fetches all of it."""
    told = str(errors[tasks[0].name])
    if len(tasks) > 1:
        told = f"{told} (and {len(tasks) - 1} more are missing)"
    fetched = [task.name for task in tasks if task.training_fetcher is not None]
    names = () if everything else fetched
    return DataMissing(f"{told}; {_command(names, section)}" if fetched else told)


def _command(names: Sequence[str], section: DataSection) -> str:
    words = ["mmeb-harness data fetch --training"]
    words += [f"--suite {section.suite}"] if section.suite != "mmeb" else []
    words += [f"-t {','.join(names)}"] if names else []
    words += [f"--split {section.split}"] if section.split != ORIGINAL else []
    words += [f"--data-dir {shlex.quote(str(section.dir))}"] if section.dir is not None else []
    return f"fetch it with `{' '.join(words)}`"


def _words(wanted: str | Sequence[str] | None) -> list[str]:
    words = wanted.split(",") if isinstance(wanted, str) else list(wanted or ["all"])
    return [word.strip() for word in words]


def _expanded(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


# -- how many, how often ---------------------------------------------------------------------------


def _weights(given: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Check the weights and give those not named theirs; no weights at all stay so."""
    for name, weight in given.items():
        if name not in names:
            raise unknown_name("subset in data.weights", name, names)
        if not 0 <= weight < float("inf"):
            raise UsageError(f"data.weights: {name} has weight {weight}; give 0 or more")
    weights = {name: float(given.get(name, 1)) for name in names} if given else {}
    if given and not sum(weights.values()):
        raise UsageError("data.weights leave no subset: at least one must be above 0")
    return weights


def _cut(name: str, pairs: Iterable[Pair], section: DataSection, seed: int) -> Sequence[Pair]:
    """Take the first rows, or a sample in the order of the rows, where there are more."""
    if section.cap is not None and section.sample == "first" and not isinstance(pairs, Sequence):
        pairs = islice(pairs, section.cap)
    rows = pairs if isinstance(pairs, Sequence) else list(pairs)
    if section.cap is None or section.cap >= len(rows):
        return rows
    if section.sample == "first":
        return cast("Sequence[Pair]", rows[: section.cap])
    places = _sample(len(rows), section.cap, f"{seed} {name}")
    return rows.select(places) if isinstance(rows, PairTable) else [rows[int(at)] for at in places]


def _sample(rows: int, count: int, key: str) -> NDArray[np.int64]:
    """Draw places without repetition, in order: those of the smallest random numbers.

    The numbers are the raw stream of a bit generator, which numpy keeps the same in all versions.
    """
    drawn = np.random.Philox(key=zlib.crc32(key.encode())).random_raw(rows)
    return np.sort(np.argsort(drawn, kind="stable")[:count])


# -- what can be seen before training --------------------------------------------------------------


def _check(name: str, pairs: Sequence[Pair]) -> None:
    if not isinstance(pairs, PairTable):
        if not isinstance(pairs[0], Pair):
            raise TaskError(f"the training part of {name} gives {pairs[0]!r}, which is no Pair")
        return
    pairs.check()
    paths = pairs.image_paths(SAMPLE)
    if paths and pairs.root is not None and holding_root([pairs.root], paths) is None:
        raise DataMissing(
            f"no image of {name} is in {pairs.root} (looked for {paths[0]} and {len(paths) - 1} "
            "others): unpack them there, or name their folder with data.image_dir"
        )
