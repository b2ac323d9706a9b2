"""Actors in Ray: started, given leases, listened to, and buried.

The one idea: Ray places an actor and tells of its death, and that is all it is asked to do. It
repeats nothing by itself, since only the leases know which batch is to blame.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from mmeb_harness.engines.actors.actor import Arrival, EncoderActor, Outcome, Post
from mmeb_harness.engines.actors.crew import Died, Done, Ready
from mmeb_harness.engines.actors.leases import IN_HAND, Lease
from mmeb_harness.engines.actors.ray_cluster import Cluster
from mmeb_harness.engines.actors.seats import Seats
from mmeb_harness.engines.actors.sending import Identity, check_arrived
from mmeb_harness.engines.batch import reason
from mmeb_harness.engines.engine import Batches
from mmeb_harness.errors import EnvironmentFault, HarnessError

Result = TypeVar("Result")

WAIT_SECONDS = 0.2
"""How long a signal may have to wait for an answer."""

PLACING_SECONDS = 900.0
"""How long a cluster may take to find room for an actor while there is no other: it may have to
start machines, or to wait for other people's work."""


class RayCrew:
    """Actors in the Ray that this process is connected to, `seats` of them."""

    def __init__(self, post: Post, seats: Seats, identity: Identity, cluster: Cluster) -> None:
        import ray

        self._ray: Any = ray
        self.actors = seats.actors
        self._identity, self._cluster = identity, cluster
        self._post = ray.put(post)
        self._class: Any = ray.remote(EncoderActor).options(
            num_gpus=1 if seats.on_gpu else 0,
            num_cpus=seats.share,
            max_concurrency=IN_HAND,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._handles: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, Lease | None]] = {}
        self._heard = monotonic()

    def start(self, actor: int) -> None:
        """Start an actor, or another in its place."""
        self._handles[actor] = handle = self._class.remote(self._post)
        self._pending[handle.ready.remote()] = (actor, None)

    def send(self, lease: Lease, batches: Batches) -> None:
        """Hand a lease to its actor."""
        answer = self._handles[lease.actor].encode.remote(batches)
        self._pending[answer] = (lease.actor, lease)

    def news(self) -> Ready | Done | Died:
        """Wait for an answer or a death.

        Raises:
            HarnessError: as an actor raises it.
            EnvironmentFault: where no actor finds a place, or one cannot be started.
        """
        answers: list[Any] = []
        while not answers:
            answers = _heeding_signals(self._wait)
            self._check_patience()
        actor, lease = self._pending.pop(answers[0])
        self._heard = monotonic()
        try:
            told = _heeding_signals(lambda: self._ray.get(answers[0]))
        except self._ray.exceptions.RayTaskError as error:
            if lease is None:
                why = reason(error.cause)
                raise EnvironmentFault(f"an actor cannot be started: {why}") from None
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            self._bury(actor)
            return Died(actor=actor, why=_told(error))
        if isinstance(told, Outcome) and told.error is not None:
            raise told.error
        return self._arrived(actor, told) if lease is None else _done(lease, told)

    def logs(self) -> str:
        """Return where the actors' last words are."""
        return self._cluster.keep_logs()

    def dismiss(self) -> None:
        """End all actors."""
        for actor in list(self._handles):
            with contextlib.suppress(Exception):  # the cluster itself may be gone
                self._bury(actor)

    def _wait(self) -> list[Any]:
        answers, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=WAIT_SECONDS)
        return list(answers)

    def _check_patience(self) -> None:
        """Give up where all that is waited for is a place for an actor."""
        placing = all(lease is None for _, lease in self._pending.values())
        if placing and monotonic() - self._heard > PLACING_SECONDS:
            raise EnvironmentFault(
                f"the cluster has found no room for an actor in {PLACING_SECONDS / 60:.0f} minutes "
                "(`ray status` says what is free): what was computed is kept"
            )

    def _arrived(self, actor: int, arrival: Arrival) -> Ready:
        try:
            check_arrived((arrival.identity, arrival.libraries), self._identity)
        except HarnessError as error:
            raise EnvironmentFault(
                f"{arrival.host} would give other vectors than this machine: {error}"
            ) from None
        return Ready(actor=actor)

    def _bury(self, actor: int) -> None:
        """See that an actor is dead (it may only have been out of reach), and forget it."""
        self._ray.kill(self._handles.pop(actor), no_restart=True)
        self._pending = {ref: held for ref, held in self._pending.items() if held[0] != actor}


def _done(lease: Lease, outcome: Outcome) -> Done:
    return Done(lease=lease, seconds=outcome.seconds, encoded=outcome.encoded)


def _told(error: Exception) -> str:
    """Find the one line of a long story that says how a process died."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    detail = lines[-1].partition("Worker exit detail: ")[2] or lines[-1]
    return detail.partition(" Some common causes")[0].strip()[:300]


def _heeding_signals(call: Callable[[], Result]) -> Result:
    """Call into Ray, which swallows what the handler of a signal raises: that is handled after."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda given, _: came.append(given)) for number in numbers]
    try:
        return call()
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for caught in came:
            signal.raise_signal(caught)
