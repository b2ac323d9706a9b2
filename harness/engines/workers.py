"""One function over many inputs, in worker processes, the results in order.

The workers are torch's: they prefetch, share tensors without a copy, and report their deaths.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from mmeb_harness.engines.parcel import Packer, Parcel, Unpacker, sendable
from mmeb_harness.errors import EnvironmentFault, HarnessError

Input = TypeVar("Input")
Output = TypeVar("Output")

WORKER_DIED = ("DataLoader worker", "Too many open files", "ancdata")

UNGUARDED = "From a script, start workers under `if __name__ == '__main__':`, or use workers=0."


def in_workers(
    function: Callable[[Input], Output],
    inputs: Iterable[Input],
    workers: int,
    *,
    ahead: int = 2,
    pin: bool = False,
) -> Generator[Output, None, None]:
    """Yield `function(input)` for each input, in order, made in `workers` processes (0: here).

    The inputs are drawn as they are needed, here; the function travels to each worker once. Each
    worker makes `ahead` outputs before the first of them is taken. With `pin`, they come in memory
    that a CUDA device can fetch from while it computes.

    Raises:
        EnvironmentFault: where a worker dies or cannot be started.
        HarnessError: as the function raises it.
    """
    if workers == 0:
        yield from map(function, inputs)
        return
    import torch
    from torch.utils.data import DataLoader

    open_many()
    calls: Any = _Calls(function)  # whatever has __getitem__ will do
    with _more_than_cores():
        loader: DataLoader[Any] = DataLoader(
            calls,
            batch_size=None,
            sampler=inputs,
            num_workers=workers,
            prefetch_factor=ahead,
            pin_memory=pin,
            collate_fn=_as_it_is,
            worker_init_fn=end_with_the_run,
            multiprocessing_context="forkserver" if os.name == "posix" else "spawn",
            generator=torch.Generator(),  # else its start draws from everybody's, such as dropout's
        )
    try:
        with _more_than_cores():
            arriving = iter(loader)
    except (BrokenPipeError, EOFError, ConnectionError) as error:
        raise EnvironmentFault(UNGUARDED) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise EnvironmentFault(
            f"the encoder cannot be sent to worker processes ({error}): use --workers 0, or give "
            "it a __getstate__ that leaves out what prepare does not need"
        ) from error
    unpacker = Unpacker()
    try:
        while True:
            yield unpacker.open(next(arriving))  # under no name, to be let go by whoever takes it
    except StopIteration:
        return
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in WORKER_DIED):
            raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise EnvironmentFault(
            f"a preprocessing worker died ({why}). Out of memory, or of open files (ulimit -n)? "
            f"Use fewer workers. {UNGUARDED}"
        ) from error


@contextlib.contextmanager
def _more_than_cores() -> Iterator[None]:
    """Keep torch from warning of more workers than cores: somebody asked for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def open_many() -> None:
    """Let this process have as many files open as it may: torch sends each tensor as one."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _as_it_is(made: Any) -> Any:
    return made


def end_with_the_run(_: int = 0) -> None:
    """End this worker should the run be killed: torch watches the fork server only, which lives."""
    open_many()
    run = multiprocessing.parent_process()
    if run is not None:
        threading.Thread(target=_exit_after, args=(run,), daemon=True).start()


def _exit_after(process: Any) -> None:
    process.join()
    os._exit(1)


class _Calls:
    """What a loader takes for a dataset: an input is an index."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self._packer = Packer()

    def __getitem__(self, given: Any) -> Parcel | HarnessError:
        try:
            return self._packer.pack(self.function(given))
        except HarnessError as error:
            return sendable(error)
