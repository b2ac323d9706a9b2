"""The loss against a dense reference: loops over numbers, the exponentials summed as they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.loss import InfoNCE

PAIRS, NUMBERS = 5, 6
EQUAL = (7, 3, 7, 4, 3, 3, 8, 7)
"""Codes of five positives and three negatives: the first and third positive are equal and so is the
last negative; the second and fifth positive are equal and so is the first negative."""


def drawn(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, NUMBERS, generator=generator, dtype=torch.float64)


def similarity(one: Sequence[float], other: Sequence[float], kind: str) -> float:
    product_of = sum(x * y for x, y in zip(one, other, strict=True))
    if kind == "dot":
        return product_of
    return product_of / math.hypot(*one) / math.hypot(*other)


def dense(
    queries: torch.Tensor,
    targets: torch.Tensor,
    codes: Sequence[int],
    *,
    temperature: float,
    kind: str,
    masked: bool,
    symmetric: bool,
    dimensions: Sequence[int],
) -> float:
    """Return the loss, one exponential after another."""
    losses = []
    for dimension in dimensions or (NUMBERS,):
        rows = [[one[:dimension] for one in side.tolist()] for side in (queries, targets)]
        weights = [
            [math.exp(similarity(query, target, kind) / temperature) for target in rows[1]]
            for query in rows[0]
        ]
        for pair, own in enumerate(weights):
            others = [
                target
                for target in range(len(codes))
                if target != pair and not (masked and codes[target] == codes[pair])
            ]
            there = -math.log(own[pair] / (own[pair] + sum(own[target] for target in others)))
            rivals = [weights[query][pair] for query in others if query < len(weights)]
            back = -math.log(own[pair] / (own[pair] + sum(rivals)))
            losses.append((there + back) / 2 if symmetric else there)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("targets", [PAIRS, len(EQUAL)], ids=["in batch", "hard negatives"])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_equals_the_dense_reference(kind: str, targets: int) -> None:
    queries_PD, targets_TD = drawn(PAIRS, 1), drawn(targets, 2)
    codes = EQUAL[:targets]
    for temperature, masked, symmetric, dimensions in product(
        (1.0, 0.3), (True, False), (True, False), ((), (4,), (2, 3, 6))
    ):
        loss = InfoNCE(
            temperature=temperature,
            similarity=kind,  # type: ignore[arg-type]
            mask_equal_targets=masked,
            symmetric=symmetric,
            dimensions=dimensions,
        )
        expected = dense(
            queries_PD,
            targets_TD,
            codes,
            temperature=temperature,
            kind=kind,
            masked=masked,
            symmetric=symmetric,
            dimensions=dimensions,
        )
        found = loss(queries_PD, targets_TD, torch.tensor(codes))
        assert found.dtype == torch.float64
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_the_reference_tells_the_settings_apart() -> None:
    """Each setting changes the number, so that the comparison above means something."""
    plain = {"temperature": 0.3, "kind": "cosine", "masked": True, "symmetric": False}
    others = [
        {"temperature": 0.31},
        {"kind": "dot"},
        {"masked": False},
        {"symmetric": True},
        {"dimensions": (3,)},
        {"dimensions": (3, 6)},
    ]
    settings = [{**plain, "dimensions": (), **one} for one in ({}, *others)]
    found = {dense(drawn(PAIRS, 1), drawn(8, 2), EQUAL, **one) for one in settings}  # type: ignore[arg-type]
    assert len(found) == len(settings)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_its_gradient_is_its_slope(kind: str, symmetric: bool) -> None:
    loss = InfoNCE(
        temperature=0.5,
        similarity=kind,  # type: ignore[arg-type]
        symmetric=symmetric,
        dimensions=(3, NUMBERS),
    )
    vectors = (drawn(PAIRS, 3).requires_grad_(), drawn(8, 4).requires_grad_())
    assert torch.autograd.gradcheck(lambda q, t: loss(q, t, torch.tensor(EQUAL)), vectors)


def test_no_codes_mask_nothing() -> None:
    loss = InfoNCE(temperature=0.1)
    queries_PD, targets_TD = drawn(PAIRS, 1), drawn(PAIRS, 2)
    assert loss(queries_PD, targets_TD) == loss(queries_PD, targets_TD, torch.arange(PAIRS))


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_query_with_every_other_target_masked_has_nothing_to_lose(symmetric: bool) -> None:
    """Its loss is 0 and so is its gradient: no number is lost in a minus infinity."""
    loss = InfoNCE(temperature=0.02, symmetric=symmetric)
    queries_PD, targets_TD = drawn(3, 5).requires_grad_(), drawn(4, 6).requires_grad_()
    found = loss(queries_PD, targets_TD, torch.tensor([1, 1, 1, 1]))
    assert found.item() == 0
    gradients = torch.autograd.grad(found, (queries_PD, targets_TD))
    assert all(torch.equal(one, torch.zeros_like(one)) for one in gradients)


def test_a_single_pair_is_held_against_its_negative() -> None:
    loss = InfoNCE(temperature=0.5, symmetric=True)
    queries_PD, targets_TD = drawn(1, 7), drawn(2, 8)
    codes = torch.tensor([1, 2])
    expected = dense(
        queries_PD, targets_TD, (1, 2), temperature=0.5, kind="cosine", masked=True,
        symmetric=True, dimensions=(),
    )  # fmt: skip
    assert loss(queries_PD, targets_TD, codes).item() == pytest.approx(expected, rel=1e-12)


def test_scores_that_are_far_apart_stay_numbers() -> None:
    """At the usual temperature cosines span 100: an exponential alone would overflow in float32."""
    queries_PD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = InfoNCE(temperature=0.005)
    assert loss(queries_PD, queries_PD).item() == 0
    assert loss(queries_PD, -queries_PD).item() == pytest.approx(200)
    assert loss(queries_PD, -queries_PD).dtype == torch.float32


@pytest.mark.parametrize("masked", [False, True])
def test_counts_the_targets_that_a_query_is_held_against(masked: bool) -> None:
    loss = InfoNCE(temperature=1, mask_equal_targets=masked)
    each = [sum(code != own for code in EQUAL) for own in EQUAL[:PAIRS]]
    expected = sum(each) / PAIRS if masked else len(EQUAL) - 1
    assert loss.negatives(torch.tensor(EQUAL), PAIRS) == pytest.approx(expected)
    assert loss.negatives(torch.arange(PAIRS), PAIRS) == PAIRS - 1


def test_a_dimension_that_vectors_do_not_have_is_refused() -> None:
    loss = InfoNCE(temperature=1, dimensions=(2, 7, 64))
    with pytest.raises(UsageError, match=r"loss\.dimensions: .* have 6 numbers, not 64"):
        loss(drawn(2, 1), drawn(2, 2))
