"""How much memory this process holds that no file backs: a mapped store does not count."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def anonymous_bytes() -> int:
    """Return this process's resident memory that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Give a function that tells the most anonymous memory since (looked at every 10 ms)."""
    seen, over = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            seen.append(anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: max(seen)
    finally:
        over.set()
        watcher.join()
