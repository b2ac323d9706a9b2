"""Training pairs in the documented columns: a table whose rows become Pairs when asked for.

The one idea: a million pairs are a few Arrow columns; choosing rows copies no text, and every rule
that needs all rows (is each usable? which positives are equal?) is applied to columns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from mmeb_harness.errors import TaskError
from mmeb_harness.imagepaths import CLIMBING, checked_path, climbs_out
from mmeb_harness.item import ImageSource, Item, Modality, Role, mark_instruction
from mmeb_harness.task import Pair
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

REQUIRED = ("qry",)
POSITIVE = ("pos_text", "pos_image_path")
INSTRUCTIONS = ("qry_instruction", "pos_instruction")
COLUMNS = (
    *("qry", "qry_image_path", *POSITIVE, "neg_text", "neg_image_path"),
    *INSTRUCTIONS,
)
"""The documented columns: texts and image paths; `qry` and one of POSITIVE must be there."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What all queries, or all targets, of a table have in common.

    `instructions` are those that a text may begin with, where they stand in no column.
    """

    role: Role
    instructions: tuple[str, ...] = ()
    modality: Modality | None = None

    def item(self, text: str, image: str | None, instruction: str) -> Item:
        """Make an item, the instruction marked in its text."""
        known = (instruction, *sorted(self.instructions, key=len, reverse=True))
        marks = (mark_instruction(text, one) for one in known)
        return Item(
            text=text or None,
            image=image,
            instruction=next((mark for mark in marks if mark), None),
            role=self.role,
            modality=self.modality,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTable(Sequence[Pair]):
    """Pairs over a table of text columns named as in COLUMNS; others of it are not looked at.

    `sources` names the files it was read from, each with its rows, for messages; `root` is the
    folder of the image paths. `rows` chooses rows of the table (None: all, in order). A row with
    nothing to encode on a side is an error, unless `lenient`: then its item is empty.
    """

    table: pa.Table
    sources: tuple[tuple[str, int], ...]
    root: Path | None = None
    query: Side = Side(role="query")
    target: Side = Side(role="candidate")
    rows: range | NDArray[np.int64] | None = None
    lenient: bool = False

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairTable: ...
    def __getitem__(self, index: int | slice) -> Pair | PairTable:
        chosen = self._rows[index]
        if isinstance(index, slice):
            return replace(self, rows=chosen)
        return self._pair(int(chosen))

    def select(self, places: NDArray[np.int64]) -> PairTable:
        """Return the pairs at these places, in this order."""
        return replace(self, rows=np.asarray(self._rows, dtype=np.int64)[places])

    @property
    def _rows(self) -> Any:
        return range(len(self.table)) if self.rows is None else self.rows

    def _pair(self, row: int) -> Pair:
        query_instruction, target_instruction = (self._value(name, row) for name in INSTRUCTIONS)
        negative = self._item("neg_text", "neg_image_path", row, self.target, target_instruction)
        return Pair(
            query=self._needed(
                self._item("qry", "qry_image_path", row, self.query, query_instruction), row
            ),
            positive=self._needed(self._item(*POSITIVE, row, self.target, target_instruction), row),
            negative=None if _is_empty(negative) else negative,
        )

    def _item(self, text: str, path: str, row: int, side: Side, instruction: str) -> Item:
        try:
            image = checked_path(self._value(path, row), self.root)
        except TaskError as error:
            raise TaskError(f"{self._place(row)}: {error}") from None
        return side.item(self._value(text, row), image, instruction)

    def _value(self, name: str, row: int) -> str:
        if name not in self.table.column_names:
            return ""
        value: str | None = self.table[name][row].as_py()
        return value or ""

    def _needed(self, item: Item, row: int) -> Item:
        if _is_empty(item) and not self.lenient:
            raise self._nothing(item.role, row)
        return item

    def _nothing(self, role: Role | None, row: int) -> TaskError:
        what = "query" if role == "query" else "positive"
        return TaskError(f"{self._place(row)}: its {what} has neither text nor image")

    def _place(self, row: int) -> str:
        for name, count in self.sources:
            if row < count:
                return f"{name}, row {row} (the first is 0)"
            row -= count
        return f"row {row}"

    # -- all rows at once --------------------------------------------------------------------------

    def check(self) -> None:
        """Look at all chosen rows.

        Raises:
            TaskError: for the first with an unsafe image path or, unless `lenient`, with nothing
                to encode on a side.
        """
        import pyarrow.compute as pc

        for name in ("qry_image_path", "pos_image_path", "neg_image_path"):
            if name in self.table.column_names:
                climbing = pc.match_substring_regex(self.table[name], CLIMBING)
                if (row := self._first(_as_array(pc.fill_null(climbing, False)))) is not None:
                    fault = climbs_out(self._value(name, row), self.root)
                    raise TaskError(f"{self._place(row)}: {fault}")
        roles: tuple[Role, Role] = ("query", "candidate")
        for role, names in zip(roles, (("qry", "qry_image_path"), POSITIVE), strict=True):
            empty = np.logical_and(*(self._blank(name) for name in names))
            if not self.lenient and (row := self._first(empty)) is not None:
                raise self._nothing(role, row)

    def _first(self, marks: NDArray[np.bool_]) -> int | None:
        """Return the first chosen row that is marked."""
        rows = np.asarray(self._rows, dtype=np.int64)
        found = rows[marks[rows]]
        return int(found[0]) if len(found) else None

    def _blank(self, name: str) -> NDArray[np.bool_]:
        """Return for each row of the table whether a column holds nothing there."""
        import pyarrow.compute as pc

        if name not in self.table.column_names:
            return np.ones(len(self.table), dtype=bool)
        empty = pc.equal(pc.binary_length(self.table[name]), 0)
        return _as_array(pc.fill_null(empty, True))

    def image_paths(self, most: int) -> list[str]:
        """Return some image paths as they stand in the table, spread over the chosen rows."""
        rows = np.asarray(self._rows, dtype=np.int64)
        found: list[str] = []
        for name in ("qry_image_path", "pos_image_path"):
            having = rows[~self._blank(name)[rows]]
            places = np.unique(np.linspace(0, len(having) - 1, most // 2, dtype=np.int64))
            found += [self._value(name, int(having[place])) for place in places if len(having)]
        return found

    @property
    def positive_codes(self) -> NDArray[np.int64]:
        """Numbers of the positives, (n,): equal ones (text and image) have equal numbers."""
        return positive_codes([self])[0]


def positive_codes(parts: Sequence[Sequence[Pair]]) -> list[NDArray[np.int64]]:
    """Number the positives of several sequences of pairs, from 0.

    Equal ones (text and image), wherever they stand, have equal numbers.
    """
    if not parts:
        return []
    columns = [_positives(pairs) for pairs in parts]
    texts, images = (_codes([sides[side] for sides in columns]) for side in (0, 1))
    both = _dense(texts * (images.max(initial=0) + 1) + images)
    ends = np.cumsum([len(texts) for texts, _ in columns], dtype=np.int64)
    return [
        own[np.asarray(pairs._rows)] if isinstance(pairs, PairTable) else own
        for pairs, own in zip(parts, np.split(both, ends[:-1]), strict=True)
    ]


def _positives(pairs: Sequence[Pair]) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the texts and the images of all positives, "" where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(pairs, PairTable):
        texts = [pair.positive.text or "" for pair in pairs]
        images = [_image_name(pair.positive.image) for pair in pairs]
        made = (pa.chunked_array([pa.array(one, pa.large_string())]) for one in (texts, images))
        return next(made), next(made)
    nothing = pa.scalar("", pa.large_string())
    columns = []
    for name in POSITIVE:
        if name in pairs.table.column_names:
            columns.append(pc.fill_null(pairs.table[name], nothing))
        else:
            columns.append(pa.chunked_array([pa.repeat(nothing, len(pairs.table))]))
    text, path = columns
    if pairs.root is not None:
        root = pa.scalar(str(pairs.root), pa.large_string())
        under = pc.binary_join_element_wise(root, path, pa.scalar("/", pa.large_string()))
        path = pc.if_else(pc.equal(pc.binary_length(path), 0), nothing, under)
    return text, path


def _image_name(image: ImageSource | None) -> str:
    """Return a string that equal images share: the path, or a digest of the bytes."""
    if image is None or isinstance(image, str | os.PathLike):
        return "" if image is None else str(image)
    if not isinstance(image, bytes):
        image = f"{image.mode} {image.size}".encode() + image.tobytes()
    return sha256(image).hexdigest()


def _codes(columns: Sequence[pa.ChunkedArray]) -> NDArray[np.int64]:
    """Number the values of several columns, one after the other, by their first appearance."""
    import pyarrow as pa

    chunks = [chunk for column in columns for chunk in column.chunks]
    encoded = pa.chunked_array(chunks, pa.large_string()).dictionary_encode()
    indices = [np.asarray(chunk.indices) for chunk in encoded.chunks]
    return np.concatenate([*indices, np.zeros(0, dtype=np.int64)]).astype(np.int64)


def _dense(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number again, without gaps, by first appearance."""
    import pyarrow as pa

    return np.asarray(pa.array(codes).dictionary_encode().indices).astype(np.int64)


def _is_empty(item: Item) -> bool:
    return item.text is None and item.image is None


def _as_array(marks: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(marks.to_numpy(), dtype=bool)
