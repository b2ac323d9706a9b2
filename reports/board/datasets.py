"""Whether the entries of a board were asked the same: what differs is said, and not ranked beside.

The one idea: a score over fewer queries, or over other data, is another score, and nobody sees that
from the number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mmeb_harness.reports.board.leaderboard import Entry
from mmeb_harness.reports.board.remarks import some_of
from mmeb_harness.result import TaskResult


def of_fewer_queries(entries: Sequence[Entry], known: int) -> list[Entry]:
    """Mark as limited the entries with fewer queries of a task than others, or than `known`."""
    most: Counter[str] = Counter()
    for entry in entries:
        for result in _scored(entry):
            most[result.name] = max(most[result.name], result.n_queries, known)
    return [_limited(entry, most) for entry in entries]


def _limited(entry: Entry, most: Mapping[str, int]) -> Entry:
    scored = [result for result in _scored(entry) if result.n_queries]
    fewer = [result for result in scored if result.n_queries < most[result.name]]
    if not fewer or entry.limit is not None:
        return entry
    least = min(fewer, key=lambda result: result.n_queries)
    counts = f"{least.n_queries:,} of {most[least.name]:,} of {least.name}"
    names = some_of([result.name for result in fewer], len(scored))
    remark = f"{names}: fewer queries than others have ({counts}): not ranked"
    return replace(entry, limit=least.n_queries, remarks=(remark, *entry.remarks))


def of_other_data(entries: Sequence[Entry]) -> list[Entry]:
    """Say of entries which tasks were scored on other data than most entries of the board."""
    digests: dict[str, Counter[str]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.name, entry.variant)):
        for name, digest in _digests(entry):
            digests.setdefault(name, Counter())[digest] += 1
    usual = {name: counts.most_common(1)[0][0] for name, counts in digests.items()}
    return [_told(entry, usual) for entry in entries]


def _told(entry: Entry, usual: Mapping[str, str]) -> Entry:
    found = dict(_digests(entry))
    other = [name for name, digest in found.items() if digest != usual[name]]
    if not other:
        return entry
    remark = f"{some_of(other, len(found))}: other data than that of the other runs"
    return replace(entry, remarks=(remark, *entry.remarks))


def _digests(entry: Entry) -> Iterable[tuple[str, str]]:
    for result in _scored(entry):
        if result.data_digest is not None:
            yield result.name, result.data_digest


def _scored(entry: Entry) -> list[TaskResult]:
    if entry.run is None:
        return []
    return [result for name, result in entry.run.tasks.items() if name in entry.scores]
