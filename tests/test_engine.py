"""The local engine: batches in order, cut where memory is short, and not cut twice for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.encode import encode_missing
from mmeb_harness.encoder import begin
from mmeb_harness.engines.batch import Encoded, merged, pinned
from mmeb_harness.engines.device import cut
from mmeb_harness.engines.engine import EngineSettings, open_engine
from mmeb_harness.engines.local import LocalEngine, chosen_workers
from mmeb_harness.errors import EncoderFailed, EnvironmentFault
from mmeb_harness.files import FileIndex
from mmeb_harness.gather import Work, gather_items
from mmeb_harness.item import Item, Rendered
from mmeb_harness.plan import make_plan
from mmeb_harness.store import VectorStore
from small_encoder import Small, numbered


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


def test_items_that_could_not_be_prepared_are_told_though_the_others_were_halved() -> None:
    encoder, batches = Small(room=4), numbered(1, 16)
    batches[0][5] = Rendered(text="unreadable")
    (done,) = run(encoder, batches)
    assert done.failures == {5: "ValueError: unreadable"}
    assert sorted(done.rows) == [row for row in range(16) if row != 5]
    assert done.short


def test_the_last_item_of_a_batch_may_fail_beside_an_unreadable_one() -> None:
    (done,) = run(Small(), [[Rendered(text="unreadable"), Rendered(text="13")]])
    assert done.failures == {0: "ValueError: unreadable", 1: "ValueError: unlucky"}
    assert list(done.rows) == []


class Preparing(Small):
    """Can prepare two items together, and no more."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def prepare(self, rendered: Sequence[Rendered]) -> list[float]:
        if len(rendered) > 2:
            raise self.error
        return super().prepare(rendered)


@pytest.mark.parametrize(
    ("error", "short"),
    [(MemoryError(), True), (RuntimeError("too many"), False), (SystemExit(0), False)],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_prepared_together_is_prepared_in_parts(
    error: BaseException, short: bool
) -> None:
    batches = numbered(2, 8)
    batches[0][3] = Rendered(text="unreadable")
    done = run(Preparing(error), batches)
    assert done[0].failures == {3: "ValueError: unreadable"}
    assert sorted(done[0].rows) == [0, 1, 2, 4, 5, 6, 7]
    assert sorted(done[1].rows) == list(range(8))
    assert done[0].short is short


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 1), (5, 4), (96, 8)])
def test_a_device_gets_a_worker_for_each_core_but_one_up_to_eight(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr("mmeb_harness.engines.local.cores", lambda: cores)
    encoder = Small()
    assert chosen_workers(encoder, 100, None) == 0, "a CPU's cores are the model's"
    monkeypatch.setattr(encoder, "device", "cuda", raising=False)
    assert chosen_workers(encoder, 100, None) == expected
    assert chosen_workers(encoder, 3, None) == 0, "too few batches"
    assert chosen_workers(encoder, 100, 3) == 3


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_error_without_words_is_named() -> None:
    class Silent(Small):
        def forward(self, batch: list[float]) -> np.ndarray:
            raise Mute

    (done,) = run(Silent(), numbered(1, 1))
    assert done.failures == {0: "Mute: it cannot say why"}


class Unsendable(Small):
    """Prepares what no process can send."""

    def prepare(self, rendered: Sequence[Rendered]) -> Any:
        return lambda: rendered


@pytest.mark.thorough
def test_what_a_worker_cannot_send_is_one_clear_error() -> None:
    with pytest.raises(EnvironmentFault, match=r"cannot be sent to the run .*--workers 0"):
        run(Unsendable(), numbered(4, 2), workers=1)


@pytest.mark.parametrize(
    ("image", "why"),
    [(b"other", "was changed while the run was under way"), (None, "does not exist")],
)
def test_no_vector_is_kept_of_an_image_that_is_not_what_its_key_says(
    image: bytes | None, why: str, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    store, work, encoder = VectorStore(tmp_path / "vectors"), Work(), Small()
    items = [Item(text=str(number), image=str(path)) for number, path in enumerate(paths)]
    encoder.render = lambda item: Rendered(text=item.text, image=item.image)  # type: ignore[method-assign]
    gathered = gather_items(items, encoder, FileIndex(tmp_path / "cache"), store, work)
    paths[1].unlink() if image is None else paths[1].write_bytes(image)
    plan = make_plan(list(work.missing), work.measure(encoder), budget=9, identity="", name="n")
    (step,) = encode_missing(plan, work, store, LocalEngine(encoder, 0, 1))
    assert step.computed == 2
    assert store.find(gathered.keys) == {gathered.keys[0], gathered.keys[2]}
    assert why in work.faults[gathered.keys[1]]


@pytest.mark.parametrize("size", [None, -1, 1 << 40, "many"])
def test_an_impossible_size_is_that_items_fault(size: Any) -> None:
    encoder = Small()
    encoder.size = lambda one: size if one.text == "bad" else 3  # type: ignore[method-assign]
    work = Work(missing={b"a" * 16: Rendered(text="bad"), b"b" * 16: Rendered(text="1")})
    assert work.measure(encoder).tolist() == [3]
    assert list(work.faults) == [b"a" * 16]
    assert list(work.missing) == [b"b" * 16]


def test_memory_that_is_short_for_a_half_counts() -> None:
    class Confused(Small):
        def forward(self, batch: list[float]) -> np.ndarray:
            if len(batch) > 8:
                raise ValueError("something else")
            return super().forward(batch)

    (done,) = run(Confused(room=4), numbered(1, 16))
    assert done.short
    assert sorted(done.rows) == list(range(16))


def test_memory_that_is_short_for_one_part_counts_for_the_whole() -> None:
    vectors = np.ones((1, 2), np.float32)
    parts = [
        ([number], Encoded(vectors=vectors, rows=(0,), failures={}, short=number == 1))
        for number in range(3)
    ]
    assert merged(parts).short
    assert not merged(parts[::2]).short


def test_a_vector_that_is_not_finite_leaves_the_others_theirs() -> None:
    class Spoilt(Small):
        def forward(self, batch: list[float]) -> np.ndarray:
            vectors = super().forward(batch)
            vectors[1] = np.nan
            return vectors

    (done,) = run(Spoilt(), numbered(1, 3))
    assert list(done.rows) == [0, 2]
    assert done.vectors[:, 0].tolist() == [100.0, 102.0]
    assert "not finite" in done.failures[1]


def test_too_few_vectors_are_the_encoders_fault() -> None:
    class Short(Small):
        def forward(self, batch: list[float]) -> np.ndarray:
            return super().forward(batch)[1:]

    with pytest.raises(EncoderFailed, match="for 4 items"):
        run(Short(), numbered(1, 4))


def test_parts_are_as_equal_as_they_can_be() -> None:
    (batch,) = numbered(1, 7)
    assert [len(part.rows) for part in cut(3, batch, 2)] == [4, 3]
    assert [part.is_last for part in cut(3, batch, 2)] == [False, True]
    assert [len(part.rows) for part in cut(3, batch, 64)] == [1] * 7


def test_failures_after_a_success_do_not_end_the_run(tmp_path: Path) -> None:
    for first, raises in (("100", False), ("unreadable", True)):
        texts = [first, *(f"{13}" for _ in range(6))]
        work = Work(missing={n.to_bytes(16): Rendered(text=text) for n, text in enumerate(texts)})
        sizes = np.ones(len(texts), dtype=np.int32)
        plan = make_plan(list(work.missing), sizes, budget=1, identity="", name="n")
        steps = encode_missing(
            plan, work, VectorStore(tmp_path / first), LocalEngine(Small(), 0, 7)
        )
        if raises:
            with pytest.raises(EncoderFailed, match="fails on every item it is given"):
                list(steps)
        else:
            assert len(list(steps)) == 7
            assert len(work.faults) == 6


def test_images_are_numbered_by_what_they_show() -> None:
    shown = ["a.png", None, "b.png", "a.png", b"x", b"x", None]
    work = Work(missing={n.to_bytes(16): Rendered(image=one) for n, one in enumerate(shown)})
    assert work.pictures() == [0, -1, 1, 0, 2, 2, -1]


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


class OnCuda(torch.Tensor):
    """A tensor that says it is on a device."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


class Device:
    """A device whose copies are done when they are waited for, and no sooner."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.log: list[str] = []
        device, empty = self, torch.empty

        class Event:
            def record(self) -> None:
                self.copies, device.copies = device.copies, []

            def synchronize(self) -> None:
                device.log.append("wait")
                with torch.inference_mode():
                    for here, there in self.copies:
                        here[:] = there

        def pinned_empty(shape: Any, *, dtype: Any, pin_memory: bool) -> torch.Tensor:
            assert pin_memory
            return empty(shape, dtype=dtype).fill_(float("nan")).as_subclass(Here)

        class Here(torch.Tensor):
            def copy_(self, there: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
                assert non_blocking
                assert there.dtype == self.dtype
                device.copies.append(
                    (self.as_subclass(torch.Tensor), there.as_subclass(torch.Tensor))
                )
                return self

        monkeypatch.setattr(torch, "empty", pinned_empty)
        monkeypatch.setattr(torch.cuda, "Event", Event)


class Launching(Small):
    """Has its vectors on a device, in half precision."""

    device = "cuda:0"

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.log = device.log

    def forward(self, batch: list[float]) -> torch.Tensor:  # type: ignore[override]
        self.log.append("run")
        vectors = torch.from_numpy(super().forward(batch)).bfloat16()
        return vectors.as_subclass(OnCuda)


def test_vectors_of_a_device_are_waited_for_while_the_next_batch_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch)
    batches = numbered(3, 2)
    done = run(Launching(device), batches)  # type: ignore[arg-type]
    assert [encoded.failures for encoded in done] == [{}] * 3
    assert device.log == ["run", "run", "wait", "run", "wait", "wait"]
    for encoded, batch in zip(done, batches, strict=True):
        assert encoded.vectors.dtype == np.float32
        assert encoded.vectors[:, 0].tolist() == texts_of(batch)
        assert type(encoded.vectors) is np.ndarray
