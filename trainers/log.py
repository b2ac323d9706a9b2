"""What a training writes down: one JSON object a line, appended as it happens.

The lines survive a kill at any moment. A training that goes on after step s first drops what stood
behind s, so that no step stands twice. Lines are of `kind` start, step, evaluation, checkpoint or
warning.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.files import storage_fault, write_aside


class TrainingLog:
    """The log of one training, opened for each line: there is nothing to close.

    It keeps what stood there up to step `keep_until`; with None it begins anew.

    Raises:
        EnvironmentFault: where it cannot be written, here and at each line.
    """

    def __init__(self, path: Path, keep_until: int | None) -> None:
        self.path = path
        kept: list[str] = []
        if keep_until is not None:
            kept = [_line(record) for record in _until(_records(path), keep_until)]
        with write_aside(path) as aside:
            aside.write_text("".join(kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line, whole or not at all."""
        line = _line(record).encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file.fileno(), line)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            raise storage_fault(error, self.path) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, but for one that a kill has torn. Absent, it has none."""
    return list(_records(path))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                record = _record(line)
                if record is not None:
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _until(records: Iterable[dict[str, Any]], step: int) -> Iterator[dict[str, Any]]:
    """Yield what stands before the first line of a later step, lines without a step included."""
    for record in records:
        if (record.get("step") or 0) > step:
            return
        yield record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # of numpy or torch
        return _plain(value.tolist())
    return str(value)


def _write_all(file: int, line: bytes) -> None:
    while line:
        line = line[os.write(file, line) :]
