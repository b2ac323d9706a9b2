"""Several calls at once, in threads that never hold up the end of the program.

The one idea: the threads are daemons and the caller waits at a queue, so that an interrupt ends the
wait whatever a call is waiting for. `concurrent.futures` joins its threads when the program ends: a
server that hangs would hold it for minutes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def call_at_once(
    call: Callable[[Thing, Event], Result], things: Sequence[Thing], threads: int
) -> list[Result]:
    """Return `call(thing, stopped)` for each thing, in their order, so many at a time.

    The first exception is raised as it comes; then no further call begins, and `stopped` is set for
    those that are waiting for something.
    """
    waiting = deque(enumerate(things))
    done: SimpleQueue[tuple[int, Result] | BaseException] = SimpleQueue()
    stopped = Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                place, thing = waiting.popleft()
            except IndexError:
                return
            try:
                done.put((place, call(thing, stopped)))
            except BaseException as error:
                done.put(error)

    for _ in range(min(threads, len(things))):
        threading.Thread(target=work, daemon=True, name="call at once").start()
    results: dict[int, Result] = {}
    try:
        while len(results) < len(things):
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            results[outcome[0]] = outcome[1]
    finally:
        stopped.set()
    return [results[place] for place in range(len(things))]
