"""What must be said of a run beside its scores: sentences, each said once.

The one idea: a warning that stands at many tasks is one sentence with a count; where the texts
differ in their numbers only, these become a range.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from mmeb_harness.result import Run

NAMED = 3
"""Tasks are named up to so many, then counted."""

SCORINGS = {
    "reference": "scored by reference: of tied candidates the first wins, which is the gold",
    "unknown": "how ties were settled is not known",
}
"""What is to be said of scores that are not by `expected`."""

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def run_remarks(run: Run, missing: Collection[str], count: int) -> list[str]:
    """Return the remarks on a run; `missing` are those of the suite's `count` tasks that have no
    score."""
    record = run.record
    not_run = [name for name in missing if name not in run.tasks]
    remarks = []
    if record.limit is not None:
        remarks.append(f"only the first {record.limit} queries of each task: not ranked")
    if not_run:
        remarks.append(f"{some_of(not_run, count)} not run")
    if missing:
        remarks.append("averages that need a missing task are left out")
    if record.scoring in SCORINGS:
        remarks.append(SCORINGS[record.scoring])
    remarks += record.warnings
    return remarks + task_remarks({name: task.warnings for name, task in run.tasks.items()})


def task_remarks(warnings: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one remark for each kind of warning at tasks (by name; all that were scored)."""
    kinds: dict[str, dict[str, str]] = {}
    for name, texts in warnings.items():
        for text in texts:
            kinds.setdefault(NUMBER.sub("0", text), {})[name] = text
    return [
        f"{some_of(list(found), len(warnings))}: {_ranged(list(found.values()))}"
        for found in kinds.values()
    ]


def some_of(names: Sequence[str], of: int) -> str:
    """Name tasks if they are few, else count them."""
    if len(names) == of > 1:
        return f"all {of} tasks"
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{len(names)} of {of} tasks ({', '.join(names[:NAMED])}, ...)"


def _ranged(texts: Sequence[str]) -> str:
    """Return the one text that texts differing in numbers make: each number, or its range."""
    ranges = map(_range, zip(*(NUMBER.findall(text) for text in texts), strict=True))
    return NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: Iterable[str]) -> str:
    ordered = sorted(set(numbers), key=float)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
