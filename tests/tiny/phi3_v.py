"""The golden tiny Phi-3.5-vision."""

from __future__ import annotations

from pathlib import Path

FAMILY = "phi3-v"


def make(folder: Path) -> str:
    """Return the reference of the golden model; `folder` is left as it is."""
    return f"{FAMILY}:{Path(__file__).parents[1] / 'goldens/models/tiny-phi35v'}"
