"""What a worker process has made, on its way to the process that asked for it.

The one idea: it is packed where it was made, so that what goes wrong is known there. Tensors travel
in shared memory; where there is too little of it (a container has 64 MB unless it is given more)
they are copied, which is slower and always works. Left to a queue, which packs in a thread of its
own, any fault would only be printed, and whoever asked would wait for ever.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

from mmeb_harness.engines.batch import reason
from mmeb_harness.errors import EnvironmentFault

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

    def pin_memory(self) -> Any:
        """Return it in memory that a CUDA device fetches from (torch's loader calls this)."""
        return self.open().pin_memory()


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

    def open(self, given: Any) -> Any:
        """Return what is in a parcel; anything else is what it is. Raises an error that came."""
        if isinstance(given, Exception):
            raise given
        if not isinstance(given, Parcel):
            return given
        if given.copied and not self._has_said:
            self._has_said = True
            _log.warning(COPIED.format(given.copied))
        return given.open()
