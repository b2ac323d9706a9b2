"""What runs in an actor: one copy of the encoder on one device, encoding a lease at a time.

The one idea: two leases are here at once. While the device runs one, the other is prepared; a lock
before the device keeps them apart. Nothing here imports Ray: to Ray it is a plain class.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from mmeb_harness.encoder import TrainableEncoder
from mmeb_harness.engines.actors.preparing import InProcesses, InThread, Prepare
from mmeb_harness.engines.actors.sending import Identity, identity_of, libraries, unseal
from mmeb_harness.engines.batch import Encoded, reason
from mmeb_harness.engines.device import Device
from mmeb_harness.engines.engine import Batches
from mmeb_harness.engines.parcel import arriving, sendable
from mmeb_harness.errors import EncoderFailed, EnvironmentFault, HarnessError

PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "MMEB_HARNESS_CACHE_DIR")
"""Settings of the surroundings that an actor shares with the run; no secrets."""


@dataclass(frozen=True, kw_only=True)
class Post:
    """What an actor starts from: the encoder, and the surroundings of the process that sent it."""

    sealed: bytes
    on_gpu: bool
    threads: int
    workers: int
    folder: str
    path: Sequence[str]
    environment: Mapping[str, str]


def make_post(sealed: bytes, *, on_gpu: bool, threads: int, workers: int) -> Post:
    """Put the surroundings of this process beside an encoder."""
    return Post(
        sealed=sealed,
        on_gpu=on_gpu,
        threads=min(threads, _threads_allowed() or threads),
        workers=workers,
        folder=str(Path.cwd()),
        path=tuple(sys.path),
        environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
    )


def _threads_allowed() -> int | None:
    """Return the threads that the user lets a process have, if that is said."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() else None


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An actor that is ready, and what it has there."""

    host: str
    identity: Identity
    libraries: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A lease that is done, in so many seconds; or one of our own errors, which ends the run."""

    seconds: float = 0.0
    encoded: Sequence[Encoded] = ()
    error: Exception | None = None


class EncoderActor:
    """One encoder on one device. `ready` loads it; `encode` may be called twice at once."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._at_the_device = threading.Lock()
        self._free_since = 0.0
        _settle(post)

    def ready(self) -> Arrival | Outcome:
        """Load everything, so that what fails here is no batch's fault."""
        try:
            return self._open()
        except HarnessError as error:
            return Outcome(error=told(error))

    def _open(self) -> Arrival:
        post = self._post
        encoder = unseal(post.sealed, on_gpu=post.on_gpu)
        torch: Any = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(post.threads)
        identity = identity_of(encoder)
        if isinstance(encoder, TrainableEncoder):
            _ = encoder.module
        self._device = Device(encoder, behind=post.on_gpu)
        self._prepare: Prepare
        if post.workers and encoder.prepares:
            self._prepare = InProcesses(post.sealed, post.workers)
        else:
            own = unseal(post.sealed, on_gpu=post.on_gpu) if encoder.prepares else encoder
            self._prepare = InThread(own)
        return Arrival(host=socket.gethostname(), identity=identity, libraries=libraries())

    def encode(self, batches: Batches) -> Outcome:
        """Encode the batches of a lease; items that fail are told with their batch."""
        came = perf_counter()
        try:
            parts = deque(self._device.cut(batches))
            prepared = self._prepare([part.rendered for part in parts])
            with self._at_the_device:
                encoded = [whole for _, whole in self._device.run(parts, prepared)]
                began, ended = max(came, self._free_since), perf_counter()
                self._free_since = ended
        except Exception as error:
            return Outcome(error=told(error))
        return Outcome(seconds=ended - began, encoded=encoded)


def told(error: Exception) -> HarnessError:
    """Return an error as one of our own that arrives as what it is."""
    if isinstance(error, EnvironmentFault):
        return sendable(error)
    return arriving(error) or EncoderFailed(f"the encoder failed in an actor: {reason(error)}")


def _settle(post: Post) -> None:
    """Make this process see what the run's sees: its folder, its modules, its settings."""
    os.environ.update(post.environment)
    os.environ["OMP_NUM_THREADS"] = str(post.threads)  # read when torch is imported
    sys.path.extend(folder for folder in post.path if folder not in sys.path)
    if Path(post.folder).is_dir():  # elsewhere only absolute paths can be meant
        os.chdir(post.folder)
