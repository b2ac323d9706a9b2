"""How the queries of one task fall: by the gold's rank, by the margin, by what was taken for what.

The one idea: these are counts over every query of the task, not only over those that a report
lists, so that one odd example is seen against the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from mmeb_harness.axis import value_axis
from mmeb_harness.rows import TaskItems, TaskRows
from numpy.typing import NDArray

RANKS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)
"""The last rank of each bar; one more bar holds what is beyond."""

PARTS = 4
"""Bars between two ticks of the margins' axis."""

LABELS = 24
"""A task with at most so many distinct candidate texts has a table of confusions."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The bar at a place (from 0) of `count` queries; `height` is a share of the highest bar's,
    `good` tells that these are right answers."""

    place: int
    label: str
    count: int
    height: float
    good: bool


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """`counts` has a row a gold text, a column an answered one, and a last column of ties."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def highest(self) -> int:
        """The largest count."""
        return max(map(max, self.counts))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The distributions of one run over all queries; `unknown` margins lie beyond what is kept."""

    ranks: tuple[Bar, ...]
    margins: tuple[Bar, ...]
    unknown: int
    confusions: Confusions | None


def gold_ranks(rows: TaskRows) -> NDArray[np.float64]:
    """Return the rank of each query's best gold, (N,): its expectation where it is tied."""
    others = rows.tied - rows.tied_gold
    ranks: NDArray[np.float64] = 1 + rows.better + others / (rows.tied_gold + 1)
    return ranks


def margins(rows: TaskRows) -> NDArray[np.float64]:
    """Return the gold's score less the best other's, (N,): NaN where either is not in the top."""
    queries, items = _flat(rows.top_items)
    golds = _flat(rows.gold_items)
    is_gold = np.isin(_pairs(queries, items), _pairs(*golds))
    best = np.full((2, len(rows)), -np.inf)
    np.maximum.at(best, (is_gold.astype(np.int64), queries), np.concatenate(rows.top_scores))
    both = np.isfinite(best).all(axis=0)
    return np.where(both, best[1] - np.where(both, best[0], 0), np.nan)


def _flat(lists: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the query of each value, and the values, of a list a query."""
    queries = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    return queries, np.concatenate(lists).astype(np.int64)


def _pairs(queries: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each query with an item."""
    return (queries << 32) + items


def rank_bars(ranks: NDArray[np.float64], last: int | None) -> tuple[Bar, ...]:
    """Count ranks in bars that widen, up to the `last` rank that there is."""
    last = max(last or 0, math.ceil(ranks.max(initial=1)))
    ends = [end for end in RANKS if end < last] + [last]
    counts = Counter(np.searchsorted(ends, np.ceil(ranks)).tolist())
    starts = [1, *(end + 1 for end in ends)]
    return _bars([(_range(*ends_of), counts[n]) for n, ends_of in enumerate(zip(starts, ends))], 1)


def _range(first: int, last: int) -> str:
    return f"rank {first}" if first == last else f"ranks {first:,} to {last:,}"


def margin_bars(known: NDArray[np.float64], span: Sequence[float]) -> tuple[Bar, ...]:
    """Count margins in even bars over an axis that holds `span`; positive ones are good."""
    axis = value_axis([*span, 0.0])
    edges = np.linspace(axis.low, axis.high, PARTS * (len(axis.ticks) - 1) + 1)
    edges = np.round(edges, 12)  # zero is an edge, but for rounding
    counts, _ = np.histogram(known, edges)
    names = [f"{low:+.3g} to {high:+.3g}" for low, high in pairwise(edges)]
    negative = int((edges[:-1] < 0).sum())
    good = len(names) - negative
    return _bars(list(zip(names, counts.tolist())), good, last=True)


def _bars(counted: Sequence[tuple[str, int]], good: int, *, last: bool = False) -> tuple[Bar, ...]:
    """The first `good` bars, or the last ones, are of right answers."""
    highest = max((count for _, count in counted), default=0) or 1
    first = len(counted) - good if last else 0
    return tuple(
        Bar(
            place=n,
            label=label,
            count=count,
            height=count / highest,
            good=first <= n < first + good,
        )
        for n, (label, count) in enumerate(counted)
    )


def confusions(rows: TaskRows, items: TaskItems, candidates: int | None) -> Confusions | None:
    """Return what was taken for what, None where candidates are many, or are pictures.

    Where the gold is tied with others nothing was taken: the stored order would take the gold.
    """
    texts = _candidate_texts(rows, items) if candidates and candidates <= LABELS else None
    labels = tuple(sorted(set(texts.values()))) if texts else ()
    if texts is None or not 2 <= len(labels) <= LABELS:
        return None
    place = {text: n for n, text in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1), dtype=int)
    for query in range(len(rows)):
        gold, top = rows.gold_items[query], rows.top_items[query][0]
        is_tie = not rows.better[query] and rows.tied[query] > rows.tied_gold[query]
        row = place[texts[int(top if top in gold else gold[0])]]
        counts[row, len(labels) if is_tie else place[texts[int(top)]]] += 1
    return Confusions(labels=labels, counts=tuple(map(tuple, counts.tolist())))


def _candidate_texts(rows: TaskRows, items: TaskItems) -> dict[int, str] | None:
    """Return the text of each gold and each answer, None where one is a picture."""
    shown = {int(item) for row in (*rows.gold_items, *rows.top_items) for item in row}
    texts = {item: text for item in shown if (text := items.texts[item]) is not None}
    is_text = len(texts) == len(shown) and not any(items.image_digests[item] for item in shown)
    return texts if is_text else None


def spreads_of(
    runs: Sequence[TaskRows],
    margins: Sequence[NDArray[np.float64]],
    items: TaskItems,
    candidates: int | None,
) -> tuple[Spread, ...]:
    """Return each run's distributions, the margins of all on one axis."""
    known = [values[np.isfinite(values)] for values in margins]
    ends = [float(end) for values in known if len(values) for end in (values.min(), values.max())]
    return tuple(
        Spread(
            ranks=rank_bars(gold_ranks(rows), candidates),
            margins=margin_bars(kept, ends),
            unknown=len(rows) - len(kept),
            confusions=confusions(rows, items, candidates),
        )
        for rows, kept in zip(runs, known)
    )
