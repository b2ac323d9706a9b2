"""What a crew is, and how batches are dealt to it until all are done.

The one idea: an actor is at one of three things: starting, working, dead. Each news of one is an
event, and what follows from it is decided here, by the leases alone, for whatever kind of actor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from mmeb_harness.engines.actors.leases import BLAMES, Lease, Leases
from mmeb_harness.engines.batch import Encoded
from mmeb_harness.engines.engine import Batches
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.item import Rendered


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An actor can be given leases."""

    actor: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """A lease is done, in so many seconds."""

    lease: Lease
    seconds: float
    encoded: Sequence[Encoded]


@dataclass(frozen=True, kw_only=True)
class Died:
    """An actor is no more, with all that it held."""

    actor: int
    why: str


class Crew(Protocol):
    """Actors, known by their numbers from 0."""

    actors: int

    def start(self, actor: int) -> None:
        """Start an actor, or another in its place; it will be ready, or die."""

    def send(self, lease: Lease, batches: Batches) -> None:
        """Hand a lease to its actor."""

    def news(self) -> Ready | Done | Died:
        """Wait for what happens next. Raises what an actor raises."""

    def logs(self) -> str:
        """Say where it is written what went wrong."""


def deal(batches: Batches, crew: Crew) -> Iterator[tuple[int, Encoded]]:
    """Yield each batch by its number as it is done, or given up after it killed its actors.

    Raises:
        EnvironmentFault: where every actor dies, again and again, whatever it is given.
    """
    leases = Leases(len(batches), crew.actors)
    ready: set[int] = set()
    alive = set(range(crew.actors))
    for actor in sorted(alive):
        crew.start(actor)
    while not leases.finished:
        for actor in sorted(ready):
            while (lease := leases.grant(actor)) is not None:
                crew.send(lease, [batches[number] for number in lease.batches])
        match crew.news():
            case Ready(actor=actor):
                ready.add(actor)
            case Done(lease=lease, seconds=seconds, encoded=encoded):
                leases.done(lease, seconds)
                yield from zip(lease.batches, encoded, strict=True)
            case Died(actor=actor, why=why):
                ready.discard(actor)
                for number in leases.died(actor):
                    yield number, _lost(batches[number])
                if leases.hopeless(actor):
                    alive.discard(actor)
                elif not leases.finished:
                    crew.start(actor)
                if not alive:
                    raise EnvironmentFault(
                        f"the encoder's processes die, one after another: {why} Logs: {crew.logs()}"
                    )


def _lost(rendered: Sequence[Rendered]) -> Encoded:
    """Say of every item of a batch that none of its vectors can be had."""
    alone = (
        "its" if len(rendered) == 1 else f"the batch of {len(rendered)} items that it is in: its"
    )
    why = f"{alone} process died {BLAMES} times (out of memory?)"
    return Encoded(
        vectors=np.zeros((0, 0), np.float32),
        rows=(),
        failures=dict.fromkeys(range(len(rendered)), why),
    )
