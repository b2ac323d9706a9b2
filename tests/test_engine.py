"""The local engine: batches in order, cut where memory is short, and not cut twice for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.encoder import PlannedEncoder, begin
from mmeb_harness.engines.batch import Encoded, merged, pinned
from mmeb_harness.engines.engine import EngineSettings, open_engine
from mmeb_harness.engines.local import LocalEngine
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.item import Item, Rendered


class Small(PlannedEncoder):
    """An encoder with memory for so many items at once; it notes what it is asked."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.forwards: list[int] = []
        self.prepared: list[int] = []

    def render(self, item: Item) -> Rendered:
        return Rendered(text=item.text)

    def size(self, rendered: Rendered) -> int:
        return 1

    def prepare(self, rendered: Sequence[Rendered]) -> list[float]:
        self.prepared.append(len(rendered))
        if any(one.text == "unreadable" for one in rendered):
            raise ValueError("unreadable")
        return [float(one.text or 0) for one in rendered]

    def forward(self, batch: list[float]) -> np.ndarray:
        self.forwards.append(len(batch))
        if len(batch) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if 13.0 in batch:
            raise ValueError("unlucky")
        return np.array([[number, 1.0] for number in batch], dtype=np.float32)


def numbered(count: int, size: int) -> list[list[Rendered]]:
    texts = iter(range(count * size))
    return [[Rendered(text=str(100 + next(texts))) for _ in range(size)] for _ in range(count)]


def run(encoder: Small, batches: list[list[Rendered]], workers: int = 0) -> list[Encoded]:
    engine = LocalEngine(encoder, workers, len(batches))
    done = list(engine.run(batches))
    assert [number for number, _ in done] == list(range(len(batches)))
    return [encoded for _, encoded in done]


def texts_of(batch: list[Rendered]) -> list[float]:
    return [float(one.text or 0) for one in batch]


@pytest.mark.parametrize("room", [1, 3, 7, 8, 16])
def test_short_memory_changes_no_vector(room: int) -> None:
    batches = numbered(6, 16)
    for encoded, batch in zip(run(Small(room), batches), batches, strict=True):
        order = np.argsort(encoded.rows)
        assert sorted(encoded.rows) == list(range(16))
        assert encoded.vectors[order, 0].tolist() == texts_of(batch)
        assert encoded.failures == {}


def test_memory_that_was_short_once_is_not_tried_again() -> None:
    encoder = Small(room=4)
    done = run(encoder, numbered(40, 16))
    refused = [size for size in encoder.forwards if size > 4]
    assert refused == [
        16,
        8,
        8,
        8,
        8,
    ]  # the first batch is halved twice, the second begins in halves
    assert encoder.prepared.count(4) >= 4 * 38
    assert all(encoded.recut for encoded in done)


def test_a_bad_item_is_no_reason_to_cut_later_batches() -> None:
    encoder = Small()
    batches = numbered(3, 8)
    batches[0][2] = Rendered(text="13")
    done = run(encoder, batches)
    assert done[0].failures == {2: "ValueError: unlucky"}
    assert sorted(done[0].rows) == [0, 1, 3, 4, 5, 6, 7]
    assert done[0].recut
    assert encoder.forwards[-2:] == [8, 8]
    assert not done[1].recut


def test_failures_of_parts_keep_their_rows() -> None:
    encoder = Small(room=4)
    batches = numbered(3, 16)
    batches[2][11] = Rendered(text="unreadable")
    batches[2][3] = Rendered(text="13")
    last = run(encoder, batches)[2]
    assert last.failures == {3: "ValueError: unlucky", 11: "ValueError: unreadable"}
    expected = [
        number for row, number in enumerate(texts_of(numbered(3, 16)[2])) if row not in (3, 11)
    ]
    assert last.vectors[np.argsort(last.rows), 0].tolist() == expected


def test_parts_that_all_fail_merge_to_nothing() -> None:
    nothing = Encoded(vectors=np.zeros((0, 0), np.float32), rows=(), failures={0: "bad"})
    whole = merged([([4], nothing), ([7], nothing)])
    assert whole.failures == {4: "bad", 7: "bad"}
    assert whole.vectors.shape == (0, 0)
    assert list(whole.rows) == []


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    batches = numbered(20, 16)
    alone = run(Small(room=8), batches)
    for encoded, expected in zip(run(Small(room=8), batches, workers), alone, strict=True):
        assert sorted(encoded.rows) == sorted(expected.rows)
        one, other = (each.vectors[np.argsort(each.rows)] for each in (encoded, expected))
        assert np.array_equal(one, other)


def test_a_fault_of_the_surroundings_ends_the_run() -> None:
    class Broken(Small):
        def forward(self, batch: list[float]) -> np.ndarray:
            raise EnvironmentFault("the weights are gone")

    with pytest.raises(EnvironmentFault, match="the weights are gone"):
        run(Broken(), numbered(2, 4))


def test_the_engine_is_local_unless_devices_are_asked_for() -> None:
    engine = open_engine(EngineSettings(workers=0), Small(), 3)
    assert (engine.name, engine.actors, engine.workers) == ("local", 1, 0)


# -- what a device of its own needs ----------------------------------------------------------------


class Pinnable:
    """Stands for a tensor: says whether it was pinned."""

    def __init__(self) -> None:
        self.is_pinned = False

    def pin_memory(self) -> Pinnable:
        other = Pinnable()
        other.is_pinned = True
        return other


@dataclasses.dataclass(frozen=True)
class Inner:
    tensor: Any
    number: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    images: dict[str, Any]
    parts: list[Any]
    nothing: None = None


def test_every_tensor_of_a_batch_is_pinned_and_nothing_else_changes() -> None:
    batch = Outer(
        inner=Inner(Pinnable()), images={"pixels": Pinnable(), "n": 1}, parts=[Pinnable()]
    )
    found = pinned(batch)
    assert found.inner.tensor.is_pinned
    assert found.images["pixels"].is_pinned
    assert found.parts[0].is_pinned
    assert (found.inner.number, found.images["n"], found.nothing) == (3, 1, None)
    assert not batch.inner.tensor.is_pinned


def test_vectors_on_the_cpu_are_there_at_once() -> None:
    class Tensors(Small):
        def forward(self, batch: list[float]) -> torch.Tensor:
            assert torch.is_inference_mode_enabled()
            return torch.tensor(batch, dtype=torch.float64).unsqueeze(1)

    vectors = begin(Tensors(), [1.0, 2.0])()
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1.0], [2.0]]
