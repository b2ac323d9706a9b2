"""What makes a Qwen's pictures quick to prepare, without another number in them.

The library makes floating-point numbers of a picture, scales and normalises them, and then puts
them in the order of patches, twice, since a picture counts as two frames. The one idea: a channel
has 256 values. So bytes are put in order, and each becomes the number that the library makes of it,
looked up in a table that the library has filled.

Shapes: I pictures, N patches of all of them, C channels, F frames, P pixels of a patch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Pixels = tuple["torch.Tensor", "torch.Tensor"]
"""Of some pictures the (N, C * F * P) pixels, and the (I, 3) patches in time, height and width."""

AT_ONCE = 256
"""Patches that are looked up together, so that they stay in a core's cache."""


class Patches:
    """Prepares RGB pictures as an image processor does, by table where that gives the same."""

    def __init__(self, processor: Any, settings: Mapping[str, Any]) -> None:
        self.processor, self.settings = processor, dict(settings)
        self.table_CV: NDArray[np.float32] | None = None
        if processor.do_rescale and processor.do_normalize and hasattr(processor, "patchify"):
            self._bytewise = copy.copy(processor)
            self._bytewise.patchify = _patches
            self.table_CV = _table(processor)
            if not self._agree():
                self.table_CV = None

    def __call__(self, pictures: Sequence[Image]) -> Pixels:
        """Prepare pictures."""
        return self._by_library(pictures) if self.table_CV is None else self._by_table(pictures)

    def _by_library(self, pictures: Sequence[Image]) -> Pixels:
        found = self.processor(images=pictures, return_tensors="pt", **self.settings)
        return found["pixel_values"], found["image_grid_thw"]

    def _by_table(self, pictures: Sequence[Image]) -> Pixels:
        import torch

        given = {**self.settings, "do_rescale": False, "do_normalize": False}
        if self._resizes and all(self._has_its_size(picture) for picture in pictures):
            given["do_resize"] = False
        found = self._bytewise(images=pictures, return_tensors="np", **given)
        table_CV, frames = self.table_CV, int(self.processor.temporal_patch_size)
        assert table_CV is not None
        bytes_NCP = found["pixel_values"].reshape(len(found["pixel_values"]), len(table_CV), -1)
        numbers_NCFP = np.empty((*bytes_NCP.shape[:2], frames, bytes_NCP.shape[2]), np.float32)
        for start in range(0, len(bytes_NCP), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            for channel, table_V in enumerate(table_CV):
                numbers = np.take(table_V, bytes_NCP[some, channel], mode="clip")
                numbers_NCFP[some, channel] = numbers[:, None]
        pixels = torch.from_numpy(numbers_NCFP.reshape(len(bytes_NCP), -1))
        return pixels, torch.from_numpy(found["image_grid_thw"])

    def _has_its_size(self, picture: Image) -> bool:
        """Whether resizing would only copy: sides of whole tokens, and not too large or small."""
        width, height = picture.size
        if width % self._side or height % self._side:
            return False
        wanted = self.processor.get_number_of_image_patches(height, width)
        return int(wanted) == width * height // int(self.processor.patch_size) ** 2

    @property
    def _resizes(self) -> bool:
        """Whether the library resizes pictures."""
        return bool(self.settings.get("do_resize", self.processor.do_resize))

    @property
    def _side(self) -> int:
        """Pixels on a side of what becomes one token."""
        return int(self.processor.patch_size) * int(self.processor.merge_size)

    def _agree(self) -> bool:
        """Try both ways, which must give the same to the last bit: another release of the library
        may do something else between."""
        import torch
        from PIL import Image

        draw, side = np.random.default_rng(0), self._side
        try:
            for beside in (0, 5) if self._resizes else (0,):
                height, width = 2 * side + beside, 3 * side + 2 * beside
                drawn = draw.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
                trial = [Image.fromarray(pixels) for pixels in drawn]
                for one, two in zip(self._by_table(trial), self._by_library(trial), strict=True):
                    if one.dtype != two.dtype or not torch.equal(one, two):
                        return False
        except (TypeError, ValueError, AttributeError, KeyError):
            return False
        return True


def _table(processor: Any) -> NDArray[np.float32]:
    """Return what the library makes of each value in each channel, (C, 256)."""
    channels = len(processor.image_mean)
    values_CV1 = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))[:, :, None]
    scaled = processor.rescale(values_CV1, processor.rescale_factor)
    numbers = processor.normalize(scaled, processor.image_mean, processor.image_std)
    return np.asarray(numbers, dtype=np.float32)[:, :, 0]


def _patches(
    image: NDArray[Any], *, patch_size: int, merge_size: int, temporal_patch_size: int
) -> tuple[NDArray[Any], int, int]:
    """Put the bytes (C, height, width) of a picture in the order of patches, for one frame."""
    if image.dtype != np.uint8:
        raise TypeError(f"bytes are needed, not {image.dtype}")
    channels, height, width = image.shape
    rows, columns = height // patch_size, width // patch_size
    apart = image.reshape(
        channels,
        rows // merge_size,
        merge_size,
        patch_size,
        columns // merge_size,
        merge_size,
        patch_size,
    )
    ordered = apart.transpose(1, 4, 2, 5, 0, 3, 6)
    return ordered.reshape(rows * columns, channels * patch_size**2), rows, columns
