"""Weights that are loaded at the first forward, and a CPU half that pickles without them.

The one idea: rendering, sizing and preparing need no weights, so a worker process gets an encoder
without them and a run that has nothing to compute never loads them.
"""

from __future__ import annotations

import hashlib
import pickle
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card
from mmeb_harness.encoder import TrainableEncoder
from mmeb_harness.errors import EnvironmentFault, unknown_name
from mmeb_harness.plugins.vision_ops import mend_torchvision

if TYPE_CHECKING:
    import torch

CHUNK, ODD = 1 << 22, 0x2545F4914F6CDD1D
"""Numbers digested at once, and an odd multiplier that spreads their bits."""

DTYPES = ("float32", "bfloat16", "float16")


class LazyWeights(TrainableEncoder):
    """An encoder with the settings of a card and a module that is loaded when it is needed."""

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        mend_torchvision()
        self.card = card
        self.device = chosen_device(device)
        self.dtype = chosen_dtype(dtype, self.device)
        self.attention = card.attention or "sdpa"
        self._module: torch.nn.Module | None = None
        self._loaded_files: object = None
        self._loaded_state = ""
        self._trained_parts: dict[str, tuple[tuple[bool, ...], bool]] = {}

    @abstractmethod
    def load_module(self) -> torch.nn.Module:
        """Load the weights and bind the adapter."""

    def fetch_weights(self) -> Path | None:
        """Bring the weights to this machine, so that loading them changes no folder."""
        return None

    def folders(self) -> Sequence[Path]:
        """Return the folders whose files decide a vector, or single files, if there are any."""
        return ()

    @property
    def module(self) -> torch.nn.Module:
        if self._module is None:
            import torch

            self.fetch_weights()
            self._loaded_files = _file_states(self.folders())
            with torch.inference_mode(False):  # or it could never be trained after an `encode`
                self._module = self.load_module().to(self.device).eval()
            self._loaded_state = state_digest(self._module)
        return self._module

    def settled_part(self, name: str, compute: Callable[[], Any]) -> Any | None:
        """Return what `compute` gives, if no parameter under training decides it; else None.

        Whether one does is asked of autograd, once for each `name` and choice of parameters, which
        leaves no trace in the random numbers: a training that goes on asks again.
        """
        import torch

        choice = tuple(parameter.requires_grad for parameter in self.module.parameters())
        if self._trained_parts.get(name, (choice, False)) == (choice, True):
            return None
        on_device = torch.device(self.device).type == "cuda"
        before = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if on_device else None
        with torch.enable_grad():
            value = compute()
        trained = any(tensor.requires_grad for tensor in _tensors(value))
        self._trained_parts[name] = (choice, trained)
        if not trained:
            return value
        torch.set_rng_state(before[0])
        if before[1] is not None:
            torch.cuda.set_rng_state(before[1], self.device)
        return None

    def fingerprint(self) -> str:
        """The class alone while the weights are those on disk; else a digest of those in memory."""
        if self._module is None or not self._detached(state := state_digest(self._module)):
            return type(self).__name__
        return f"{type(self).__name__} in memory {state}"

    def weight_folders(self) -> Sequence[Path]:
        folders = self.folders()
        if self._module is not None and self._detached(state_digest(self._module)):
            return folders[:0]
        return folders

    def _detached(self, state: str) -> bool:
        """Whether memory and disk have parted: trained in memory, or replaced on disk."""
        return state != self._loaded_state or self._loaded_files != _file_states(self.folders())

    def __getstate__(self) -> dict[str, bytes]:
        """The CPU half, everything but the weights; sealed, since to open it imports libraries
        that a torchvision which does not fit would break."""
        return {"sealed": pickle.dumps({**self.__dict__, "_module": None})}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        mend_torchvision()
        self.__dict__.update(pickle.loads(state["sealed"]))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a value: itself, or those of a sequence or mapping."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    else:
        yield value


def wide(features: torch.Tensor) -> torch.Tensor:
    """Return numbers as float32, or as float64 if that is what they are."""
    return features if features.element_size() == 8 else features.float()


def _file_states(folders: Sequence[Path]) -> list[tuple[str, int, int, int]]:
    """Tell some files, or those of folders, as they are now: inode, size and time of change."""
    places = [[folder] if folder.is_file() else folder.iterdir() for folder in folders]
    paths = sorted(path for place in places for path in place if path.is_file())
    states = [(str(path), path.stat()) for path in paths]
    return [(name, one.st_ino, one.st_size, one.st_ctime_ns) for name, one in states]


def state_digest(module: torch.nn.Module) -> str:
    """Digest the values of a module where they lie: two sums of their bits for each tensor."""
    import torch

    digest = hashlib.sha256()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            sums = [0, 0]
            for start, words in enumerate(_words(tensor)):
                places = torch.arange(1, len(words) + 1, device=words.device) + start * CHUNK
                mixed = (words ^ (words >> 29)) * ODD
                sums = [sums[0] + int(words.sum()), sums[1] + int((mixed * places).sum())]
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {sums}".encode())
    return digest.hexdigest()


def _words(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cut a tensor's bits into chunks of 64-bit words."""
    import torch

    for part in torch.split(tensor.detach().reshape(-1), CHUNK):
        bits = part.contiguous().view(torch.uint8)
        yield torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(torch.int64)


def chosen_device(wanted: str | None) -> str:
    """Return the device asked for, or the best there is. Raises where it is not there."""
    import torch

    if wanted is None:
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        fault = str(error).splitlines()[0]
        raise EnvironmentFault(f"device {wanted!r} cannot be used: {fault}") from None
    return wanted


def chosen_dtype(wanted: str | None, device: str) -> str:
    """Return the numeric type asked for, or float32 on a CPU and bfloat16 elsewhere."""
    if wanted is None:
        return "float32" if device == "cpu" else "bfloat16"
    if wanted not in DTYPES:
        raise unknown_name("dtype", wanted, DTYPES)
    return wanted
