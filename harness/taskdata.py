"""What is scored: distinct items, and queries, candidates and gold that point at them.

The one idea: an item stands once, and everything else is integers: a suite with 36 million
candidate mentions is a few integer arrays and some hundred thousand items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmeb_harness.errors import TaskError
from mmeb_harness.item import Item
from numpy.typing import NDArray

ROWS_AT_ONCE = 128
"""Rows that are laid out as a rectangle at a time."""

FEW_GOLD = 16
"""Gold of a query up to which comparing with each is quicker than sorting."""


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Rows of integers of differing length; rows may share storage, as one pool for all does.

    `values` (any length) holds the integers, `starts` and `stops` (n,) each row's part of it.
    """

    values: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def from_lengths(cls, values: NDArray[np.int32], lengths: NDArray[np.int64]) -> Ragged:
        """Make rows that lie one after the other."""
        stops = np.cumsum(lengths, dtype=np.int64)
        return cls(values=values, starts=stops - lengths, stops=stops)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.values[self.starts[row] : self.stops[row]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, (n,)."""
        return self.stops - self.starts

    def padded(self, rows: range, fill: int) -> NDArray[np.int32]:
        """Return some rows as a rectangle (rows, longest), `fill` behind the shorter ones."""
        starts, lengths = self.starts[rows.start : rows.stop], self.lengths[rows.start : rows.stop]
        width = int(lengths.max(initial=0))
        if not width or (lengths == width).all():
            if (starts == starts[:1]).all():  # all share one pool
                part = self.values[starts[0] : starts[0] + width] if width else self.values[:0]
                return np.broadcast_to(part, (len(rows), width))
            if (np.diff(starts) == width).all():  # one after the other
                part = self.values[starts[0] : starts[-1] + width]
                return part.reshape(len(rows), width)
        steps = np.arange(width)
        places = np.minimum(starts[:, None] + steps, len(self.values) - 1)
        inside = steps < lengths[:, None]
        return np.where(inside, self.values[places], np.int32(fill))

    def head(self, rows: int) -> Ragged:
        """Return the first rows."""
        return Ragged(values=self.values, starts=self.starts[:rows], stops=self.stops[:rows])


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What is scored: distinct items, and per query its candidates and gold as item indices.

    `queries` (n,); `candidates` a row a query, in the published order, mentions repeated;
    `gold` a row a query, its item indices, with `grades` beside the values where graded.
    `notes` counts what the loader found odd, for the result; `digest` is of the files read.
    """

    items: Sequence[Item]
    queries: NDArray[np.int32]
    candidates: Ragged
    gold: Ragged
    grades: NDArray[np.float32] | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    digest: str | None = None

    @classmethod
    def from_lists(
        cls,
        queries: Sequence[Item],
        candidates: Sequence[Item] | Sequence[Sequence[Item]],
        gold: Sequence[int] | Sequence[Sequence[int]],
    ) -> TaskData:
        """Build from plain lists; `candidates` is one pool for all queries or a list for each.

        `gold` holds, for each query, the position or positions of its gold in its candidates.
        """
        distinct: dict[tuple[Any, ...], int] = {}
        items: list[Item] = []

        def index(item: Item) -> int:
            place = distinct.setdefault(_identity(item), len(items))
            if place == len(items):
                items.append(item)
            return place

        query_rows = [index(item) for item in queries]
        rows = _candidate_rows(candidates, len(queries), index)
        if not (len(queries) == len(rows) == len(gold)):
            raise TaskError("queries, candidates and gold differ in length")
        golds = [_places(one, row).tolist() for one, row in zip(gold, rows, strict=True)]
        return cls(
            items=items,
            queries=np.array(query_rows, dtype=np.int32),
            candidates=rows,
            gold=_ragged(golds),
        )

    def check(self) -> None:
        """Raise TaskError unless every query has candidates, and gold among them."""
        counts = (len(self.queries), len(self.candidates), len(self.gold))
        if not all(counts) or len(set(counts)) > 1:
            raise TaskError(
                "it has {} queries, {} lists of candidates and {} of gold".format(*counts)
            )
        for rows in (self.queries, self.candidates.values, self.gold.values):
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.items):
                raise TaskError("it points at items that are not there")
        found = gold_counts(self.candidates, self.gold) > 0
        if not found.all():
            query = int(np.argmin(found))
            lacking = "gold among its candidates" if len(self.candidates[query]) else "candidates"
            raise TaskError(f"query {query} has no {lacking}")

    def head(self, queries: int) -> TaskData:
        """Return the first queries, with only the items they reach."""
        if queries >= len(self.queries):
            return self
        chosen = self.queries[:queries]
        candidates, gold = self.candidates.head(queries), self.gold.head(queries)
        reached = np.zeros(len(self.items), dtype=bool)
        reached[chosen] = True
        for rows in (candidates, gold):
            for row in rows:
                reached[row] = True
        place = (np.cumsum(reached) - 1).astype(np.int32)
        return replace(
            self,
            items=[item for item, kept in zip(self.items, reached, strict=True) if kept],
            queries=place[chosen],
            candidates=replace(candidates, values=place[candidates.values]),
            gold=replace(gold, values=place[gold.values]),
        )


def gold_marks(candidates: Ragged, gold: Ragged, rows: range) -> NDArray[np.bool_]:
    """Tell of some rows' candidates, as `Ragged.padded` lays them out, which are gold."""
    shown, right = candidates.padded(rows, -1), gold.padded(rows, -2)
    if right.shape[1] > FEW_GOLD:
        return np.array([np.isin(row, own) for row, own in zip(shown, right, strict=True)])
    marks = np.zeros(shown.shape, dtype=bool)
    for column in right.T:
        marks |= shown == column[:, None]
    return marks


def gold_counts(candidates: Ragged, gold: Ragged) -> NDArray[np.int64]:
    """Count the gold among each row's candidates, (n,)."""
    total = len(candidates)
    counts = [
        gold_marks(candidates, gold, range(start, min(start + ROWS_AT_ONCE, total))).sum(axis=1)
        for start in range(0, total, ROWS_AT_ONCE)
    ]
    return np.concatenate([*counts, np.zeros(0, dtype=np.int64)])


def _places(gold: Any, row: NDArray[np.int32]) -> NDArray[np.int32]:
    places = np.atleast_1d(np.asarray(gold, dtype=np.int64))
    if len(places) and not 0 <= places.min() <= places.max() < len(row):
        raise TaskError(f"gold {gold} is no place among {len(row)} candidates")
    return row[places]


def _identity(item: Item) -> tuple[Any, ...]:
    image = item.image
    told_apart_by = image if isinstance(image, str | bytes | Path | None) else id(image)
    return (item.text, told_apart_by, item.instruction, item.role, item.modality)


def _candidate_rows(
    candidates: Sequence[Item] | Sequence[Sequence[Item]],
    queries: int,
    index: Callable[[Item], int],
) -> Ragged:
    """One pool shared by all queries, stored once, or a list for each query."""
    shared = [one for one in candidates if isinstance(one, Item)]
    if shared:
        pool = np.array([index(item) for item in shared], dtype=np.int32)
        starts = np.zeros(queries, dtype=np.int64)
        return Ragged(values=pool, starts=starts, stops=starts + len(pool))
    lists = [one for one in candidates if not isinstance(one, Item)]
    return _ragged([[index(item) for item in one] for one in lists])


def _ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = [value for row in rows for value in row]
    return Ragged.from_lengths(np.array(flat, dtype=np.int32), lengths)
