"""Binds a LoRA or DoRA adapter to a model, every tensor of it, or fails and names the keys.

The one idea: peft only warns when keys do not match and then leaves the base model as it was. Here
the file's keys are mapped to today's module names, both key sets must be equal, and every value is
compared with the file afterwards, DoRA magnitudes too.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import AdapterMismatch

if TYPE_CHECKING:
    import torch

KeyRule = tuple[str, str]
"""A regular expression on a key without its `base_model.model.` prefix, and the replacement."""

PREFIX = "base_model.model."


def bind_adapter(model: torch.nn.Module, folder: Path, rules: Sequence[KeyRule]) -> Any:
    """Put the adapter of `folder` onto `model`; return the peft model, all tensors bound.

    Raises:
        AdapterMismatch: naming keys that the file lacks, keys that match no module, shapes or
            values that differ.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    stored = _read_tensors(folder)
    config = _mapped_config(folder, _read_config(folder), _module_names(stored, rules), model)
    tensors = _mapped_tensors(folder, stored, rules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's warnings are checked for below, as errors
        try:
            bound: Any = get_peft_model(model, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            why = str(error).strip().partition("\n")[0]
            raise AdapterMismatch(
                f"the adapter in {folder} does not fit the model: {why}"
            ) from error
        expected = get_peft_model_state_dict(bound)
        _check_keys(folder, set(tensors), set(expected))
        _check_shapes(folder, tensors, expected)
        set_peft_model_state_dict(bound, dict(tensors))
    _check_values(folder, tensors, get_peft_model_state_dict(bound))
    return bound


def bound_tensors(bound: Any) -> int:
    """Count the tensors of the adapter that a peft model carries."""
    from peft import get_peft_model_state_dict

    return len(get_peft_model_state_dict(bound))


def merge_adapter(bound: Any) -> torch.nn.Module:
    """Merge the adapter into the model, layer by layer in float32, and return the plain model."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [one for one in bound.modules() if isinstance(one, BaseTunerLayer)]:
        base: Any = layer.get_base_layer()
        dtype = base.weight.dtype
        base.to(torch.float32)
        layer.merge(safe_merge=True)
        base.to(dtype)
    merged: torch.nn.Module = bound.unload()
    return merged.requires_grad_(True)  # peft has frozen it


def carries_adapter(module: torch.nn.Module) -> bool:
    """Tell whether some layer of a module has an adapter on it that is not merged in."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(one, BaseTunerLayer) for one in module.modules())


def save_adapter(
    module: torch.nn.Module, folder: Path, base: str, state: Mapping[str, torch.Tensor] | None
) -> None:
    """Write the adapter that a module carries in peft's layout; `state`: as encoders' `save`."""
    from copy import copy

    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    carrier: Any = module
    tensors = get_peft_model_state_dict(carrier, state_dict=state, save_embedding_layers=False)
    plain = {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy(carrier.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))


SILENT = ("peft_version",)
"""Fields of an adapter's configuration that decide nothing."""


def _read_config(folder: Path) -> Any:
    """Read the configuration; a field that this peft does not know may not say anything."""
    from peft import PeftConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of fields it leaves out: checked below
            config: Any = PeftConfig.from_pretrained(str(folder))
        written: Mapping[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterMismatch(f"{folder} holds no usable adapter: {error}") from error
    unknown = sorted(
        name
        for name, value in written.items()
        if value and name not in SILENT and not hasattr(config, name)
    )
    if unknown:
        raise AdapterMismatch(
            f"the adapter in {folder} ({written.get('peft_type')}) says what this peft does not "
            f"understand: {', '.join(unknown[:4])}. It may come from a newer peft; a field that "
            "changes nothing can be taken out"
        )
    config.inference_mode = False
    config.task_type = None  # a task's wrapper would ask for methods of a head that is not here
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read the adapter's tensors: safetensors, or the older pickle of tensors and nothing else."""
    import torch
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    if not path.is_file() and (old := folder / "adapter_model.bin").is_file():
        path = old
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        why = str(error).partition("\n")[0]
        raise AdapterMismatch(f"{path} cannot be read: {why}") from error
    return tensors


def _module_names(stored: Iterable[str], rules: Sequence[KeyRule]) -> dict[str, str]:
    """Return today's name of each adapted module, by the name that the file has for it."""
    old = {key.removeprefix(PREFIX).partition(".lora_")[0] for key in stored if ".lora_" in key}
    return {name: _mapped(name, rules).removeprefix(PREFIX) for name in sorted(old)}


def _mapped_config(
    folder: Path, config: Any, names: Mapping[str, str], model: torch.nn.Module
) -> Any:
    """Put today's names where the configuration names single modules in an older layout.

    What matches a module of today's is left as it is, used or not, as peft takes it.
    """
    modules = [name for name, _ in model.named_modules()]
    for field in ("alpha_pattern", "rank_pattern"):
        placed: dict[str, Any] = {}
        for pattern, value in (getattr(config, field, None) or {}).items():
            chosen = _placed_patterns(pattern, names, modules)
            for one in chosen:
                placed.setdefault(one, value)  # the first pattern that matches counts
            if not chosen:
                raise AdapterMismatch(
                    f"the adapter in {folder} does not fit the model: its {field} names "
                    f"{pattern!r}, which is no module"
                )
        if placed:
            setattr(config, field, placed)
    if names and not _targets_any(config, modules):
        config.target_modules = _complete(folder, sorted(names.values()), modules)
    return config


def _placed_patterns(
    pattern: str, names: Mapping[str, str], modules: Sequence[str]
) -> Sequence[str]:
    if any(_names_module(pattern, name) for name in modules):
        return [pattern]
    return [re.escape(new) for old, new in names.items() if _names_module(pattern, old)]


def _names_module(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _targets_any(config: Any, modules: Sequence[str]) -> bool:
    """Whether the configuration's targets name any of today's modules, as peft reads them."""
    targets = getattr(config, "target_modules", None)
    if not targets or targets == "all-linear":
        return True  # peft finds them, or has another way
    if isinstance(targets, str):
        return any(re.fullmatch(targets, name) for name in modules)
    return any(
        name == target or name.endswith(f".{target}") for name in modules for target in targets
    )


def _complete(folder: Path, found: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Return the modules of the file, which must be there for every layer of the model."""
    kinds = {re.sub(r"\d+", r"\\d+", re.escape(name)) for name in found}
    wanted = {name for name in modules for kind in kinds if re.fullmatch(kind, name)}
    if lacking := sorted(wanted - set(found)):
        raise AdapterMismatch(
            f"the adapter in {folder} does not fit the model: it lacks {_named(lacking)}"
        )
    return list(found)


def _mapped_tensors(
    folder: Path, stored: Mapping[str, torch.Tensor], rules: Sequence[KeyRule]
) -> dict[str, torch.Tensor]:
    """Return the tensors under today's keys; two keys for one module are refused."""
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for key, value in stored.items():
        name = _mapped(key, rules)
        if name in found:
            raise AdapterMismatch(
                f"the adapter in {folder} has {name} twice: as {found[name][0]} and as {key}"
            )
        found[name] = (key, value)
    return {name: value for name, (_, value) in found.items()}


def _mapped(key: str, rules: Sequence[KeyRule]) -> str:
    bare = key.removeprefix(PREFIX)
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, bare)
        if count:
            return PREFIX + renamed
    return PREFIX + bare


def _check_keys(folder: Path, found: set[str], expected: set[str]) -> None:
    problems = []
    if lacking := sorted(expected - found):
        problems.append(f"it lacks {_named(lacking)}")
    if unplaced := sorted(found - expected):
        problems.append(f"no module takes {_named(unplaced)}")
    if problems:
        raise AdapterMismatch(
            f"the adapter in {folder} does not fit the model: {'; '.join(problems)}"
        )


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return f"{len(keys)} tensors ({', '.join(keys[:4])}{more})"


def _check_shapes(
    folder: Path, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            raise AdapterMismatch(
                f"the adapter in {folder} does not fit the model: {key} has shape "
                f"{tuple(value.shape)}, the model needs {tuple(expected[key].shape)}"
            )


def _check_values(
    folder: Path, tensors: Mapping[str, torch.Tensor], bound: Mapping[str, torch.Tensor]
) -> None:
    import torch

    wrong = [
        key
        for key, value in tensors.items()
        if not torch.equal(bound[key].cpu(), value.to(bound[key].dtype).cpu())
    ]
    if wrong:
        raise AdapterMismatch(f"the adapter in {folder} was not bound: {_named(sorted(wrong))}")
