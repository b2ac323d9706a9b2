"""An encoder under examination: what it takes, and how far two of its vectors part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from mmeb_harness.card import Card
from mmeb_harness.encoder import PlannedEncoder, Vectors, infer
from mmeb_harness.errors import ANY_OF_OTHERS, HarnessError, ItemError
from mmeb_harness.item import PLACEHOLDER, Item

INSTRUCTION = "Represent the given image with the following question:"
OTHER_INSTRUCTION = "Find an image that answers the following question:"
QUESTION = "what stands beside the red chair?"


Status = Literal["ok", "failed", "warned", "skipped"]

EXACT, LOOSE = 1e-5, 5e-2
"""How far two ways to one vector may part, as a share of its length: by their largest component in
float32, in all in half precision, where batch composition moves the last bits."""

SENSIBLE = {EXACT: 1e-4, LOOSE: 1e-3}
"""How far what must differ has to part, where both are computed in the same way."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check; `detail` says what was seen, and for a fault what explains it."""

    check: str
    status: Status
    detail: str


@dataclass
class Patient:
    """An encoder under examination, and which kinds of items it takes.

    `half` prepares for it, where that is another encoder's CPU half: one with other settings.
    """

    encoder: PlannedEncoder
    card: Card | None
    kinds: Mapping[str, Item] = field(default_factory=dict)
    half: PlannedEncoder | None = None

    @property
    def is_float32(self) -> bool:
        """Whether vectors are to agree to float32's precision."""
        dtype = getattr(self.encoder, "dtype", None) or getattr(
            getattr(self.encoder, "inner", None), "dtype", None
        )
        return "16" not in str(dtype)

    @property
    def tolerance(self) -> float:
        """What two ways to one vector may part by."""
        return EXACT if self.is_float32 else LOOSE

    @property
    def sensible(self) -> float:
        """What two vectors that must differ have to part by."""
        return SENSIBLE[self.tolerance]

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Encode items in one batch, past any sorting or cutting."""
        half = self.half or self.encoder
        return infer(self.encoder, half.prepare([half.render(item) for item in items]))

    def alone(self, items: Sequence[Item]) -> Vectors:
        """Encode each item in a batch of its own."""
        return np.concatenate([self.encode([item]) for item in items])

    def apart(self, one: Vectors, other: Vectors) -> float:
        """Return how far the worst of two arrays' rows part, as `tolerance` counts it."""
        if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
            return float("inf")
        order = np.inf if self.is_float32 else 2
        lengths = np.maximum(np.linalg.norm(one, axis=-1), np.finfo(np.float32).tiny)
        return float((np.linalg.norm(one - other, ord=order, axis=-1) / lengths).max(initial=0.0))


def picture(turn: int = 0, size: tuple[int, int] = (96, 64)) -> Any:
    """Draw a picture that differs with `turn` all over."""
    from PIL import Image

    gradient = Image.linear_gradient("L")
    bands = [gradient.rotate(turn), gradient.rotate(90 + 2 * turn), gradient.rotate(40 * turn)]
    return Image.merge("RGB", bands).resize(size)


def _sample_kinds() -> dict[str, Item]:
    return {
        "text": Item(text="a cat"),
        "image": Item(image=picture(20)),
        "text and image": Item(
            text=f"{PLACEHOLDER}\n{INSTRUCTION} {QUESTION}\n",
            instruction=INSTRUCTION,
            image=picture(50, (80, 120)),
        ),
    }


def find_kinds(patient: Patient) -> Finding:
    """Find out which kinds of items the encoder takes; it must take one."""
    taken: dict[str, Item] = {}
    refused: list[str] = []
    for kind, item in _sample_kinds().items():
        try:
            vectors = patient.encode([item])
        except ItemError as error:
            refused.append(f"{kind} refused: {error}")
            continue
        except HarnessError:
            raise  # weights, an adapter or the machine: no item's fault
        except ANY_OF_OTHERS as error:
            detail = f"an item of {kind} ends in {type(error).__name__}: {error}"
            return Finding(check="encodes", status="failed", detail=detail)
        if vectors.ndim != 2 or len(vectors) != 1:
            detail = f"one item of {kind} gives an array of shape {vectors.shape}, not (1, dim)"
            return Finding(check="encodes", status="failed", detail=detail)
        taken[kind] = item
    patient.kinds = taken
    status: Status = "ok" if taken else "failed"
    return Finding(check="encodes", status=status, detail="; ".join([", ".join(taken), *refused]))
