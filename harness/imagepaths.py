"""Which image paths of a table are safe to open, and under which folder they lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmeb_harness.errors import TaskError

CLIMBING = r"^[/\\]|(^|[/\\])\.\.([/\\]|$)|\x00"
"""Matches a path that would leave its folder (one dialect: Python's and Arrow's)."""

SAMPLE = 32
"""How many paths are tried before a folder is taken not to hold the images."""

_CLIMBING = re.compile(CLIMBING)


def checked_path(path: str, root: Path | None) -> str | None:
    """Put a path under the root; None where it is empty.

    Raises:
        TaskError: for a path that climbs out of the root.
    """
    if not path:
        return None
    if _CLIMBING.search(path):
        raise climbs_out(path, root)
    return path if root is None else f"{root}/{path}"


def climbs_out(path: str, root: Path | None) -> TaskError:
    """Make the error for a path that is absolute or leads out of the image folder."""
    return TaskError(
        f"image path {path!r} climbs out of the image folder {root}: paths are relative to it"
    )


def checked_paths(paths: Sequence[str], root: Path | None) -> list[str | None]:
    """Put the paths under the root, None where empty. Raises TaskError as `checked_path` does."""
    return [checked_path(path, root) for path in paths]


def holding_root(roots: Sequence[Path], paths: Sequence[str]) -> Path | None:
    """Return the first folder that holds any of the first so many paths; None if none does."""
    for root in roots:
        if any((root / path).exists() for path in paths[:SAMPLE] if "\0" not in path):
            return root
    return None
