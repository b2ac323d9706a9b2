"""Small encoders for Ray: well, slow, or ill in one way each; and a cluster of this machine's.

Actors import this module by its name: what an encoder is to do is in its arguments.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.image import load_image

CLUSTER = """
import logging, sys, warnings
import ray

ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, object_store_memory=128 << 20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@contextmanager
def cluster_here() -> Iterator[str]:
    """Run a cluster that somebody else started, and yield its address."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("", timeout=120)


class Toy(mh.PlannedEncoder):
    """Vectors from a digest of texts and pixels; it leaves the name of each process in a folder."""

    def __init__(self, folder: Path | None = None, seconds: float = 0.0) -> None:
        self.folder, self.seconds = folder, seconds

    def render(self, item: mh.Item) -> mh.Rendered:
        return mh.Rendered(text=item.text, image=item.image)

    def size(self, rendered: mh.Rendered) -> int:
        return 1 + len(rendered.text or "")

    def prepare(self, rendered: Any) -> list[bytes]:
        return [
            (one.text or "").encode() + (load_image(one.image).tobytes() if one.image else b"")
            for one in rendered
        ]

    def forward(self, batch: list[bytes]) -> Any:
        time.sleep(self.seconds)
        if self.folder is not None:
            (self.folder / str(os.getpid())).touch()
        seeds = [list(hashlib.sha256(content).digest()) for content in batch]
        return np.stack([np.random.default_rng(seed).standard_normal(16) for seed in seeds])


class Killer(Toy):
    """Kills its process over a batch with `word` in it: `times`, or always."""

    def __init__(self, word: str, folder: Path, times: int | None = None) -> None:
        super().__init__(folder)
        self.word, self.times = word.encode(), times

    def forward(self, batch: list[bytes]) -> Any:
        assert self.folder is not None
        deaths = len(list(self.folder.glob("death *")))
        hit = any(self.word in content for content in batch)
        if hit and (self.times is None or deaths < self.times):
            (self.folder / f"death {deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


class DiesWhenOpened(Toy):
    """Takes down every process that is not the one that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = os.getpid()

    def fingerprint(self) -> None:
        if os.getpid() != self.home:
            os._exit(1)


class NoWeights(Toy):
    """Cannot be used anywhere but at home, and says why."""

    def forward(self, batch: list[bytes]) -> Any:
        raise EnvironmentFault("the weights in models/none cannot be loaded")


class Shapeless(Toy):
    """Returns a vector too many."""

    def forward(self, batch: list[bytes]) -> Any:
        return np.ones((len(batch) + 1, 4))


class Confused(Toy):
    """Falls over its own feet as it is opened elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.home = os.getpid()

    def fingerprint(self) -> None:
        if os.getpid() != self.home:
            raise LookupError("where am I?")


class Unsendable(Toy):
    """Holds what no other process can be given."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = __import__("threading").Lock()


class Another(Toy):
    """Is not elsewhere what it is here."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = True

    def fingerprint(self) -> str:
        return f"toy changed={self.changed}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "changed": False}
