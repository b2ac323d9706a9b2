"""The leaderboard's measures at 1, 5 and 10, as far as a run's rows give them exactly.

The one idea: a query with one gold needs only the rank of it, among distinct candidates. The rows
keep the ten best; among candidates that tie, each order is as likely as any other. Where duplicates
or ties reach beyond the ten, the rank is not known, and a measure that needs it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mmeb_harness.rows import TaskRows

CUTS = (1, 5, 10)

Gain = Callable[[int], float]


class Place(NamedTuple):
    """Where the gold stands: one of `ties` ranks from `first` on, each as likely as the others.

    `ties` is None where only that is known: `first`, or worse.
    """

    first: int
    ties: int | None

    def mean(self, cut: int, gain: Gain) -> float | None:
        """Return the expected gain of the gold's rank, 0 beyond the cut; None if unknown."""
        if self.first > cut:
            return 0.0
        if self.ties is None:
            return None
        ranks = range(self.first, min(cut, self.first + self.ties - 1) + 1)
        return math.fsum(gain(rank) for rank in ranks) / self.ties


def measures(rows: TaskRows, scoring: str) -> dict[str, float]:
    """Return measures by their names (`hit@5`), in the leaderboard's order; hit@1 at least."""
    at_1 = float(rows.hit_at_1.mean())
    if any(len(np.unique(gold)) != 1 for gold in rows.gold_items):
        return {"hit@1": at_1}
    places = [_place(rows, query, scoring) for query in range(len(rows))]
    hit: dict[int, float | None] = {1: at_1}
    mrr: dict[int, float | None] = {1: at_1}
    ndcg: dict[int, float | None] = {1: at_1}
    for cut in CUTS[1:]:
        hit[cut] = _mean(places, cut, lambda rank: 1.0)
        mrr[cut] = _mean(places, cut, lambda rank: 1 / rank)
        ndcg[cut] = _mean(places, cut, lambda rank: 1 / math.log2(rank + 1))
    precision = {cut: _times(value, 1 / cut) for cut, value in hit.items()}
    f1 = {cut: _times(value, 2 / (cut + 1)) for cut, value in hit.items()}
    named = {
        "hit": hit, "ndcg_linear": ndcg, "ndcg_exponential": ndcg, "precision": precision,
        "recall": hit, "f1": f1, "map": mrr, "mrr": mrr,
    }  # fmt: skip
    return {
        f"{name}@{cut}": value
        for name, values in named.items()
        for cut, value in values.items()
        if value is not None
    }


def _mean(places: Sequence[Place], cut: int, gain: Gain) -> float | None:
    gains = [place.mean(cut, gain) for place in places]
    known = [value for value in gains if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(gains) else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _place(rows: TaskRows, query: int, scoring: str) -> Place:
    shown = rows.top_items[query].tolist()
    gold = int(rows.gold_items[query][0])
    if scoring == "reference":  # the order that is stored is the order that counts
        distinct = list(dict.fromkeys(shown))
        return Place(distinct.index(gold) + 1, 1) if gold in distinct else _beyond(distinct)
    better, tied = int(rows.better[query]), int(rows.tied[query])
    if better >= len(shown):
        return _beyond(shown)
    first = len(set(shown[:better])) + 1
    if tied == int(rows.tied_gold[query]):
        return Place(first, 1)
    rivals = shown[better : better + tied]
    if len(rivals) < tied or len(set(rivals)) < len(rivals):
        return Place(first, None)
    return Place(first, tied)


def _beyond(shown: Sequence[int]) -> Place:
    return Place(len(set(shown)) + 1, None)
