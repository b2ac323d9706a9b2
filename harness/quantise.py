"""Vectors as an index of lower precision would hold them: arrays in, arrays out.

The one idea: what is stored is written back as the numbers it stands for, so that the same scoring
judges it. Queries and candidates are both brought to the precision, as an encoder asked for it
gives them; full-precision queries against stored bits (rescoring) would lose less than is shown.

Shapes: M items, D dimensions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import TaskError
from mmeb_harness.score import Similarity, normalised

Precision = Literal["fp32", "fp16", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "binary")

BITS = {"fp32": 32, "fp16": 16, "int8": 8, "binary": 1}
LEVELS = 256
"""Values that one number of int8 can take."""


class Stored(NamedTuple):
    """Vectors (M, D) as they come back from storage, and how they are compared."""

    vectors: Vectors
    similarity: Similarity


def bytes_per_million(dimension: int, precision: Precision) -> int:
    """Return the bytes that a million vectors take; bits are packed, a vector into whole bytes."""
    return 1_000_000 * -(-dimension * BITS[precision] // 8)


def quantised(vectors_MD: Vectors, precision: Precision, similarity: Similarity) -> Stored:
    """Bring vectors to a precision; where the cosine compares them, at unit length.

    Raises:
        TaskError: where a number lies beyond the precision's range.
    """
    if precision == "fp32":
        return Stored(vectors_MD, similarity)
    if precision == "binary":
        return Stored(_signs(vectors_MD), "dot")
    unit_MD = normalised(vectors_MD) if similarity == "cosine" else vectors_MD
    return Stored(_half(unit_MD) if precision == "fp16" else _eight_bits(unit_MD), similarity)


def _signs(vectors_MD: Vectors) -> Vectors:
    """Return 1 where a number is above zero, else -1: the dot product of two such vectors is
    D - 2 * their Hamming distance, exact in float32, and so are ties."""
    return np.where(vectors_MD > 0, np.float32(1), np.float32(-1))


def _half(vectors_MD: Vectors) -> Vectors:
    with np.errstate(over="ignore"):
        rounded: Vectors = vectors_MD.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise TaskError("its vectors hold numbers beyond the range of fp16")
    return rounded


def _eight_bits(vectors_MD: Vectors) -> Vectors:
    """Round each number to the nearest of 256 levels, evenly spaced over its dimension's range.

    The ranges are those of the vectors at hand, as sentence-transformers' `quantize_embeddings`
    takes them where it is given none; queries too, since HatefulMemes has two candidates, between
    which every query would else be clipped.
    """
    low_D, high_D = vectors_MD.min(axis=0), vectors_MD.max(axis=0)
    step_D = (high_D - low_D) / np.float32(LEVELS - 1)
    levels_MD = np.rint((vectors_MD - low_D) / np.where(step_D > 0, step_D, 1))
    rounded: Vectors = (low_D + levels_MD * step_D).astype(np.float32)
    return rounded
