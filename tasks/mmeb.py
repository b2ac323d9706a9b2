"""Reads MMEB's evaluation data in both published layouts into distinct items and integers.

v1 (`TIGER-Lab/MMEB-eval`): columns qry_text, qry_img_path, tgt_text, tgt_img_path, instructions
inside the texts. V2 code (`ziyjiang/MMEB_Test_Instruct`): the same and qry_inst, tgt_inst apart,
joined here as VLM2Vec's V2 parsers join them (see `wording`). The gold is candidate 0.

The one idea: texts and paths become dictionary codes at once, so that a million candidate mentions
are integers, and every rule is applied to distinct values only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mmeb_harness.errors import TaskError
from mmeb_harness.imagepaths import checked_paths
from mmeb_harness.item import PLACEHOLDER, Item, Role, mark_instruction
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.taskdata import Ragged, TaskData
from mmeb_harness.tasks.source import evaluation_files, image_root
from mmeb_harness.tasks.table import DatasetFacts
from mmeb_harness.tasks.wording import Wording, candidate_text, query_text
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class _Side:
    """Queries or candidates: distinct (text, path) pairs, and which of them each mention is."""

    texts: Sequence[str]
    paths: Sequence[str]
    pairs: NDArray[np.int64]
    mentions: NDArray[np.int32]

    @classmethod
    def of(cls, texts: pa.Array, paths: pa.Array) -> _Side:
        text_codes, text_values = _encode(texts)
        path_codes, path_values = _encode(paths)
        if min(len(text_values), len(path_values)) == 1:  # the other column tells all
            mentions = text_codes if len(path_values) == 1 else path_codes
            distinct = np.arange(len(text_values) * len(path_values))
        else:
            distinct, mentions = _ranked(text_codes * len(path_values) + path_codes)
        pairs = np.stack([distinct // len(path_values), distinct % len(path_values)], axis=1)
        return cls(
            texts=text_values, paths=path_values, pairs=pairs, mentions=mentions.astype(np.int32)
        )


def load_mini(task: Task, location: DataLocation) -> TaskData:
    """Load a task of the embedded suite, wherever the package lies."""
    with as_file(files("mmeb_harness.tasks.mini") / "data") as folder:
        return load(task, DataLocation(data_dir=folder, image_dir=folder / "images"))


def load(task: Task, location: DataLocation) -> TaskData:
    """Load a task from a folder in a published layout.

    Raises:
        DataMissing: where the folder does not hold the task.
        TaskError: for a missing column, lists of differing length, an unsafe path.
    """
    facts = DatasetFacts(**task.facts)
    sources = evaluation_files(task, location)
    table = _read(sources)
    if not len(table):
        raise TaskError(f"{sources[0]} has no rows")
    wording = Wording.of(table.column_names)
    queries = _queries(table, facts, wording)
    candidates, lengths = _candidates(table, facts, wording)
    root = image_root(location, [path for path in (*queries.paths, *candidates.paths) if path])
    query_items, query_odd = _items(queries, facts.query_instruction, root, "query", facts)
    candidate_items, candidate_odd = _items(
        candidates, facts.target_instruction, root, "candidate", facts
    )
    first = len(query_items)
    rows = Ragged.from_lengths(candidates.mentions + np.int32(first), lengths)
    return TaskData(
        items=query_items + candidate_items,
        queries=queries.mentions,
        candidates=rows,
        gold=Ragged(values=rows.values, starts=rows.starts, stops=rows.starts + 1),
        notes=_notes(queries, candidates, lengths, query_odd, candidate_odd),
        digest=_digest(sources),
    )


def _read(sources: Sequence[Path]) -> pa.Table:
    try:
        return pa.concat_tables([_read_coded(source) for source in sources]).combine_chunks()
    except (OSError, pa.ArrowInvalid) as error:
        raise TaskError(f"{sources[0]} cannot be read: {error}") from None


def _read_coded(source: Path) -> pa.Table:
    """Read a file; texts in lists come as codes, so that a text mentioned often is made once."""
    with pq.ParquetFile(source) as file:
        leaves = [file.schema.column(number) for number in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"]
    return pq.read_table(source, read_dictionary=[path for path in texts if "." in path])


def _column(table: pa.Table, name: str, *, optional: bool = False) -> pa.Array:
    if name in table.column_names:
        return table[name].combine_chunks()
    if optional:
        return pa.array([""] * len(table))
    raise TaskError(f"column {name!r} is missing; there are: {', '.join(table.column_names)}")


def _text_column(table: pa.Table, name: str, *, optional: bool = False) -> pa.Array:
    return _texts(_column(table, name, optional=optional), name)


def _texts(values: pa.Array, name: str) -> pa.Array:
    """Check that a column holds text; what is coded stays so, the rest has no gaps."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(kind) for is_text in (*texts, pa.types.is_null)):
        raise TaskError(f"column {name!r} holds {values.type}, not text")
    if pa.types.is_dictionary(values.type):
        return values
    return pc.fill_null(values.cast(pa.large_string()), "")


def _decoded(values: pa.Array) -> pa.Array:
    return pc.fill_null(values.cast(pa.large_string()), "")


def _queries(table: pa.Table, facts: DatasetFacts, wording: Wording) -> _Side:
    texts = _text_column(table, "qry_text").to_pylist()
    paths = _text_column(table, "qry_img_path", optional=wording.separate)
    if wording.separate:
        instructions = _text_column(table, "qry_inst").to_pylist()
        texts = [query_text(facts, *parts) for parts in zip(instructions, texts, strict=True)]
    return _Side.of(pa.array(texts, pa.large_string()), paths)


def _candidates(
    table: pa.Table, facts: DatasetFacts, wording: Wording
) -> tuple[_Side, NDArray[np.int64]]:
    texts, text_lengths = _flat_column(table, "tgt_text")
    paths, path_lengths = _flat_column(table, "tgt_img_path", optional=wording.separate)
    texts, text_lengths = _spread(texts, text_lengths, path_lengths)
    paths, path_lengths = _spread(paths, path_lengths, text_lengths)
    _check_lengths(text_lengths, path_lengths)
    if wording.separate:
        instructions = _text_column(table, "tgt_inst", optional=True).to_pylist()
        texts = _joined(texts, text_lengths, instructions, facts)
    return _Side.of(texts, paths), text_lengths


def _flat_column(
    table: pa.Table, name: str, *, optional: bool = False
) -> tuple[pa.Array, NDArray[np.int64]]:
    """Flatten a column of lists; a column of plain strings counts as lists of one."""
    column = _column(table, name, optional=optional)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return _texts(column, name), np.ones(len(column), dtype=np.int64)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return _texts(pc.list_flatten(column), name), lengths.astype(np.int64)


def _spread(
    values: pa.Array, lengths: NDArray[np.int64], other: NDArray[np.int64]
) -> tuple[pa.Array, NDArray[np.int64]]:
    """One empty value beside many (an older published form) stands for as many empty ones."""
    if (
        np.array_equal(lengths, other)
        or not (lengths == 1).all()
        or pc.any(pc.not_equal(_decoded(values), "")).as_py()
    ):
        return values, lengths
    return pa.array([""] * int(other.sum()), pa.large_string()), other


def _check_lengths(texts: NDArray[np.int64], paths: NDArray[np.int64]) -> None:
    differing = np.flatnonzero(texts != paths)
    if len(differing):
        row = int(differing[0])
        raise TaskError(
            f"row {row}: tgt_text has {texts[row]} entries and tgt_img_path {paths[row]}"
        )
    if (texts == 0).any():
        raise TaskError(f"row {int(np.flatnonzero(texts == 0)[0])} has no candidates")


def _encode(values: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Number the texts by their first appearance, an absent one being empty."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    # a file's own codes may be in any order, unused, or two for one text
    texts = pa.concat_arrays([_decoded(values.dictionary), pa.array([""], pa.large_string())])
    known = texts.dictionary_encode()
    if len(known.dictionary) == 1 and len(values):
        return np.zeros(len(values), dtype=np.int64), known.dictionary.to_pylist()
    codes = values.indices if values.indices.type.bit_width >= 32 else values.indices.cast("int32")
    codes = pc.fill_null(codes, len(texts) - 1)
    used = known.indices.take(codes.unique()).unique()
    numbers = np.zeros(len(known.dictionary), dtype=np.int64)
    numbers[np.asarray(used)] = np.arange(len(used))
    met: list[str] = known.dictionary.take(used).to_pylist()
    return np.take(numbers[np.asarray(known.indices)], codes), met


def _ranked(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct codes in order, and the place of each code among them: numpy's `unique`,
    but sorting only the distinct ones, of which there are few."""
    encoded = pa.array(codes).dictionary_encode()
    found, indices = np.asarray(encoded.dictionary), np.asarray(encoded.indices)
    order = np.argsort(found)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return found[order], ranks[indices]


def _joined(
    texts: pa.Array, lengths: NDArray[np.int64], instructions: list[str], facts: DatasetFacts
) -> pa.Array:
    """Join V2's separate instructions to the candidates, each distinct combination once."""
    codes, values = _encode(texts)
    starts = np.cumsum(lengths) - lengths
    worded = np.array([bool(values[code].strip()) for code in codes[starts]])
    kinds, kind_values = _encode(pa.array(instructions, pa.large_string()))
    row_codes = np.repeat(kinds * 2 + worded, lengths)
    distinct, mentions = _ranked(row_codes * len(values) + codes)
    joined = []
    for code in distinct:
        row_code, text = divmod(int(code), len(values))
        instruction = kind_values[row_code // 2]
        joined.append(candidate_text(facts, instruction, values[text], worded=bool(row_code % 2)))
    return pa.DictionaryArray.from_arrays(
        pa.array(mentions), pa.array(joined, pa.large_string())
    ).cast(pa.large_string())


def _items(
    side: _Side, instruction: str | None, root: Path | None, role: Role, facts: DatasetFacts
) -> tuple[list[Item], NDArray[np.bool_]]:
    """Make the distinct items; also say which have an instruction that is not in the table."""
    paths = checked_paths(side.paths, root)
    marks = [mark_instruction(text, instruction) for text in side.texts]
    modality = facts.modality(role)
    items = [
        Item(
            text=side.texts[text] or None,
            image=paths[path],
            instruction=marks[text],
            role=role,
            modality=modality,
        )
        for text, path in side.pairs.tolist()
    ]
    odd = [instruction is not None and item.instruction is None for item in items]
    return items, np.array(odd, dtype=bool)


def _notes(
    queries: _Side,
    candidates: _Side,
    lengths: NDArray[np.int64],
    query_odd: NDArray[np.bool_],
    candidate_odd: NDArray[np.bool_],
) -> dict[str, int]:
    def rows_with(query_marks: NDArray[np.bool_], candidate_marks: NDArray[np.bool_]) -> int:
        marked = query_marks[queries.mentions]
        if candidate_marks.any():
            starts = np.cumsum(lengths) - lengths
            marked |= np.logical_or.reduceat(candidate_marks[candidates.mentions], starts)
        return int(marked.sum())

    return {
        "rows": len(lengths),
        "unknown_instruction": rows_with(query_odd, candidate_odd),
        "stray_placeholder": rows_with(_stray(queries), _stray(candidates)),
    }


def _stray(side: _Side) -> NDArray[np.bool_]:
    """Which distinct items have an image placeholder and no image."""
    placed = np.array([PLACEHOLDER in text for text in side.texts], dtype=bool)
    bare = np.array([not path for path in side.paths], dtype=bool)
    stray: NDArray[np.bool_] = placed[side.pairs[:, 0]] & bare[side.pairs[:, 1]]
    return stray


def _digest(sources: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
