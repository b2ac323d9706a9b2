"""What of a model is trained: a low-rank adapter on some modules, or some of its own weights.

A pattern is a regular expression on the end of a dotted name: `q_proj`, `language_model`,
`layers\\.1[0-9]`. It means the module it names and all below. One that names nothing is an error.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmeb_harness.encoder import TrainableEncoder
from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.config import ContrastiveConfig, LoraSection

if TYPE_CHECKING:
    import torch


ADAPTER = "default"
"""What peft calls the adapter."""


@dataclass(frozen=True, kw_only=True)
class UnderTraining:
    """The parameters that are trained, by name, and the modules that an adapter was put on."""

    parameters: Mapping[str, torch.nn.Parameter]
    adapted: Sequence[str]

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())


def choose_parameters(encoder: TrainableEncoder, config: ContrastiveConfig) -> UnderTraining:
    """Put the adapter on, or choose the weights; everything else is frozen.

    Raises:
        UsageError: for a pattern that matches nothing, or an adapter where there can be none.
    """
    if config.lora is None:
        adapted: list[str] = []
        _choose_weights(encoder.module, config.train, config.freeze)
    elif config.lora.go_on:
        adapted = _open_adapter(encoder, config.lora)
    else:
        adapted = _new_adapter(encoder, config.lora)
    chosen = {
        name: parameter
        for name, parameter in encoder.module.named_parameters()
        if parameter.requires_grad
    }
    for parameter in chosen.values():  # the optimiser's steps are lost in fewer bits
        if parameter.element_size() < 4:
            parameter.data = parameter.data.float()
    return UnderTraining(parameters=chosen, adapted=adapted)


def to_training(module: torch.nn.Module) -> None:
    """Switch dropout on, and nothing else: layers that normalise over a batch keep the statistics
    that they have, so that no vector depends on the others of its chunk."""
    from torch.nn.modules.batchnorm import _BatchNorm

    module.train()
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


def _choose_weights(module: torch.nn.Module, train: Sequence[str], freeze: Sequence[str]) -> None:
    names = [name for name, _ in module.named_parameters()]
    chosen = matching(names, train, "train") - matching(names, freeze, "freeze")
    if not chosen:
        raise UsageError("train and freeze leave no weight to be trained")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in chosen)


def _open_adapter(encoder: TrainableEncoder, section: LoraSection) -> list[str]:
    """Train the adapter that the model came with."""
    from torch.nn import Dropout, Identity

    encoder.adapter_is_open = True
    module: Any = encoder.module
    adapted = [name for name, one in module.named_modules() if hasattr(one, "lora_A")]
    if not adapted:
        raise UsageError(
            "lora.go_on: the model has no adapter to go on with (model.adapter names one)"
        )
    if any("modules_to_save" in name for name, _ in module.named_parameters()):
        raise UsageError(
            "lora.go_on: the adapter holds whole modules, which cannot be gone on with"
        )
    module.requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    for one in module.modules():
        for name in getattr(one, "lora_dropout", {}):
            one.lora_dropout[name] = Dropout(section.dropout) if section.dropout else Identity()
    return adapted


def _new_adapter(encoder: TrainableEncoder, section: LoraSection) -> list[str]:
    targets = section.targets or encoder.adapter_targets
    if not encoder.adapter_targets:
        raise UsageError("this model's family cannot save an adapter: lora: false trains weights")
    if getattr(encoder, "adapter", None) is not None:
        raise UsageError(
            "the model comes with an adapter already: lora.go_on: true trains that on, lora: false "
            "all weights, with it merged in"
        )
    from peft import LoraConfig, inject_adapter_in_model

    module = encoder.module
    names = [name for name, one in module.named_modules() if _takes_adapter(one)]
    names = [name for name in names if not _inside_attention(module, name)]
    wanted = matching(names, targets, "lora.targets")
    wanted -= matching(names, section.exclude, "lora.exclude")
    chosen = [name for name in names if name in wanted]
    if not chosen:
        raise UsageError("lora.targets and lora.exclude leave no module to adapt")
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        use_dora=section.dora,
        use_rslora=section.rslora,
        init_lora_weights=True if section.init == "default" else section.init,
        target_modules=chosen,
    )
    module.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, module)
    adapted = [name for name, one in module.named_modules() if hasattr(one, "lora_A")]
    if set(adapted) != set(chosen):
        raise UsageError(f"peft adapted {len(adapted)} modules where {len(chosen)} were named")
    for name in adapted:
        _begin_exactly(module.get_submodule(name), section)
    return adapted


def _begin_exactly(layer: Any, section: LoraSection) -> None:
    """Begin in float32, so that a new adapter changes nothing: on a base of fewer bits peft rounds
    what it begins with, which the forward pass, in float32, then takes for learnt."""
    import torch

    if layer.get_base_layer().weight.element_size() >= 4:
        return
    if section.init == "orthogonal":
        raise UsageError("lora.init: orthogonal needs float32 weights (run.precision=float32)")
    for parts in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
        parts.float()
    if section.dora:
        with torch.no_grad():
            change = layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight
            norm = layer.lora_magnitude_vector[ADAPTER].get_weight_norm(
                layer.get_base_layer().weight.float(), change, layer.scaling[ADAPTER]
            )
            layer.lora_magnitude_vector[ADAPTER].weight.copy_(norm)


def _takes_adapter(module: torch.nn.Module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)


def _inside_attention(module: torch.nn.Module, name: str) -> bool:
    """Whether torch's own attention holds it, which uses its weight without calling it."""
    import torch

    parent, _, _ = name.rpartition(".")
    return isinstance(module.get_submodule(parent), torch.nn.MultiheadAttention)


def matching(names: Iterable[str], patterns: Sequence[str], what: str) -> set[str]:
    """Return the names that a pattern matches, themselves or through what holds them.

    Raises:
        UsageError: for a pattern that is no regular expression or matches nothing; `what` says
            which setting it is from.
    """
    known = list(names)
    found: set[str] = set()
    for pattern in patterns:
        try:
            compiled = re.compile(rf"(?:.*\.)?(?:{pattern})")
        except re.error as error:
            raise UsageError(f"{what}: {pattern!r} is no regular expression: {error}") from None
        matched = {name for name in known if _matches(compiled, name)}
        if not matched:
            bare = (re.sub(r"\.(weight|bias)$", "", name) for name in known)
            kinds = sorted({name.rpartition(".")[2] for name in bare})
            raise UsageError(
                f"{what}: {pattern!r} matches nothing; names end in: {', '.join(kinds[:24])}"
            )
        found |= matched
    return found


def _matches(pattern: re.Pattern[str], name: str) -> bool:
    parts = name.split(".")
    return any(pattern.fullmatch(".".join(parts[:end])) for end in range(1, len(parts) + 1))
