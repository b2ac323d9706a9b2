"""One process's pairs made ready: each distinct item once, and which item is whose."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.errors import EnvironmentFault, ItemError, TaskError
from mmeb_harness.item import Item, Rendered
from mmeb_harness.task import Pair
from mmeb_harness.trainers.chunks import Preparer, ReadyBatch
from PIL import Image
from training_parts import picture


class Words(PlannedEncoder):
    """Prepares nothing; an item is as large as its text is long, and some cannot be used."""

    def render(self, item: Item) -> Rendered:
        if item.text == "nothing":
            raise ItemError("there is nothing to encode")
        settings = (item.role or "",) if (item.text or "").startswith("by role") else ()
        return Rendered(text=item.text, image=item.image, settings=settings)

    def size(self, rendered: Rendered) -> int:
        if rendered.image == "unmeasured.png":
            raise ItemError("image 'unmeasured.png' does not exist")
        return len(rendered.text or "") + 3 * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> Any:
        for one in rendered:
            if one.image == "broken.png":
                raise ItemError("image 'broken.png' is no image file")
            if one.image == "full.png":
                raise EnvironmentFault("no room")
        return list(rendered)

    def forward(self, batch: Any) -> Any:
        raise NotImplementedError


def pair(query: str, positive: str, negative: str | None = None) -> Pair:
    against = None if negative is None else Item(text=negative)
    return Pair(query=Item(text=query), positive=Item(text=positive), negative=against)


def ready(pairs: Sequence[Pair], **settings: Any) -> ReadyBatch:
    return Preparer(encoder=Words(), **{"tokens": 1000, **settings})(pairs)


def in_order(batch: ReadyBatch) -> list[Rendered]:
    return [one for chunk in batch.chunks for one in chunk.batch]


PAIRS = [
    pair("a", "the first", "worse"),
    pair("a second query", "b"),
    pair("a", "the first", "b"),
    pair("b", "third", "by far the worst"),
]


@pytest.mark.parametrize("cut", [{"items": 1}, {"items": 2}, {"tokens": 20}, {}], ids=str)
@pytest.mark.parametrize("negatives", [False, True])
def test_every_item_is_there_once_and_where_it_is_said_to_be(cut: Any, negatives: bool) -> None:
    batch = ready(PAIRS, negatives=negatives, **cut)
    texts = [one.text for one in in_order(batch)]
    assert [texts[at] for at in batch.queries_P] == [one.query.text for one in PAIRS]
    assert [texts[at] for at in batch.positives_P] == [one.positive.text for one in PAIRS]
    held = [one.negative.text for one in PAIRS if one.negative is not None] if negatives else []
    assert [texts[at] for at in batch.negatives_N] == held
    assert sorted(texts) == sorted({"a", "the first", "a second query", "b", "third", *held})
    assert batch.tokens == sum(len(text or "") for text in texts)
    assert [chunk.items for chunk in batch.chunks] == [len(chunk.batch) for chunk in batch.chunks]
    assert len(set(batch.codes_I.tolist())) == len(texts)
    assert batch.pairs == PAIRS
    assert batch.left_out == []


def test_chunks_of_so_many_items_hold_items_of_like_size_the_largest_last() -> None:
    pairs = [pair("x" * (7 * number % 5 + 1), "y" * (number + 2)) for number in range(5)]
    batch = ready(pairs, items=4)
    sizes = [len(one.text or "") for one in in_order(batch)]
    assert sizes == sorted(sizes)
    assert [chunk.items for chunk in batch.chunks] == [4, 4, 2]


def drawn(mode: str) -> Image.Image:
    return picture(3).convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else picture(3)


def recoloured() -> Image.Image:
    image = drawn("P")
    colours = image.getpalette()
    assert colours is not None
    image.putpalette(colours[::-1])
    return image


DIFFERENT = [
    Item(text="a"),
    Item(text="b"),
    Item(text="None"),
    Item(text="a", image="a.png"),
    Item(text="a", image="b.png"),
    Item(image="a.png"),
    Item(text="a.png"),
    Item(text="a", image=b"a.png"),
    Item(text="a", image=picture(3)),
    Item(text="a", image=picture(4)),
    Item(text="a", image=picture(3).resize((32, 40))),
    Item(text="a", image=picture(3).convert("L")),
    Item(text="a", image=drawn("P")),
    Item(text="a", image=recoloured()),
    Item(text="by role", role="query"),
    Item(text="by role", role="candidate"),
]
"""Items of which no two may share a vector."""

EQUAL = [
    (Item(text="a"), Item(text="a", role="candidate", instruction="a")),
    (Item(text="a", image="a.png"), Item(text="a", image=Path("a.png"))),
    (Item(text="a", image=picture(3)), Item(text="a", image=picture(3).copy())),
    (Item(text="a", image=drawn("P")), Item(text="a", image=drawn("P"))),
]
"""Items that share one, whatever their role."""


def test_what_differs_is_told_apart() -> None:
    pairs = [Pair(query=one, positive=Item(text="other")) for one in DIFFERENT]
    batch = ready(pairs)
    assert len(set(batch.queries_P.tolist())) == len(DIFFERENT)
    assert len(set(batch.codes_I.tolist())) == len(DIFFERENT) + 1


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=["role", "path", "picture", "palette"])
def test_what_is_equal_is_one_item_with_one_code(one: Item, other: Item) -> None:
    together = ready([Pair(query=one, positive=other)])
    assert together.queries_P.tolist() == together.positives_P.tolist() == [0]
    apart = [ready([Pair(query=item, positive=Item(text="z" * 40))]) for item in (one, other)]
    codes = [batch.codes_I[batch.queries_P[0]] for batch in apart]
    assert codes[0] == codes[1]


CODES = """
from PIL import Image
from mmeb_harness.item import Rendered
from mmeb_harness.trainers.chunks import _code
image = Image.new("RGB", (2, 3), (1, 2, 3))
for one in (Rendered(text="a cat"), Rendered(text="a", image="a.png", settings=("x",)),
            Rendered(text=None, image=image)):
    print(_code(one))
"""


@pytest.mark.thorough
def test_codes_are_alike_in_every_process() -> None:
    """Whatever the seed of Python's own hashes."""
    answers = [
        subprocess.run(
            [sys.executable, "-c", CODES],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == 3
    assert all(-(2**63) <= int(code) < 2**63 for code in answers[0])


def test_a_preparer_and_what_it_prepares_go_to_other_processes_and_back() -> None:
    preparer = Preparer(encoder=Words(), tokens=20, negatives=True)
    batch = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(preparer))(PAIRS)))
    here = preparer(PAIRS)
    assert in_order(batch) == in_order(here)
    assert np.array_equal(batch.codes_I, here.codes_I)


# -- items that cannot be used ---------------------------------------------------------------------

BAD = [
    (Item(text="nothing"), "item 'nothing': there is nothing to encode"),
    (Item(text="x", image="unmeasured.png"), "item 'x': image 'unmeasured.png' does not exist"),
    (Item(text="x", image="broken.png"), "item 'x': image 'broken.png' is no image file"),
]
"""What shows when an item is rendered, measured and prepared."""


@pytest.mark.parametrize(("bad", "told"), BAD, ids=["render", "size", "prepare"])
def test_an_item_that_cannot_be_used_is_named(bad: Item, told: str) -> None:
    pairs = [*PAIRS, Pair(query=Item(text="q"), positive=bad)]
    with pytest.raises(TaskError) as caught:
        ready(pairs)
    assert str(caught.value) == f"{told} (data.missing_images=skip leaves such pairs out)"


@pytest.mark.parametrize("cut", [{"items": 2}, {}], ids=str)
@pytest.mark.parametrize(("bad", "told"), BAD, ids=["render", "size", "prepare"])
def test_its_pairs_are_left_out_and_told_of_each(bad: Item, told: str, cut: Any) -> None:
    pairs = [
        Pair(query=bad, positive=Item(text="p")),
        PAIRS[0],
        Pair(query=Item(text="q"), positive=bad),
        PAIRS[1],
        replace(PAIRS[3], negative=bad),
        Pair(query=bad, positive=bad),
    ]
    batch = ready(pairs, skips=True, negatives=True, **cut)
    expected = ready([PAIRS[0], PAIRS[1]], negatives=True, **cut)
    assert batch.left_out == [told] * 4
    assert in_order(batch) == in_order(expected)
    for name in ("queries_P", "positives_P", "negatives_N", "codes_I"):
        assert np.array_equal(getattr(batch, name), getattr(expected, name))
    assert batch.tokens == expected.tokens
    assert ready(pairs[4:5], skips=True).left_out == []  # a negative that nobody asked for


def test_faults_of_every_kind_in_one_batch() -> None:
    pairs = [*PAIRS[:2], *(Pair(query=bad, positive=Item(text="p")) for bad, _ in BAD)]
    batch = ready(pairs, skips=True)
    assert sorted(batch.left_out) == sorted(told for _, told in BAD)
    assert batch.pairs == PAIRS[:2]


def test_a_batch_of_which_nothing_is_left_has_no_chunk() -> None:
    batch = ready([Pair(query=bad, positive=bad) for bad, _ in BAD], skips=True)
    assert (batch.pairs, batch.chunks, batch.tokens) == ([], [], 0)
    for name in ("queries_P", "positives_P", "negatives_N", "codes_I"):
        assert getattr(batch, name).shape == (0,)


def test_a_fault_of_the_surroundings_is_no_fault_of_an_item() -> None:
    with pytest.raises(EnvironmentFault, match="no room"):
        ready([Pair(query=Item(image="full.png"), positive=Item(text="p"))], skips=True)
