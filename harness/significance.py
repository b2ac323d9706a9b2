"""Whether two runs differ by more than chance: a test of paired queries, corrected for many tasks.

The one idea: were the runs equally good, then which of the two was the better on an image would be
the toss of a coin. So each cluster's difference gets a random sign, and what is asked is how often
the mean over tasks comes out as far from 0 as it did. Clusters with one difference are one binomial
draw: the answer is exact where that is cheap, else from draws of a fixed seed.

An exact answer counts half of the outcomes that are as extreme as the one seen (mid-p): exact
tests of hits and misses otherwise find too little (M. W. Fagerland, S. Lydersen and P. Laake, "The
McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact conditional",
BMC Medical Research Methodology 13 (2013)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmeb_harness.rows import Hits
from mmeb_harness.statistics import Values, cluster_differences
from numpy.typing import NDArray

LEVEL = 0.05
"""A p-value below it is called significant."""

OUTCOMES = 1_000_000
"""Sums that an exact answer may go through in one step."""

DRAWS = 19_999
DIGITS = 9


def p_value(hits_a: Sequence[Hits], hits_b: Sequence[Hits]) -> float:
    """Return the two-sided p-value of the mean over tasks of A's hit@1 less B's.

    The runs are over the same queries of the same tasks.
    """
    differences = [cluster_differences(a, b)[1] for a, b in zip(hits_a, hits_b, strict=True)]
    queries = [len(hits.hit_at_1) for hits in hits_a]
    # in queries of the largest task, which most often makes whole numbers of them
    scaled = [
        sums * (max(queries) / count) for sums, count in zip(differences, queries, strict=True)
    ]
    values = np.concatenate(scaled)
    return _sign_flip(values)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979).
    """
    given = np.array(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    steps = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty(len(given))
    corrected[order] = np.minimum(1.0, steps)
    return [float(value) for value in corrected]


def _sign_flip(values: Values) -> float:
    observed = round(abs(float(values.sum())), DIGITS)
    sizes: Values = np.round(np.abs(values), DIGITS).astype(np.float64)
    steps, counts = np.unique(sizes, return_counts=True)
    steps, counts = steps[steps > 0], counts[steps > 0]
    exact = _sums(steps, counts)
    if exact is None:
        return _drawn(steps, counts, observed)
    sums, chances = exact
    near = np.abs(sums - observed) <= _rounding(observed)
    beyond = (sums > observed) & ~near
    return float(min(1.0, 2 * (chances[beyond].sum() + chances[near].sum() / 2)))


def _sums(steps: Values, counts: NDArray[np.int64]) -> tuple[Values, Values] | None:
    """Return each sum that the signs can give, with its probability; None if there are too many."""
    sums: Values = np.zeros(1)
    chances: Values = np.ones(1)
    for step, count in zip(steps.tolist(), counts.tolist(), strict=True):
        if len(sums) * (count + 1) > OUTCOMES:
            return None
        flips: Values = np.arange(-count, count + 1, 2, dtype=np.float64)
        reached: Values = np.round(sums[:, None] + step * flips, DIGITS - 2).astype(np.float64)
        sums, place = np.unique(reached, return_inverse=True)
        weights = chances[:, None] * _coins(count)
        chances = np.bincount(place.ravel(), weights.ravel()).astype(np.float64)
    return sums, chances


def _coins(count: int) -> Values:
    """Return the probabilities of 0 to `count` heads of as many coins."""
    logs: Values = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    chances: Values = np.exp(logs[-1] - logs - logs[::-1] - count * np.log(2.0))
    return chances


def _drawn(steps: Values, counts: NDArray[np.int64], observed: float) -> float:
    """Return the share of random signs that reach what was observed, itself among them."""
    generator = np.random.default_rng(0)
    sums = np.zeros(DRAWS)
    for step, count in zip(steps.tolist(), counts.tolist(), strict=True):
        sums += step * (2 * generator.binomial(count, 0.5, DRAWS) - count)
    reached = int((np.abs(sums) >= observed - _rounding(observed)).sum())
    return (reached + 1) / (DRAWS + 1)


def _rounding(observed: float) -> float:
    return 1e-6 * max(1.0, observed)
