"""How sure a number is: intervals of rates, of their averages, and of the difference of two runs.

The one idea: queries that show one image stand or fall together, so the variance is that of
clusters, by the jackknife (which is the closed form of resampling them). It is turned into an
effective number of queries, and that goes into Wilson's interval, which stays right near 0 and 1,
where the percentiles of a bootstrap do not (no hit in 60 queries would give an interval of no
width). Pure functions of arrays. To be read with `summary`, which holds the averages themselves,
and `significance`, which has the tests.

Sources: the effective number of queries, and its correction for few clusters: E. L. Korn and B. I.
Graubard, "Confidence intervals for proportions with small expected number of positive counts
estimated from survey data", Survey Methodology 24 (1998); in Wilson's interval: N. Dean and M.
Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys",
Journal of Survey Statistics and Methodology 3 (2015). The difference of two measured apart: R. G.
Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
Medicine 17 (1998); query by query: D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval
for a difference of binomial proportions based on paired data", Journal of Educational and
Behavioral Statistics 37 (2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mmeb_harness.rows import Hits
from mmeb_harness.summary import Cluster, Interval, wilson
from numpy.typing import NDArray

Values = NDArray[np.float64]

NORMAL = 1.959963984540054
"""How many standard errors a 95 % interval reaches to either side."""

PUBLISHED_QUERIES = 1000
"""Queries of a task of MMEB, for a score of which nothing else is known."""

ALIKE = 0.3
"""Correlation of the queries of one image that is supposed until the hits tell otherwise."""

SUPPOSED = 1.0
"""The weight of that, as a number of hits."""


FEWEST = 1e-9
"""Queries beyond the first, where there is but one."""

UNLIKE = 2.0
"""Queries that are added to a pair of runs, half of them hit by one run only, half by the other."""


class Spread(NamedTuple):
    """A rate, or a mean of rates, and what is known of its variance.

    `unit` is the variance over rate (1 - rate) that is supposed before the hits are seen;
    `freedom` the degrees of freedom of the variance.
    """

    rate: float
    variance: float
    unit: float
    freedom: float


class PairedDifference(NamedTuple):
    """A mean over tasks of A's hit@1 less B's, with its 95 % interval."""

    value: float
    standard_error: float
    interval: Interval

    @property
    def is_separated(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.interval.low <= 0 <= self.interval.high


def task_interval(clusters: Sequence[Cluster]) -> Interval:
    """Return the 95 % interval of a task's hit@1: Wilson's, where each query shows its own image
    and none is hit in part."""
    return spread_interval(task_spread(clusters))


def average_interval(tasks: Sequence[Sequence[Cluster]]) -> Interval:
    """Return the 95 % interval of the plain mean over tasks of their hit@1."""
    return spread_interval(mean_spread([task_spread(clusters) for clusters in tasks]))


def published_interval(rate: float, queries: int = PUBLISHED_QUERIES) -> Interval:
    """Return the 95 % interval of a rate of which no more is known than its queries."""
    return wilson(rate, queries)


def published_average_interval(
    rates: Sequence[float], queries: int = PUBLISHED_QUERIES
) -> Interval:
    """Return the 95 % interval of the plain mean of such rates."""
    return spread_interval(mean_spread([rate_spread(rate, queries) for rate in rates]))


def standard_error(tasks: Sequence[Sequence[Cluster]]) -> float:
    """Return the standard error of the plain mean over tasks of their hit@1.

    It is never 0: where all queries are hit or none is, it comes from what is supposed.
    """
    spread = mean_spread([task_spread(clusters) for clusters in tasks])
    return math.sqrt(spread.variance + SUPPOSED * spread.unit**2)


def separated(a: float, a_interval: Interval, b: float, b_interval: Interval) -> bool:
    """Tell whether two rates (or averages), measured apart, differ by more than chance (95 %).

    Where the single queries are known on both sides, `paired_difference` sees more.
    """
    high, high_interval, low, low_interval = (
        (a, a_interval, b, b_interval) if a > b else (b, b_interval, a, a_interval)
    )
    return high - low > math.hypot(high - high_interval.low, low_interval.high - low)


def paired_difference(hits_a: Sequence[Hits], hits_b: Sequence[Hits]) -> PairedDifference:
    """Compare two runs over the same queries of the same tasks, query by query.

    Bonett and Price's interval, for clusters and averages: two queries are added on which the runs
    differ, one for each. So the standard error is never 0.
    """
    spread = mean_spread([_pair_spread(a, b) for a, b in zip(hits_a, hits_b, strict=True)])
    queries = 1 + 1 / spread.unit
    kept = queries / (queries + UNLIKE)
    error = math.hypot(kept * math.sqrt(spread.variance), math.sqrt(UNLIKE) / (queries + UNLIKE))
    centre, half = kept * spread.rate, student(spread.freedom) * error
    interval = Interval(max(-1.0, centre - half), min(1.0, centre + half))
    return PairedDifference(spread.rate, error, interval)


def cluster_differences(a: Hits, b: Hits) -> tuple[Values, Values]:
    """Return of each cluster its queries, and the sum over them of A's hit@1 less B's."""
    sizes: Values = np.bincount(a.clusters).astype(np.float64)
    sums: Values = np.bincount(a.clusters, a.hit_at_1 - b.hit_at_1).astype(np.float64)
    return sizes[sizes > 0], sums[sizes > 0]


def _pair_spread(a: Hits, b: Hits) -> Spread:
    sizes, sums = cluster_differences(a, b)
    spread = _ratio_spread(sizes, sums, np.ones(len(sizes)))
    return spread._replace(unit=1 / max(float(sizes.sum()) - 1, FEWEST))


def task_spread(clusters: Sequence[Cluster]) -> Spread:
    """Return the rate of a task and its variance."""
    return _ratio_spread(*np.array(clusters, dtype=np.float64).T)


def _ratio_spread(sizes: Values, sums: Values, counts: Values) -> Spread:
    """Return the mean of queries in clusters, and its variance by leaving each cluster out in turn.

    There are `counts` clusters of `sizes` queries each with `sums` over these.
    """
    queries, number = float(sizes @ counts), float(counts.sum())
    rate = float(sums @ counts) / queries
    alike = queries**2 / float(sizes**2 @ counts)  # how many clusters, were they of one size
    supposed = queries / (1 + ALIKE * (queries / alike - 1))
    unit = 1 / max(supposed - 1, FEWEST)
    if number == 1:  # one cluster tells nothing of its variance: as if it were one query
        return Spread(rate, abs(rate) * (1 - abs(rate)), unit, 1.0)
    left_out = (sums - rate * sizes) / (queries - sizes)
    variance = (number - 1) / number * float(left_out**2 @ counts)
    return Spread(rate, variance, unit, alike - 1)


def rate_spread(rate: float, queries: int) -> Spread:
    """Return the spread of a rate over so many queries that do not depend on each other."""
    return Spread(rate, rate * (1 - rate) / (queries - 1), 1 / (queries - 1), queries - 1)


def mean_spread(spreads: Sequence[Spread]) -> Spread:
    """Return the spread of the plain mean of rates that do not depend on each other."""
    rates, variances, units, freedoms = np.array(spreads).T
    squared = float(variances**2 @ (1 / freedoms))
    freedom = float(variances.sum()) ** 2 / squared if squared > 0 else float(freedoms.sum())
    return Spread(
        rate=math.fsum(rates) / len(spreads),
        variance=float(variances.sum()) / len(spreads) ** 2,
        unit=float(units.sum()) / len(spreads) ** 2,
        freedom=freedom,  # Welch and Satterthwaite's
    )


def spread_interval(spread: Spread) -> Interval:
    """Return the 95 % interval of what a spread is known of."""
    rate, variance, unit, freedom = spread
    # of n independent queries, hit or not, the variance is rate (1 - rate) / (n - 1)
    known = rate * (1 - rate) + SUPPOSED * unit
    others = known / (variance + SUPPOSED * unit**2)
    others *= (student(others) / student(freedom)) ** 2
    return wilson(rate, 1 + others)


def student(freedom: float) -> float:
    """Return the quantile of Student's distribution that ends a 95 % interval.

    Source: M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    z, few = NORMAL, 1 / max(freedom, 1.0)
    return (
        z
        + few * (z**3 + z) / 4
        + few**2 * (5 * z**5 + 16 * z**3 + 3 * z) / 96
        + few**3 * (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        + few**4 * (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    )
