"""What makes a Qwen's vision tower quick on small pictures, without another number in it.

The library attends to one picture after the other, and cuts patches out with a convolution whose
windows do not overlap. The one idea: pictures of equal size are attended to together, each still to
itself alone, such a convolution is a product of matrices, and an activation needs one new tensor.
All change how many calls are made, not what is computed; the library's own code runs around them.

Shapes: N patches of all pictures, H heads, D numbers of a head; I pictures of L patches each.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

BY_SIZE = "mmeb_harness_by_size_not_flash"
"""Name among transformers' attention functions. One with "flash" in it is handed all pictures at
once, with where each begins; any other, one picture at a time."""

TOGETHER = 16384
"""Patches that are attended to together at most, so that large pictures take no more memory."""

LARGE = 4096
"""Patches of a picture that is work enough for a call of its own; to put pictures of different
sizes in order copies them, which is not worth it beside that."""


def quicken(tower: Any) -> None:
    """Have a vision tower that was loaded with `sdpa` attend by size, and multiply its patches."""
    from transformers import AttentionInterface

    AttentionInterface.register(BY_SIZE, attend_by_size)
    tower.config._attn_implementation = BY_SIZE
    for module in tower.modules():
        if type(module).__name__ == "QuickGELUActivation":
            module.forward = partial(quick_gelu, module.forward)
    convolution = tower.patch_embed.proj
    if convolution.stride == convolution.kernel_size and not any(convolution.padding):
        convolution.forward = partial(product, convolution)


def quick_gelu(library: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return `x * sigmoid(1.702 * x)` in one new tensor, where the library makes three."""
    import torch

    if torch.is_grad_enabled():
        return library(x)
    return (x * 1.702).sigmoid_().mul_(x)


def product(convolution: Any, patches: torch.Tensor) -> torch.Tensor:
    """Return what a convolution gives for patches of exactly its window."""
    from torch.nn.functional import linear

    return linear(patches.flatten(1), convolution.weight.flatten(1), convolution.bias)


def attend_by_size(
    module: torch.nn.Module,
    query_1HND: torch.Tensor,
    key_1HND: torch.Tensor,
    value_1HND: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the (N, H, D) outputs, each picture attending to its own patches."""
    import torch

    lengths_I = cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]
    states = [one[0].transpose(0, 1) for one in (query_1HND, key_1HND, value_1HND)]
    attend = partial(_attend, module, scaling=scaling, dropout=dropout)
    lengths = lengths_I.tolist()
    pictures = sorted(Counter(lengths).items())
    if len(pictures) == 1:
        return attend(states, lengths[0]), None
    if max(lengths) > LARGE:
        parts = zip(*(torch.split(one, lengths) for one in states), strict=True)
        outputs = [attend(part, length) for part, length in zip(parts, lengths, strict=True)]
        return torch.cat(outputs), None
    order_N = torch.argsort(lengths_I.repeat_interleave(lengths_I), stable=True)
    lots = [length * count for length, count in pictures]
    cut = zip(*(torch.split(one[order_N], lots) for one in states), strict=True)
    outputs = [attend(lot, length) for lot, (length, _) in zip(cut, pictures, strict=True)]
    return torch.cat(outputs)[torch.argsort(order_N)], None


def _attend(
    module: torch.nn.Module, states: Any, length: int, *, scaling: float, dropout: float
) -> torch.Tensor:
    """Return the (I * L, H, D) outputs of pictures of one size, from queries, keys and values."""
    import torch
    from transformers import AttentionInterface

    attend = AttentionInterface()["sdpa"]
    room = max(1, TOGETHER // length) * length
    outputs = []
    for part in zip(*(torch.split(one, room) for one in states), strict=True):
        query, key, value = (one.unflatten(0, (-1, length)).transpose(1, 2) for one in part)
        outputs.append(
            attend(
                module, query, key, value, None, dropout=dropout, scaling=scaling, is_causal=False
            )[0].flatten(0, 1)
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
