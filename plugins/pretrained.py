"""The base of families whose weights are a folder or a Hub id that transformers reads."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card, write_card
from mmeb_harness.errors import AdapterMismatch, EnvironmentFault, UsageError
from mmeb_harness.hub import (
    CONFIGURATION,
    PACKAGE,
    commit_of,
    fetch_model,
    fetch_weights,
    local_folder,
)
from mmeb_harness.plugins.adapter import (
    KeyRule,
    bind_adapter,
    bound_tensors,
    carries_adapter,
    merge_adapter,
    save_adapter,
)
from mmeb_harness.plugins.weights import LazyWeights

if TYPE_CHECKING:
    import torch

KERNELS = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}


class Pretrained(LazyWeights):
    """An encoder over a model that transformers reads from a folder or the Hub."""

    model_types: tuple[str, ...] = ()
    """The `model_type`s of configurations that this family reads."""

    model_class = "AutoModel"
    """The class of transformers that loads the weights."""

    image_processor_class = ""
    """The image processor's class in transformers, the PIL one: torchvision's gives other numbers,
    and an automatic choice depends on what is installed."""

    adapter_rules: Sequence[KeyRule] = ()
    """How keys of published adapters become today's module names."""

    adapter_targets = (".*",)

    adapter_tensors: int | None = None
    """How many tensors of the adapter were bound: all of them, once the weights are loaded."""

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        if card.base is None:
            raise UsageError(f"{card.name} names no weights: -m {card.name}:FOLDER_OR_HUB_ID")
        super().__init__(card, device, dtype)
        self.base, self.adapter = card.base, card.adapter
        if self.adapter is None:
            self.base, self.adapter = _base_of_adapter(card.base)
        _check_revision("revision", card.revision, self.base)
        _check_revision("adapter_revision", card.adapter_revision, self.adapter)
        self._check_family()
        _ = self.adapter_folder

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

    @cached_property
    def image_processor(self) -> Any:
        """The image processor of the base."""
        import transformers

        kind = getattr(transformers, self.image_processor_class)
        with reading("image processor", self.base_folder):
            return kind.from_pretrained(self.base_folder)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the base."""
        from transformers import AutoTokenizer

        with reading("tokenizer", self.base_folder):
            tokenizer = AutoTokenizer.from_pretrained(self.base_folder)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up where no file is found
            raise EnvironmentFault(f"the tokenizer in {self.base_folder} is missing")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:  # a tokenizer saved while in use keeps what it was told then
            backend.no_truncation()
            backend.no_padding()
        return tokenizer

    @cached_property
    def base_folder(self) -> Path:
        """Folder with the configuration and tokenizer of the base, and its weights once loaded."""
        return fetch_model(self.base, self.card.revision, CONFIGURATION)

    @cached_property
    def adapter_folder(self) -> Path | None:
        """Folder of the adapter, if there is one."""
        if self.adapter is None:
            return None
        return fetch_weights(self.adapter, self.card.adapter_revision)

    def fetch_weights(self) -> Path:
        """Return the base's folder with the weights in it, of the very commit already read."""
        if self.card.random_weights is not None:
            return self.base_folder
        return fetch_weights(self.base, commit_of(self.base_folder) or self.card.revision)

    def load_module(self) -> torch.nn.Module:
        """Load the base, every weight of it, and the adapter, every tensor of that.

        The adapter is merged in, unless it is to be trained.
        """
        model = self.load_base()
        if self.adapter_folder is not None:
            bound = bind_adapter(model, self.adapter_folder, self.adapter_rules)
            self.adapter_tensors = bound_tensors(bound)
            model = bound.get_base_model() if self.adapter_is_open else merge_adapter(bound)
        loaded: torch.nn.Module = model
        return loaded

    def load_base(self) -> Any:
        """Load the base, every weight of it, without an adapter."""
        import transformers

        kind = getattr(transformers, self.model_class)
        if self.card.random_weights is not None:
            seed = self.card.random_weights
            return draw_weights(kind, self.base_folder, self.dtype, self.attention, seed)
        return load_checked(kind, self.fetch_weights(), self.dtype, self.attention)

    def fingerprint(self) -> str:
        seed, own = self.card.random_weights, super().fingerprint()
        return own if seed is None else f"{own} drawn from seed {seed}"

    def folders(self) -> Sequence[Path]:
        adapter = self.adapter_folder
        return (self.base_folder,) if adapter is None else (self.base_folder, adapter)

    def save(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the adapter that the module carries, or the weights and the processors; and the
        card. An adapter is saved beside the name of its base, whose weights are not written."""
        folder.mkdir(parents=True, exist_ok=True)
        if not carries_adapter(self.module):
            self.save_model(folder, state)
            write_card(self.card, folder)
            return
        if self.adapter_folder is not None and not self.adapter_is_open:
            raise UsageError(
                f"{self.card.name} has an adapter merged in, so that a new one has no base to be "
                "saved beside: train its own on (lora.go_on: true), or all weights (lora: false)"
            )
        local = None if self.base.startswith(PACKAGE) else local_folder(self.base)
        base = self.base if local is None else str(local.absolute())
        save_adapter(self.module, folder, base, state)
        revision = commit_of(self.base_folder) or self.card.revision  # the base as it was
        write_card(self.card.model_copy(update={"revision": revision}), folder, adapter_of=base)

    def save_model(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the weights (an adapter merged in) and the processors."""
        module: Any = self.module
        with quiet_transformers():
            module.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def _base_of_adapter(reference: str) -> tuple[str, str | None]:
    """Return base and adapter where a folder turns out to be an adapter alone."""
    folder = local_folder(reference)
    config = None if folder is None else folder / "adapter_config.json"
    if folder is None or config is None or not config.is_file() or _has_model(folder):
        return reference, None
    try:
        base = json.loads(config.read_text()).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise AdapterMismatch(f"{config} cannot be read: {error}") from None
    if not base:
        raise UsageError(
            f"{folder} is an adapter that names no base: -m FAMILY:BASE -M adapter=..."
        )
    return str(base), reference


def _check_revision(field: str, revision: str | None, reference: str | None) -> None:
    """Refuse a commit of what has none. Raises UsageError."""
    if revision is not None and (reference is None or local_folder(reference) is not None):
        what = "there is no adapter" if reference is None else f"{reference} is a folder"
        raise UsageError(f"-M {field}={revision}: {what}, only a Hub id has commits")


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


def draw_weights(auto_class: Any, folder: Path, dtype: str, attention: str, seed: int) -> Any:
    """Build a model as a folder configures it, its weights drawn by its own initialisation.

    They are drawn as float32 on the CPU, so that a seed gives the same ones for every type and
    device; torch's random numbers go on as if nothing had been drawn.
    """
    import torch
    from transformers import AutoConfig

    with reading("configuration", folder), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        build = getattr(auto_class, "from_config", None) or auto_class._from_config
        config = AutoConfig.from_pretrained(folder)
        model = build(config, dtype=torch.float32, attn_implementation=KERNELS[attention])
    return model.to(getattr(torch, dtype))


@contextlib.contextmanager
def reading(what: str, folder: Path) -> Iterator[None]:
    """Turn every way in which a library fails to read something of a model into one fault."""
    try:
        with quiet_transformers():
            yield
    except Exception as error:  # every library layer has errors of its own here
        fault = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EnvironmentFault(f"the {what} in {folder} cannot be read: {fault}") from error


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
