"""What workers make arrives, whatever becomes of shared memory; nobody waits for ever."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.engines.actors.preparing import InProcesses
from mmeb_harness.engines.actors.sending import seal
from mmeb_harness.engines.local import LocalEngine
from mmeb_harness.engines.parcel import Packer, Parcel, Unpacker, sendable
from mmeb_harness.errors import EnvironmentFault, ItemError
from mmeb_harness.item import Rendered
from small_encoder import Small, numbered

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra [ray]")

FULL = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"


class Large(list[float]):
    """What a batch is made into that finds shared memory full."""


def _no_room(_: Large) -> Any:
    raise RuntimeError(FULL)


ForkingPickler.register(Large, _no_room)


class Filling(Small):
    """Prepares what does not fit, from the third batch of a worker on."""

    def prepare(self, rendered: Sequence[Rendered]) -> list[float]:
        made = super().prepare(rendered)
        return Large(made) if len(self.prepared) > 2 else made


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_where_shared_memory_is_full(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    batches = numbered(8, 3)
    done = list(LocalEngine(Filling(), workers, 8).run(batches))
    expected = [[float(one.text or 0) for one in batch] for batch in batches]
    assert [encoded.vectors[:, 0].tolist() for _, encoded in done] == expected
    (said,) = [record.getMessage() for record in caplog.records]
    assert "No space left" in said
    assert "--shm-size" in said


@needs_ray
@pytest.mark.thorough
def test_an_actors_workers_go_on_too(caplog: pytest.LogCaptureFixture) -> None:
    prepared = list(InProcesses(seal(Filling()), 1)(numbered(5, 2)))
    assert [one.batch for one in prepared] == [
        [float(one.text or 0) for one in batch] for batch in numbered(5, 2)
    ]
    assert len(caplog.records) == 1


def test_tensors_are_shared_while_there_is_room() -> None:
    pixels = torch.arange(1e6)
    parcel = Packer().pack({"pixels": pixels})
    assert parcel.copied is None
    assert len(parcel.content) < 10_000
    assert torch.equal(parcel.open()["pixels"], pixels)


def test_after_one_failure_everything_is_copied() -> None:
    packer = Packer()
    assert packer.pack(Large([1.0])).copied == f"RuntimeError: {FULL}"
    pixels = torch.arange(1e6)
    parcel = packer.pack(pixels)
    assert parcel.copied == f"RuntimeError: {FULL}"
    assert len(parcel.content) > pixels.nbytes
    assert torch.equal(parcel.open(), pixels)


def test_copying_is_said_once_for_all_workers(caplog: pytest.LogCaptureFixture) -> None:
    unpacker = Unpacker()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert unpacker.open(Packer().pack(Large([1.0]))) == [1.0]
        assert unpacker.open(Packer().pack([2.0])) == [2.0]
    assert len(caplog.records) == 1


def test_an_error_that_came_is_raised() -> None:
    with pytest.raises(ItemError, match="spoilt"):
        Unpacker().open(ItemError("spoilt"))


@pytest.mark.parametrize(
    "error", [RuntimeError("received 0 items of ancdata"), ConnectionRefusedError("gone")]
)
def test_shared_memory_out_of_reach_is_the_machines_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Parcel) -> None:
        raise error

    monkeypatch.setattr(Parcel, "open", fail)
    with pytest.raises(EnvironmentFault, match=r"is lost \(.*ulimit -n.*fewer workers"):
        Unpacker().open(Parcel(b""))


class TwoWords(EnvironmentFault):
    """An error that pickle cannot make again."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def locked() -> EnvironmentFault:
    error = EnvironmentFault("no network")
    error.response = threading.Lock()  # type: ignore[attr-defined]
    return error


class Failing(Small):
    """Raises what does not travel."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def prepare(self, rendered: Sequence[Rendered]) -> list[float]:
        raise locked() if self.kind == "locked" else TwoWords("no", "network")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["locked", "two words"])
def test_an_error_that_cannot_be_pickled_arrives_all_the_same(kind: str) -> None:
    with pytest.raises(EnvironmentFault, match="no network"):
        list(LocalEngine(Failing(kind), 1, 8).run(numbered(3, 2)))


@needs_ray
@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["locked", "two words"])
def test_it_arrives_from_an_actors_worker_too(kind: str) -> None:
    with pytest.raises(EnvironmentFault, match="no network"):
        list(InProcesses(seal(Failing(kind)), 1)(numbered(3, 2)))


def test_an_error_keeps_its_kind_if_it_can() -> None:
    arrived = sendable(ItemError("spoilt"))
    assert isinstance(arrived, ItemError)
    assert str(arrived) == "spoilt"
    assert type(sendable(TwoWords("no", "network"))) is EnvironmentFault


class Dying(Small):
    """Its worker is killed while it prepares the last of four batches."""

    def prepare(self, rendered: Sequence[Rendered]) -> Any:
        made = super().prepare(rendered)
        if len(self.prepared) == 4:
            time.sleep(1)  # until the others are on their way
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pixels": torch.tensor(made)}


@needs_ray
@pytest.mark.thorough
def test_what_an_actors_worker_made_outlives_it() -> None:
    arriving = InProcesses(seal(Dying()), 1)(numbered(4, 2))
    time.sleep(5)
    assert [next(arriving).batch["pixels"].tolist() for _ in range(3)] == [
        [float(one.text or 0) for one in batch] for batch in numbered(4, 2)[:3]
    ]
    with pytest.raises(EnvironmentFault, match="a preprocessing worker of an actor died"):
        next(arriving)


def test_what_cannot_leave_its_process_is_an_error() -> None:
    with pytest.raises(EnvironmentFault, match=r"cannot be sent to the run .*--workers 0"):
        Packer().pack(lambda: 1)


class Pinnable:
    """Something that can be pinned."""

    def pin_memory(self) -> np.ndarray:
        return np.ones(3)


def test_a_parcel_is_opened_and_pinned_at_once(caplog: pytest.LogCaptureFixture) -> None:
    parcel = Packer().pack(Pinnable())
    unpacker = Unpacker()
    assert unpacker.open(parcel.pin_memory()).tolist() == [1, 1, 1]
    assert not caplog.records
    unpacker.open(Parcel(parcel.content, copied="no room").pin_memory())
    assert len(caplog.records) == 1
