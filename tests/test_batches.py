"""Which pairs meet: exact where it is determined, in proportion where it is drawn, and the same
from wherever it is entered."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow as pa
import pytest
from mmeb_harness.errors import UsageError
from mmeb_harness.pairs import PairTable
from mmeb_harness.trainers.batches import BatchOrder
from mmeb_harness.trainers.config import BatchSection
from mmeb_harness.trainers.distinct import DistinctStream
from mmeb_harness.trainers.streams import Stream, random_numbers

Batches = list[Sequence[tuple[int, int]]]


def subset(
    size: int, *, labels: int | None = None, weight: float | None = None, name: str = "some"
) -> mh.Subset:
    """Make a subset whose row n has positive n, or n modulo the number of labels."""
    numbers = np.arange(size)
    positives = numbers if labels is None else numbers % labels
    columns = {
        "qry": [f"q{n}" for n in numbers],
        "pos_text": [f"{name} {n}" for n in positives],
    }
    table = pa.table({key: pa.array(value, pa.large_string()) for key, value in columns.items()})
    return mh.Subset(
        name=name, pairs=PairTable(table=table, sources=(("file", size),)), weight=weight
    )


def order(subsets: Sequence[mh.Subset], *, seed: int = 42, **section: Any) -> BatchOrder:
    return BatchOrder(subsets, BatchSection(**section), seed)


def first(ordered: BatchOrder, count: int, start: int = 0) -> Batches:
    return list(islice(ordered.batches(start), count))


def flat(batches: Batches) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in batch]


def positives(subsets: Sequence[mh.Subset], batch: Sequence[tuple[int, int]]) -> list[str | None]:
    return [subsets[at].pairs[row].positive.text for at, row in batch]


def named(sizes: Sequence[int], **options: Any) -> list[mh.Subset]:
    return [subset(size, name=f"s{at}", **options) for at, size in enumerate(sizes)]


# -- mixed, without weights ------------------------------------------------------------------------


def test_the_order_is_that_of_the_reference_trainer(goldens: Path) -> None:
    golden = json.loads((goldens / "expected/train/trainer_run_single.json").read_text())
    meta = golden["_meta"]
    ordered = order(named([16, 16, 16]), seed=meta["seed"], size=meta["batch"])
    rows = [16 * at + row for at, row in flat(first(ordered, meta["max_steps"]))]
    assert rows == golden["row_order_as_loaded"]
    assert ordered.pairs_in_epoch == len(rows) == 48


def test_every_pair_comes_once_an_epoch_and_batches_run_on_over_its_end() -> None:
    ordered = order(named([5, 0, 7, 3]), size=4)
    pairs = flat(first(ordered, 30))
    assert ordered.pairs_in_epoch == 15
    everything = {(at, row) for at, size in ((0, 5), (2, 7), (3, 3)) for row in range(size)}
    epochs = [pairs[begin : begin + 15] for begin in range(0, 120, 15)]
    for epoch in epochs:
        assert len(epoch) == 15 and set(epoch) == everything
    assert len({tuple(epoch) for epoch in epochs}) == 8, "each epoch has an order of its own"


# -- weights ---------------------------------------------------------------------------------------


def test_weighted_slots_come_in_proportion_and_rows_in_permutations() -> None:
    subsets = [
        subset(size, name=f"s{at}", weight=weight)
        for at, (size, weight) in enumerate([(50, 1), (400, 2), (40, 0), (30, 5)])
    ]
    ordered = order(subsets, size=16)
    pairs = flat(first(ordered, 500))
    counts = Counter(at for at, _ in pairs)
    assert ordered.pairs_in_epoch == 480, "what is never drawn does not count"
    assert counts.keys() == {0, 1, 3}
    for at, share in ((0, 1 / 8), (1, 2 / 8), (3, 5 / 8)):
        deviation = (8000 * share * (1 - share)) ** 0.5
        assert abs(counts[at] - 8000 * share) < 4 * deviation
    for at, size in ((0, 50), (1, 400), (3, 30)):
        rows = [row for one, row in pairs if one == at]
        for begin in range(0, len(rows) - size + 1, size):
            assert sorted(rows[begin : begin + size]) == list(range(size))
        assert rows[:size] != rows[size : 2 * size]


def test_slots_are_drawn_one_by_one() -> None:
    ordered = order(named([100, 100], weight=1.0), size=64)
    shares = [sum(at for at, _ in batch) for batch in first(ordered, 400)]
    assert 28 < np.mean(shares) < 36
    assert 3 < np.std(shares) < 5, "binomial: 4"
    assert len({tuple(at for at, _ in batch) for batch in first(ordered, 400)}) == 400


# -- homogeneous and round robin -------------------------------------------------------------------


def runs(batch: Sequence[tuple[int, int]], length: int) -> list[int]:
    """Return the subset of each run of a batch, having checked that it is of one subset."""
    found = []
    for begin in range(0, len(batch), length):
        [one] = {at for at, _ in batch[begin : begin + length]}
        found.append(one)
    return found


@pytest.mark.parametrize("composition", ["homogeneous", "round_robin"])
def test_rows_of_each_subset_come_in_permutations(composition: str) -> None:
    sizes = [30, 41, 24]
    ordered = order(named(sizes), size=20, sub_batch=6, composition=composition)
    pairs = flat(first(ordered, 60))
    for at, size in enumerate(sizes):
        rows = [row for one, row in pairs if one == at]
        assert len(rows) > 3 * size
        for begin in range(0, len(rows) - size + 1, size):
            assert sorted(rows[begin : begin + size]) == list(range(size))


def test_subsets_of_one_size_have_permutations_of_their_own() -> None:
    pairs = flat(first(order(named([40, 40]), size=20, composition="round_robin"), 4))
    rows = [[row for at, row in pairs if at == one] for one in (0, 1)]
    assert sorted(rows[0]) == sorted(rows[1])
    assert rows[0] != rows[1]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((None, None, None), (1 / 6, 2 / 6, 3 / 6)), ((3.0, 1.0, 0.0), (3 / 4, 1 / 4, 0))],
    ids=["by size", "by weight"],
)
def test_homogeneous_runs_are_drawn_in_proportion(
    weights: Sequence[float | None], shares: Sequence[float]
) -> None:
    subsets = [
        subset(size, name=f"s{at}", weight=weights[at]) for at, size in enumerate((40, 80, 120))
    ]
    ordered = order(subsets, size=20, sub_batch=8, composition="homogeneous")
    drawn = Counter(one for batch in first(ordered, 700) for one in runs(batch, 8))
    assert sum(drawn.values()) == 2100
    for at, share in enumerate(shares):
        assert abs(drawn[at] - 2100 * share) <= 4 * (2100 * share * (1 - share)) ** 0.5
    whole = order(subsets, size=20, composition="homogeneous")
    assert {len(runs(batch, 20)) for batch in first(whole, 50)} == {1}


def test_round_robin_takes_the_subsets_in_turn_across_batches() -> None:
    ordered = order(named([40, 9, 80]), size=20, sub_batch=8, composition="round_robin")
    batches = first(ordered, 30)
    turns = [one for batch in batches for one in runs(batch, 8)]
    assert turns == [number % 3 for number in range(90)]
    assert [Counter(at for at, _ in batch) for batch in batches[:1]] == [{0: 8, 1: 8, 2: 4}]
    whole = order(named([40, 20, 80]), size=20, composition="round_robin")
    assert [runs(batch, 20) for batch in first(whole, 4)] == [[0], [1], [2], [0]]


def test_each_composition_is_another_order() -> None:
    subsets, weighted = named([64, 64, 64]), named([64, 64, 64], weight=1.0)
    found = [
        first(order(one, size=16, **section), 5)
        for one, section in (
            (subsets, {}),
            (weighted, {}),
            (subsets, {"composition": "homogeneous"}),
            (subsets, {"composition": "homogeneous", "sub_batch": 8}),
            (subsets, {"composition": "round_robin"}),
            (subsets, {"composition": "round_robin", "sub_batch": 8}),
        )
    ]
    assert len({str(batches) for batches in found}) == len(found)


# -- the same from wherever it is entered ----------------------------------------------------------

SETTINGS: list[dict[str, Any]] = [
    {},
    {"composition": "homogeneous", "sub_batch": 7},
    {"composition": "homogeneous"},
    {"composition": "round_robin", "sub_batch": 5},
]


def with_weights(settings: Sequence[dict[str, Any]]) -> list[Any]:
    """Pair settings with no weights and, where they have a say, with weights."""
    weighted = [one for one in settings if one.get("composition") != "round_robin"]
    return [(one, None) for one in settings] + [(one, 2.5) for one in weighted]


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize(("setting", "weight"), with_weights(SETTINGS), ids=str)
def test_any_start_gives_the_same_batches_as_the_way_there(
    setting: dict[str, Any], weight: float | None, distinct: bool
) -> None:
    subsets = [
        subset(size, labels=labels, name=f"s{at}", weight=weight and weight + at)
        for at, (size, labels) in enumerate([(40, 30), (101, 77), (55, None)])
    ]
    ordered = order(subsets, size=18, distinct_positives=distinct, **setting)
    whole = first(ordered, 60)
    assert all(len(batch) == 18 for batch in whole)
    for start in (1, 7, 41, 59):
        assert first(ordered, 60 - start, start) == whole[start:]
    again = order(subsets, size=18, distinct_positives=distinct, **setting)
    assert first(again, 60) == whole
    other = order(subsets, size=18, distinct_positives=distinct, seed=43, **setting)
    assert first(other, 3) != whole[:3]


def test_starts_beyond_one_block_of_draws_agree_too() -> None:
    for setting in ({}, {"composition": "homogeneous", "sub_batch": 3}):
        ordered = order(named([20, 30], weight=1.0), size=8, **setting)
        assert first(ordered, 2, 2500) == first(ordered, 2502)[2500:]


@pytest.mark.thorough
def test_another_process_has_the_same_order() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from test_batches import first, named, order
print([first(order(named([20, 30], weight=w), size=8, distinct_positives=d), 20, 5)
       for w in (None, 1.0) for d in (False, True)])
"""
    expected = [
        first(order(named([20, 30], weight=weight), size=8, distinct_positives=distinct), 20, 5)
        for weight in (None, 1.0)
        for distinct in (False, True)
    ]
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


def test_the_order_depends_on_sizes_and_not_on_what_the_pairs_hold() -> None:
    listed = [
        mh.Subset(
            name="other",
            pairs=[mh.Pair(query=mh.Item(text="q"), positive=mh.Item(text="p"))] * size,
        )
        for size in (20, 30)
    ]
    for composition in ("mixed", "homogeneous", "round_robin"):
        setting = {"size": 8, "composition": composition}
        assert first(order(listed, **setting), 9) == first(order(named([20, 30]), **setting), 9)


def test_the_numbers_of_a_step_are_those_of_the_whole_stream() -> None:
    whole = random_numbers(7, 0, 40, 5)
    assert whole.shape == (40, 5)
    assert np.array_equal(random_numbers(7, 13, 4, 5), whole[13:17])
    assert ((whole >= 0) & (whole < 1)).all()
    assert len(np.unique(whole)) == whole.size
    assert random_numbers(7, 0, 1, 2).tolist() == [[0.8720734548204873, 0.29536538151378355]]


def test_a_stream_can_be_entered_anywhere() -> None:
    def stream(position: int) -> Stream:
        made = Stream(100, 7, lambda epoch: epoch)
        made.position = position
        return made

    whole = stream(0).take(50)
    for position in (0, 3, 7, 20, 42):
        assert np.array_equal(stream(position).take(8), whole[position : position + 8])
    assert set(whole[:7]) == set(range(100, 107))


# -- distinct positives ----------------------------------------------------------------------------

COMPOSITIONS: list[dict[str, Any]] = [
    {"composition": "mixed"},
    {"composition": "homogeneous"},
    {"composition": "homogeneous", "sub_batch": 5},
    {"composition": "round_robin", "sub_batch": 5},
]


@pytest.mark.parametrize(("setting", "weight"), with_weights(COMPOSITIONS), ids=str)
def test_no_two_pairs_of_a_batch_have_equal_positives(
    setting: dict[str, Any], weight: float | None
) -> None:
    subsets = [
        subset(size, labels=labels, name=f"s{at}", weight=weight)
        for at, (size, labels) in enumerate([(200, 12), (150, None), (90, 20)])
    ]
    ordered = order(subsets, size=12, distinct_positives=True, **setting)
    batches = first(ordered, 200)
    for batch in batches:
        assert len(batch) == 12
        assert len(set(positives(subsets, batch))) == 12
    repeated = order(subsets, size=12, **setting)
    assert any(len(set(positives(subsets, batch))) < 12 for batch in first(repeated, 200))
    if length := setting.get("sub_batch"):
        for batch in batches:
            assert len(runs(batch, length)) == 3


def test_positives_of_several_subsets_are_compared() -> None:
    subsets = [subset(60, labels=labels, name="same") for labels in (None, 30, 20)]
    for setting in COMPOSITIONS[2:]:
        for batch in first(order(subsets, size=15, distinct_positives=True, **setting), 100):
            assert len(set(positives(subsets, batch))) == 15


def test_what_clashes_waits_for_the_next_batch_and_nothing_is_lost() -> None:
    subsets = [subset(300, labels=25, name="few"), subset(700, name="many")]
    batches = first(order(subsets, size=20, distinct_positives=True), 60)
    seen: Counter[tuple[int, int]] = Counter()
    for number, batch in enumerate(batches, start=1):
        seen.update(batch)
        if number <= 45:
            assert max(seen.values()) == 1, "no pair twice while the first epoch lasts"
    assert len(seen) == 1000, "every pair has been there"
    assert max(seen.values()) == 2
    plain = first(order(subsets, size=20), 60)
    moved = [number for number in range(45) if set(batches[number]) != set(plain[number])]
    assert moved[0] < 3
    assert moved[-1] > 5
    early = Counter(at for at, _ in flat(batches[:25]))
    assert 110 < early[0] < 190, "proportions stay: 150"


def test_a_pair_that_waits_is_the_first_to_be_taken() -> None:
    subsets = [subset(36, labels=12)]
    plain = [row for _, row in flat(first(order(subsets, size=10), 4))]
    batches = [
        [row for _, row in batch]
        for batch in first(order(subsets, size=10, distinct_positives=True), 2)
    ]
    taken: list[int] = []
    waiting: list[int] = []
    rows = iter(plain)
    while len(taken) < 10:
        row = next(rows)
        known = {one % 12 for one in taken}
        (waiting if row % 12 in known else taken).append(row)
    assert waiting, "the seed gives the test something to see"
    assert batches[0] == taken
    served = [
        row for at, row in enumerate(waiting) if row % 12 not in {n % 12 for n in waiting[:at]}
    ]
    assert len(served) < len(waiting), "of equal ones that wait, one is taken"
    assert batches[1][: len(served)] == served


def test_few_labels_give_way_where_a_batch_has_no_room_for_their_share() -> None:
    weighted = [
        subset(100, labels=2, name="two", weight=1e15),
        subset(300, name="many", weight=1.0),
    ]
    for batch in first(order(weighted, size=16, distinct_positives=True), 50):
        assert Counter(at for at, _ in batch) == {0: 2, 1: 14}
    plain = [subset(1000, labels=2, name="two"), subset(300, name="many")]
    batches = first(order(plain, size=16, distinct_positives=True), 50)
    assert {Counter(at for at, _ in batch)[0] for batch in batches} == {2}
    both = Counter(flat(batches))
    assert max(both[pair] for pair in both if pair[0] == 0) == 1


def test_a_pair_that_still_waits_is_not_queued_again() -> None:
    stream = Stream(0, 40, lambda epoch: epoch)
    found = DistinctStream(stream, np.maximum(np.arange(40) - 36, 0), [-1] * 4)
    seen: Counter[int] = Counter()
    for batch in range(370):  # each needs the three rare positives: a whole permutation is read
        seen.update(found.take(4, batch))
        assert sum(len(queue) for queue in found._queues.values()) < 40
    assert [seen[row] for row in range(40)] == [10] * 37 + [370] * 3


def test_a_run_that_its_subset_cannot_fill_goes_to_another() -> None:
    subsets = [
        subset(100, labels=10, name="ten", weight=1.0),
        subset(300, name="many", weight=1.0),
    ]
    setting = {"composition": "homogeneous", "sub_batch": 8}
    drawn = Counter(
        tuple(sorted(runs(batch, 8)))
        for batch in first(order(subsets, size=16, distinct_positives=True, **setting), 300)
    )
    assert drawn.keys() == {(0, 1), (1, 1)}
    assert 190 < drawn[0, 1] < 260, "three in four: 225"


def test_pairs_that_are_no_table_are_compared_as_well() -> None:
    pairs = [
        mh.Pair(query=mh.Item(text=f"q{n}"), positive=mh.Item(text="same", image=b"%d" % (n % 9)))
        for n in range(90)
    ]
    ordered = order([mh.Subset(name="listed", pairs=pairs)], size=9, distinct_positives=True)
    for batch in first(ordered, 30):
        assert {row % 9 for _, row in batch} == set(range(9))


# -- what cannot be filled -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "labels", "section", "told"),
    [
        ([5, 6], None, {"size": 12}, "batch.size 12 is more than the 11 pairs there are: give 11"),
        ([50], 7, {"size": 8, "distinct_positives": True}, "8 is more than the 7 distinct positiv"),
        ([50, 5], None, {"size": 6, "composition": "homogeneous"},
         "subset s1 has 5 pairs, and a batch takes 6 of it: .*batch.sub_batch"),
        ([50, 50], 4, {"size": 8, "sub_batch": 5, "composition": "homogeneous",
                       "distinct_positives": True}, "s0 has 4 distinct positives, .* takes 5"),
        ([50, 11], None, {"size": 20, "sub_batch": 4, "composition": "round_robin"},
         "subset s1 has 11 pairs, and a batch takes 12 of it"),
        ([50, 50], 7, {"size": 12, "sub_batch": 4, "composition": "homogeneous",
                       "distinct_positives": True}, "do not make 3 runs of 4"),
        ([0], None, {"size": 2}, "there are no pairs"),
        ([], None, {"size": 2}, "there are no pairs"),
        ([], None, {"size": 2, "distinct_positives": True}, "there are no pairs"),
    ],
)  # fmt: skip
def test_a_batch_that_can_never_be_filled_is_an_error_with_the_numbers(
    sizes: list[int], labels: int | None, section: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        order(named(sizes, labels=labels), **section)


def test_exactly_enough_is_enough() -> None:
    assert len(set(first(order(named([5, 6]), size=11), 1)[0])) == 11
    few = named([50], labels=7)
    for batch in first(order(few, size=7, distinct_positives=True), 40):
        assert len(set(positives(few, batch))) == 7
    setting = {"size": 20, "sub_batch": 4, "composition": "round_robin"}
    for batch in first(order(named([50, 12]), **setting), 40):
        assert len(batch) == 20


def test_positives_shared_by_all_subsets_are_told_when_they_run_out() -> None:
    subsets = [subset(90, labels=9, name=name) for name in ("same", "same", "other")]
    setting = {"composition": "homogeneous", "sub_batch": 5, "distinct_positives": True}
    told = r"batch 0 cannot be filled with distinct positives: no subset has 5 left"
    with pytest.raises(UsageError, match=told):
        first(order(subsets, size=15, **setting), 1)


def test_weights_have_no_say_in_round_robin() -> None:
    with pytest.raises(UsageError, match=r"data\.weights have no say"):
        order(named([8, 8], weight=1.0), size=4, composition="round_robin")


# -- cost ------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("composition", ["mixed", "homogeneous"])
def test_two_thousand_large_steps_are_skipped_in_seconds(composition: str, distinct: bool) -> None:
    labels = [1000, 2000, 24, 20, 397, *[None] * 15]
    subsets = [subset(50_000, labels=one, name=f"s{at}") for at, one in enumerate(labels)]
    sub_batch = None if composition == "mixed" else 16
    ordered = order(
        subsets,
        size=1024,
        composition=composition,
        sub_batch=sub_batch,
        distinct_positives=distinct,
    )
    begun = time.process_time()
    [batch] = first(ordered, 1, 2000)
    assert time.process_time() - begun < 10
    assert len(batch) == 1024
