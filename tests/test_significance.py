"""Paired tests: exact where scipy enumerates, right in how often they cry wolf."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from mmeb_harness import significance
from mmeb_harness.rows import Hits
from mmeb_harness.significance import holm, p_value
from numpy.random import Generator, default_rng
from scipy import stats


def queries(values: Sequence[float] | np.ndarray, size: int = 1) -> Hits:
    """Return queries in clusters of a size."""
    places = np.arange(len(values), dtype=np.int32) // size
    return Hits(np.array(values, dtype=np.float64), places)


def half_of_equals(sums: np.ndarray, observed: float) -> float:
    """Return the two-sided mid-p of an outcome among all outcomes that are equally likely."""
    beyond = sums > abs(observed) + 1e-9
    equal = np.abs(sums - abs(observed)) <= 1e-9
    return float(2 * (beyond.mean() + equal.mean() / 2))


def two_runs(
    generator: Generator, count: int, size: int = 1, rate: float = 0.5
) -> tuple[Hits, Hits]:
    """Return two runs of one distribution, alike to each other, and within clusters."""
    base = np.repeat(generator.random(count // size), size)
    levels = [(base + generator.random(count)) / 2 for _ in range(2)]
    bar = (rate / 2) ** 0.5 if rate <= 0.5 else 1 - ((1 - rate) / 2) ** 0.5
    return queries(levels[0] < bar, size), queries(levels[1] < bar, size)


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 0), (5, 0), (9, 2), (30, 12), (400, 350)])
def test_hits_and_misses_give_mcnemars_mid_p(only_a: int, only_b: int) -> None:
    a = queries([1.0] * only_a + [0.0] * only_b + [1.0] * 50)
    b = queries([0.0] * only_a + [1.0] * only_b + [1.0] * 50)
    coins = stats.binom(only_a + only_b, 0.5)
    expected = 2 * (coins.sf(only_a) + coins.pmf(only_a) / 2)
    assert p_value([a], [b]) == pytest.approx(expected, rel=1e-9)
    assert p_value([b], [a]) == pytest.approx(expected, rel=1e-9)


def test_hits_in_part_and_clusters_give_scipys_permutations() -> None:
    generator = default_rng(0)
    a, b = (generator.choice([0.0, 0.25, 0.5, 1.0], 30) for _ in range(2))
    means = [values.reshape(10, 3).sum(axis=1) for values in (a, b)]
    oracle = stats.permutation_test(
        means,
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    assert len(oracle.null_distribution) == 2**10
    expected = half_of_equals(oracle.null_distribution, float(oracle.statistic))
    assert p_value([queries(a, 3)], [queries(b, 3)]) == pytest.approx(expected, rel=1e-9)


def test_tasks_of_unlike_size_count_alike() -> None:
    a = [queries([1, 1, 1, 0, 1]), queries([1, 0, 1])]
    b = [queries([0, 0, 1, 1, 0]), queries([0, 0, 0])]
    steps = np.array([1, 1, -1, 1]) / 5, np.array([1, 1]) / 3
    magnitudes = np.abs(np.concatenate(steps))
    signs = np.array(list(itertools.product([-1, 1], repeat=len(magnitudes))))
    expected = half_of_equals(signs @ magnitudes, float(np.concatenate(steps).sum()))
    assert p_value(a, b) == pytest.approx(expected, rel=1e-9)
    pooled = p_value(
        [queries(np.concatenate([part.hit_at_1 for part in a]))],
        [queries(np.concatenate([part.hit_at_1 for part in b]))],
    )
    assert pooled != pytest.approx(expected, rel=1e-3)


def test_queries_of_one_image_are_one_coin() -> None:
    a, b = [1.0] * 40, [0.0] * 40
    assert p_value([queries(a, 8)], [queries(b, 8)]) == pytest.approx(2 * 0.5**5 / 2)
    assert p_value([queries(a)], [queries(b)]) < 1e-10


def test_draws_agree_with_what_is_exact_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    values = default_rng(0).random((2, 3, 900))
    a, b = ([queries(row < bar, 3) for row in rows] for rows, bar in zip(values, (0.52, 0.5)))
    exact = p_value(a, b)
    assert 0.001 < exact < 0.2
    monkeypatch.setattr(significance, "OUTCOMES", 0)
    drawn = p_value(a, b)
    assert drawn == pytest.approx(exact, abs=0.01)
    assert drawn == p_value(a, b)
    assert drawn * (significance.DRAWS + 1) == pytest.approx(
        round(drawn * (significance.DRAWS + 1))
    )


def test_drawn_p_values_are_never_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "OUTCOMES", 0)
    p = p_value([queries([1.0] * 200)], [queries([0.0] * 200)])
    assert p == 1 / (significance.DRAWS + 1)


@pytest.mark.parametrize("outcomes", [0, significance.OUTCOMES])
def test_a_run_with_itself_has_p_1(outcomes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "OUTCOMES", outcomes)
    run = [queries(default_rng(seed).random(64)) for seed in range(3)]
    assert p_value(run, run) == 1
    turned = queries([1.0, 0.0, 1.0]), queries([0.0, 1.0, 1.0])
    assert p_value([turned[0]], [turned[1]]) == pytest.approx(1)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("count", "size", "rate", "tasks"), [(200, 1, 0.5, 1), (200, 4, 0.5, 1), (100, 1, 0.3, 4)]
)
def test_runs_of_one_distribution_are_called_different_one_time_in_20(
    count: int, size: int, rate: float, tasks: int
) -> None:
    generator, found = default_rng(1), 0
    for _ in range(1000):
        a, b = zip(*(two_runs(generator, count, size, rate) for _ in range(tasks)), strict=True)
        found += p_value(a, b) < 0.05
    assert 35 <= found <= 65


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("count", "size", "rate", "tasks"), [(1000, 1, 0.5, 1), (1000, 5, 0.8, 1), (64, 1, 0.2, 36)]
)
def test_larger_runs_of_one_distribution_are_called_different_one_time_in_20(
    count: int, size: int, rate: float, tasks: int
) -> None:
    generator, found = default_rng(2), 0
    for _ in range(1000):
        a, b = zip(*(two_runs(generator, count, size, rate) for _ in range(tasks)), strict=True)
        found += p_value(a, b) < 0.05
    assert 35 <= found <= 65


def test_ignoring_clusters_would_cry_wolf() -> None:
    generator, found = default_rng(3), 0
    for _ in range(300):
        a, b = (np.repeat(generator.random(50) < 0.5, 4) for _ in range(2))
        found += p_value([queries(a)], [queries(b)]) < 0.05
    assert found > 60
