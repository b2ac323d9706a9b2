"""The base of families whose weights are a folder or a Hub id: lazy weights, picklable CPU half.

The one idea: rendering, sizing and preparing need the tokenizer and the image processor only, so
the weights are loaded at the first forward; a run that has nothing to compute never loads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import CARD_FILE, Card
from mmeb_harness.encoder import TrainableEncoder
from mmeb_harness.errors import EnvironmentFault, UsageError, unknown_name
from mmeb_harness.hub import CONFIGURATION, WEIGHTS, commit_of, fetch_model, local_folder
from mmeb_harness.plugins.vision_ops import mend_torchvision

if TYPE_CHECKING:
    import torch

CHUNK, ODD = 1 << 22, 0x2545F4914F6CDD1D
"""Numbers digested at once, and an odd multiplier that spreads their bits."""

DTYPES = ("float32", "bfloat16", "float16")
KERNELS = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}


class Pretrained(TrainableEncoder):
    """An encoder over published weights, with the settings of a card."""

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        if card.base is None:
            raise UsageError(f"{card.name} names no weights: -m {card.name}:FOLDER_OR_HUB_ID")
        mend_torchvision()
        self.base, self.adapter = card.base, card.adapter
        self.device = chosen_device(device)
        self.dtype = chosen_dtype(dtype, self.device)
        self.attention = card.attention or "sdpa"
        self._module: torch.nn.Module | None = None
        self._loaded_files: object = None
        self._loaded_state = ""
        if self.adapter is None:
            self.base, self.adapter = _base_of_adapter(card.base)
        self.card = card
        self._check_family()
        _ = self.adapter_folder

    model_types: tuple[str, ...] = ()
    """The `model_type`s of configurations that this family reads."""

    def _check_family(self) -> None:
        path = self.base_folder / "config.json"
        try:
            found = json.loads(path.read_text()).get("model_type")
        except (OSError, ValueError) as error:
            raise EnvironmentFault(f"{path} cannot be read: {error}") from None
        if found not in self.model_types:
            raise UsageError(
                f"{self.base} is a model of type {found!r}; "
                f"{self.card.family or self.card.name} reads {', '.join(self.model_types)}"
            )

    @abstractmethod
    def load_module(self) -> torch.nn.Module:
        """Load the weights and bind the adapter."""

    @property
    @abstractmethod
    def image_processor(self) -> Any:
        """The image processor of the base, the PIL one: torchvision's gives other numbers."""

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the base."""
        from transformers import AutoTokenizer

        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(self.base_folder)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:  # a tokenizer saved while in use keeps what it was told then
            backend.no_truncation()
            backend.no_padding()
        return tokenizer

    @property
    def module(self) -> torch.nn.Module:
        if self._module is None:
            self._loaded_files = _file_states(self._folders())
            self._module = self.load_module().to(self.device).eval()
            self._loaded_state = state_digest(self._module)
        return self._module

    @cached_property
    def base_folder(self) -> Path:
        """Folder with the configuration and tokenizer of the base, and its weights once loaded."""
        return fetch_model(self.base, self.card.revision, CONFIGURATION)

    @cached_property
    def adapter_folder(self) -> Path | None:
        """Folder of the adapter, if there is one."""
        if self.adapter is None:
            return None
        return fetch_model(self.adapter, self.card.adapter_revision, WEIGHTS)

    def fetch_weights(self) -> Path:
        """Return the base's folder with the weights in it, of the very commit already read."""
        return fetch_model(self.base, commit_of(self.base_folder) or self.card.revision, WEIGHTS)

    def fingerprint(self) -> str:
        """The class alone while the weights are those on disk; else a digest of those in memory."""
        if self._module is None or not self._detached(state := state_digest(self._module)):
            return type(self).__name__
        return f"{type(self).__name__} in memory {state}"

    def weight_folders(self) -> Sequence[Path]:
        folders = self._folders()
        if self._module is not None and self._detached(state_digest(self._module)):
            return folders[:0]
        return folders

    def _folders(self) -> Sequence[Path]:
        adapter = self.adapter_folder
        return (self.base_folder,) if adapter is None else (self.base_folder, adapter)

    def _detached(self, state: str) -> bool:
        """Whether memory and disk have parted: trained in memory, or replaced on disk."""
        return state != self._loaded_state or self._loaded_files != _file_states(self._folders())

    def save(self, folder: Path) -> None:
        """Write the weights (an adapter merged in), the processors and the card."""
        folder.mkdir(parents=True, exist_ok=True)
        module: Any = self.module
        module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        own = {"name": folder.name, "base": ".", "verified": "no", "probes": ()}
        published = dict.fromkeys(("revision", "adapter", "adapter_revision", "published_as"))
        card = self.card.model_copy(update={**own, **published})
        (folder / CARD_FILE).write_text(card.model_dump_json(indent=1))

    def __getstate__(self) -> dict[str, Any]:
        """The CPU half: everything but the weights."""
        return {**self.__dict__, "_module": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mend_torchvision()
        self.__dict__.update(state)


def _file_states(folders: Sequence[Path]) -> list[tuple[str, int, int, int]]:
    """Tell the files of some folders as they are now: inode, size and time of change."""
    paths = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
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


def _base_of_adapter(reference: str) -> tuple[str, str | None]:
    """Return base and adapter where a folder turns out to be an adapter alone."""
    folder = local_folder(reference)
    config = None if folder is None else folder / "adapter_config.json"
    if folder is None or config is None or not config.is_file() or _has_model(folder):
        return reference, None
    base = json.loads(config.read_text()).get("base_model_name_or_path")
    if not base:
        raise UsageError(
            f"{folder} is an adapter that names no base: -m FAMILY:BASE -M adapter=..."
        )
    return str(base), reference


def _has_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def load_checked(auto_class: Any, folder: Path, dtype: str, attention: str) -> Any:
    """Load a model and refuse it if a weight is missing: the library only warns.

    Raises:
        EnvironmentFault: for missing, damaged or misshapen weights, or a missing kernel.
    """
    import torch

    with quiet_transformers():
        try:
            model, report = auto_class.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                attn_implementation=KERNELS[attention],
                output_loading_info=True,
            )
        except Exception as error:  # every library layer has errors of its own here
            raise EnvironmentFault(
                f"the weights in {folder} cannot be loaded: {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise EnvironmentFault(
            f"the weights in {folder} lack {len(missing)} tensors of the model "
            f"({', '.join(missing[:3])}, ...): they would be random"
        )
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing bars and tables; what matters is checked by code."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
