"""From vectors to outcomes: arrays in, numbers out, no device and no files.

The one idea: MMEB stores the gold first, so whoever breaks ties by order gives a constant encoder
100 %. Here candidates tie within a tolerance, and hit@1 is its expectation over the orders of the
tied, so that a constant encoder scores chance.

Shapes: N queries, B of them at once, M distinct items, P of them candidates of the block, D
dimensions, K candidates of one query (at most, of a block), T of them kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import TaskError
from mmeb_harness.rowwise import over_rows
from mmeb_harness.taskdata import Ragged, gold_counts, gold_marks
from numpy.typing import NDArray

Scoring = Literal["expected", "reference"]
Similarity = Literal["cosine", "dot"]

TIE_TOLERANCE = 1e-6
"""Scores tie within this times max(1, |score|): BLAS gives equal vectors unequal scores."""

TOP = 10
"""How many of the best candidates are kept with each query."""

BLOCK = 1024
"""Queries scored at once, at most."""

BLOCK_SCORES = 1 << 23
"""Scores of a product at most (32 MiB), where a block has several queries."""

ROWS_IN_CACHE = 64
"""Vectors that are normalised at a time."""

SPARSE = 8
"""How many times a query's own candidates the whole pool may be for one product with it to be
quicker than a product a query, which must first collect its rows."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What became of each query (N,): how many candidates beat, and tie with, its best gold.

    `tied` counts the gold itself, `tied_gold` the gold among the tied. `top_candidates` and
    `top_scores` (N, up to TOP) hold places in the query's own candidate list, best first.
    """

    better: NDArray[np.int32]
    tied: NDArray[np.int32]
    tied_gold: NDArray[np.int32]
    hit_at_1: NDArray[np.float64]
    top_candidates: list[NDArray[np.int32]]
    top_scores: list[NDArray[np.float32]]


def score_task(
    vectors_MD: Vectors,
    queries: NDArray[np.int32],
    candidates: Ragged,
    gold: Ragged,
    *,
    similarity: Similarity = "cosine",
    scoring: Scoring = "expected",
    overwrite: bool = False,
) -> Outcomes:
    """Score every query against its own candidates, each distinct pair once, in float32.

    With `overwrite` the vectors may be brought to unit length in their place, which saves a copy.
    """
    if similarity == "cosine":
        vectors_MD = normalised(vectors_MD, out=vectors_MD if overwrite else None)
    parts = []
    for block in _blocks(candidates):
        with np.errstate(over="ignore", invalid="ignore"):  # found below, with the query's number
            scores_BK = _block_scores(vectors_MD, queries, candidates, block)
        lengths_B = candidates.lengths[block.start : block.stop]
        _check_finite(scores_BK, lengths_B, block, similarity)
        is_gold_BK = gold_marks(candidates, gold, block)
        parts.append(_block_outcomes(scores_BK, is_gold_BK, lengths_B, scoring))
    return _joined(parts)


def _blocks(candidates: Ragged) -> Iterator[range]:
    """Cut the queries into blocks whose products with the whole pool are not too large."""
    total = len(candidates)
    pool = len(_distinct(candidates.values, int(candidates.values.max(initial=-1)) + 1))
    widest = max(pool, int(candidates.lengths.max(initial=1)))
    step = max(1, min(BLOCK, BLOCK_SCORES // widest))
    return (range(start, min(start + step, total)) for start in range(0, total, step))


def _distinct(items: NDArray[np.int32], bound: int) -> NDArray[np.int64]:
    """Return the distinct numbers below `bound` of some that repeat a lot, in order."""
    there = np.zeros(bound, dtype=bool)
    there[items] = True
    return np.flatnonzero(there)


def _block_scores(
    vectors_MD: Vectors, queries: NDArray[np.int32], candidates: Ragged, block: range
) -> NDArray[np.float32]:
    """Scores of some queries, -inf behind the shorter lists: each distinct pair once."""
    query_BD = vectors_MD[queries[block.start : block.stop]]
    rows_BK = candidates.padded(block, -1)
    lengths_B = candidates.lengths[block.start : block.stop]
    mentioned = rows_BK[0] if rows_BK.strides[0] == 0 else rows_BK  # all queries share a pool
    pool_P = _distinct(mentioned[mentioned >= 0], len(vectors_MD))
    if len(block) > 1 and len(pool_P) > SPARSE * int(lengths_B.max()):
        scores_BK = np.zeros(rows_BK.shape, dtype=np.float32)
        for row, number in enumerate(block):
            own, place = np.unique(candidates[number], return_inverse=True)
            scores_BK[row, : len(place)] = (vectors_MD[own] @ query_BD[row])[place]
    else:
        place_M = np.zeros(len(vectors_MD) + 1, dtype=np.int32)  # one more, for the filling
        place_M[pool_P] = np.arange(len(pool_P))
        scores_BP = query_BD @ _chosen(vectors_MD, pool_P).T
        flat_B1 = np.arange(0, scores_BP.size, len(pool_P))[:, None]  # where each row begins
        scores_BK = np.take(scores_BP, np.take(place_M, rows_BK) + flat_B1)
    if rows_BK.shape[1] > lengths_B.min():
        scores_BK[rows_BK < 0] = -np.inf
    return scores_BK


def _chosen(vectors_MD: Vectors, items_P: NDArray[np.integer]) -> Vectors:
    """Return rows, without copying them where they lie side by side."""
    first, count = int(items_P[0]), len(items_P)
    side_by_side = int(items_P[-1]) - first + 1 == count
    chosen: Vectors = vectors_MD[slice(first, first + count) if side_by_side else items_P]
    return chosen


def _check_finite(
    scores_BK: NDArray[np.float32],
    lengths_B: NDArray[np.int64],
    block: range,
    similarity: Similarity,
) -> None:
    good_B = np.isfinite(scores_BK).sum(axis=1) == lengths_B
    if not good_B.all():
        row = block[int(np.argmin(good_B))]
        raise TaskError(f"the scores of query {row} are not finite (similarity {similarity})")


def _block_outcomes(
    scores_BK: NDArray[np.float32],
    is_gold_BK: NDArray[np.bool_],
    lengths_B: NDArray[np.int64],
    scoring: Scoring,
) -> Outcomes:
    """Compare each query's candidates with its best gold; the comparisons are in float32."""
    best_B = np.where(is_gold_BK, scores_BK, -np.inf).max(axis=1).astype(np.float64)
    tolerance_B = TIE_TOLERANCE * np.maximum(1.0, np.abs(best_B))
    best_B1, tolerance_B1 = (one.astype(np.float32)[:, None] for one in (best_B, tolerance_B))
    above_BK = scores_BK - best_B1
    tied_BK = np.abs(above_BK) <= tolerance_B1
    better = (above_BK > tolerance_B1).sum(axis=1)
    tied, tied_gold = tied_BK.sum(axis=1), (tied_BK & is_gold_BK).sum(axis=1)
    top_BT = _top(scores_BK)
    counts = np.minimum(lengths_B, TOP).tolist()
    top_scores = np.take_along_axis(scores_BK, top_BT, axis=1)
    if scoring == "expected":
        hits = np.where(better > 0, 0.0, tied_gold / np.maximum(tied, 1))
    else:
        hits = np.take_along_axis(is_gold_BK, top_BT[:, :1], axis=1)[:, 0].astype(np.float64)
    return Outcomes(
        better=better.astype(np.int32),
        tied=tied.astype(np.int32),
        tied_gold=tied_gold.astype(np.int32),
        hit_at_1=hits,
        top_candidates=[row[:count] for row, count in zip(top_BT, counts)],
        top_scores=[row[:count] for row, count in zip(top_scores, counts)],
    )


def _top(scores_BK: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the places of the best TOP of each row, (B, T), equal scores in their order."""
    falling_BK = -scores_BK
    count = min(TOP, falling_BK.shape[1])
    last_B1 = np.partition(falling_BK, count - 1, axis=1)[:, count - 1 : count]
    rows, places = np.nonzero(falling_BK <= last_B1)  # the best, and all that equal the last
    order = np.lexsort((falling_BK[rows, places], rows))
    starts_B = np.searchsorted(rows, np.arange(len(falling_BK)))
    best_BT = places[order[starts_B[:, None] + np.arange(count)]]
    return best_BT.astype(np.int32)


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(
        better=np.concatenate([part.better for part in parts]),
        tied=np.concatenate([part.tied for part in parts]),
        tied_gold=np.concatenate([part.tied_gold for part in parts]),
        hit_at_1=np.concatenate([part.hit_at_1 for part in parts]),
        top_candidates=[row for part in parts for row in part.top_candidates],
        top_scores=[row for part in parts for row in part.top_scores],
    )


def normalised(vectors_MD: Vectors, out: Vectors | None = None) -> Vectors:
    """Return rows of unit length, in `out` if given; a zero row stays zero, and so ties with
    everything.

    Rows that differ in length alone become the same numbers, and so tie: to divide their products
    afterwards would round each of them its own way.
    """
    unit_MD = np.empty(vectors_MD.shape, dtype=np.float32) if out is None else out

    def normalise(rows: slice) -> None:
        for start in range(rows.start, rows.stop, ROWS_IN_CACHE):
            part = slice(start, min(start + ROWS_IN_CACHE, rows.stop))
            _normalise(vectors_MD[part], unit_MD[part])

    over_rows(len(unit_MD), normalise)
    return unit_MD


def _normalise(block: Vectors, out: Vectors) -> None:
    largest = np.maximum(block.max(axis=1, keepdims=True), -block.min(axis=1, keepdims=True))
    # without this, squares would leave float32's range
    np.divide(block, np.where(largest > 0, largest, 1), out=out)
    norms = np.sqrt(np.vecdot(out, out))[:, None]
    np.divide(out, np.where(norms > 0, norms, 1), out=out)


def chance(candidates: Ragged, gold: Ragged) -> float:
    """Return the hit@1 of a random order: the mean share of gold among the candidates."""
    return float(np.mean(gold_counts(candidates, gold) / candidates.lengths))
