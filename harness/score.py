"""From vectors to outcomes: arrays in, numbers out, no device and no files.

The one idea: MMEB stores the gold first, so whoever breaks ties by order gives a constant encoder
100 %. Here candidates tie within a tolerance, and hit@1 is its expectation over the orders of the
tied, so that a constant encoder scores chance.

Shapes: N queries, M distinct items, D dimensions, K candidates of one query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import TaskError
from mmeb_harness.taskdata import Ragged
from numpy.typing import NDArray

Scoring = Literal["expected", "reference"]
Similarity = Literal["cosine", "dot"]

TIE_TOLERANCE = 1e-6
"""Scores tie within this times max(1, |score|): BLAS gives equal vectors unequal scores."""

TOP = 10
"""How many of the best candidates are kept with each query."""

BLOCK = 64
"""Queries scored at once."""


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
) -> Outcomes:
    """Score every query against its own candidates, each distinct pair once, in float32."""
    vectors_MD = normalised(vectors_MD) if similarity == "cosine" else vectors_MD
    better, tied, tied_gold, hits = [], [], [], []
    top_candidates, top_scores = [], []
    for start in range(0, len(queries), BLOCK):
        block = range(start, min(start + BLOCK, len(queries)))
        for row, scores_K in zip(block, _block_scores(vectors_MD, queries, candidates, block)):
            if not np.isfinite(scores_K).all():
                raise TaskError(
                    f"the scores of query {row} are not finite (similarity {similarity})"
                )
            is_gold_K = np.isin(candidates[row], gold[row])
            counts = _compare(scores_K, is_gold_K)
            order = np.argsort(-scores_K, kind="stable")[:TOP].astype(np.int32)
            better.append(counts[0])
            tied.append(counts[1])
            tied_gold.append(counts[2])
            hits.append(
                _expected_hit(*counts) if scoring == "expected" else float(is_gold_K[order[0]])
            )
            top_candidates.append(order)
            top_scores.append(scores_K[order])
    return Outcomes(
        better=np.array(better, dtype=np.int32),
        tied=np.array(tied, dtype=np.int32),
        tied_gold=np.array(tied_gold, dtype=np.int32),
        hit_at_1=np.array(hits, dtype=np.float64),
        top_candidates=top_candidates,
        top_scores=top_scores,
    )


def _block_scores(
    vectors_MD: Vectors, queries: NDArray[np.int32], candidates: Ragged, block: range
) -> list[NDArray[np.float32]]:
    """Scores of some queries; candidates they share are multiplied once, as one product."""
    rows = [candidates[row] for row in block]
    query_BD = vectors_MD[queries[block.start : block.stop]]
    pool, place = np.unique(np.concatenate(rows), return_inverse=True)
    if len(pool) > 4 * max(len(row) for row in rows):  # little is shared: one product a query
        return [_distinct_scores(vectors_MD, row, q_D) for row, q_D in zip(rows, query_BD)]
    scores_BP = query_BD @ vectors_MD[pool].T
    bounds = np.cumsum([len(row) for row in rows])[:-1]
    return [scores_BP[i, part] for i, part in enumerate(np.split(place, bounds))]


def _distinct_scores(
    vectors_MD: Vectors, row: NDArray[np.int32], query_D: Vectors
) -> NDArray[np.float32]:
    pool, place = np.unique(row, return_inverse=True)
    scores: NDArray[np.float32] = (vectors_MD[pool] @ query_D)[place]
    return scores


def _compare(scores_K: NDArray[np.float32], is_gold_K: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Count the candidates better than the best gold, tied with it, and gold among the tied."""
    best_gold = float(scores_K[is_gold_K].max())
    tolerance = TIE_TOLERANCE * max(1.0, abs(best_gold))
    tied_K = np.abs(scores_K - best_gold) <= tolerance
    better_K = scores_K > best_gold + tolerance
    return int(better_K.sum()), int(tied_K.sum()), int((tied_K & is_gold_K).sum())


def _expected_hit(better: int, tied: int, tied_gold: int) -> float:
    return 0.0 if better else tied_gold / tied


def normalised(vectors_MD: Vectors) -> Vectors:
    """Return rows of unit length; a zero row stays zero, and so ties with everything."""
    largest = np.abs(vectors_MD).max(axis=1, keepdims=True)  # else squares leave float32's range
    scaled = vectors_MD / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Vectors = (scaled / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit


def chance(candidates: Ragged, gold: Ragged) -> float:
    """Return the hit@1 of a random order: the mean share of gold among the candidates."""
    shares = [
        float(np.isin(row, right).mean()) for row, right in zip(candidates, gold, strict=True)
    ]
    return float(np.mean(shares))
