"""Phi-3.5-vision's high-definition images: one global view, and the picture cut into square crops.

The one idea: a picture is enlarged or shrunk so that as many squares of 336 pixels as allowed cover
it, its ragged lower edge is filled with white, and the squares and a view of the whole go to the
vision tower. How many squares there are follows from the width and height alone.

Steps and their order are those of `HD_transform` and `preprocess` in Microsoft's image processor
(processing_phi3_v.py); torchvision's functions there are, for a PIL image, PIL's own bilinear
resize, a white border, and division by 255.

Shapes: N crops of a picture, the global view first; H and W the sides of the padded picture.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.errors import EnvironmentFault, ItemError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SIDE = 336
"""Pixels of a crop's side."""

TOKENS_PER_SIDE = 12
"""Tokens of a crop's side: 24 patches, merged two by two."""

WHITE = (255, 255, 255)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How many crops a picture may have, and how its colours are normalised."""

    num_crops: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


def read_settings(folder: Path, num_crops: int | None) -> ImageSettings:
    """Read a checkpoint's preprocessor_config.json, if it has one; `num_crops` goes before it."""
    path = folder / "preprocessor_config.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from None
    return ImageSettings(
        num_crops=num_crops or int(stored.get("num_crops", 1)),
        mean=tuple(stored.get("image_mean") or CLIP_MEAN),
        std=tuple(stored.get("image_std") or CLIP_STD),
    )


def resized_size(width: int, height: int, num_crops: int) -> tuple[int, int]:
    """Return width and height of a landscape picture after the resize, before the padding.

    Raises:
        ItemError: for a picture so thin that nothing of it would be left.
    """
    ratio = width / height
    across = 1
    while across * math.ceil(across / ratio) <= num_crops:
        across += 1
    new_width = (across - 1) * SIDE
    new_height = int(new_width / ratio)
    if new_height < 1:
        raise ItemError(
            f"its image of {width}x{height} pixels is too thin: resized to {new_width} pixels it "
            f"would be no pixel high"
        )
    return new_width, new_height


def crop_grid(width: int, height: int, num_crops: int) -> tuple[int, int]:
    """Return how many rows and columns of crops a picture of this size is cut into."""
    if width < height:
        columns, rows = crop_grid(height, width, num_crops)
        return rows, columns
    new_width, new_height = resized_size(width, height, num_crops)
    return math.ceil(new_height / SIDE), new_width // SIDE


def token_count(rows: int, columns: int) -> int:
    """Return the tokens of a picture: crops and their row ends, a separator, the global view."""
    crops = rows * TOKENS_PER_SIDE * (columns * TOKENS_PER_SIDE + 1)
    view = TOKENS_PER_SIDE * (TOKENS_PER_SIDE + 1)
    return crops + 1 + view


def padded_picture(picture: Image, num_crops: int) -> Image:
    """Resize an RGB picture and pad it with white, so that its sides are multiples of 336.

    A portrait is mirrored at its diagonal for this and back again, so its white is left and right.
    """
    from PIL import Image as pillow

    if picture.width < picture.height:
        turned = picture.transpose(pillow.Transpose.TRANSPOSE)
        return padded_picture(turned, num_crops).transpose(pillow.Transpose.TRANSPOSE)
    size = resized_size(picture.width, picture.height, num_crops)
    resized = picture.resize(size, pillow.Resampling.BILINEAR)
    full_height = math.ceil(resized.height / SIDE) * SIDE
    padded = pillow.new("RGB", (resized.width, full_height), WHITE)
    padded.paste(resized, (0, (full_height - resized.height) // 2))
    return padded


def crops_of(picture: Image, settings: ImageSettings) -> torch.Tensor:
    """Return the (N, 3, 336, 336) normalised views of an RGB picture, crops row by row.

    The global view is made of the normalised picture, its white border included.
    """
    import torch
    from torch.nn.functional import interpolate

    pixels_3HW = _normalised(padded_picture(picture, settings.num_crops), settings)
    view_13SS = interpolate(pixels_3HW.unsqueeze(0), size=(SIDE, SIDE), mode="bicubic")
    rows, columns = (side // SIDE for side in pixels_3HW.shape[1:])
    squares = pixels_3HW.reshape(3, rows, SIDE, columns, SIDE).permute(1, 3, 0, 2, 4)
    return torch.cat([view_13SS, squares.reshape(-1, 3, SIDE, SIDE)])


def _normalised(picture: Image, settings: ImageSettings) -> torch.Tensor:
    import numpy as np
    import torch

    pixels_HW3 = torch.from_numpy(np.array(picture))
    pixels_3HW = pixels_HW3.permute(2, 0, 1).contiguous().float() / 255
    mean_311 = torch.tensor(settings.mean).reshape(3, 1, 1)
    std_311 = torch.tensor(settings.std).reshape(3, 1, 1)
    return (pixels_3HW - mean_311) / std_311
