"""A tiny model in open_clip's layout with random weights, and what others need of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_parts import drawn

FAMILY = "open-clip"

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
CONFIG = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}


def library() -> Any:
    """Return open_clip, where torchvision does not fit torch, too."""
    from mmeb_harness.plugins.vision_ops import mend_torchvision

    mend_torchvision()
    import open_clip

    return open_clip


def model(config: dict[str, Any], seed: int = 33) -> Any:
    """Build one of open_clip's classes with every parameter drawn."""

    def build(config: dict[str, Any]) -> Any:
        options = {key: value for key, value in config.items() if key != "custom_text"}
        kind = "CustomTextCLIP" if config.get("custom_text") else "CLIP"
        return getattr(library(), kind)(**options)

    return drawn(build, config, seed)


def small_state(towers: Any) -> dict[str, Any]:
    """Return a model's tensors, the words' 49408 rows in the space of a few: as windows over one
    row of numbers. The model gets them, too."""
    import torch

    state: dict[str, Any] = towers.state_dict()
    for name, tensor in state.items():
        if name.endswith("token_embedding.weight"):
            rows, width = tensor.shape
            numbers = torch.randn(rows + width, generator=torch.Generator().manual_seed(34))
            state[name] = (numbers / 2).as_strided((rows, width), (1, 1))
    towers.load_state_dict(state)
    return state


def make(folder: Path) -> str:
    """Save the model in `folder` and return its name."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    torch.save(small_state(model(CONFIG)), folder / "open_clip_pytorch_model.bin")
    return f"{FAMILY}:{folder}"
