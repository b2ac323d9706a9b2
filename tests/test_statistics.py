"""Intervals are right: scipy's where it has them, and by how often they hold the truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from mmeb_harness.rows import Hits
from mmeb_harness.statistics import (
    average_interval,
    paired_difference,
    published_average_interval,
    published_interval,
    separated,
    standard_error,
    student,
    task_interval,
)
from mmeb_harness.summary import Cluster, Interval, wilson
from numpy.random import Generator, default_rng
from scipy import stats

COVERED = 0.93, 0.975
"""How often 95 % intervals must hold the truth."""


def alone(hits: int, queries: int) -> list[Cluster]:
    """Return a task in which each query shows its own image."""
    return [c for c in (Cluster(1, 0.0, queries - hits), Cluster(1, 1.0, hits)) if c.number]


def counted(sizes: Sequence[int], hits: Sequence[float]) -> list[Cluster]:
    counts = Counter(zip(sizes, hits, strict=True))
    return [Cluster(size, hit, count) for (size, hit), count in counts.items()]


def width(interval: Interval) -> float:
    return interval.high - interval.low


# -- one task -----------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 2, 7, 60, 1000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_a_task_without_clusters_has_wilsons_interval(queries: int, share: float) -> None:
    hits = round(share * queries)
    interval = task_interval(alone(hits, queries))
    assert interval == pytest.approx(wilson(hits / queries, queries), abs=1e-9)
    oracle = stats.binomtest(hits, queries).proportion_ci(method="wilson")
    assert interval == pytest.approx((oracle.low, oracle.high), abs=1e-9)


@pytest.mark.parametrize("hit_clusters", [3, 100, 197])
def test_queries_that_stand_and_fall_together_count_as_one(hit_clusters: int) -> None:
    together = task_interval([Cluster(5, 5.0, hit_clusters), Cluster(5, 0.0, 200 - hit_clusters)])
    assert together == pytest.approx(wilson(hit_clusters / 200, 200), abs=0.006)
    assert width(together) > 1.8 * width(wilson(hit_clusters / 200, 1000))


def test_queries_of_one_image_that_do_not_depend_on_each_other_count_almost_as_many() -> None:
    sizes = np.full(400, 4)
    hits = default_rng(0).binomial(4, 0.4, 400).astype(float)
    interval = task_interval(counted(sizes.tolist(), hits.tolist()))
    assert width(interval) == pytest.approx(width(wilson(hits.sum() / 1600, 1600)), rel=0.08)


def test_hits_in_part_vary_less_and_give_a_narrower_interval_that_is_not_empty() -> None:
    half = task_interval([Cluster(1, 0.5, 100)])
    some = task_interval([Cluster(1, 0.5, 50), Cluster(1, 0.0, 25), Cluster(1, 1.0, 25)])
    whole = wilson(0.5, 100)
    assert 0.01 < width(half) < 0.3 * width(whole)
    assert width(some) == pytest.approx(width(whole) / math.sqrt(2), rel=0.05)


def test_clusters_counted_together_or_apart_are_the_same() -> None:
    together = task_interval([Cluster(2, 1.0, 30), Cluster(3, 3.0, 20)])
    apart = task_interval([Cluster(3, 3.0, 1)] * 20 + [Cluster(2, 1.0, 1)] * 30)
    assert apart == pytest.approx(together, abs=1e-12)


def test_one_image_tells_next_to_nothing_however_many_its_queries() -> None:
    assert width(task_interval([Cluster(500, 250.0, 1)])) > 0.5
    assert width(task_interval([Cluster(500, 500.0, 1), Cluster(1, 0.0, 20)])) > 0.5


@pytest.mark.parametrize("hits", [0.0, 3.0])
def test_few_clusters_all_hit_or_none_still_leave_doubt(hits: float) -> None:
    interval = task_interval([Cluster(3, hits, 20)])
    assert width(wilson(hits / 3, 60)) < width(interval) < width(wilson(hits / 3, 20))


def test_students_quantile_is_that_of_scipy() -> None:
    for freedom in (3, 4.5, 10, 59, 1e6):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


# -- averages -----------------------------------------------------------------------------------


def drawn(generator: Generator, rate: float, clusters: int) -> tuple[list[int], list[float]]:
    """Return sizes and hits of clusters of 1 to 5 queries that hang together."""
    sizes = generator.integers(1, 6, clusters)
    rates = generator.beta(2 * rate, 2 * (1 - rate), clusters)
    return sizes.tolist(), generator.binomial(sizes, rates).astype(float).tolist()


def test_the_standard_error_is_that_of_resampling_clusters() -> None:
    generator = default_rng(1)
    tasks = [drawn(generator, rate, 300) for rate in (0.3, 0.6, 0.9)]
    draws = []
    for sizes, hits in tasks:
        chosen = generator.integers(0, 300, (4000, 300))
        draws.append(np.array(hits)[chosen].sum(axis=1) / np.array(sizes)[chosen].sum(axis=1))
    resampled = float(np.mean(draws, axis=0).std())
    clustered = [counted(sizes, hits) for sizes, hits in tasks]
    assert standard_error(clustered) == pytest.approx(resampled, rel=0.05)
    unclustered = [alone(round(sum(hits)), sum(sizes)) for sizes, hits in tasks]
    assert standard_error(unclustered) < 0.9 * resampled
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    assert average_interval(clustered) == pytest.approx((low, high), abs=0.003)


def test_scipys_bootstrap_gives_the_same_interval() -> None:
    generator = default_rng(2)
    sizes, hits = (np.array(part) for part in drawn(generator, 0.5, 250))

    def rate(sizes: np.ndarray, hits: np.ndarray, axis: int) -> np.ndarray:
        return hits.sum(axis=axis) / sizes.sum(axis=axis)

    found = stats.bootstrap(
        (sizes, hits), rate, paired=True, n_resamples=4000, rng=generator, method="BCa"
    )
    oracle = found.confidence_interval
    interval = average_interval([counted(sizes.tolist(), hits.tolist())])
    assert interval == pytest.approx((oracle.low, oracle.high), abs=0.006)


def test_an_average_is_surer_than_its_tasks() -> None:
    task = alone(30, 100)
    assert width(average_interval([task] * 4)) == pytest.approx(
        width(task_interval(task)) / 2, rel=0.02
    )
    assert average_interval([task]) == task_interval(task)


def test_an_average_of_unlike_tasks_varies_as_they_do_and_not_as_their_mean() -> None:
    unlike = average_interval([alone(2, 100), alone(98, 100)])
    assert width(unlike) < 0.4 * width(wilson(0.5, 200))
    error = math.sqrt(2 * 0.02 * 0.98 / 99) / 2
    assert width(unlike) == pytest.approx(2 * 1.96 * error, rel=0.3)


@pytest.mark.parametrize("hits", [0, 60])
def test_an_average_of_tasks_without_a_hit_or_a_miss_still_leaves_doubt(hits: int) -> None:
    interval = average_interval([alone(hits, 60)] * 4)
    assert interval == pytest.approx(wilson(hits / 60, 237), abs=1e-9)
    assert standard_error([alone(hits, 60)] * 4) > 0.001


def test_published_scores_have_binomial_intervals_over_a_thousand_queries() -> None:
    oracle = stats.binomtest(652, 1000).proportion_ci(method="wilson")
    assert published_interval(0.652) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    assert published_average_interval([0.652]) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    rates = [0.1, 0.6, 0.97]
    same = average_interval([alone(round(1000 * rate), 1000) for rate in rates])
    assert published_average_interval(rates) == pytest.approx(same, abs=1e-9)


# -- two ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [  # Newcombe (1998), Table II, method 10: whether its interval leaves 0 out
        ((56, 70), (48, 80), True),
        ((9, 10), (3, 10), True),
        ((6, 7), (2, 7), True),
        ((5, 56), (0, 29), False),
        ((0, 10), (0, 20), False),
    ],
)
def test_rates_measured_apart_are_told_apart_as_published(
    a: tuple[int, int], b: tuple[int, int], apart: bool
) -> None:
    rates = [(hits / queries, wilson(hits / queries, queries)) for hits, queries in (a, b)]
    assert separated(*rates[0], *rates[1]) is apart
    assert separated(*rates[1], *rates[0]) is apart


def test_overlapping_intervals_may_be_separated_and_a_rate_never_is_from_itself() -> None:
    a, b = wilson(0.50, 1000), wilson(0.55, 1000)
    assert a.high > b.low
    assert separated(0.50, a, 0.55, b)
    assert not separated(0.50, a, 0.50, a)


def queries(values: Sequence[float], size: int = 1) -> Hits:
    """Return queries in clusters of a size."""
    places = np.arange(len(values), dtype=np.int32) // size
    return Hits(np.array(values, dtype=np.float64), places)


def two_runs(generator: Generator, count: int, size: int = 1) -> tuple[Hits, Hits]:
    """Return two runs of one distribution, alike within clusters and to each other."""
    base = np.repeat(generator.random(count // size), size)
    rows = [base + 0.7 * generator.random(count) < 0.85 for _ in range(2)]
    return queries(rows[0], size), queries(rows[1], size)


def test_a_paired_interval_is_bonett_and_prices() -> None:
    a = queries([1.0] * 30 + [0.0] * 12 + [1.0] * 158)
    b = queries([0.0] * 30 + [1.0] * 12 + [1.0] * 158)
    found = paired_difference([a], [b])
    one, other = 31 / 202, 13 / 202
    error = math.sqrt((one + other - (one - other) ** 2) / 202)
    assert found.value == pytest.approx(18 / 200)
    assert found.standard_error == pytest.approx(error, rel=0.01)
    reach = stats.t.ppf(0.975, 199) * error
    expected = (one - other - reach, one - other + reach)
    assert found.interval == pytest.approx(expected, abs=5e-4)


def test_a_paired_difference_sees_more_than_two_intervals_and_turns_with_the_runs() -> None:
    a, b = queries([1.0] * 520 + [0.0] * 480), queries([1.0] * 500 + [0.0] * 500)
    found, turned = paired_difference([a], [b]), paired_difference([b], [a])
    assert found.is_separated
    assert not separated(0.52, wilson(0.52, 1000), 0.5, wilson(0.5, 1000))
    assert turned.value == -found.value
    assert turned.interval == pytest.approx((-found.interval.high, -found.interval.low))


def test_a_paired_standard_error_is_that_of_resampling_clusters() -> None:
    generator = default_rng(3)
    pairs = [two_runs(generator, 1200, 4) for _ in range(2)]
    draws = []
    for a, b in pairs:
        difference = (a.hit_at_1 - b.hit_at_1).reshape(-1, 4).sum(axis=1)
        draws.append(difference[generator.integers(0, 300, (4000, 300))].sum(axis=1) / 1200)
    found = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    assert found.standard_error == pytest.approx(np.mean(draws, axis=0).std(), rel=0.05)


def test_clusters_make_a_paired_difference_less_sure() -> None:
    a = np.repeat(default_rng(4).random(100) < 0.5, 4).astype(float)
    b = np.repeat(default_rng(5).random(100) < 0.5, 4).astype(float)
    together, apart = (paired_difference([queries(a, s)], [queries(b, s)]) for s in (4, 1))
    assert together.value == apart.value
    assert together.standard_error == pytest.approx(2 * apart.standard_error, rel=0.05)


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_a_run_does_not_differ_from_itself(rate: float) -> None:
    run = [queries((default_rng(6).random(64) < rate).astype(float)) for _ in range(3)]
    found = paired_difference(run, run)
    assert found.value == 0
    assert found.standard_error > 0
    assert found.interval.low < 0 < found.interval.high
    assert not found.is_separated


# -- how often the truth is held ------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("count", [60, 200, 1000])
def test_intervals_of_tasks_hold_the_truth_by_all_outcomes(rate: float, count: int) -> None:
    covered = 0.0
    for hits, chance in enumerate(stats.binom.pmf(range(count + 1), count, rate)):
        low, high = task_interval(alone(hits, count))
        covered += chance * (low <= rate <= high)
    assert COVERED[0] < covered < COVERED[1]


@pytest.mark.parametrize(
    ("rates", "number"), [((0.02, 0.02), 60), ((0.5, 0.02), 60), ((0.98, 0.02), 200)]
)
def test_intervals_of_two_tasks_hold_the_truth_by_all_likely_outcomes(
    rates: tuple[float, float], number: int
) -> None:
    likely = [
        [(hits, chance) for hits, chance in enumerate(chances) if chance > 1e-4]
        for chances in (stats.binom.pmf(range(number + 1), number, rate) for rate in rates)
    ]
    truth, covered = sum(rates) / 2, 0.0
    for first, chance in likely[0]:
        for second, other in likely[1]:
            low, high = average_interval([alone(first, number), alone(second, number)])
            covered += chance * other * (low <= truth <= high)
    assert COVERED[0] < covered < COVERED[1]


def simulated(
    generator: Generator, rate: float, count: int, size: int, alike: float
) -> list[Cluster]:
    """Return a task of clusters whose queries follow, each with a chance, one toss of theirs."""
    number = count // size
    common = generator.random((number, 1)) < rate
    own = generator.random((number, size)) < rate
    follows = generator.random((number, size)) < math.sqrt(alike)
    hits = np.where(follows, common, own).sum(axis=1)
    return counted([size] * number, hits.tolist())


@pytest.mark.thorough
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.98])
@pytest.mark.parametrize(
    ("tasks", "count", "size", "alike"),
    [(36, 60, 1, 0.0), (4, 200, 1, 0.0), (1, 200, 4, 0.3), (1, 60, 4, 1.0), (4, 200, 4, 0.7),
     (36, 60, 3, 0.5)],
)  # fmt: skip
def test_intervals_hold_the_truth_in_simulations(
    rate: float, tasks: int, count: int, size: int, alike: float
) -> None:
    generator, trials, covered = default_rng(7), 1000, 0
    for _ in range(trials):
        sample = [simulated(generator, rate, count, size, alike) for _ in range(tasks)]
        low, high = average_interval(sample)
        covered += low <= rate <= high
    # the bounds, and two standard errors of the simulation
    assert COVERED[0] - 0.014 < covered / trials < COVERED[1] + 0.010


@pytest.mark.thorough
@pytest.mark.parametrize(("tasks", "size"), [(1, 1), (4, 1), (4, 4), (36, 1)])
def test_paired_intervals_hold_the_truth_in_simulations(tasks: int, size: int) -> None:
    generator, trials, covered = default_rng(8), 600, 0
    for _ in range(trials):
        pairs = [two_runs(generator, 200, size) for _ in range(tasks)]
        low, high = paired_difference(*zip(*pairs, strict=True)).interval
        covered += low <= 0 <= high
    assert COVERED[0] - 0.018 < covered / trials < COVERED[1] + 0.012


def test_two_scores_apart_are_told_by_the_sides_of_their_intervals_that_face_each_other() -> None:
    """Of skewed intervals only the near sides count (Newcombe)."""
    low, high = Interval(0.09, 0.20), Interval(0.12, 0.40)
    # 0.30 - 0.10 against hypot(0.30 - 0.12, 0.20 - 0.10) = 0.206, or, by the far sides, 0.1005
    assert not separated(0.30, high, 0.10, low)
    assert not separated(0.10, low, 0.30, high)
    assert separated(0.40, Interval(0.22, 0.41), 0.10, low)  # 0.30 against 0.206


def test_one_cluster_alone_is_as_sure_as_one_query() -> None:
    (low, high) = task_interval([Cluster(50, 25.0, 1)])
    assert high - low > 0.75
