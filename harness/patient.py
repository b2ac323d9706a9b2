"""An encoder under examination: what it takes, and how far two of its vectors part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from mmeb_harness.card import Card
from mmeb_harness.encoder import PlannedEncoder, Vectors, infer
from mmeb_harness.errors import ItemError
from mmeb_harness.item import PLACEHOLDER, Item

INSTRUCTION = "Represent the given image with the following question:"
OTHER_INSTRUCTION = "Find an image that answers the following question:"
QUESTION = "what stands beside the red chair?"


Status = Literal["ok", "failed", "warned", "skipped"]

EXACT, LOOSE = 1e-5, 2e-3
"""How far two ways to one vector may part: the largest difference, relative to the largest value,
in float32; one minus the cosine in half precision, where batch composition moves the last bits."""

SENSIBLE = 10
"""What must differ has to part by this many times what may."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check; `detail` says what was seen, and for a fault what explains it."""

    check: str
    status: Status
    detail: str


@dataclass
class Patient:
    """An encoder under examination, and which kinds of items it takes."""

    encoder: PlannedEncoder
    card: Card | None
    kinds: Mapping[str, Item] = field(default_factory=dict)

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

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Encode items in one batch, past any sorting or cutting."""
        rendered = [self.encoder.render(item) for item in items]
        return infer(self.encoder, self.encoder.prepare(rendered))

    def alone(self, items: Sequence[Item]) -> Vectors:
        """Encode each item in a batch of its own."""
        return np.concatenate([self.encode([item]) for item in items])

    def apart(self, one: Vectors, other: Vectors) -> float:
        """Return how far two arrays of vectors part, as `tolerance` counts it."""
        if one.shape != other.shape:
            return float("inf")
        if self.is_float32:
            return float(np.abs(one - other).max() / max(1.0, float(np.abs(one).max())))
        return float(1 - _cosines(one, other).min())


def _cosines(one: Vectors, other: Vectors) -> Vectors:
    products = (one.astype(np.float64) * other).sum(-1)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosines: Vectors = products / np.maximum(lengths, 1e-30)
    return cosines


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
        except Exception as error:
            detail = f"an item of {kind} ends in {type(error).__name__}: {error}"
            return Finding(check="encodes", status="failed", detail=detail)
        if vectors.ndim != 2 or len(vectors) != 1:
            detail = f"one item of {kind} gives an array of shape {vectors.shape}, not (1, dim)"
            return Finding(check="encodes", status="failed", detail=detail)
        taken[kind] = item
    patient.kinds = taken
    status: Status = "ok" if taken else "failed"
    return Finding(check="encodes", status=status, detail="; ".join([", ".join(taken), *refused]))
