"""An embeddings endpoint's answer, read and found whole: so many vectors, each asked for once."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from mmeb_harness.encoder import Vectors


def read_vectors(answer: Any, count: int) -> list[Vectors]:
    """Return the vectors (D,) of a decoded answer in the order of their `index`.

    Raises:
        ValueError: where that is not what the answer holds.
    """
    try:
        entries = list(answer["data"])
        numbers = [int(entry.get("index", place)) for place, entry in enumerate(entries)]
        vectors = [_vector(entry["embedding"]) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise ValueError("an answer that is not made of embeddings") from None
    if sorted(numbers) != list(range(count)):
        raise ValueError(f"embeddings numbered {numbers} for {count} items")
    return [vectors[numbers.index(place)] for place in range(count)]


def _vector(embedding: Any) -> Vectors:
    """Read an embedding (D,): numbers, or the base64 of little-endian float32."""
    if isinstance(embedding, str):
        vector = np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    else:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused as that
            vector = np.array(embedding, dtype=np.float32)
    if vector.ndim != 1 or not len(vector):
        raise ValueError("no list of numbers")
    return vector.astype(np.float32)
