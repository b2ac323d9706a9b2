"""Averages are plain means over complete sets; intervals are Wilson's."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from mmeb_harness.summary import mean_if_complete, summarise, wilson


class Named(NamedTuple):
    name: str
    meta_task: str
    split: str


TASKS = [
    Named("a", "classification", "ind"),
    Named("b", "classification", "ind"),
    Named("c", "classification", "ood"),
    Named("d", "vqa", "ood"),
]
SCORES = {"a": 0.1, "b": 0.2, "c": 0.6, "d": 1.0}


def test_averages_are_plain_means_over_tasks_and_never_means_of_means() -> None:
    summary = summarise(TASKS, SCORES)
    assert summary.overall == pytest.approx(1.9 / 4)
    assert summary.overall != pytest.approx((0.3 + 1.0) / 2), "a mean of the meta-tasks' means"
    assert summary.ind == pytest.approx(0.15)
    assert summary.ood == pytest.approx(0.8)
    assert summary.meta_tasks == {
        "classification": pytest.approx(0.3),
        "vqa": pytest.approx(1.0),
    }
    assert summary.missing == ()


@pytest.mark.parametrize("scores", [{"c": None}, {}], ids=["failed", "not run"])
def test_an_average_over_an_incomplete_set_is_none_and_the_others_stand(
    scores: dict[str, None],
) -> None:
    known = {name: score for name, score in SCORES.items() if name != "c"}
    summary = summarise(TASKS, {**known, **scores})
    assert summary.overall is None
    assert summary.ood is None
    assert summary.meta_tasks["classification"] is None
    assert summary.ind == pytest.approx(0.15)
    assert summary.meta_tasks["vqa"] == pytest.approx(1.0)
    assert summary.missing == ("c",)


def test_a_score_of_zero_is_a_score() -> None:
    summary = summarise(TASKS, {**SCORES, "d": 0.0})
    assert summary.meta_tasks["vqa"] == 0.0
    assert summary.overall == pytest.approx(0.9 / 4)


def test_scores_of_tasks_outside_the_suite_do_not_count() -> None:
    assert summarise(TASKS, {**SCORES, "foreign": 0.0}).overall == pytest.approx(1.9 / 4)


def test_a_suite_without_tasks_of_a_split_has_no_average_of_it() -> None:
    assert summarise(TASKS[:2], SCORES).ood is None


def test_the_mean_of_nothing_is_none() -> None:
    assert mean_if_complete([]) is None


def test_the_mean_loses_nothing_to_rounding() -> None:
    assert mean_if_complete([1e16, 1.0, -1e16]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in
        # Medicine 17 (1998), Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(
    hits: int, trials: int, low: float, high: float
) -> None:
    interval = wilson(hits / trials, trials)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.25, 0.5, 0.6181, 1.0])
@pytest.mark.parametrize("trials", [1, 24, 1000])
def test_wilson_ends_where_the_score_test_just_rejects(rate: float, trials: int) -> None:
    for end in wilson(rate, trials):
        # at each end p: |rate - p| = z * sqrt(p (1 - p) / n), with z of a 95 % interval
        squared = 1.959963984540054**2 * end * (1 - end) / trials
        assert (rate - end) ** 2 == pytest.approx(squared, abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_wilson_holds_the_rate_and_stays_within_0_and_1(rate: float) -> None:
    interval = wilson(rate, 30)
    assert 0 <= interval.low <= rate <= interval.high <= 1
    assert interval.low < interval.high
