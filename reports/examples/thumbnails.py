"""Small pictures inside a report: each once, under one budget of bytes for the whole file.

The one idea: a picture is asked for by the digest of its bytes, whoever shows it, and is drawn
later, in the order in which it matters. What cannot be drawn (gone, changed since the run, no
picture, or the budget is spent) becomes a note in its place, never an error.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from mmeb_harness.errors import ItemError
from mmeb_harness.image import load_image, to_rgb
from mmeb_harness.reports.readable import readable

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 128
"""The longer side of a thumbnail in pixels; smaller pictures stay as they are."""

BUDGET = 12_000_000
"""Bytes that all pictures of a report may take in the file."""

LARGEST = 200_000_000
"""Bytes of a picture's file; a larger one is not opened."""

COLOURS = 256
"""A small picture of at most so many colours is drawn, not photographed: it is kept exactly."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A picture as a data URI with its size in pixels, or without one and with the reason."""

    name: str
    source: str | None = None
    width: int = 0
    height: int = 0
    note: str | None = None


class Album:
    """The pictures of one report: asked for by digest, numbered in the order of asking."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._paths: list[list[str]] = []
        self._digests: list[str] = []

    def ask(self, digest: str, path: str | None) -> int:
        """Return the number of the picture; another path of the same picture is kept, too."""
        number = self._numbers.setdefault(digest, len(self._digests))
        if number == len(self._digests):
            self._digests.append(digest)
            self._paths.append([])
        if path is not None and path not in self._paths[number]:
            self._paths[number].append(path)
        return number

    def left_out(self, reason: str) -> list[Thumbnail]:
        """Return every picture as a note."""
        return [_note(paths, reason) for paths in self._paths]

    def draw(self, order: Iterable[int], *, budget: int = BUDGET) -> list[Thumbnail]:
        """Draw the pictures in the order given (repeats are free) until the budget is spent."""
        drawn = self.left_out("left out: the pictures' budget is spent")
        left = budget
        for number in dict.fromkeys(order):
            thumbnail = self._draw(number)
            size = len(thumbnail.source or "")
            if size > left:
                break
            left -= size
            drawn[number] = thumbnail
        return drawn

    def _draw(self, number: int) -> Thumbnail:
        """Draw the first of the picture's files that still holds it."""
        paths, digest = self._paths[number], self._digests[number]
        found = _note(paths, "was in memory only, and is not kept")
        for path in paths:
            found = _thumbnail(path, digest)
            if found.source:
                break
        return found


def _note(paths: Sequence[str], reason: str) -> Thumbnail:
    return Thumbnail(name=_name(paths[0]) if paths else "", note=reason)


def _name(path: str) -> str:
    """The file's own name: where it lay is nobody's business."""
    return readable(PurePath(path).name, 80)


def _thumbnail(path: str, digest: str) -> Thumbnail:
    try:
        content = _content(Path(path))
        if hashlib.sha256(content).hexdigest() != digest:
            return _note([path], "has changed since the run")
        image = load_image(content)
    except FileNotFoundError:
        return _note([path], "is no longer there")
    except (OSError, ValueError) as error:  # a name with a null, a folder, no permission, ...
        return _note([path], f"cannot be read: {readable(_reason(error), 80)}")
    except ItemError as error:
        return _note([path], f"cannot be shown: {readable(str(error), 120)}")
    kind, encoded, (width, height) = _encoded(image)
    source = f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
    return Thumbnail(name=_name(path), source=source, width=width, height=height)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _content(path: Path) -> bytes:
    """Read a regular file of ordinary size: a run's folder may name a device, or a pipe."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    if path.stat().st_size > LARGEST:
        raise OSError("it is too large")
    return path.read_bytes()


def _encoded(image: Image) -> tuple[str, bytes, tuple[int, int]]:
    """Encode exactly what is small and drawn, and the rest as small as it looks well."""
    from PIL import features

    small = to_rgb(image).copy()
    small.thumbnail((SIDE, SIDE))
    drawn = small.getcolors(COLOURS) is not None
    kind = "webp" if features.check("webp") else ("png" if drawn else "jpeg")  # some builds lack it
    buffer = io.BytesIO()
    small.save(buffer, kind, quality=70, lossless=drawn)
    return kind, buffer.getvalue(), small.size
