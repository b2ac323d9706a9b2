"""Weights in a file, written again with half as many bits, to be given away."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = ".safetensors"


def write_halved(source: Path, target: Path) -> None:
    """Write a file of weights anew, numbers of 32 and 64 bits as bfloat16, everything else as it
    is."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as stored:
        names = stored.keys()
        values = {name: stored.get_tensor(name) for name in names}
        about = stored.metadata()
    halved = {
        name: value.to(torch.bfloat16) if value.dtype in (torch.float32, torch.float64) else value
        for name, value in values.items()
    }
    save_file(halved, target, metadata=about)
