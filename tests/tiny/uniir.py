"""A tiny CLIP_SF checkpoint as UniIR's training writes it, with random weights."""

from __future__ import annotations

from pathlib import Path

from tiny.open_clip import model, small_state

FAMILY = "uniir-clip-sf"

CONFIG = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 128, "layers": 2},
    "text_cfg": {"width": 128, "heads": 2, "layers": 2},
}


def make(folder: Path) -> str:
    """Save the checkpoint in `folder` and return its name."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    towers = {
        f"clip_model.{name}": tensor for name, tensor in small_state(model(CONFIG, 35)).items()
    }
    torch.save({"model": towers, "epoch": 3, "scaler": {}}, folder / "clip_sf_large.pth")
    return f"{FAMILY}:{folder}"
