"""One batch through an encoder, with every way it can fail kept to the items at fault."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from mmeb_harness.encoder import Arriving, Batch, PlannedEncoder, Vectors, begin
from mmeb_harness.errors import (
    ANY_OF_OTHERS,
    EncoderFailed,
    EnvironmentFault,
    ItemError,
    UsageError,
)
from mmeb_harness.item import Rendered


class Trouble(NamedTuple):
    """Why a whole batch failed, and whether it was for want of memory."""

    why: str
    is_memory: bool

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        """Tell what an error says of a batch."""
        why = reason(error)
        return cls(why, isinstance(error, MemoryError) or "out of memory" in why.lower())


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared batch: `rows` are those of the rendered items in it, `failures` the others.

    With `trouble` there is none: together they could not be prepared, fewer of them may.
    """

    batch: Batch
    rows: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)
    trouble: Trouble | None = None

    def pin_memory(self) -> Prepared:
        """Return it in memory that the device can fetch from while it computes (torch's loader
        calls this where there is such a device)."""
        return replace(self, batch=pinned(self.batch))


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An encoded batch: `vectors` (n, dim) of `rows`, why the other rows failed, how it was cut.

    `short` says that memory did not suffice for it as it was.
    """

    vectors: Vectors
    rows: Sequence[int]
    failures: Mapping[int, str]
    recut: bool = False
    short: bool = False


def prepare_batch(encoder: PlannedEncoder, rendered: Sequence[Rendered]) -> Prepared:
    """Prepare a batch; where that fails, find the items at fault and prepare the others."""
    everything = range(len(rendered))
    try:
        return Prepared(batch=encoder.prepare(rendered), rows=everything)
    except EnvironmentFault:
        raise
    except ANY_OF_OTHERS as error:
        trouble = Trouble.of(error)
    if len(rendered) == 1:
        return Prepared(batch=None, rows=(), failures={0: trouble.why})
    failures = {} if trouble.is_memory else _faults(encoder, rendered)
    if not failures:
        return Prepared(batch=None, rows=everything, trouble=trouble)
    rows = [row for row in everything if row not in failures]
    rest = prepare_batch(encoder, [rendered[row] for row in rows]) if rows else None
    return Prepared(
        batch=None if rest is None else rest.batch,
        rows=rows,
        failures=failures,
        trouble=None if rest is None else rest.trouble,
    )


def _faults(encoder: PlannedEncoder, rendered: Sequence[Rendered]) -> dict[int, str]:
    found = (prepare_batch(encoder, [one]).failures for one in rendered)
    return {row: failures[0] for row, failures in enumerate(found) if failures}


def encode_prepared(
    encoder: PlannedEncoder, rendered: Sequence[Rendered], prepared: Prepared
) -> Encoded:
    """Run a prepared batch; where it fails (out of memory, a bad item), halve it and go on."""
    return Launched(encoder, rendered, prepared).result()


class Launched:
    """A prepared batch that the device has been told to run, and may still be running."""

    def __init__(
        self, encoder: PlannedEncoder, rendered: Sequence[Rendered], prepared: Prepared
    ) -> None:
        self._encoder, self._rendered, self._prepared = encoder, rendered, prepared
        self._arriving: Arriving | None = None
        self._trouble = prepared.trouble
        if prepared.rows and self._trouble is None:
            with self._keeping_trouble():
                self._arriving = begin(encoder, prepared.batch)

    @contextlib.contextmanager
    def _keeping_trouble(self) -> Iterator[None]:
        try:
            yield
        except (EnvironmentFault, EncoderFailed, UsageError):
            raise
        except ANY_OF_OTHERS as error:
            self._trouble = Trouble.of(error)

    def result(self) -> Encoded:
        """Wait for the vectors. A batch that failed is halved and run again."""
        prepared = self._prepared
        vectors = np.zeros((0, 0), np.float32)
        if self._arriving is not None:
            with self._keeping_trouble():
                vectors = _checked(self._arriving(), len(prepared.rows))
        if self._trouble is not None:
            return _halved(self._encoder, self._rendered, prepared, self._trouble)
        finite = [bool(np.isfinite(vector).all()) for vector in vectors]
        failures = dict(prepared.failures) | {
            row: "its vector is not finite (NaN or infinite)"
            for row, good in zip(prepared.rows, finite, strict=True)
            if not good
        }
        rows = [row for row, good in zip(prepared.rows, finite, strict=True) if good]
        kept = vectors[finite] if len(rows) < len(vectors) else vectors
        return Encoded(vectors=kept, rows=rows, failures=failures)


def _checked(vectors: Vectors, expected: int) -> Vectors:
    if vectors.ndim != 2 or len(vectors) != expected or not vectors.shape[1]:
        raise EncoderFailed(
            f"the encoder returned an array of shape {vectors.shape} for {expected} items; "
            f"({expected}, dim) is needed"
        )
    return vectors


def _halved(
    encoder: PlannedEncoder, rendered: Sequence[Rendered], prepared: Prepared, trouble: Trouble
) -> Encoded:
    rows = list(prepared.rows)
    if len(rows) == 1:
        failures = {**prepared.failures, rows[0]: trouble.why}
        return Encoded(vectors=np.zeros((0, 0), np.float32), rows=(), failures=failures)
    _free_memory()
    halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    both = merged([(half, _encode_rows(encoder, rendered, half)) for half in halves])
    failures = {**prepared.failures, **both.failures}
    return replace(both, failures=failures, short=both.short or trouble.is_memory)


def merged(parts: Sequence[tuple[Sequence[int], Encoded]]) -> Encoded:
    """Put together what was encoded in parts, each with the rows that its own stand for."""
    kept = [part.vectors for _, part in parts if len(part.rows)]
    return Encoded(
        vectors=np.concatenate(kept) if kept else np.zeros((0, 0), np.float32),
        rows=[rows[row] for rows, part in parts for row in part.rows],
        failures={rows[row]: why for rows, part in parts for row, why in part.failures.items()},
        recut=len(parts) > 1 or any(part.recut for _, part in parts),
        short=any(part.short for _, part in parts),
    )


def _encode_rows(
    encoder: PlannedEncoder, rendered: Sequence[Rendered], rows: Sequence[int]
) -> Encoded:
    chosen = [rendered[row] for row in rows]
    return encode_prepared(encoder, chosen, prepare_batch(encoder, chosen))


def _free_memory() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def reason(error: BaseException) -> str:
    """Say in one line why something failed."""
    name = type(error).__name__
    try:
        said = str(error).strip()
    except Exception:
        said = "it cannot say why"
    text = (said or name).splitlines()[0][:300]
    return text if isinstance(error, ItemError) else f"{name}: {text}"


def pinned(batch: Any) -> Any:
    """Return a batch with each tensor in it, at whatever depth, in pinned memory."""
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(
            batch, **{one.name: pinned(getattr(batch, one.name)) for one in fields(batch)}
        )
    if isinstance(batch, Mapping):
        return {name: pinned(value) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(pinned(value) for value in batch)
    return batch.pin_memory() if hasattr(batch, "pin_memory") else batch
