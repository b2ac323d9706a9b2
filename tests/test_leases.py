"""How batches are dealt to actors, what a death means, and who gets how much: without Ray."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mmeb_harness.engines.actors.crew import Died, Done, Ready, deal
from mmeb_harness.engines.actors.leases import IN_HAND, LEASE_SECONDS, Lease, Leases
from mmeb_harness.engines.actors.seats import Room, seats
from mmeb_harness.engines.batch import Encoded
from mmeb_harness.engines.engine import EngineSettings
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.item import Rendered

# -- leases ----------------------------------------------------------------------------------------


def granted(leases: Leases, actor: int) -> Lease:
    lease = leases.grant(actor)
    assert lease is not None
    return lease


def test_an_actor_holds_two_leases_at_most_and_batches_go_out_in_order() -> None:
    leases = Leases(10, actors=2)
    given = [granted(leases, actor).batches for actor in (0, 1, 0, 1)]
    assert given == [(0,), (1,), (2,), (3,)]
    assert leases.grant(0) is None


def test_a_lease_grows_to_a_second_or_two_of_work() -> None:
    leases, sizes = Leases(1000, actors=1), []
    while len(sizes) < 12:
        lease = granted(leases, 0)
        sizes.append(len(lease.batches))
        leases.done(lease, 0.05 * len(lease.batches))
    assert sizes[:4] == [1, 2, 4, 8]
    assert sizes[-1] == round(LEASE_SECONDS / 0.05)


def test_a_slow_actor_gets_a_batch_at_a_time() -> None:
    leases = Leases(1000, actors=1)
    for _ in range(5):
        lease = granted(leases, 0)
        assert len(lease.batches) == 1
        leases.done(lease, 60.0)


def test_the_last_leases_are_small_so_that_all_actors_end_together() -> None:
    leases, sizes = Leases(400, actors=4), []
    while (lease := leases.grant(len(sizes) % 4)) is not None:
        sizes.append(len(lease.batches))
        leases.done(lease, 0.001 * len(lease.batches))
    assert sum(sizes) == 400
    assert max(sizes) > 8
    assert sizes[-8:] == [1] * 8


def test_a_faster_actor_does_more() -> None:
    """One of two is four times as fast; both work at their own pace until all is done."""
    leases, pace = Leases(3000, actors=2), (0.01, 0.04)
    clock, done = [0.0, 0.0], Counter[int]()
    while not leases.finished:
        actor = clock.index(min(clock))
        lease = leases.grant(actor)
        if lease is None:
            clock[actor] = float("inf")
            continue
        seconds = pace[actor] * len(lease.batches)
        clock[actor] += seconds
        done[actor] += len(lease.batches)
        leases.done(lease, seconds)
    assert done.total() == 3000
    assert 3.5 < done[0] / done[1] < 4.5


def test_what_a_dead_actor_held_comes_last_and_alone() -> None:
    leases = Leases(8, actors=1)
    held = [granted(leases, 0).batches for _ in range(IN_HAND)]
    assert leases.died(0) == []
    order = []
    while (lease := leases.grant(0)) is not None:
        order.append(lease.batches)
        if lease.batches in held:
            assert leases.grant(0) is None, "another beside a suspect"
        leases.done(lease, 1e-3)
    assert sorted(number for batches in order for number in batches) == list(range(8))
    assert order[-2:] == held
    assert leases.finished


def test_only_a_batch_that_was_alone_is_blamed_and_the_third_time_it_is_given_up() -> None:
    leases = Leases(2, actors=1)
    granted(leases, 0), granted(leases, 0)
    assert leases.died(0) == []  # of two, neither is blamed
    for expected in ([], [], [0]):
        while granted(leases, 0).batches != (0,):
            leases.done(Lease(actor=0, batches=(1,)), 1.0)
        assert leases.died(0) == expected


def test_an_actor_that_only_dies_is_given_up_sooner_when_nothing_was_ever_done() -> None:
    leases = Leases(100, actors=2)
    for _ in range(4):
        assert not leases.hopeless(0)
        leases.died(0)
    assert leases.hopeless(0)
    leases.done(granted(leases, 1), 1.0)
    assert not leases.hopeless(0), "one device does its work: another may yet"
    for _ in range(8):
        leases.died(0)
    assert leases.hopeless(0)


def test_deaths_are_counted_from_the_last_thing_done() -> None:
    leases = Leases(100, actors=1)
    for _ in range(20):
        leases.died(0)
        leases.done(granted(leases, 0), 1.0)
    assert not leases.hopeless(0)


def test_another_in_a_dead_actors_place_begins_small() -> None:
    leases = Leases(1000, actors=1)
    for _ in range(6):
        lease = granted(leases, 0)
        leases.done(lease, 0.01 * len(lease.batches))
    assert len(lease.batches) > 8
    leases.died(0)
    assert len(granted(leases, 0).batches) == 1


# -- dealing ---------------------------------------------------------------------------------------


class Acted:
    """A crew that does at once what it is asked; some batches kill whoever has them."""

    def __init__(self, actors: int, *, killers: Sequence[int] = (), sick: bool = False) -> None:
        self.actors, self.killers, self.sick = actors, set(killers), sick
        self.events: deque[Any] = deque()
        self.started = 0

    def start(self, actor: int) -> None:
        self.started += 1
        event = Died(actor=actor, why="no such device.") if self.sick else Ready(actor=actor)
        self.events.append(event)

    def send(self, lease: Lease, batches: Sequence[Sequence[Rendered]]) -> None:
        encoded = [
            Encoded(vectors=np.ones((1, 2), np.float32), rows=range(len(batch)), failures={})
            for batch in batches
        ]
        self.events.append(Done(lease=lease, seconds=0.1, encoded=encoded))

    def news(self) -> Any:
        event = self.events.popleft()
        if isinstance(event, Done) and self.killers & set(event.lease.batches):
            actor = event.lease.actor
            self.events = deque(one for one in self.events if not held_by(one, actor))
            return Died(actor=actor, why="it was killed.")
        return event

    def logs(self) -> str:
        return "here"


def held_by(event: Any, actor: int) -> bool:
    return isinstance(event, Done) and event.lease.actor == actor


BATCHES = [[Rendered(text=f"{number} {place}") for place in range(2)] for number in range(40)]


@pytest.mark.parametrize("actors", [1, 3])
def test_every_batch_comes_back_once(actors: int) -> None:
    numbers = [number for number, _ in deal(BATCHES, Acted(actors))]
    assert sorted(numbers) == list(range(40))


@pytest.mark.parametrize("actors", [1, 3])
@pytest.mark.parametrize("killers", [[0], [3, 17, 39]])
def test_batches_that_kill_are_given_up_and_all_others_done(
    actors: int, killers: list[int]
) -> None:
    crew = Acted(actors, killers=killers)
    done = dict(deal(BATCHES, crew))
    assert sorted(done) == list(range(40))
    lost = {number for number, encoded in done.items() if encoded.failures}
    assert lost == set(killers)
    for number in killers:
        assert list(done[number].failures) == [0, 1]
        assert "process died 3 times (out of memory?)" in done[number].failures[0]
    assert crew.started <= actors + 4 * len(killers)


def test_an_actor_that_dies_with_the_last_batch_given_up_is_not_replaced() -> None:
    crew = Acted(1, killers=[0])
    done = dict(deal(BATCHES[:1], crew))
    assert len(done[0].failures) == 2
    assert crew.started == 3


def test_a_dead_actor_is_sent_nothing() -> None:
    crew = Acted(3, killers=[0, 1, 2])
    dead: set[int] = set()
    send, start, news = crew.send, crew.start, crew.news

    def noted(lease: Lease, batches: Sequence[Sequence[Rendered]]) -> None:
        assert lease.actor not in dead
        send(lease, batches)

    def started(actor: int) -> None:
        start(actor)

    def heard() -> Any:
        event = news()
        if isinstance(event, Died):
            dead.add(event.actor)
        elif isinstance(event, Ready):
            dead.discard(event.actor)
        return event

    crew.send, crew.start, crew.news = noted, started, heard  # type: ignore[method-assign]
    done = dict(deal(BATCHES, crew))
    assert sorted(done) == list(range(len(BATCHES)))
    assert [number for number, one in done.items() if one.failures] != []


def test_actors_that_all_die_at_their_start_are_one_clear_error() -> None:
    crew = Acted(2, sick=True)
    with pytest.raises(
        EnvironmentFault, match=r"die, one after another: no such device\. Logs: here"
    ):
        list(deal(BATCHES, crew))
    assert crew.started == 8


def test_an_encoder_that_kills_every_process_is_one_clear_error() -> None:
    crew = Acted(2, killers=range(40))
    with pytest.raises(EnvironmentFault, match="die, one after another"):
        list(deal(BATCHES, crew))
    assert crew.started <= 8


# -- seats -----------------------------------------------------------------------------------------

MACHINE = Room(cores=16, gpus=2)
CPU_ONLY = Room(cores=2, gpus=0)
CLUSTER = Room(cores=256, gpus=32, nodes=4, joined=True)
CPU_CLUSTER = Room(cores=256, gpus=0, nodes=4, joined=True)


@pytest.mark.parametrize(
    ("asked", "device", "room", "expected"),
    [
        ({}, "cuda", MACHINE, (2, True, 8, 0.0)),
        ({}, "cuda:1", CLUSTER, (32, True, 8, 0.0)),
        ({"gpus": 1}, "cuda", MACHINE, (1, True, 8, 0.0)),
        ({"gpus": 2}, None, MACHINE, (2, True, 8, 0.0)),
        ({"actors": 8}, "cuda", CLUSTER, (8, True, 8, 0.0)),
        ({}, "cpu", MACHINE, (1, False, 16, 1.0)),
        ({"actors": 2}, "cpu", CPU_ONLY, (2, False, 1, 1.0)),
        ({"actors": 4}, "cpu", CPU_ONLY, (4, False, 1, 0.5)),
        ({"actors": 3}, "cpu", CPU_ONLY, (3, False, 1, 0.6666)),
        ({}, "cpu", CPU_CLUSTER, (4, False, 64, 1.0)),
        ({"actors": 64}, "cpu", CLUSTER, (64, False, 4, 1.0)),
        ({"actors": 3}, "served", CLUSTER, (3, False, 85, 1.0)),
        ({}, None, MACHINE, (1, False, 16, 1.0)),
    ],
)
def test_who_gets_how_much(
    asked: dict[str, int], device: str | None, room: Room, expected: tuple[int, bool, int, float]
) -> None:
    given = seats(EngineSettings(**asked), device, room)  # type: ignore[arg-type]
    assert (given.actors, given.on_gpu, given.threads, given.share) == expected


@pytest.mark.parametrize(
    ("asked", "device", "room", "kind", "told"),
    [
        ({"gpus": 4}, "cuda", MACHINE, EnvironmentFault, "--gpus 4: this machine has 2 GPUs"),
        ({"gpus": 1}, "cpu", CPU_ONLY, EnvironmentFault, "--gpus 1: this machine has no GPUs"),
        ({"gpus": 33}, "cuda", CLUSTER, EnvironmentFault, "--gpus 33: the cluster has 32 GPUs"),
        ({"gpus": 1}, "cpu", MACHINE, UsageError, "the encoder is on cpu, not on cuda"),
        ({"actors": 3}, "cuda", MACHINE, EnvironmentFault, "3 actors on cuda need a GPU each"),
        ({}, "cuda", CPU_CLUSTER, EnvironmentFault, "the cluster has no GPUs"),
        ({}, "cpu", CLUSTER, EnvironmentFault, "the cluster has 32 GPUs, but this machine has no"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what_there_is(
    asked: dict[str, int], device: str, room: Room, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=re.escape(told)):
        seats(EngineSettings(**asked), device, room)  # type: ignore[arg-type]
