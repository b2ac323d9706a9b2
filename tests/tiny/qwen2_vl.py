"""The golden tiny Qwen2-VL."""

from __future__ import annotations

from pathlib import Path

FAMILY = "qwen2-vl"


def make(folder: Path) -> str:
    """Return the reference of the golden model; `folder` is left as it is."""
    return f"{FAMILY}:{Path(__file__).parents[1] / 'goldens/models/tiny-qwen2vl'}"
