"""What a worker process has made, on its way to the process that asked for it.

The one idea: it is packed where it was made, so that what goes wrong is known there. Tensors travel
in shared memory; where there is too little of it (a container has 64 MB unless it is given more)
they are copied, which is slower and always works. Left to a queue, which packs in a thread of its
own, any fault would only be printed, and whoever asked would wait for ever.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

from mmeb_harness.engines.batch import reason
from mmeb_harness.errors import EnvironmentFault, HarnessError

COPIED = (
    "what workers prepare cannot be put into shared memory ({}): it is copied instead, which is "
    "slower. A container is given more of it by --shm-size=16g, or all by --ipc=host"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parcel:
    """A packed object; `copied` says why its tensors are in the content itself, if they are."""

    content: bytes
    copied: str | None = None

    def open(self) -> Any:
        """Return what was packed; once, where it lies in shared memory."""
        return pickle.loads(self.content)

    def pin_memory(self) -> Pinned:
        """Open it into memory that a CUDA device fetches from (torch's loader calls this)."""
        return Pinned(self.open().pin_memory(), self.copied)


@dataclass(frozen=True)
class Pinned:
    """What was in a parcel, in such memory."""

    content: Any
    copied: str | None = None

    def open(self) -> Any:
        """Return it."""
        return self.content


class Packer:
    """Packs what one worker makes. Once shared memory failed it is not tried again: what was put
    there of an object that does not fit stays there."""

    def __init__(self) -> None:
        self._why: str | None = None

    def pack(self, made: Any) -> Parcel:
        """Return a parcel.

        Raises:
            EnvironmentFault: for an object that cannot leave its process.
        """
        if self._why is None:
            try:
                return Parcel(bytes(ForkingPickler.dumps(made)))
            except Exception as error:  # no room; or it cannot be pickled at all, as is seen below
                self._why = reason(error)
        try:
            content = pickle.dumps(made, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise EnvironmentFault(
                f"what a worker prepares cannot be sent to the run ({reason(error)}): "
                "use --workers 0"
            ) from None
        return Parcel(content, copied=self._why)


class Unpacker:
    """Opens parcels, and says once that they were copied."""

    def __init__(self) -> None:
        self._has_said = False

    def open(self, given: Parcel | Pinned | HarnessError) -> Any:
        """Return what is in a parcel.

        Raises:
            HarnessError: an error that came in its place; an EnvironmentFault where the shared
                memory that it points at is out of reach.
        """
        if isinstance(given, HarnessError):
            raise given
        if given.copied and not self._has_said:
            self._has_said = True
            _log.warning(COPIED.format(given.copied))
        try:
            return given.open()
        except (RuntimeError, EOFError, OSError) as error:
            raise EnvironmentFault(
                f"what a preprocessing worker made is lost ({reason(error)}). Out of memory, or of "
                "open files (ulimit -n)? Use fewer workers"
            ) from error


def sendable(error: HarnessError) -> HarnessError:
    """Return an error of ours as one that arrives, and as what it is."""
    return arriving(error) or EnvironmentFault(reason(error))


def arriving(error: Exception) -> HarnessError | None:
    """Return an error as it comes out of another process, where it is one of ours and stays so."""
    with contextlib.suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if isinstance(copy, HarnessError) and str(copy) == str(error):
            return copy
    return None
