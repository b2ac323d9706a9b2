"""Chunks of a batch: every item once, within the budget, and as little padding as can be; and those
whose graphs a full chunk's memory holds run once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.item import Item, Rendered
from mmeb_harness.plan import MAX_BATCH_ITEMS
from mmeb_harness.task import Pair
from mmeb_harness.trainers.chunks import Preparer
from mmeb_harness.trainers.cutting import SHARE, cut_chunks
from mmeb_harness.trainers.gradcache import Chunk, backward_all, embed_all
from numpy.typing import NDArray


def sizes_like_a_batch(items: int, seed: int = 0) -> NDArray[np.int32]:
    """Labels, captions with an image, dialogues."""
    chance = np.random.default_rng(seed)
    kinds = chance.choice(3, items, p=(0.3, 0.6, 0.1))
    lengths = [chance.integers(*ends, items) for ends in ((1, 8), (30, 50), (80, 160))]
    return np.choose(kinds, lengths).astype(np.int32)


def padded(sizes: NDArray[np.int32], chunks: list[NDArray[np.int64]]) -> int:
    return sum(len(chunk) * int(sizes[chunk].max()) for chunk in chunks)


@pytest.mark.parametrize("budget", [1, 100, 500, 4096])
@pytest.mark.parametrize("items", [0, 1, 2, 57, 700])
def test_every_item_is_in_one_chunk_within_the_budget(items: int, budget: int) -> None:
    sizes = sizes_like_a_batch(items)
    chunks = cut_chunks(sizes, budget)
    assert sorted(row for chunk in chunks for row in chunk.tolist()) == list(range(items))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * sizes[chunk].max() <= budget
        assert len(chunk) <= MAX_BATCH_ITEMS
    for chunk, after in pairwise(chunks):
        assert sizes[chunk].max() <= sizes[after].min()


def test_a_batch_of_few_chunks_is_hardly_padded() -> None:
    sizes = sizes_like_a_batch(64)
    assert padded(sizes, cut_chunks(sizes, 100_000)) == 64 * sizes.max()  # a chunk costs more
    for budget in (16384, 4096, 1024):
        chunks = cut_chunks(sizes, budget)
        assert padded(sizes, chunks) <= sizes.sum() + 2 * budget / SHARE * len(chunks)


def test_no_other_cuts_are_cheaper() -> None:
    budget = 160
    for seed in range(20):
        sizes = sizes_like_a_batch(9, seed)
        order = np.argsort(sizes)

        def cost(chunks: list[NDArray[np.int64]], sizes: NDArray[np.int32] = sizes) -> float:
            return padded(sizes, chunks) + budget / SHARE * len(chunks)

        ways = (
            np.split(order, [place + 1 for place in range(8) if cuts >> place & 1])
            for cuts in range(1 << 8)
        )
        possible = [
            chunks
            for chunks in ways
            if all(len(one) == 1 or len(one) * sizes[one].max() <= budget for one in chunks)
        ]
        assert cost(cut_chunks(sizes, budget)) == min(map(cost, possible))


def test_items_that_cost_nothing_are_cut_all_the_same() -> None:
    assert sorted(map(len, cut_chunks(np.zeros(5, dtype=np.int32), 2))) == [1, 2, 2]


class Lengths(PlannedEncoder):
    """Prepares texts into how many words each has."""

    def render(self, item: Item) -> Rendered:
        return Rendered(text=item.text)

    def size(self, rendered: Rendered) -> int:
        return len((rendered.text or "").split())

    def prepare(self, rendered: Sequence[Rendered]) -> list[int]:
        return [self.size(one) for one in rendered]

    def forward(self, batch: list[int]) -> NDArray[np.float32]:
        raise NotImplementedError


def test_a_batch_is_prepared_in_such_chunks_the_largest_last() -> None:
    texts = [
        " ".join([str(row)] * length) for row, length in enumerate(sizes_like_a_batch(64).tolist())
    ]
    pairs = [
        Pair(query=Item(text=query), positive=Item(text=positive))
        for query, positive in zip(texts[::2], texts[1::2], strict=True)
    ]
    ready = Preparer(encoder=Lengths(), tokens=4096)(pairs)
    computed = sum(max(chunk.batch) * chunk.items for chunk in ready.chunks)
    assert computed < 1.3 * ready.tokens
    assert max(ready.chunks[-1].batch) == max(len(text.split()) for text in texts)


def ready_chunks(lengths: Sequence[int], **preparer: int) -> list[tuple[list[int], bool]]:
    pairs = [
        Pair(query=Item(text=f"{row} " * length), positive=Item(text="a label"))
        for row, length in enumerate(lengths)
    ]
    ready = Preparer(encoder=Lengths(), **preparer)(pairs)
    return [(chunk.batch, chunk.keeps) for chunk in ready.chunks]


def test_graphs_are_kept_from_the_last_chunk_on_while_a_full_one_would_hold_them() -> None:
    few, lengths = ([2], [33, 33, 33], [40, 40]), [40, 33, 40, 33, 33]
    kept = (False, False, True)
    assert ready_chunks(lengths, tokens=100) == list(zip(few, kept, strict=True))
    assert ready_chunks(lengths, tokens=200) == [(chunk, True) for chunk in few]
    assert ready_chunks([40], tokens=10)[-1] == ([40], False)  # it is kept as the last one
    by_count = ready_chunks([5] * 6, tokens=1000, items=3)
    assert [keeps for _, keeps in by_count] == [False, False, True]  # 3, 3 and 1: 4 are too many


@pytest.mark.parametrize("keeps", [(False, False, False), (False, True, False), (True, True, True)])
def test_chunks_that_keep_their_graph_run_once(keeps: tuple[bool, ...]) -> None:
    import torch

    torch.manual_seed(0)
    layer, dropout = torch.nn.Linear(3, 2), torch.nn.Dropout(0.5)
    chunks = [Chunk(batch=torch.randn(4, 3), items=4, keeps=one) for one in keeps]
    runs: list[bool] = []

    def embed(batch: torch.Tensor) -> torch.Tensor:
        runs.append(torch.is_grad_enabled())
        vectors: torch.Tensor = layer(dropout(batch))
        return vectors

    torch.manual_seed(1)
    direct = torch.cat([embed(chunk.batch) for chunk in chunks])
    (direct @ direct.T).exp().sum().log().backward()
    expected = layer.weight.grad
    runs.clear()
    layer.weight.grad = None
    torch.manual_seed(1)
    cached = embed_all(embed, chunks)
    leaves = cached.vectors_ID.requires_grad_()
    (leaves @ leaves.T).exp().sum().log().backward()
    assert leaves.grad is not None
    backward_all(embed, chunks, cached, leaves.grad)
    torch.testing.assert_close(layer.weight.grad, expected)
    again = 2 - sum(keeps[:2])
    assert runs == [*(one or place == 2 for place, one in enumerate(keeps)), *[True] * again]
