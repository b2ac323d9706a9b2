"""Reads files of training pairs (Parquet, JSON Lines, CSV, TSV) in the documented columns.

A published layout and a folder of one's own are read alike; with one's own, a column that is
nearly a documented one is taken for a slip, not for something else.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import DataMissing, TaskError
from mmeb_harness.imagepaths import SAMPLE, holding_root
from mmeb_harness.item import PLACEHOLDER
from mmeb_harness.pairs import COLUMNS, INSTRUCTIONS, POSITIVE, REQUIRED, PairTable

if TYPE_CHECKING:
    import pyarrow as pa

_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)")
_HELD_OUT = frozenset({"test", "validation", "valid", "val", "dev", "eval"})
_BLOCK = 16 << 20
"""Bytes that are parsed at a time; no row may be longer."""

_NEAR = 0.7
"""How like a documented column (as difflib tells) another one must be to be taken for a slip."""


def read_pairs(files: Sequence[Path], *, own: bool = False) -> PairTable:
    """Read the pairs of several files, one after the other.

    `own`: a misspelt column is an error, and instructions that stand in columns of their own are
    put before the texts that do not begin with them.

    Raises:
        TaskError: for a file that cannot be read, or a column that is missing or holds no text.
    """
    import pyarrow as pa

    tables = [_read(file, own) for file in files]
    for file, table in zip(files, tables, strict=True):
        if table.column_names != tables[0].column_names:
            differing = set(table.column_names) ^ set(tables[0].column_names)
            raise TaskError(
                f"{file} and {files[0]} belong together, and only one of them has the columns "
                f"{', '.join(sorted(differing))}"
            )
    table = pa.concat_tables(tables)
    if not len(table):
        raise TaskError(f"{files[0]} has no rows")
    sources = tuple((str(file), len(one)) for file, one in zip(files, tables, strict=True))
    return PairTable(table=table, sources=sources)


def check_complete(files: Sequence[Path]) -> None:
    """Refuse part of a table: its files say how many they are (`...-00000-of-00002.parquet`)."""
    shards: dict[str, list[Path]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file.stem):
            shards.setdefault(shard["name"], []).append(file)
    for name, own in shards.items():
        expected = {int(file.stem.rpartition("-")[2]) for file in own}
        if expected != {len(own)}:
            raise TaskError(
                f"{own[0].parent} holds {len(own)} of {max(expected)} files of {name}: "
                "fetch it again"
            )


# -- a folder of one's own -------------------------------------------------------------------------


def own_pairs(
    place: Path, image_dir: Path | None = None, split: str | None = None
) -> dict[str, PairTable]:
    """Read a file of pairs, or the files at the top of a folder and in its subfolders, by subset.

    A file at the top is a subset of its name, shards (`NAME-00000-of-00002`) together; a subfolder
    is one: its files that are named for the split, or all. Files and folders named test,
    validation, valid, val, dev or eval are left for evaluation.

    Raises:
        DataMissing: where there is no such place.
        TaskError: where it holds no tables, or unusable ones.
    """
    if place.is_file():
        if place.suffix.lower() not in _READERS:
            raise TaskError(f"{place} is none of {', '.join(_READERS)}: its pairs cannot be read")
        return {place.stem: _rooted(read_pairs([place], own=True), [place.parent], image_dir)}
    if not place.is_dir():
        raise DataMissing(f"there is no file or folder {place} with pairs (data.dir)")
    tables = {}
    for name, files in _own_subsets(place, split).items():
        check_complete(files)
        folders = list(dict.fromkeys([place, files[0].parent]))
        tables[name] = _rooted(read_pairs(files, own=True), folders, image_dir)
    return tables


def _own_subsets(place: Path, split: str | None) -> dict[str, list[Path]]:
    subsets: dict[str, list[Path]] = {}
    for file in _table_files(place):
        subsets.setdefault(_stem(file), []).append(file)
    for folder in sorted(one for one in place.iterdir() if one.is_dir()):
        files = [] if _is_held_out(folder) else _table_files(folder)
        files = [file for file in files if _stem(file) == split] or files
        if files and folder.name in subsets:
            raise TaskError(
                f"{place} has a file and a folder that are both subset {folder.name!r}: rename one"
            )
        if files:
            subsets[folder.name] = files
    if not subsets:
        raise _no_tables(place)
    return subsets


def _table_files(folder: Path) -> list[Path]:
    """Return the tables directly in a folder but those that are kept for evaluation."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _READERS]
    return [file for file in files if file.is_file() and not _is_held_out(file)]


def _is_held_out(path: Path) -> bool:
    return path.name.startswith(".") or _stem(path).lower() in _HELD_OUT


def _stem(file: Path) -> str:
    shard = _SHARD.fullmatch(file.stem)
    return shard["name"] if shard else file.stem


def _no_tables(folder: Path) -> TaskError:
    kinds = ", ".join(f"*{suffix}" for suffix in _READERS)
    held = [file.name for file in sorted(folder.glob("[!.]*")) if _is_held_out(file)]
    hint = f" ({', '.join(held)}: kept for evaluation, by that name)" if held else ""
    return TaskError(
        f"{folder} holds no table of pairs, nor do its folders: put {kinds} there, with the "
        f"columns {', '.join(COLUMNS[:4])} (qry and one of {' and '.join(POSITIVE)} are needed)"
        f"{hint}"
    )


def _rooted(pairs: PairTable, folders: Sequence[Path], image_dir: Path | None) -> PairTable:
    """Give the pairs their image folder: `image_dir`, or the first of `FOLDER/images` and FOLDER
    that holds the paths."""
    from dataclasses import replace

    roots = [root for folder in folders for root in (folder / "images", folder)]
    root = image_dir or holding_root(roots, pairs.image_paths(SAMPLE)) or folders[0]
    return replace(pairs, root=root)


# -- one file --------------------------------------------------------------------------------------


def _read(file: Path, own: bool) -> pa.Table:
    """Read the documented columns of a file, all as text."""
    import pyarrow as pa

    try:
        names, rows = _READERS[file.suffix.lower()](file)
        _check_names(file, names, own)
        table = rows([name for name in COLUMNS if name in names])
        table = pa.table({name: _as_text(file, table, name) for name in table.column_names})
        table.validate(full=True)  # whether the bytes are UTF-8
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise TaskError(f"{file} cannot be read: {str(error).strip()}") from None
    return _worded(table) if own else table


def _check_names(file: Path, names: Sequence[str], own: bool) -> None:
    """Check that the needed columns are there and, of one's own, that none is misspelt."""
    unknown = [name for name in names if name not in COLUMNS]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TaskError(f"{file}: column {twice!r} is there twice")
    missing = next((name for name in REQUIRED if name not in names), None)
    if missing is None and not set(POSITIVE) & set(names):
        missing = " or ".join(POSITIVE)
    if missing is not None:
        near = difflib.get_close_matches(missing.split()[0], unknown, n=1, cutoff=0.4)
        meant = f"; is {near[0]!r} that column? Then rename it" if near else ""
        raise TaskError(
            f"{file}: column {missing} is missing; there are: {', '.join(names) or 'none'}{meant}"
        )
    absent = [name for name in COLUMNS if name not in names]
    for name in unknown if own else ():
        if near := difflib.get_close_matches(name, absent, n=1, cutoff=_NEAR):
            raise TaskError(
                f"{file}: column {name!r} is not read; is {near[0]!r} meant? If not, give it a "
                f"name less like it (the columns are {', '.join(COLUMNS)})"
            )


def _as_text(file: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    kind = table[name].type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(kind) for is_text in (*texts, pa.types.is_null)):
        what = "paths of images" if name.endswith("_path") else "text"
        raise TaskError(f"{file}: column {name!r} holds {table[name].type}, not {what}")
    return table[name].cast(pa.large_string())


Rows = Callable[[list[str]], Any]


def _parquet(file: Path) -> tuple[list[str], Rows]:
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    return opened.schema_arrow.names, lambda columns: opened.read(columns=columns)


def _separated(separator: str) -> Callable[[Path], tuple[list[str], Rows]]:
    def read(file: Path) -> tuple[list[str], Rows]:
        from pyarrow import csv as arrow_csv
        from pyarrow import string

        with file.open(encoding="utf-8-sig", newline="") as opened:
            names = next(csv.reader(opened, delimiter=separator), [])
        return names, lambda columns: arrow_csv.read_csv(
            file,
            arrow_csv.ReadOptions(block_size=_BLOCK),
            arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, string()),
                strings_can_be_null=False,
            ),
        )

    return read


def _json_lines(file: Path) -> tuple[list[str], Rows]:
    """A key may be absent or null in some lines; one that is so in all is no column."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    with file.open(encoding="utf-8-sig") as opened:
        first = next((line for line in opened if line.strip()), None)
    if first is None:
        raise TaskError(f"{file} has no rows")
    try:
        table = arrow_json.read_json(
            file,
            arrow_json.ReadOptions(block_size=_BLOCK),
            arrow_json.ParseOptions(
                explicit_schema=pa.schema(dict.fromkeys(COLUMNS, pa.string())),
                unexpected_field_behavior="ignore",
            ),
        )
    except pa.ArrowInvalid as error:
        raise _bad_line(file) or error from None
    there = [name for name in COLUMNS if table[name].null_count < len(table)]
    others = [name for name in _object(first) or {} if name not in COLUMNS]
    return [*there, *others], table.select


def _bad_line(file: Path) -> TaskError | None:
    """Find the first line that is no object of texts."""
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        for number, line in enumerate(opened, start=1):
            found = _object(line) if line.strip() else {}
            if found is None:
                return TaskError(f"{file}, line {number} is no JSON object")
            for name in COLUMNS:
                if not isinstance(found.get(name), str | None):
                    return TaskError(f"{file}, line {number}: {name} holds no text")
    return None


def _object(line: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


_READERS: dict[str, Callable[[Path], tuple[list[str], Rows]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
}


# -- instructions in columns of their own ----------------------------------------------------------


def _worded(table: pa.Table) -> pa.Table:
    """Put instructions that stand apart before their texts."""
    query, target = INSTRUCTIONS
    table = _joined(table, query, "qry", "qry_image_path")
    table = _joined(table, target, *POSITIVE)
    return _joined(table, target, "neg_text", "neg_image_path")


def _joined(table: pa.Table, instruction: str, name: str, image: str) -> pa.Table:
    """Put the instructions of one column before the texts of another, where there is an item."""
    import pyarrow as pa

    if instruction not in table.column_names or not {name, image} & set(table.column_names):
        return table
    joined = []
    for batch in table.to_batches(max_chunksize=1 << 16):
        columns = [
            batch[one].to_pylist() if one in table.column_names else [None] * len(batch)
            for one in (instruction, name, image)
        ]
        texts = [_join(*one) for one in zip(*columns, strict=True)]
        joined.append(pa.array(texts, pa.large_string()))
    column = pa.chunked_array(joined, pa.large_string())
    if name not in table.column_names:
        return table.append_column(name, column)
    return table.set_column(table.column_names.index(name), name, column)


def _join(instruction: str | None, text: str | None, image: str | None) -> str:
    """Put an instruction before a text, after a placeholder, unless it stands there already."""
    text = text or ""
    body = text.removeprefix(PLACEHOLDER).lstrip()
    if not instruction or not (text or image) or body.startswith(instruction):
        return text
    head = f"{PLACEHOLDER}\n" if text.startswith(PLACEHOLDER) else ""
    return f"{head}{instruction} {body}" if body else f"{head}{instruction}"
