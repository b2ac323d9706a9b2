"""What a result records of its surroundings: versions, device, and the command that made it."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime

from mmeb_harness.keys import installed_version

RECORDED = (
    "mmeb-harness", "torch", "transformers", "peft", "tokenizers", "accelerate", "datasets",
    "pillow", "numpy", "pyarrow", "torchvision", "open-clip-torch", "timm",
    "sentence-transformers", "sentencepiece",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Return the versions of Python, the platform and every library that could matter."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    return found | {name: installed_version(name) for name in RECORDED}


def device_name(device: str | None) -> str | None:
    """Return the accelerator's own name, or the CPU's architecture."""
    if device is None or device.startswith("cpu"):
        return f"{platform.machine()}, {os.cpu_count()} cores"
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return device


def cores() -> int:
    """Return how many cores this process may use, which a scheduler may have limited."""
    affinity = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> tuple[str, ...]:
    """Return the command that this process was started with."""
    return (os.path.basename(sys.argv[0]), *sys.argv[1:])
