"""One process's pairs of a batch, made ready: distinct items, cut into chunks, prepared.

The one idea: what is equal is encoded once (labels repeat), and chunks are of items of like size,
so that little is padding. It needs no weights and no device, and happens in worker processes.

Shapes: P pairs, N of them with a negative, I distinct items in the order of the chunks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import prepare_batch, reason
from mmeb_harness.errors import EncoderFailed, EnvironmentFault, TaskError
from mmeb_harness.gather import name_item
from mmeb_harness.image import pixel_digest
from mmeb_harness.item import Item, Rendered
from mmeb_harness.task import Pair
from mmeb_harness.trainers.cutting import cut_chunks
from mmeb_harness.trainers.gradcache import Chunk
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ReadyBatch:
    """Pairs made ready: the chunks of their items, and which item is whose.

    `queries_P`, `positives_P` and `negatives_N` are places among the items; `codes_I` number the
    items by content, alike in every process; `tokens` counts no padding; `left_out` says which
    pairs were skipped, and why.
    """

    pairs: Sequence[Pair]
    queries_P: NDArray[np.int64]
    positives_P: NDArray[np.int64]
    negatives_N: NDArray[np.int64]
    codes_I: NDArray[np.int64]
    chunks: Sequence[Chunk]
    tokens: int
    left_out: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Preparer:
    """Makes pairs ready for an encoder, in chunks of so many `tokens`, or of so many `items`.

    With `skips`, pairs with an item that cannot be used are left out and told of; without, the
    first such item is an error.
    """

    encoder: PlannedEncoder
    tokens: int
    items: int | None = None
    negatives: bool = False
    skips: bool = False

    def __call__(self, pairs: Sequence[Pair]) -> ReadyBatch:
        """Make pairs ready. Raises TaskError for an item that cannot be used."""
        left_out: list[str] = []
        while True:
            found = _Distinct(self.encoder)
            places = [[found.place(item) for item in self._items_of(pair)] for pair in pairs]
            if not found.faults:
                chunks, order = self._chunks(found)
            if not found.faults:
                return _ready(pairs, places, found, chunks, order, left_out)
            told = {
                place: name_item(found.items[place], why) for place, why in found.faults.items()
            }
            if not self.skips:
                first = next(iter(told.values()))
                raise TaskError(f"{first} (data.missing_images=skip leaves such pairs out)")
            kept = []
            for pair, own in zip(pairs, places, strict=True):
                whys = [told[place] for place in own if place in told]
                left_out += whys[:1]
                kept += [] if whys else [pair]
            pairs = kept

    @property
    def most(self) -> str:
        """How large a chunk is at most, in words."""
        return (
            f"chunks of {self.tokens} tokens"
            if self.items is None
            else (f"chunks of {self.items} items")
        )

    def _items_of(self, pair: Pair) -> list[Item]:
        more = [pair.negative] if self.negatives and pair.negative is not None else []
        return [pair.query, pair.positive, *more]

    def _chunks(self, found: _Distinct) -> tuple[list[Chunk], list[int]]:
        """Prepare the items in chunks, the largest items last (their graphs are kept); return the
        chunks and the items in their order. What fails is noted in `found`."""
        chunks, order = [], []
        sizes = np.array(found.sizes, dtype=np.int32)
        parts = self._cut(sizes)
        keeping = len(parts) - self._kept([self._weight(sizes[rows]) for rows in parts])
        for number, rows in enumerate(parts):
            prepared = prepare_batch(self.encoder, [found.rendered[row] for row in rows])
            if prepared.trouble is not None:
                raise EncoderFailed(
                    f"{len(rows)} items cannot be prepared together ({prepared.trouble.why}): "
                    "smaller chunks (batch.chunk_tokens) or fewer run.workers may help"
                )
            found.faults.update({int(rows[row]): why for row, why in prepared.failures.items()})
            chunks.append(Chunk(batch=prepared.batch, items=len(rows), keeps=number >= keeping))
            order += rows.tolist()
        return chunks, order

    def _kept(self, weights: Sequence[int]) -> int:
        """Return of how many chunks, from the last one, a full chunk's memory holds the graphs."""
        room = self.tokens if self.items is None else self.items
        return int((np.cumsum(weights[::-1]) <= room).sum())

    def _weight(self, sizes: NDArray[np.int32]) -> int:
        """Return how much of a full chunk items of these sizes are together."""
        return len(sizes) * (int(sizes.max()) if self.items is None else 1)

    def _cut(self, sizes: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        if self.items is None:
            return cut_chunks(sizes, self.tokens)
        order = np.argsort(sizes, kind="stable")
        return [order[at : at + self.items] for at in range(0, len(order), self.items)]


class _Distinct:
    """The distinct items of some pairs, rendered and sized; the faults of those that cannot be."""

    def __init__(self, encoder: PlannedEncoder) -> None:
        self.encoder = encoder
        self.items: list[Item] = []
        self.rendered: list[Rendered] = []
        self.sizes: list[int] = []
        self.faults: dict[int, str] = {}
        self._places: dict[tuple[object, ...], int] = {}

    def place(self, item: Item) -> int:
        """Return the place of an item, which equal ones share."""
        fault, rendered, size = None, Rendered(), 0
        try:
            rendered = self.encoder.render(item)
            key = _content(rendered)
            if key in self._places:
                return self._places[key]
            size = self.encoder.size(rendered)
        except EnvironmentFault:
            raise
        except Exception as error:  # whatever an encoder makes of an item that it cannot use
            fault, key = reason(error), ()
        place = len(self.items)
        self.items.append(item)
        self.rendered.append(rendered)
        self.sizes.append(size)
        if fault is not None:
            self.faults[place] = fault
        else:
            self._places[key] = place
        return place


def _ready(
    pairs: Sequence[Pair],
    places: Sequence[Sequence[int]],
    found: _Distinct,
    chunks: Sequence[Chunk],
    order: Sequence[int],
    left_out: Sequence[str],
) -> ReadyBatch:
    moved = np.empty(len(order), dtype=np.int64)
    moved[order] = np.arange(len(order))
    by_role = [[own[role] for own in places if len(own) > role] for role in range(3)]
    queries, positives, negatives = (moved[np.array(one, dtype=np.int64)] for one in by_role)
    return ReadyBatch(
        pairs=pairs,
        queries_P=queries,
        positives_P=positives,
        negatives_N=negatives,
        codes_I=np.array([_code(found.rendered[place]) for place in order], dtype=np.int64),
        chunks=chunks,
        tokens=sum(found.sizes),
        left_out=left_out,
    )


def _content(rendered: Rendered) -> tuple[object, ...]:
    """Return what tells a rendered item from others: its text, settings, and image by path or
    content."""
    image = rendered.image
    if isinstance(image, os.PathLike):
        image = os.fspath(image)
    elif image is not None and not isinstance(image, str | bytes):
        image = pixel_digest(image).encode()
    return rendered.text, rendered.settings, image


def _code(rendered: Rendered) -> int:
    """Digest an item's content into 64 bits, alike on every machine."""
    digest = hashlib.sha256()
    for part in _content(rendered):
        raw = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(digest.digest()[:8], "little", signed=True)
