"""The connection to Ray: a cluster that is there (RAY_ADDRESS), or one of this machine for one run.

The one idea: a Ray that this run starts is this run's own. It listens to nobody else, says nothing
on the terminal, lies in a folder of its own, and ends with the run, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.actors.seats import Room, seats, stated_device
from mmeb_harness.engines.batch import reason
from mmeb_harness.engines.engine import EngineSettings
from mmeb_harness.environment import cores
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.keys import installed_version
from mmeb_harness.models import EXTRAS

STORE_BYTES = 512 << 20
"""Shared memory of a Ray that is started here: a few leases lie in it, no more."""

REACH_SECONDS = 10.0
LONGEST_TEMPORARY = 24
"""Letters of a folder below which Ray's sockets still have names short enough."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
"""Ray asks and tells nobody, and an actor without a GPU sees none, as now (Ray would warn)."""

UNYIELDING = {"RAY_worker_niceness": "0"}
"""In a Ray of our own, processes are as urgent as the run itself: by default (15) they would stand
back for everything else that the machine does."""


def check_place(settings: EngineSettings, encoder: PlannedEncoder) -> None:
    """Find what can be known to be wrong before anything is started.

    Raises:
        EnvironmentFault: where Ray is not installed, its cluster not there, or a GPU too few.
        UsageError: for GPUs asked for an encoder that is not on one.
    """
    if installed_version("ray") is None:
        raise EnvironmentFault(
            f'--engine ray needs ray, which is not installed: pip install "mmeb-harness'
            f'[{EXTRAS["ray"]}]"'
        )
    if _connected():
        return
    address = wanted_address()
    if address is None:
        seats(settings, stated_device(encoder), this_machine())
    elif address != "auto":
        _check_reachable(address)


def wanted_address() -> str | None:
    """Return the address of the cluster to join, or None where one is to be started."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def token_mode() -> dict[str, str]:
    """Return the setting that shows a cluster the token which is here, if one is: a newer `ray
    start` makes one and asks for it, a newer client keeps it back; one that does not ask is
    content."""
    named = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    is_here = any(map(os.environ.get, named)) or Path("~/.ray/auth_token").expanduser().exists()
    return {"RAY_AUTH_MODE": "token"} if is_here else {}


def _connected() -> bool:
    """Whether the program has its own connection to Ray, which is then used."""
    ray: Any = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _check_reachable(address: str) -> None:
    """Knock, since Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise EnvironmentFault(
            f"RAY_ADDRESS={address}: give HOST:PORT of the cluster's head (`ray start --head` says "
            "it), from a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentFault(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}): start one with `ray start "
            "--head`, or unset RAY_ADDRESS to use this machine alone"
        ) from None


def this_machine() -> Room:
    """Return what this machine has."""
    import torch

    return Room(cores=cores(), gpus=torch.cuda.device_count())


class Cluster:
    """A connection to Ray; `room` is what there is to be shared."""

    def __init__(self) -> None:
        self._ray: Any = _imported()
        self._owned = not _connected()
        self._folder: Path | None = None
        atexit.register(self.close)
        try:
            with _signals_as_they_were(), _environment(QUIET):
                self.room = self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Room:
        address = wanted_address()
        if not self._owned:
            return self._joined_room()
        self._silence(True)
        facts = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is not None:
            try:
                with _environment(token_mode()):
                    self._ray.init(address=address, **facts)
            except Exception as error:  # Ray's own errors here have no base in common
                raise EnvironmentFault(
                    f"the Ray cluster at RAY_ADDRESS={address} cannot be joined (another version, "
                    "or a token that is not here: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, as where "
                    f"it was started?): {reason(error)}"
                ) from error
            return self._joined_room()
        room = this_machine()
        self._folder = Path(tempfile.mkdtemp(prefix="mmeb-ray-", dir=_short_temporary()))
        try:
            with _environment(UNYIELDING):
                self._ray.init(
                    address="local",
                    num_cpus=room.cores,
                    num_gpus=room.gpus,
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    _temp_dir=str(self._folder),
                    **facts,
                )
        except Exception as error:
            raise EnvironmentFault(f"Ray cannot be started here: {reason(error)}") from error
        return room

    def _joined_room(self) -> Room:
        resources = self._ray.cluster_resources()
        return Room(
            cores=int(resources.get("CPU", 0)) or 1,
            gpus=int(resources.get("GPU", 0)),
            nodes=sum(bool(node["Alive"]) for node in self._ray.nodes()),
            joined=True,
        )

    def keep_logs(self) -> str:
        """Say where Ray writes of its processes; a folder of our own is then left there."""
        if self._folder is None:
            return "the cluster's own (`ray logs`)"
        kept, self._folder = self._folder, None
        return str(kept / "session_latest" / "logs")

    def close(self) -> None:
        """Leave the cluster, or end what was started; more than once does nothing more."""
        atexit.unregister(self.close)
        if self._owned:
            self._owned = False
            with _signals_as_they_were():
                self._ray.shutdown()
            self._silence(False)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _silence(self, wanted: bool) -> None:
        """Keep Ray from printing the deaths of its processes, which the run tells itself."""
        worker: Any = self._ray._private.worker
        if hasattr(worker, "_worker_logs_enabled"):  # private; it would only print without it
            worker._worker_logs_enabled = not wanted


def _imported() -> Any:
    try:
        import ray
    except Exception as error:  # whatever is wrong with an installation
        raise EnvironmentFault(
            f"ray is installed, and cannot be imported: {reason(error)}"
        ) from None
    return ray


def _short_temporary() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_TEMPORARY or os.name != "posix" else "/tmp"


@contextlib.contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Take back the handlers that Ray sets: the program has its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set what is not set, for the processes that are started meanwhile."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
