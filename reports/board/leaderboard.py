"""The leaderboard as values: what every format renders, and none of them computes.

Runs and published rows become entries of one board for each suite; an entry holds a score for each
column that it has, its rank, and what must be said of it. All numbers are fractions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmeb_harness.result import Run, TaskName
from mmeb_harness.summary import Interval

Kind = Literal["measured", "imported", "paper", "authors", "third-party"]
"""Where scores come from: measured by this harness; brought in by `import`; and of published ones,
the benchmark's own paper and team, the model's authors (self-reported), or somebody else."""

TITLES = {"ind": "IND", "ood": "OOD", "vqa": "VQA"}


def title(key: str) -> str:
    """Return what the column of an average is called: `IND`, `Overall`, `Grounding`."""
    return TITLES.get(key) or key[:1].upper() + key[1:]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a board: an average over `tasks`, or a single task.

    `key` is `overall`, `ind`, `ood`, a meta-task, `seen`, `unseen` (by the entry's own training
    data), or a task's name.
    """

    key: str
    title: str
    tasks: tuple[str, ...]
    kind: Literal["average", "task"]
    meta_task: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value with its interval, where one is known.

    `printed` is what the source printed, where it is not what the tasks' scores give (`value`).
    `seen` tells whether the model was trained on the task, None where that is not known.
    """

    value: float
    interval: Interval | None = None
    printed: float | None = None
    seen: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model on a board.

    `key` is unique in the report, and safe in an HTML id. `rank` is the competition rank (1, 2, 2,
    4) by the overall score, None for an entry that is not complete or is limited; `group` numbers
    the groups of entries that are statistically tied with the best of the group, from 1.
    `missing` names tasks without a score, `failed` says why tasks failed. `training` are the
    declared training datasets, None where they are not known. `remarks` are sentences to be read
    with the scores: corrected printing errors, warnings, what is limited.
    """

    key: str
    name: str
    kind: Kind
    scores: Mapping[str, Score]
    source: str = ""
    variant: str = ""
    rank: int | None = None
    group: int | None = None
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    parameters: float | None = None
    dimension: int | None = None
    training: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()
    run: Run | None = None

    @property
    def complete(self) -> bool:
        """Whether every task of the suite has a score (of all its queries)."""
        return not self.missing and self.limit is None


@dataclass(frozen=True, kw_only=True)
class Board:
    """The leaderboard of one suite: `columns` in order (averages, then tasks by meta-task), and
    `entries` best first, those without a rank last."""

    suite: str
    tasks: tuple[TaskName, ...]
    columns: tuple[Column, ...]
    entries: Sequence[Entry]


def full_name(entry: Entry) -> str:
    """Name a model with what was changed of it; not yet harmless."""
    return f"{entry.name} {entry.variant}".rstrip()


def letters(board: Board) -> dict[str, str]:
    """Return a letter by entry's key for each group of more than one: a, b, ..., z, aa."""
    sizes = Counter(entry.group for entry in board.entries if entry.group is not None)
    shared = sorted(group for group, size in sizes.items() if size > 1)
    names = {group: _letter(number) for number, group in enumerate(shared)}
    return {entry.key: names[entry.group] for entry in board.entries if entry.group in names}


def _letter(number: int) -> str:
    before = _letter(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("a") + number % 26)
