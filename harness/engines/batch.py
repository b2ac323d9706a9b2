"""One batch through an encoder, with every way it can fail kept to the items at fault."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmeb_harness.encoder import Batch, PlannedEncoder, Vectors, infer
from mmeb_harness.errors import EncoderFailed, EnvironmentFault, ItemError, UsageError
from mmeb_harness.item import Rendered


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared batch: `rows` are those of the rendered items in it, `failures` the others."""

    batch: Batch
    rows: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An encoded batch: `vectors` (n, dim) of `rows`, why the other rows failed, how it was cut."""

    vectors: Vectors
    rows: Sequence[int]
    failures: Mapping[int, str]
    recut: bool = False


def prepare_batch(encoder: PlannedEncoder, rendered: Sequence[Rendered]) -> Prepared:
    """Prepare a batch; where that fails, find the items at fault and prepare the others."""
    try:
        return Prepared(batch=encoder.prepare(rendered), rows=range(len(rendered)))
    except (EnvironmentFault, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if len(rendered) == 1:
            return Prepared(batch=None, rows=(), failures={0: reason(error)})
        failures = _faults(encoder, rendered)
        if not failures:
            raise
    rows = [row for row in range(len(rendered)) if row not in failures]
    batch = encoder.prepare([rendered[row] for row in rows]) if rows else None
    return Prepared(batch=batch, rows=rows, failures=failures)


def _faults(encoder: PlannedEncoder, rendered: Sequence[Rendered]) -> dict[int, str]:
    failures = {}
    for row, one in enumerate(rendered):
        try:
            encoder.prepare([one])
        except (Exception, SystemExit) as error:
            failures[row] = reason(error)
    return failures


def encode_prepared(
    encoder: PlannedEncoder, rendered: Sequence[Rendered], prepared: Prepared
) -> Encoded:
    """Run a prepared batch; where it fails (out of memory, a bad item), halve it and go on."""
    failures = dict(prepared.failures)
    if not prepared.rows:
        return Encoded(vectors=np.zeros((0, 0), np.float32), rows=(), failures=failures)
    try:
        vectors = _checked(infer(encoder, prepared.batch), len(prepared.rows))
    except (EnvironmentFault, EncoderFailed, UsageError):
        raise
    except (Exception, SystemExit) as error:
        return _halved(encoder, rendered, prepared, error)
    finite = [bool(np.isfinite(vector).all()) for vector in vectors]
    failures |= {
        row: "its vector is not finite (NaN or infinite)"
        for row, good in zip(prepared.rows, finite, strict=True)
        if not good
    }
    rows = [row for row, good in zip(prepared.rows, finite, strict=True) if good]
    return Encoded(vectors=vectors[finite], rows=rows, failures=failures)


def _checked(vectors: Vectors, expected: int) -> Vectors:
    if vectors.ndim != 2 or len(vectors) != expected or not vectors.shape[1]:
        raise EncoderFailed(
            f"the encoder returned an array of shape {vectors.shape} for {expected} items; "
            f"({expected}, dim) is needed"
        )
    return vectors


def _halved(
    encoder: PlannedEncoder, rendered: Sequence[Rendered], prepared: Prepared, error: BaseException
) -> Encoded:
    rows = list(prepared.rows)
    if len(rows) == 1:
        failures = {**prepared.failures, rows[0]: reason(error)}
        return Encoded(vectors=np.zeros((0, 0), np.float32), rows=(), failures=failures)
    _free_memory()
    parts = [
        _encode_rows(encoder, rendered, half)
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    ]
    kept = [part for part in parts if len(part.rows)]
    failures = {**prepared.failures, **parts[0].failures, **parts[1].failures}
    vectors = [part.vectors for part in kept] or [np.zeros((0, 0), np.float32)]
    return Encoded(
        vectors=np.concatenate(vectors),
        rows=[row for part in kept for row in part.rows],
        failures=failures,
        recut=True,
    )


def _encode_rows(
    encoder: PlannedEncoder, rendered: Sequence[Rendered], rows: Sequence[int]
) -> Encoded:
    chosen = [rendered[row] for row in rows]
    part = encode_prepared(encoder, chosen, prepare_batch(encoder, chosen))
    return Encoded(
        vectors=part.vectors,
        rows=[rows[row] for row in part.rows],
        failures={rows[row]: why for row, why in part.failures.items()},
        recut=True,
    )


def _free_memory() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def reason(error: BaseException) -> str:
    """Say in one line why something failed."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return text if isinstance(error, ItemError) else f"{type(error).__name__}: {text}"
