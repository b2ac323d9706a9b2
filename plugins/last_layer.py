"""What the last layer of a decoder need not compute: all but the tokens that become vectors.

The one idea: its MLP and its output projection see one token at a time, and no token looks at
another one after them. So there they run for the few tokens whose states are taken; those are what
they would be, and the others mean nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch


_TURNS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_EACH_ITS_OWN = threading.Lock()


@contextlib.contextmanager
def only_at(layer: Any, rows_B: torch.Tensor, places_B: torch.Tensor) -> Iterator[None]:
    """Have a decoder's last layer work for the tokens at (row, place) only, in inference mode.

    Training is left alone: dropout and checkpointing run a layer again, and must find it the same.
    Threads that use one layer take turns.
    """
    import torch

    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(_turn(layer))
            for part in filter(None, (layer.mlp, getattr(layer.self_attn, "o_proj", None))):
                few = partial(_at, part.forward, rows_B, places_B)
                stack.enter_context(_replaced(part, few))
        yield


def _turn(layer: Any) -> threading.RLock:
    with _EACH_ITS_OWN:
        return _TURNS.setdefault(layer, threading.RLock())


def _at(
    whole: Callable[[torch.Tensor], torch.Tensor],
    rows_B: torch.Tensor,
    places_B: torch.Tensor,
    states_BLD: torch.Tensor,
) -> torch.Tensor:
    few_BE = whole(states_BLD[rows_B, places_B])
    states_BLE = few_BE.new_zeros(*states_BLD.shape[:-1], few_BE.shape[-1])
    states_BLE[rows_B, places_B] = few_BE
    return states_BLE


@contextlib.contextmanager
def _replaced(part: Any, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(part).get("forward")
    part.forward = forward
    try:
        yield
    finally:
        if before is None:
            del part.forward
        else:
            part.forward = before
