"""Pictures prepared by table are the library's to the last bit, or the library prepares them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.plugins.qwen_pixels import Patches
from PIL import Image

FAMILIES = ["qwen2_vl", "gme", "qwen3_vl"]
SIZES = [(56, 84), (128, 128), (333, 517), (28, 1000), (90, 61), (1, 1), (1344, 1344)]


def drawn(*sizes: tuple[int, int]) -> list[Image.Image]:
    draw = np.random.default_rng(sum(map(sum, sizes)))
    return [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def by_library(encoder: Any, pictures: list[Image.Image]) -> Any:
    found = encoder.image_processor(
        images=pictures, return_tensors="pt", **encoder.processor_settings
    )
    return found["pixel_values"], found["image_grid_thw"]


def check(encoder: Any, pictures: list[Image.Image]) -> None:
    images, counts = encoder.process(pictures)
    pixels, grids = by_library(encoder, pictures)
    assert images["pixels"].dtype == pixels.dtype == torch.float32
    assert torch.equal(images["pixels"], pixels)
    assert torch.equal(images["grids"], grids)
    assert counts == (grids.prod(-1) // encoder.image_processor.merge_size**2).tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_is_the_librarys_to_the_last_bit(
    name: str, size: tuple[int, int], encoders: Any
) -> None:
    encoder = encoders(name)
    if not encoder.processor_settings.get("do_resize", True):  # its sides are whole already
        size = tuple(max(1, round(side / 64)) * 64 for side in size)
    check(encoder, drawn(size))


def test_a_line_is_prepared_where_nothing_is_resized(encoders: Any) -> None:
    check(encoders("qwen3_vl"), drawn((32, 32 * 281)))


def test_pictures_of_several_sizes_keep_their_order(encoders: Any) -> None:
    check(encoders("qwen2_vl"), drawn((56, 84), (333, 517), (56, 84), (84, 56)))
    check(encoders("qwen2_vl"), drawn((56, 84), (84, 56), (112, 28)))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_every_value_of_a_channel_has_its_number(value: int, encoders: Any) -> None:
    for channel in range(3):
        pixels = np.full((56, 56, 3), 255 - value, dtype=np.uint8)
        pixels[..., channel] = value
        check(encoders("qwen2_vl"), [Image.fromarray(pixels)])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_is_used_where_the_library_cuts_patches_apart(name: str, encoders: Any) -> None:
    encoder = encoders(name)
    assert (encoder._patches.table_CV is not None) == hasattr(encoder.image_processor, "patchify")


@pytest.fixture
def processor(encoders: Any) -> Any:
    processor = copy.copy(encoders("qwen2_vl").image_processor)
    if not hasattr(processor, "patchify"):
        pytest.skip("this release of the library cuts patches within another step")
    return processor


@pytest.mark.parametrize("switch", ["do_rescale", "do_normalize"])
def test_a_processor_that_leaves_a_step_out_is_left_alone(switch: str, processor: Any) -> None:
    setattr(processor, switch, False)
    patches = Patches(processor, {})
    assert patches.table_CV is None
    expected = processor(images=drawn((56, 84)), return_tensors="pt")["pixel_values"]
    assert torch.equal(patches(drawn((56, 84)))[0], expected)


def test_a_library_that_does_something_else_between_is_left_alone(processor: Any) -> None:
    normalize = processor.normalize

    def with_a_gradient(image: Any, *given: Any, **named: Any) -> Any:
        made = normalize(image, *given, **named)
        return made + np.linspace(0, 1, made.shape[-1], dtype=made.dtype)

    processor.normalize = with_a_gradient
    patches = Patches(processor, {})
    assert patches.table_CV is None
    expected = processor(images=drawn((56, 84)), return_tensors="pt")["pixel_values"]
    assert torch.equal(patches(drawn((56, 84)))[0], expected)


def test_a_picture_that_has_its_size_is_not_resized(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = Patches(processor, {})
    resized: list[tuple[int, ...]] = []
    whole = type(processor).resize

    def noting(self: Any, image: Any, *given: Any, **named: Any) -> Any:
        resized.append(image.shape)
        return whole(self, image, *given, **named)

    monkeypatch.setattr(type(processor), "resize", noting)
    patches(drawn((56, 84), (84, 56)))
    assert not resized
    patches(drawn((56, 84), (85, 56)))
    assert len(resized) == 2
