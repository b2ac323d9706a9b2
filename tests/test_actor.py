"""What runs in an actor, without Ray: leases one at a time on the device, prepared meanwhile."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from mmeb_harness.engines.actors.actor import Arrival, EncoderActor, Outcome, Post, told
from mmeb_harness.errors import EncoderFailed, EnvironmentFault
from mmeb_harness.item import Rendered
from small_encoder import Small, numbered


def actor_of(encoder: Small, workers: int = 0) -> EncoderActor:
    post = Post(
        sealed=pickle.dumps(encoder),
        on_gpu=False,
        threads=1,
        workers=workers,
        folder=".",
        path=(),
        environment={},
    )
    actor = EncoderActor(post)
    assert isinstance(actor.ready(), Arrival)
    return actor


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor settles in a process of its own; here it must not change ours."""
    monkeypatch.setattr("mmeb_harness.engines.actors.actor._settle", lambda post: None)


def test_a_lease_comes_back_batch_by_batch() -> None:
    batches = numbered(3, 4)
    done = actor_of(Small()).encode(batches)
    assert [one.vectors[:, 0].tolist() for one in done.encoded] == [
        [float(item.text or 0) for item in batch] for batch in batches
    ]
    assert done.error is None


def test_memory_that_was_short_in_earlier_leases_is_not_tried_again() -> None:
    actor = actor_of(Small(room=4))
    batches = numbered(8, 16)
    actor.encode(batches[:1])
    actor.encode(batches[1:2])
    own: Any = actor._device.encoder
    own.forwards.clear()
    done = actor.encode(batches[2:])
    assert max(own.forwards) == 4
    assert [sorted(one.rows) for one in done.encoded] == [list(range(16))] * 6


class Alone(Small):
    """Fails where two threads are in one of its methods at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: dict[str, int] = {"prepare": 0, "forward": 0}
        self.together: list[str] = []

    def _enter(self, name: str) -> None:
        self.inside[name] += 1
        if self.inside[name] > 1:
            self.together.append(name)
        time.sleep(0.02)
        self.inside[name] -= 1

    def prepare(self, rendered: Sequence[Rendered]) -> list[float]:
        self._enter("prepare")
        return super().prepare(rendered)

    def forward(self, batch: list[float]) -> np.ndarray:
        self._enter("forward")
        return super().forward(batch)


def test_two_leases_never_share_the_device_or_the_preparing_half() -> None:
    actor = actor_of(Alone())
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(actor.encode, [numbered(8, 2) for _ in range(4)]))
    assert [len(one.encoded) for one in done] == [8] * 4
    device: Any = actor._device.encoder
    preparing: Any = actor._prepare
    assert device.together == preparing._encoder.together == []
    assert device is not preparing._encoder


class Broken(Small):
    """Has lost its weights."""

    def forward(self, batch: list[float]) -> np.ndarray:
        raise EnvironmentFault("the weights are gone")


def test_a_fault_of_our_own_kind_is_told_and_the_device_is_free_again() -> None:
    actor = actor_of(Broken())
    for _ in range(2):
        told = actor.encode(numbered(1, 2))
        assert isinstance(told, Outcome)
        assert str(told.error) == "the weights are gone"


def test_the_next_lease_is_prepared_while_the_device_is_busy() -> None:
    actor = actor_of(Small())
    own: Any = actor._prepare
    with actor._at_the_device:  # as if another lease were on it
        waiting = threading.Thread(target=actor.encode, args=(numbered(3, 2),), daemon=True)
        waiting.start()
        deadline = time.monotonic() + 60
        while len(own._encoder.prepared) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert own._encoder.prepared == [2, 2, 2]
        device: Any = actor._device.encoder
        assert device.forwards == []
    waiting.join(60)
    assert device.forwards == [2, 2, 2]


class Odd(EnvironmentFault):
    """Does not unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (EnvironmentFault("no weights"), EnvironmentFault, "no weights"),
        (Odd("this", "that"), EnvironmentFault, "Odd: this and that"),
        (ValueError("what"), EncoderFailed, "the encoder failed in an actor: ValueError: what"),
    ],
    ids=["ours", "ours and odd", "another"],
)
def test_errors_arrive_as_errors_of_ours(error: Exception, kind: type, said: str) -> None:
    found = told(error)
    assert type(found) is kind
    assert str(found) == said
    assert str(pickle.loads(pickle.dumps(found))) == said
