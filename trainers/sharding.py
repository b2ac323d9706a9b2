"""A model dealt out to several processes: each holds a part of every layer (FSDP).

The one idea: a process gathers a layer's weights when it comes to that layer and lets them go
behind it, so that all processes must come to the same layers equally often. That holds for the
trunk, which every item goes through, and for nothing else: a chunk without images runs no vision
tower. So the layers of the trunk are dealt out; everything else, the token embeddings too, stays
whole in every process and its gradients are summed by `Processes.sum_gradients`.

What the loop owes: every process runs equally many chunks, forward and backward, an empty share
included, and calls `sum_after` before the last one goes back. The optimiser is made after `shard`,
and takes whole parameters and those dealt out in different groups. Outside of a step the model runs
nowhere: for vectors, load what was saved of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.processes import Processes, is_sharded, own_part

if TYPE_CHECKING:
    import torch
    from mmeb_harness.encoder import TrainableEncoder


def shard(encoder: TrainableEncoder, processes: Processes) -> None:
    """Deal the layers of an encoder's trunk out, in place, adapters on them included.

    In a single process there is nobody to deal them out to. Raises UsageError for an encoder whose
    items do not all go through one trunk.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module: Any = encoder.module
    trunk = encoder.trunk
    if trunk is None:
        raise UsageError(
            "run.shard: this model cannot be dealt out, since not every item goes through the "
            "same layers; leave run.shard out, and every process holds the whole model"
        )
    if processes.count == 1:
        return
    kind = (processes.device or "cpu").partition(":")[0]
    mesh = init_device_mesh(kind, (processes.count,))
    outside = set(module.get_input_embeddings().parameters())
    for part in (*_layers(trunk), trunk):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=outside)
    for part in _dealt_out(trunk):
        part.set_gradient_divide_factor(1.0)  # the sum, not the mean
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    trunk.register_forward_pre_hook(_begin, with_kwargs=True, prepend=True)


def _layers(trunk: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the repeated layers: of all lists of modules the one with the most parameters."""
    from torch.nn import ModuleList

    lists = [list(one) for one in trunk.modules() if isinstance(one, ModuleList)]
    return max(lists, key=_size, default=[])


def _size(modules: list[torch.nn.Module]) -> int:
    return sum(parameter.numel() for one in modules for parameter in one.parameters())


def _dealt_out(module: torch.nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [one for one in module.modules() if isinstance(one, FSDPModule)]


def _begin(
    trunk: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let the trunk's input require a gradient in every process, whatever the chunk.

    Otherwise a process whose chunk has images, from a vision tower under training, would come to
    the first layers' gradients in another order than one whose chunk has none, and each would add
    up what is not the same.
    """
    import torch

    if torch.is_inference_mode_enabled():
        raise UsageError(
            "a model that is dealt out to several processes gives no vectors while it is trained: "
            "load the folder that it was saved to"
        )
    embedded = named.get("inputs_embeds")
    if embedded is not None and torch.is_grad_enabled() and not embedded.requires_grad:
        named["inputs_embeds"] = embedded.detach().requires_grad_()
    return arguments, named


def sum_after(module: torch.nn.Module, last: bool) -> None:
    """Say whether the chunk that goes back next is the step's last: its gradients are summed then,
    with those of the chunks before it. Nothing for a module that is not dealt out."""
    for part in _dealt_out(module):
        part.set_requires_gradient_sync(last, recurse=False)


def whole_state(
    module: torch.nn.Module, processes: Processes, names: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """Return a module's values, or those named, whole, on the CPU, to be written at once.

    To be called in every process, since each has a part to give; only the first gets them.
    """
    whole: dict[str, torch.Tensor] = {}
    for name, value in module.state_dict().items():
        if names is None or name in names:
            full: Any = value.full_tensor() if is_sharded(value) else value
            if processes.is_main:
                whole[name] = full.detach().cpu()
    return whole


def own_values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what this process holds of the parameters under training, by name."""
    return {
        name: own_part(parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def put_values(module: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Put back what `own_values` gave, in the same process of equally many."""
    for name, own in own_values(module).items():
        own.copy_(values[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state with what this process holds of each tensor."""
    state = optimizer.state_dict()
    own = {number: _own_parts(values) for number, values in state["state"].items()}
    return {**state, "state": own}


def _own_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {
        name: own_part(one) if isinstance(one, torch.Tensor) else one
        for name, one in values.items()
    }


def put_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what `optimizer_state` gave, in the same process of equally many."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    dealt = {
        number: {name: _like(parameters[number], one) for name, one in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": dealt})


def _like(parameter: torch.nn.Parameter, value: Any) -> Any:
    """Return a part of a tensor as a tensor dealt out as its parameter is."""
    from torch.distributed.tensor import DTensor

    if (
        not isinstance(parameter, DTensor)
        or getattr(value, "shape", None) != own_part(parameter).shape
    ):
        return value
    return DTensor.from_local(
        value,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
