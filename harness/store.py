"""Vectors on disk: computed once, found by key, safe to kill at any moment.

The one idea: whole batches go into write-once Arrow files, each row with its own checksum, written
aside and renamed. Reading maps the files into memory; nothing is ever changed in place.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import EncoderFailed
from mmeb_harness.files import write_aside
from mmeb_harness.plan import Key
from mmeb_harness.rowwise import over_rows
from numpy.typing import NDArray

ABOUT_FILE = "about.json"
SHARD_BYTES = 8 << 20
SHARD_SECONDS, SHARD_SHARE = 1.0, 0.01
"""A shard is written after so many seconds, or this share of the time since the first vector: who
is killed loses a hundredth at most, and a run of days leaves some thousand files."""

NOWHERE = -1
ROW_BITS = 32
ROW_MASK = (1 << ROW_BITS) - 1


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """One file, mapped: `vectors` (n, dim), and the run and plan that computed them.

    `checked` says of which rows the checksum has been compared.
    """

    vectors: Vectors
    checksums: NDArray[np.uint32]
    checked: NDArray[np.bool_]
    run: str
    plan: str


class VectorStore:
    """The vectors of one encoder, under one folder.

    `run` and `plan` are noted with what is added. With `only_plan`, only vectors computed under
    that plan count (a run begun afresh).
    """

    def __init__(self, folder: Path, *, run: str = "", only_plan: str | None = None) -> None:
        self.folder, self.run, self.plan = folder, run, only_plan or ""
        self.damaged: list[str] = []
        self._only_plan = only_plan
        self._shards: list[_Shard] = []
        self._slots: dict[Key, int] = {}
        self._places = array("q")  # by slot: number of the shard and of the row in it, or NOWHERE
        self._waiting: list[tuple[Sequence[Key], Vectors]] = []
        self._begun: float | None = None
        self._last_write = time.monotonic()
        for path in sorted(folder.glob("*.arrow")):
            self._open(path)

    def _open(self, path: Path, keys: Sequence[Key] | None = None) -> None:
        """Map a file; `keys` are those just written to it, whose rows need no check."""
        written = keys is not None
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            table.validate(full=True)
            table = table.combine_chunks()
            metadata = {
                key.decode(): value.decode() for key, value in table.schema.metadata.items()
            }
            column = table["vector"].chunk(0)
            dimension = column.type.list_size
            vectors = column.values.to_numpy(zero_copy_only=True).reshape(-1, dimension)
            shard = _Shard(
                vectors=vectors,
                checksums=table["checksum"].chunk(0).to_numpy(zero_copy_only=True),
                checked=np.full(len(vectors), written),
                run=metadata["run"],
                plan=metadata["plan"],
            )
            keys = _key_list(table["key"].chunk(0)) if keys is None else keys
            if not len(keys) == len(shard.vectors) == len(shard.checksums):
                raise ValueError("its columns differ in length")
        except Exception as error:  # whatever is wrong with a file, its vectors can be had again
            self.damaged.append(f"{path.name} cannot be read ({type(error).__name__}: {error})")
            return
        if self._only_plan is not None and shard.plan != self._only_plan:
            return
        first = len(self._shards) << ROW_BITS
        self._shards.append(shard)
        for place, key in enumerate(keys, start=first):
            self._places[self._slot(key)] = place

    def __len__(self) -> int:
        return sum(place != NOWHERE for place in self._places)

    def _slot(self, key: Key) -> int:
        """Return where a key's place is noted: room is made when it is first asked for, so that
        nothing grows when its vector comes."""
        slot = self._slots.setdefault(key, len(self._slots))
        if slot == len(self._places):
            self._places.append(NOWHERE)
        return slot

    def find(self, keys: Iterable[Key]) -> set[Key]:
        """Return those of the keys whose vectors are here and intact; the damaged are forgotten."""
        return {key for key in keys if self._intact(key)}

    def _intact(self, key: Key) -> bool:
        slot = self._slot(key)
        place = self._places[slot]
        if place == NOWHERE:
            return False
        shard, row = self._shards[place >> ROW_BITS], place & ROW_MASK
        if shard.checked[row]:
            return True
        if _checksum(key, shard.vectors[row]) == shard.checksums[row]:
            shard.checked[row] = True
            return True
        self.damaged.append(f"the vector {key.hex()} is damaged")
        self._places[slot] = NOWHERE
        return False

    def _place(self, key: Key) -> int:
        place = self._places[self._slots[key]]
        if place == NOWHERE:
            raise KeyError(key)
        return place

    def get(self, keys: Sequence[Key]) -> Vectors:
        """Return the (n, dim) vectors of keys that `find` has found or `add` has added."""
        self.flush()
        places = np.array([self._place(key) for key in keys], dtype=np.int64)
        shards, rows = places >> ROW_BITS, places & ROW_MASK
        dimension = self._shards[shards[0]].vectors.shape[1]
        vectors = np.empty((len(keys), dimension), dtype=np.float32)

        def copy(part: slice) -> None:
            own = shards[part]
            edges = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), len(own)]
            for start, stop in pairwise(edges):  # of one shard
                here = slice(part.start + start, part.start + stop)
                stored = self._shards[own[start]].vectors
                np.take(stored, rows[here], axis=0, out=vectors[here], mode="clip")

        over_rows(len(keys), copy)
        return vectors

    def add(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Take one whole batch; it is on disk after `flush`, which also comes by itself.

        Raises:
            EncoderFailed: where the vectors differ in length from those that are there.
        """
        before = self._dimension()
        if before not in (None, vectors.shape[1]):
            raise EncoderFailed(
                f"the encoder gave vectors of {vectors.shape[1]} numbers after some of {before}"
            )
        self._waiting.append((keys, vectors))
        waiting_bytes = sum(batch.nbytes for _, batch in self._waiting)
        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        patience = max(SHARD_SECONDS, SHARD_SHARE * (now - self._begun))
        if waiting_bytes >= SHARD_BYTES or now - self._last_write >= patience:
            self.flush()

    def _dimension(self) -> int | None:
        some = [batch for _, batch in self._waiting[:1]] or [s.vectors for s in self._shards[-1:]]
        return int(some[0].shape[1]) if some else None

    def flush(self) -> None:
        """Write the waiting batches as one shard."""
        if not self._waiting:
            return
        keys = [key for batch, _ in self._waiting for key in batch]
        vectors = np.concatenate([batch for _, batch in self._waiting])
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.arrow"
        _write_shard(path, keys, vectors, {"run": self.run, "plan": self.plan})
        self._waiting.clear()
        self._open(path, keys)
        self._last_write = time.monotonic()

    def sources(self, keys: Iterable[Key]) -> dict[str, int]:
        """Count, by the run that computed them, the vectors of these keys."""
        return dict(Counter(self._shards[self._place(key) >> ROW_BITS].run for key in keys))


def _write_shard(
    path: Path, keys: Sequence[Key], vectors: Vectors, metadata: dict[str, str]
) -> None:
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = {
        "key": pa.array(keys, pa.binary(16)),
        "checksum": pa.array([_checksum(k, v) for k, v in zip(keys, vectors)], pa.uint32()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    with write_aside(path) as target, pa.ipc.new_file(str(target), table.schema) as writer:
        writer.write_table(table)


def _key_list(column: pa.FixedSizeBinaryArray) -> list[Key]:
    """Return `to_pylist`, ten times as fast."""
    width = column.type.byte_width
    content = column.buffers()[1].to_pybytes()
    starts = range(column.offset * width, (column.offset + len(column)) * width, width)
    return [content[start : start + width] for start in starts]


def _checksum(key: Key, vector: Vectors) -> int:
    return zlib.crc32(np.ascontiguousarray(vector).data, zlib.crc32(key))


@dataclass(frozen=True, kw_only=True)
class StoredEncoder:
    """One encoder's folder in the store, as `cache list` shows it."""

    name: str
    folder: Path
    vectors: int
    size_bytes: int


def describe_namespace(folder: Path, about: dict[str, object]) -> None:
    """Say in the folder itself whose vectors it holds; leave it if it is said already."""
    if not (folder / ABOUT_FILE).exists():
        with write_aside(folder / ABOUT_FILE) as target:
            target.write_text(json.dumps(about, indent=1, default=str))


def stored_encoders(root: Path) -> list[StoredEncoder]:
    """List what the store holds, by encoder."""
    found = []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        shards = list(folder.glob("*.arrow"))
        found.append(
            StoredEncoder(
                name=_name_of(folder),
                folder=folder,
                vectors=sum(_count(shard) for shard in shards),
                size_bytes=sum(shard.stat().st_size for shard in shards),
            )
        )
    return found


def _name_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / ABOUT_FILE).read_text())["model"])
    except (OSError, ValueError, KeyError):
        return "?"


def _count(shard: Path) -> int:
    try:
        with pa.memory_map(str(shard)) as source:
            return int(pa.ipc.open_file(source).read_all().num_rows)
    except (OSError, pa.ArrowInvalid):
        return 0


def remove(stored: StoredEncoder) -> None:
    """Delete one encoder's vectors."""
    shutil.rmtree(stored.folder)
