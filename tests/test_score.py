"""Scoring against a dense float64 oracle written here, and every way ties can come about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from mmeb_harness import score as score_module
from mmeb_harness.errors import TaskError
from mmeb_harness.score import Outcomes, chance, normalised, score_task
from mmeb_harness.taskdata import Ragged

TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task as plain lists: the item of each query, its candidates' items and its gold."""

    vectors: Any
    queries: list[int]
    candidates: list[list[int]]
    gold: list[list[int]]
    shared: bool = False

    def score(self, **options: Any) -> Outcomes:
        candidates = ragged(self.candidates)
        if self.shared:
            pool = np.array(self.candidates[0], dtype=np.int32)
            starts = np.zeros(len(self.queries), dtype=np.int64)
            candidates = Ragged(values=pool, starts=starts, stops=starts + len(pool))
        queries = np.array(self.queries, dtype=np.int32)
        return score_task(self.vectors, queries, candidates, ragged(self.gold), **options)


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], dtype=np.int32)
    return Ragged.from_lengths(values, np.array([len(row) for row in rows], dtype=np.int64))


def exact_scores(case: Case, similarity: str) -> list[list[float]]:
    """Every query with each of its candidates, one pair at a time, in float64."""

    def compare(left: Any, right: Any) -> float:
        product = float(np.dot(left, right))
        if similarity == "dot":
            return product
        lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
        return product / lengths if lengths else 0.0

    vectors = np.asarray(case.vectors, dtype=np.float64)
    return [
        [compare(vectors[query], vectors[item]) for item in row]
        for query, row in zip(case.queries, case.candidates, strict=True)
    ]


def check_against_oracle(case: Case, similarity: str) -> Outcomes:
    outcomes = case.score(similarity=similarity)
    for row, scores in enumerate(exact_scores(case, similarity)):
        right = [item in case.gold[row] for item in case.candidates[row]]
        best = max(score for score, is_gold in zip(scores, right) if is_gold)
        margin = TOLERANCE * max(1.0, abs(best))
        better = sum(score > best + margin for score in scores)
        tied = [is_gold for score, is_gold in zip(scores, right) if abs(score - best) <= margin]
        assert outcomes.better[row] == better
        assert outcomes.tied[row] == len(tied)
        assert outcomes.tied_gold[row] == sum(tied)
        assert outcomes.hit_at_1[row] == (0.0 if better else sum(tied) / len(tied))
        top = outcomes.top_candidates[row].tolist()
        assert len(top) == len(set(top)) == min(10, len(scores))
        ordered = sorted(scores, reverse=True)[: len(top)]
        scale = max(1.0, *(abs(score) for score in scores))
        np.testing.assert_allclose([scores[place] for place in top], ordered, atol=2e-6 * scale)
        np.testing.assert_allclose(outcomes.top_scores[row], ordered, atol=2e-6 * scale)
    return outcomes


def random_case(
    seed: int, *, items: int, queries: int, longest: int, shared: bool = False, golds: int = 1
) -> Case:
    """Draw ragged candidates with repeated mentions, queries that repeat, and `golds` gold each."""
    draw = np.random.default_rng(seed)
    pool = draw.integers(0, items, longest).tolist()
    rows = [
        pool if shared else draw.integers(0, items, draw.integers(golds, longest + 1)).tolist()
        for _ in range(queries)
    ]
    rows = [row if shared else row + row[:2] for row in rows]
    gold = [draw.choice(row, golds).tolist() for row in rows]
    vectors = draw.standard_normal((items, 24)) * draw.uniform(0.1, 5, (items, 1))
    return Case(
        vectors=vectors.astype(np.float32),
        queries=draw.integers(0, items, queries).tolist(),
        candidates=rows,
        gold=gold,
        shared=shared,
    )


CASES = {
    "one pool for all": {"items": 90, "queries": 150, "longest": 70, "shared": True},
    "much shared": {"items": 60, "queries": 150, "longest": 50},
    "little shared": {"items": 6000, "queries": 150, "longest": 12},
    "several gold": {"items": 80, "queries": 100, "longest": 40, "golds": 4},
    "several gold in one pool": {
        "items": 80,
        "queries": 70,
        "longest": 40,
        "golds": 3,
        "shared": True,
    },
    "several gold, little shared": {"items": 6000, "queries": 100, "longest": 12, "golds": 3},
    "one query": {"items": 30, "queries": 1, "longest": 9},
    "one candidate each": {"items": 30, "queries": 65, "longest": 1},
}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("name", CASES)
def test_equals_a_dense_float64_oracle(name: str, similarity: str) -> None:
    for seed in range(2):
        check_against_oracle(random_case(seed, **CASES[name]), similarity)


@pytest.mark.parametrize("name", ["one pool for all", "much shared", "little shared"])
def test_equals_the_oracle_where_exact_ties_abound(name: str) -> None:
    case = random_case(7, **CASES[name])
    small = np.random.default_rng(7).integers(-1, 2, (len(case.vectors), 3)).astype(np.float32)
    coarse = Case(**{**vars(case), "vectors": small})
    outcomes = check_against_oracle(coarse, "dot")
    assert (outcomes.tied > outcomes.tied_gold).any(), "the case has no ties to test"
    assert (outcomes.better > 0).any()


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_shared_pool_scores_as_the_same_list_written_out_for_each_query(similarity: Any) -> None:
    case = random_case(3, **CASES["one pool for all"])
    written_out = Case(**{**vars(case), "shared": False})
    np.testing.assert_array_equal(
        case.score(similarity=similarity).hit_at_1,
        written_out.score(similarity=similarity).hit_at_1,
    )


# -- a constant encoder scores chance --------------------------------------------------------------


def constant_case(vectors: Any, candidates: int, gold: int = 0) -> Case:
    """Two queries over distinct items with the given vectors; the gold stands at place `gold`."""
    rows = [list(range(2, 2 + candidates))] * 2
    return Case(
        vectors=vectors, queries=[0, 1], candidates=rows, gold=[[row[gold]] for row in rows]
    )


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("dimension", [1, 2, 3, 64, 255, 1536, 3584])
@pytest.mark.parametrize("candidates", [2, 10, 37, 998, 1003])
def test_equal_vectors_score_chance(candidates: int, dimension: int, similarity: Any) -> None:
    vector = np.random.default_rng(dimension).standard_normal(dimension).astype(np.float32) * 9
    outcomes = constant_case(np.tile(vector, (candidates + 2, 1)), candidates).score(
        similarity=similarity
    )
    assert abs(outcomes.hit_at_1 - 1 / candidates).max() < 1e-9
    assert outcomes.tied.tolist() == [candidates, candidates]


@pytest.mark.parametrize("candidates", [2, 10, 37, 998, 1003])
def test_vectors_equal_up_to_the_last_bit_score_chance(candidates: int) -> None:
    draw = np.random.default_rng(candidates)
    vector = draw.standard_normal(384).astype(np.float32)
    toward = np.where(draw.random((candidates + 2, 384)) < 0.5, -np.inf, np.inf)
    vectors = np.nextafter(np.tile(vector, (candidates + 2, 1)), toward.astype(np.float32))
    case = constant_case(vectors, candidates)
    scores = exact_scores(case, "cosine")[0]
    assert len(set(np.array(scores, dtype=np.float64))) > 1, "the scores are all equal: no test"
    assert abs(case.score().hit_at_1 - 1 / candidates).max() < 1e-9


def test_vectors_whose_blas_products_differ_in_the_last_bit_score_chance() -> None:
    tried = 0
    for dimension in (768, 1536, 3584):
        for candidates in (37, 998, 1003):
            vector = np.random.default_rng(dimension).standard_normal(dimension)
            vector = (vector / np.linalg.norm(vector)).astype(np.float32)
            vectors = np.tile(vector, (candidates + 2, 1))
            products = vectors[:2] @ vectors[2:].T
            if len(np.unique(products)) > 1:
                tried += 1
                hits = constant_case(vectors, candidates).score().hit_at_1
                assert abs(hits - 1 / candidates).max() < 1e-9
    if not tried:
        pytest.skip("this machine's BLAS gives equal rows equal products")


@pytest.mark.parametrize("gold", [0, 4, 9])
def test_a_constant_encoder_scores_chance_wherever_the_gold_stands(gold: int) -> None:
    outcomes = constant_case(np.ones((12, 5), np.float32), 10, gold).score()
    assert outcomes.hit_at_1.tolist() == [0.1, 0.1]


def test_zero_vectors_tie_with_everything_and_score_chance() -> None:
    outcomes = constant_case(np.zeros((12, 5), np.float32), 10).score()
    assert outcomes.hit_at_1.tolist() == [0.1, 0.1]
    assert np.isfinite(outcomes.top_scores[0]).all()


def test_a_zero_gold_loses_to_what_is_similar_and_beats_what_is_opposed() -> None:
    vectors = np.array([[1, 0], [0, 0], [2, 0], [-2, 0]], np.float32)
    assert Case(vectors=vectors, queries=[0], candidates=[[1, 2]], gold=[[1]]).score().better == [1]
    assert Case(vectors=vectors, queries=[0], candidates=[[1, 3]], gold=[[1]]).score().better == [0]


# -- ties ------------------------------------------------------------------------------------------


def one_dimensional(scores: Sequence[float], gold: Sequence[int] = (0,)) -> Case:
    """A query of 1.0 and candidates whose dot products with it are the scores."""
    vectors = np.array([[1.0], *([score] for score in scores)], np.float32)
    row = list(range(1, 1 + len(scores)))
    return Case(vectors=vectors, queries=[0], candidates=[row], gold=[[row[g] for g in gold]])


@pytest.mark.parametrize(
    ("rival", "better", "tied"),
    [(5e-7, 0, 2), (-5e-7, 0, 2), (3e-6, 1, 1), (-3e-6, 0, 1)],
)
def test_scores_tie_within_a_millionth(rival: float, better: int, tied: int) -> None:
    outcomes = one_dimensional([0.5, 0.5 + rival]).score(similarity="dot")
    assert (outcomes.better[0], outcomes.tied[0]) == (better, tied)


@pytest.mark.parametrize(("rival", "tied"), [(0.0005, 2), (-0.0005, 2), (0.003, 1), (-0.003, 1)])
def test_the_tolerance_grows_with_large_scores(rival: float, tied: int) -> None:
    for sign in (1, -1):
        outcomes = one_dimensional([sign * 1000, sign * 1000 + rival]).score(similarity="dot")
        assert outcomes.tied[0] == tied


def test_hit_is_the_share_of_gold_among_the_tied() -> None:
    outcomes = one_dimensional([0.5, 0.5, 0.5, 0.5, 0.1], gold=[0, 2, 4]).score(similarity="dot")
    assert (outcomes.tied[0], outcomes.tied_gold[0], outcomes.hit_at_1[0]) == (4, 2, 0.5)


def test_one_better_candidate_makes_the_hit_zero() -> None:
    outcomes = one_dimensional([0.5, 0.5, 0.6]).score(similarity="dot")
    assert (outcomes.better[0], outcomes.hit_at_1[0]) == (1, 0.0)


def test_the_best_of_several_gold_counts() -> None:
    outcomes = one_dimensional([0.1, 0.9, 0.5], gold=[0, 1]).score(similarity="dot")
    assert (outcomes.better[0], outcomes.tied[0], outcomes.hit_at_1[0]) == (0, 1, 1.0)


@pytest.mark.parametrize("scoring", ["expected", "reference"])
def test_a_candidate_equal_to_the_golds_item_counts_as_gold(scoring: Any) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    case = Case(vectors=vectors, queries=[0], candidates=[[2, 1, 1, 2]], gold=[[1]])
    outcomes = case.score(scoring=scoring)
    assert (outcomes.tied[0], outcomes.tied_gold[0], outcomes.hit_at_1[0]) == (2, 2, 1.0)


def test_another_item_with_the_golds_vector_is_a_rival_not_gold() -> None:
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    outcomes = Case(vectors=vectors, queries=[0], candidates=[[1, 2, 3]], gold=[[1]]).score()
    assert (outcomes.tied[0], outcomes.tied_gold[0], outcomes.hit_at_1[0]) == (2, 1, 0.5)


# -- reference scoring, top candidates, chance -----------------------------------------------------


@pytest.mark.parametrize(("gold", "hit"), [(0, 1.0), (1, 0.0), (2, 0.0)])
def test_reference_lets_the_first_maximum_win(gold: int, hit: float) -> None:
    outcomes = one_dimensional([0.5, 0.5, 0.5], gold=[gold]).score(
        similarity="dot", scoring="reference"
    )
    assert outcomes.hit_at_1[0] == hit


def test_reference_breaks_even_a_near_tie() -> None:
    case = one_dimensional([0.5, 0.5 + 5e-7])
    assert case.score(similarity="dot", scoring="reference").hit_at_1[0] == 0.0
    assert case.score(similarity="dot", scoring="expected").hit_at_1[0] == 0.5


def test_reference_equals_argmax_on_distinct_scores() -> None:
    case = random_case(11, **CASES["much shared"])
    outcomes = case.score(scoring="reference")
    expected = [
        float(case.candidates[row][int(np.argmax(np.float32(scores)))] in case.gold[row])
        for row, scores in enumerate(exact_scores(case, "cosine"))
    ]
    assert outcomes.hit_at_1.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_equal_scores_keep_their_published_order_among_the_top() -> None:
    outcomes = one_dimensional([0.1, 0.7, 0.3, 0.7, 0.9, 0.3, *[0.1] * 9]).score(similarity="dot")
    assert outcomes.top_candidates[0].tolist() == [4, 1, 3, 2, 5, 0, 6, 7, 8, 9]


def test_repeated_mentions_keep_their_published_order_among_the_top() -> None:
    case = random_case(5, **CASES["little shared"])
    outcomes = case.score()
    for row, top in zip(case.candidates, outcomes.top_candidates, strict=True):
        for item in set(row):
            places = [place for place in top.tolist() if row[place] == item]
            assert places == sorted(places)


def test_chance_is_the_mean_share_of_gold_mentions() -> None:
    candidates = ragged([[1, 2, 3, 4], [1, 1, 2], [5]])
    gold = ragged([[1], [1], [5]])
    assert chance(candidates, gold) == pytest.approx((1 / 4 + 2 / 3 + 1) / 3)


def test_rows_are_made_unit_length_however_large_and_whatever_their_signs() -> None:
    vectors = np.array([[-3e38, 1.0], [3e38, 1.0], [-1e-38, 0.0], [3.0, -4.0]], dtype=np.float32)
    unit = normalised(vectors)
    np.testing.assert_allclose(unit, [[-1, 0], [1, 0], [-1, 0], [0.6, -0.8]], atol=1e-7)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_rows_are_made_unit_length_in_their_place_by_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    vectors = np.random.default_rng(0).standard_normal((2000, 24)).astype(np.float32)
    vectors[77] = 0
    expected = np.vstack([normalised(row[None]) for row in vectors])
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    np.testing.assert_array_equal(normalised(vectors), expected, strict=True)
    assert normalised(vectors, out=vectors) is vectors
    np.testing.assert_array_equal(vectors, expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_vectors_are_overwritten_where_that_is_allowed_alone(similarity: str) -> None:
    case = random_case(5, **CASES["much shared"])
    before = case.vectors.copy()
    kept = case.score(similarity=similarity)
    np.testing.assert_array_equal(case.vectors, before)
    freed = case.score(similarity=similarity, overwrite=True)
    expected = normalised(before) if similarity == "cosine" else before
    np.testing.assert_array_equal(case.vectors, expected)
    np.testing.assert_array_equal(np.hstack(freed.top_scores), np.hstack(kept.top_scores))
    np.testing.assert_array_equal(freed.hit_at_1, kept.hit_at_1)


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 1e-14, 1e16, 1e19])
@pytest.mark.parametrize("name", ["one pool for all", "much shared", "little shared"])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_cosine_does_not_depend_on_lengths(name: str, scale: float, all_of_them: bool) -> None:
    case = random_case(5, **CASES[name])
    case.vectors[:: 1 if all_of_them else 3] *= np.float32(scale)
    case.vectors[::7] = 0
    check_against_oracle(case, "cosine")


@pytest.mark.parametrize("dimension", [64, 256, 768, 3584])
@pytest.mark.parametrize("kind", ["ones", "normal", "positive"])
def test_candidates_that_differ_in_length_alone_tie(kind: str, dimension: int) -> None:
    draw = np.random.default_rng(dimension)
    normal = draw.standard_normal(dimension)
    direction = {"ones": np.ones(dimension), "normal": normal, "positive": np.abs(normal)}[kind]
    vectors = np.outer(draw.uniform(0.5, 20, 101), direction).astype(np.float32)
    queries = np.zeros(40, dtype=np.int32)
    row = list(range(1, 101))
    case = Case(vectors=vectors, queries=queries.tolist(), candidates=[row] * 40, gold=[[1]] * 40)
    outcomes = case.score()
    assert set(outcomes.tied.tolist()) == {100}
    assert outcomes.hit_at_1 == pytest.approx([0.01] * 40)


@pytest.mark.parametrize("block", [1, 2, 1000])
@pytest.mark.parametrize("spoilt", [1e30, -1e30])
def test_a_score_beyond_all_numbers_names_its_query(
    spoilt: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "BLOCK", block)
    vectors = np.ones((6, 2), dtype=np.float32)
    vectors[3] = spoilt
    vectors[5] = 1e30
    case = Case(
        vectors=vectors,
        queries=[0, 1, 2, 5],
        candidates=[[1, 2]] * 3 + [[2, 3]],
        gold=[[1]] * 3 + [[2]],
    )
    with pytest.raises(TaskError, match="scores of query 3 are not finite"):
        case.score(similarity="dot")


@pytest.mark.parametrize("best", [0.3, 0.51, 0.6, 0.75, 0.9, 1.5])
def test_every_candidate_is_better_tied_or_worse(best: float) -> None:
    gold = np.float32(best)
    for steps in range(40):  # past the tolerance, in the smallest steps that there are
        rival = gold
        for _ in range(steps):
            rival = np.nextafter(rival, np.float32(9))
        vectors = np.array([[1.0], [gold], [rival]], dtype=np.float32)
        found = Case(vectors=vectors, queries=[0], candidates=[[1, 2]], gold=[[1]]).score(
            similarity="dot"
        )
        assert int(found.better[0]) + int(found.tied[0]) == 2


@pytest.mark.parametrize("scores", [1, 50, 10**9])
def test_blocks_change_nothing(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(5, items=60, queries=40, longest=30)
    whole = case.score(similarity="cosine")
    monkeypatch.setattr(score_module, "BLOCK_SCORES", scores)
    parts = case.score(similarity="cosine")
    assert np.array_equal(parts.hit_at_1, whole.hit_at_1)
    assert np.array_equal(parts.tied, whole.tied)
    assert [row.tolist() for row in parts.top_candidates] == [
        row.tolist() for row in whole.top_candidates
    ]


def test_vectors_are_not_changed_by_scoring() -> None:
    case = random_case(1, **CASES["much shared"])
    before = case.vectors.copy()
    case.score()
    np.testing.assert_array_equal(case.vectors, before)
