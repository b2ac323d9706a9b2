"""The tiny BLIP-2 before its projections."""

from pathlib import Path

from tiny import blip2

FAMILY = "blip-2-unprojected"


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    blip2.make(folder)
    return f"{FAMILY}:{folder}"
