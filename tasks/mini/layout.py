"""Generated tasks written as MMEB-eval's v1 layout, so that one loader reads both.

`NAME/test-00000-of-00001.parquet` holds the rows, `images/NAME/` the pictures; paths in the rows
are relative to `images/`. The gold is candidate 0, as in the published data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image

PARQUET = "test-00000-of-00001.parquet"

SCHEMA = pa.schema(
    [
        ("qry_text", pa.string()),
        ("qry_img_path", pa.string()),
        ("tgt_text", pa.list_(pa.string())),
        ("tgt_img_path", pa.list_(pa.string())),
    ]
)


class StoredSide(NamedTuple):
    """One query or candidate as it is stored; `image` is a path, empty where there is none."""

    text: str
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One query and its candidates, the gold first."""

    query: StoredSide
    candidates: Sequence[StoredSide]


@dataclass(frozen=True, kw_only=True)
class EvaluationPart:
    """All that is written of one task; `images` maps paths in the rows to pictures."""

    name: str
    rows: Sequence[Row]
    images: Mapping[str, Image]


def table(rows: Sequence[Row]) -> pa.Table:
    """Return the rows under the four published columns."""
    columns = {
        "qry_text": [row.query.text for row in rows],
        "qry_img_path": [row.query.image for row in rows],
        "tgt_text": [[side.text for side in row.candidates] for row in rows],
        "tgt_img_path": [[side.image for side in row.candidates] for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def write(task: EvaluationPart, folder: Path) -> None:
    """Write one task into a folder of the layout."""
    for name, image in task.images.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)
    path = folder / task.name / PARQUET
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(task.rows), path, compression="zstd")


def digest(folder: Traversable) -> str:
    """Return one sha256 over every file: its path in the folder, then its bytes, in path order."""
    total = sha256()
    for path, file in sorted(_files(folder).items()):
        total.update(path.encode() + file.read_bytes())
    return total.hexdigest()


def _files(folder: Traversable, prefix: str = "") -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _files(entry, f"{prefix}{entry.name}/")
        else:
            found[prefix + entry.name] = entry
    return found
