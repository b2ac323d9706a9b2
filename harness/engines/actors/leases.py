"""Which batches an actor is given next, and what its death says of them.

The one idea: an actor holds little. A lease is a second or two of work, by the speed that the actor
has shown, and nobody holds more than two: one under way and one being prepared. So a fast device
comes back more often and does more, and a death costs seconds. A batch is cut to a budget of
tokens; that is why so many batches stand for so much work.

Nothing here knows of Ray, of clocks or of vectors.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

LEASE_SECONDS = 1.5
"""How long a lease should keep an actor."""

IN_HAND = 2
"""Leases an actor holds at most: one on the device, one being prepared."""

GROWTH = 2
"""A lease is at most so many times as large as the actor's last one."""

BLAMES = 3
"""Deaths that are one batch's fault before it is given up."""

PATIENCE_AT_START, PATIENCE = 4, 12
"""Deaths in a row, with nothing done between them, before an actor's place is given up: while
nobody has done anything yet, and later."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Batches that one actor has in hand."""

    actor: int
    batches: Sequence[int]


@dataclass
class _Actor:
    """What is known of one actor's place: its leases, its speed, its deaths."""

    held: list[Lease] = field(default_factory=list)
    seconds_a_batch: float | None = None
    last: int = 1
    fruitless: int = 0


class Leases:
    """All batches of a run, dealt to actors that are known by their number.

    Batches are dealt in the order given. Those that an actor held when it died are suspects: they
    come last and one at a time, so that the next death says which it was.
    """

    def __init__(self, batches: int, actors: int) -> None:
        self._waiting = deque(range(batches))
        self._suspects: deque[int] = deque()
        self._blames: Counter[int] = Counter()
        self._actors = [_Actor() for _ in range(actors)]
        self._begun = False

    @property
    def finished(self) -> bool:
        """Whether every batch is done or given up."""
        held = any(actor.held for actor in self._actors)
        return not (self._waiting or self._suspects or held)

    def grant(self, number: int) -> Lease | None:
        """Give an actor a further lease, if there is one for it."""
        actor = self._actors[number]
        if self._waiting:
            if len(actor.held) == IN_HAND:
                return None
            size = self._size(actor)
            return self._given(number, [self._waiting.popleft() for _ in range(size)])
        if self._suspects and not actor.held:
            return self._given(number, [self._suspects.popleft()])
        return None

    def done(self, lease: Lease, seconds: float) -> None:
        """Take a lease back that took the actor so long."""
        actor = self._actors[lease.actor]
        actor.held.remove(lease)
        actor.seconds_a_batch = seconds / len(lease.batches)
        actor.fruitless = 0
        self._begun = True

    def died(self, number: int) -> list[int]:
        """Take back what an actor held when it died; return the batches that are given up."""
        actor = self._actors[number]
        batches = [batch for lease in actor.held for batch in lease.batches]
        actor.held.clear()
        actor.seconds_a_batch, actor.last = None, 1
        actor.fruitless += 1
        if len(batches) == 1:
            self._blames[batches[0]] += 1
        given_up = [batch for batch in batches if self._blames[batch] >= BLAMES]
        self._suspects.extend(batch for batch in batches if batch not in given_up)
        return given_up

    def hopeless(self, number: int) -> bool:
        """Whether another actor in this one's place would only die as well."""
        return self._actors[number].fruitless >= (PATIENCE if self._begun else PATIENCE_AT_START)

    def _given(self, number: int, batches: Sequence[int]) -> Lease:
        lease = Lease(actor=number, batches=tuple(batches))
        self._actors[number].held.append(lease)
        self._actors[number].last = len(batches)
        return lease

    def _size(self, actor: _Actor) -> int:
        """Say how many batches are a lease: small at the start and, so that all actors end
        together, at the end."""
        if actor.seconds_a_batch is None:
            return 1
        lasting = int(LEASE_SECONDS / max(actor.seconds_a_batch, 1e-9))
        share = len(self._waiting) // (IN_HAND * len(self._actors))
        return max(1, min(lasting, GROWTH * actor.last, share))
