"""Ranks, and which of them mean something.

The one idea: a rank orders numbers, a group says which of them chance could have ordered otherwise.
Rank is by the overall score (1, 2, 2, 4; equal means equal to a billionth, not as shown). A group
is led by the best entry that is in none yet, and takes in all entries after it that cannot be told
from it at 95 %; two of one group need not be tied with each other. Nothing is corrected for the
number of comparisons: this is a reading aid, `compare` is the test.

Two runs over the same queries are compared query by query; whatever else, published scores too, as
if each had its own queries, which tells less apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mmeb_harness.hits import RunHits, fits
from mmeb_harness.reports.board.leaderboard import Entry
from mmeb_harness.result import Run
from mmeb_harness.rows import Hits
from mmeb_harness.statistics import paired_difference, separated

DIGITS = 9
"""Averages are equal if they are so far: more digits are the rounding of the sum."""

OVERALL = "overall"

Rows = Sequence[Hits]
ReadRows = Callable[[Run], Rows | None]


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries best first with rank and group; those without a rank come last."""
    entries = list(entries)
    fit = sorted(filter(_is_rankable, entries), key=_order)
    unfit = sorted((entry for entry in entries if not _is_rankable(entry)), key=_order)
    ranks, groups = _ranks(fit), _groups(fit)
    return [
        *(
            replace(entry, rank=rank, group=group)
            for entry, rank, group in zip(fit, ranks, groups, strict=True)
        ),
        *(replace(entry, rank=None, group=None) for entry in unfit),
    ]


def _is_rankable(entry: Entry) -> bool:
    return entry.complete and OVERALL in entry.scores


def _order(entry: Entry) -> tuple[bool, bool, float, str, str, str, str]:
    """Sort by overall score; without one, or with part of the queries only, by name at the end."""
    score = entry.scores.get(OVERALL)
    folder = "" if entry.run is None else str(entry.run.output_dir.absolute())
    return (
        entry.limit is not None,
        score is None,
        0.0 if score is None else -round(score.value, DIGITS),
        entry.name,
        entry.kind,
        entry.variant,
        folder,
    )


def _overall(entry: Entry) -> float:
    return round(entry.scores[OVERALL].value, DIGITS)


def _ranks(entries: Sequence[Entry]) -> list[int]:
    """Return competition ranks of entries in order: equals share the place of the first."""
    ranks: list[int] = []
    for place, entry in enumerate(entries, start=1):
        tied = place > 1 and _overall(entry) == _overall(entries[place - 2])
        ranks.append(ranks[-1] if tied else place)
    return ranks


def _groups(entries: Sequence[Entry]) -> list[int]:
    rows_of = _reader()
    groups = [0] * len(entries)
    number = 0
    for place, leader in enumerate(entries):
        if groups[place]:
            continue
        number += 1
        for other in range(place, len(entries)):
            if not groups[other] and not _told_apart(leader, entries[other], rows_of):
                groups[other] = number
    return groups


def _told_apart(a: Entry, b: Entry, rows_of: ReadRows) -> bool:
    """Tell whether the overall scores of two entries differ by more than chance (95 %).

    Without an interval nothing is claimed: such an entry is a group of its own.
    """
    if a is b or _overall(a) == _overall(b):
        return False
    high, low = (a, b) if _overall(a) > _overall(b) else (b, a)
    above, below = high.scores[OVERALL], low.scores[OVERALL]
    if above.interval is None or below.interval is None:
        return True
    reach = (above.value - above.interval.low) + (below.interval.high - below.value)
    if above.value - below.value > reach:  # even if their errors were opposite
        return True
    if high.run is not None and low.run is not None and _same_data(high.run, low.run):
        rows = rows_of(high.run), rows_of(low.run)
        if rows[0] is not None and rows[1] is not None:
            low_end, high_end = paired_difference(rows[0], rows[1]).interval
            return not low_end <= 0 <= high_end
    return separated(above.value, above.interval, below.value, below.interval)


def _same_data(a: Run, b: Run) -> bool:
    """Tell whether two runs are known to be over the same queries in the same order."""
    return a.tasks.keys() == b.tasks.keys() and all(
        result.data_digest is not None
        and result.data_digest == b.tasks[name].data_digest
        and result.n_queries == b.tasks[name].n_queries
        for name, result in a.tasks.items()
    )


def _reader() -> ReadRows:
    """Return what reads a run's rows once: for one board only, since files change."""
    known: dict[Path, Rows | None] = {}

    def read(run: Run) -> Rows | None:
        if run.output_dir not in known:
            known[run.output_dir] = _rows(run)
        return known[run.output_dir]

    return read


def _rows(run: Run) -> Rows | None:
    """Read what became of each query, by the names of tasks in order; None where that is not kept
    for all of them, or is not what their results say.

    Raises:
        UsageError: for a damaged table.
    """
    rows, kept = [], RunHits(run)
    for name, result in sorted(run.tasks.items()):
        hits = kept.of(name)
        if hits is None or not fits(hits, result):
            return None
        rows.append(hits)
    return rows
