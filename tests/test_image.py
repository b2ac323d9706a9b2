"""Pictures of every kind: read as the reference read them, or refused in one clear sentence."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import ItemError
from mmeb_harness.image import (
    image_size,
    load_image,
    pixel_digest,
    resize_square,
    square_side,
    to_rgb,
)
from PIL import Image

ENCODERS = ["tiny_qwen", "tiny_clip"]


def colours(width: int = 90, height: int = 60) -> Image.Image:
    """Draw a picture whose pixels differ in all three bands."""
    gradient = Image.linear_gradient("L").resize((width, height))
    bands = [gradient, gradient.rotate(180), gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    bands[2] = bands[2].rotate(37)
    return Image.merge("RGB", bands)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def translucent(mode: str) -> Image.Image:
    """Draw a picture with an alpha ramp over its colours."""
    image = colours().convert(mode)
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


def rotated() -> bytes:
    """Return a JPEG whose EXIF asks for a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(colours(), "JPEG", exif=exif)


def deep() -> Image.Image:
    """Draw a 16-bit greyscale picture that uses both bytes."""
    values = (np.arange(60 * 90, dtype=np.uint16) * 12).reshape(60, 90)
    return Image.fromarray(values)


PALETTE = colours().quantize(16)
KINDS: dict[str, tuple[bytes, str, tuple[int, int]]] = {
    "greyscale": (saved(colours().convert("L"), "PNG"), "L", (90, 60)),
    "one bit": (saved(colours().convert("1"), "PNG"), "1", (90, 60)),
    "palette": (saved(PALETTE, "PNG"), "P", (90, 60)),
    "palette, one colour transparent": (saved(PALETTE, "PNG", transparency=3), "P", (90, 60)),
    "palette, alpha by colour": (
        saved(PALETTE, "PNG", transparency=bytes([0, 90, 180])),
        "P",
        (90, 60),
    ),
    "greyscale, one level transparent": (
        saved(colours().convert("L"), "PNG", transparency=colours().convert("L").getpixel((5, 5))),
        "L",
        (90, 60),
    ),
    "RGB, one colour transparent": (
        saved(colours(), "PNG", transparency=colours().getpixel((5, 5))),
        "RGB",
        (90, 60),
    ),
    "CMYK JPEG": (saved(colours().convert("CMYK"), "JPEG"), "CMYK", (90, 60)),
    "RGBA": (saved(translucent("RGB"), "PNG"), "RGBA", (90, 60)),
    "LA": (saved(translucent("L"), "PNG"), "LA", (90, 60)),
    "JPEG turned by EXIF": (rotated(), "RGB", (90, 60)),
    "GIF": (saved(PALETTE, "GIF"), "P", (90, 60)),
    "16-bit greyscale": (saved(deep(), "PNG"), "L", (90, 60)),
}
"""By name: the file, the mode it is loaded in, and its size in pixels."""


def opened(data: bytes) -> Image.Image:
    """Decode a file with Pillow alone; of 16 bits keep the high byte."""
    image = Image.open(io.BytesIO(data))
    image.load()
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def plain_rgb(image: Image.Image) -> Any:
    """Convert by hand: alpha dropped, palette looked up, CMYK as Pillow does."""
    if image.mode in ("RGBA", "LA"):
        bands = image.split()[:-1]
        return np.stack([np.asarray(bands[n % len(bands)]) for n in range(3)], axis=-1)
    if image.mode == "P":
        table = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return table[np.asarray(image)]
    if image.mode in ("L", "1"):
        return np.stack([np.asarray(image.convert("L"))] * 3, axis=-1)
    return np.asarray(image.convert("RGB"))


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_an_image_is_loaded_in_its_own_mode_and_size(name: str) -> None:
    data, mode, size = KINDS[name]
    image = load_image(data)
    assert (image.mode, image.size) == (mode, size)
    assert image_size(data) == size
    assert np.array_equal(np.asarray(image), np.asarray(opened(data)))


@pytest.mark.parametrize("name", KINDS)
def test_plain_rgb_drops_alpha_and_looks_up_palettes(name: str) -> None:
    data = KINDS[name][0]
    converted = to_rgb(load_image(data))
    assert converted.mode == "RGB"
    assert np.array_equal(np.asarray(converted), plain_rgb(opened(data)))


@pytest.mark.parametrize("name", KINDS)
def test_the_square_resize_happens_in_the_image_s_own_mode(name: str) -> None:
    data, mode, _ = KINDS[name]
    square = resize_square(load_image(data), "low")
    assert (square.mode, square.size) == (mode, (128, 128))
    source = opened(data)
    by_hand = source.resize(
        (128, 128),
        Image.Resampling.NEAREST if mode in ("P", "1") else Image.Resampling.BICUBIC,
    )
    assert np.array_equal(np.asarray(square), np.asarray(by_hand))
    assert np.array_equal(np.asarray(to_rgb(square)), plain_rgb(by_hand))


def test_a_translucent_picture_keeps_the_colours_under_its_alpha() -> None:
    image = Image.new("RGBA", (40, 40), (10, 200, 30, 0))
    assert to_rgb(load_image(saved(image, "PNG"))).getpixel((5, 5)) == (10, 200, 30)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_is_a_colour_like_any_other_to_an_encoder(
    mode: str, tiny_qwen: Callable[..., Any], tiny_clip: Callable[..., Any]
) -> None:
    """Today's image processors put such a picture onto white; the original's did not."""
    picture = PALETTE if mode == "P" else colours().convert(mode)
    marked = saved(picture, "PNG", transparency=picture.getpixel((5, 5)))
    for encoder in (tiny_qwen(), tiny_clip()):
        assert torch.equal(pixels(encoder, marked), pixels(encoder, saved(picture, "PNG")))


def test_exif_orientation_is_ignored() -> None:
    upright = load_image(saved(colours(), "JPEG"))
    turned = load_image(rotated())
    assert turned.getexif()[0x0112] == 6
    assert np.array_equal(np.asarray(turned), np.asarray(upright))


def test_the_high_byte_of_16_bit_greyscale_is_taken() -> None:
    values = np.array([[0, 255, 256, 511], [512, 32768, 65279, 65535]], dtype=np.uint16)
    loaded = load_image(saved(Image.fromarray(values), "PNG"))
    assert np.asarray(loaded).tolist() == [[0, 0, 1, 1], [2, 128, 254, 255]]
    wide = Image.fromarray(values.astype(np.int32))  # how Pillow holds some 16-bit files
    assert np.asarray(load_image(wide)).tolist() == np.asarray(loaded).tolist()


def test_path_string_bytes_and_picture_are_one_image(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    colours().save(path)
    wanted = np.asarray(colours())
    for source in (path, str(path), path.read_bytes(), colours()):
        assert np.array_equal(np.asarray(load_image(source)), wanted)
        assert image_size(source) == (90, 60)


def test_a_file_is_closed_and_a_picture_given_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    translucent("RGB").save(path)
    loaded = load_image(path)
    path.unlink()
    assert loaded.getpixel((0, 0)) == translucent("RGB").getpixel((0, 0))
    given = translucent("RGB")
    to_rgb(resize_square(load_image(given), "low"))
    assert (given.mode, given.size) == ("RGBA", (90, 60))
    assert given.tobytes() == translucent("RGB").tobytes()


@pytest.mark.parametrize(
    ("size", "resolution", "side"),
    [
        ((5, 4000), "low", 128),
        ((90, 60), "mid", 672),
        ((90, 60), "high", 1344),
        ((1344, 1344), "default", None),
        ((1345, 20), "default", 1344),
        ((20, 1345), "default", 1344),
        ((5000, 5000), "processor", None),
    ],
)
def test_a_resolution_says_when_and_to_what_square_an_image_is_resized(
    size: tuple[int, int], resolution: Any, side: int | None
) -> None:
    assert square_side(size, resolution) == side
    resized = resize_square(Image.new("L", size), resolution)
    assert resized.size == (size if side is None else (side, side))


def test_a_digest_tells_pictures_apart_by_pixels_mode_size_and_palette() -> None:
    same = [pixel_digest(colours()), pixel_digest(colours().copy())]
    recoloured = PALETTE.copy()
    recoloured.putpalette(bytes(range(48)))
    others = [
        colours().rotate(180),
        colours().convert("L"),
        colours().convert("RGBA"),
        PALETTE,
        recoloured,
        Image.new("L", (4, 9)),
        Image.new("L", (9, 4)),
        Image.new("L", (6, 6)),
    ]
    assert same[0] == same[1]
    assert len({same[0], *(pixel_digest(other) for other in others)}) == len(others) + 1


# -- through the encoders --------------------------------------------------------------------------


def pixels(encoder: Any, image: Any) -> torch.Tensor:
    """Return the pixel values that an encoder prepares for an image."""
    batch = encoder.prepare([encoder.render(mh.Item(image=image))])
    prepared: torch.Tensor = batch.images["pixels"] if hasattr(batch, "images") else batch.pixels
    return prepared


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("resolution", ["low", "processor"])
def test_qwen_prepares_every_kind_as_its_plain_rgb(
    name: str, resolution: str, tiny_qwen: Callable[..., Any]
) -> None:
    encoder, data = tiny_qwen(image_resolution=resolution), KINDS[name][0]
    square = opened(data) if resolution == "processor" else resize_square(opened(data), "low")
    found = pixels(encoder, data)
    assert found.shape == ((100, 1176) if resolution == "low" else (24, 1176))
    assert torch.isfinite(found).all()
    assert found.std() > 0.05
    by_hand = Image.fromarray(plain_rgb(square).astype(np.uint8))
    assert torch.equal(found, pixels(tiny_qwen(image_resolution="processor"), by_hand))


@pytest.mark.parametrize("name", KINDS)
def test_clip_prepares_every_kind_as_its_plain_rgb(
    name: str, tiny_clip: Callable[..., Any]
) -> None:
    data = KINDS[name][0]
    found = pixels(tiny_clip(), data)
    assert found.shape == (1, 3, 224, 224)
    assert torch.isfinite(found).all()
    assert found.std() > 0.05
    by_hand = Image.fromarray(plain_rgb(opened(data)).astype(np.uint8))
    assert torch.equal(found, pixels(tiny_clip(), by_hand))


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
@pytest.mark.parametrize(
    ("resolution", "patches"), [("low", 100), ("default", 96 * 96), ("processor", 16)]
)
def test_qwen_prepares_a_line_of_one_pixel(
    size: tuple[int, int], resolution: str, patches: int, tiny_qwen: Callable[..., Any]
) -> None:
    encoder = tiny_qwen(image_resolution=resolution)
    line = saved(colours(*size), "PNG")
    found = pixels(encoder, line)
    assert found.shape == (patches, 1176)
    assert torch.isfinite(found).all()
    rendered = encoder.render(mh.Item(image=line))
    assert encoder.size(rendered) == encoder.prepare([rendered]).ids_BL.shape[1]


@pytest.mark.thorough
@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
def test_clip_prepares_a_line_of_one_pixel(
    size: tuple[int, int], tiny_clip: Callable[..., Any]
) -> None:
    found = pixels(tiny_clip(), saved(colours(*size), "PNG"))
    assert found.shape == (1, 3, 224, 224)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("fixture", ENCODERS)
def test_path_bytes_and_picture_give_an_encoder_the_same_pixels(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    encoder = request.getfixturevalue(fixture)()
    path = tmp_path / "image.png"
    colours().save(path)
    wanted = pixels(encoder, path)
    for source in (str(path), path.read_bytes(), colours()):
        assert torch.equal(pixels(encoder, source), wanted)


# -- what is refused -------------------------------------------------------------------------------


def bomb() -> bytes:
    """Return a PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


JPEG = saved(colours(), "JPEG")
BROKEN: dict[str, tuple[bytes, str]] = {
    "text.jpg": (b"this is no picture\n", "is not an image file"),
    "page.png": (b"<html><body>404</body></html>", "is not an image file"),
    "empty.jpg": (b"", r"is empty \(0 bytes\)"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "cannot be read: .*[Tt]runcated"),
    "header.jpg": (JPEG[:100], "cannot be read: .*[Tt]runcated"),
    "truncated.png": (saved(colours(), "PNG")[:200], "cannot be read: .*truncated"),
    "bomb.png": (bomb(), "is refused as a decompression bomb: .*3600000000 pixels"),
}
"""By file name: what is in it, and what is said of it."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused_by_name(name: str, tmp_path: Path) -> None:
    data, why = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ItemError, match=rf"^image '.*/{name}' {why}"):
        load_image(tmp_path / name)
    with pytest.raises(ItemError, match=rf"^image given as bytes {why}"):
        load_image(data)


@pytest.mark.parametrize("fixture", ENCODERS)
@pytest.mark.parametrize("name", BROKEN)
def test_an_encoder_refuses_a_broken_image_in_the_same_words(
    name: str, fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data, why = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    encoder = request.getfixturevalue(fixture)()
    with pytest.raises(ItemError, match=rf"^image '.*/{name}' {why}"):
        encoder.encode([mh.Item(image=tmp_path / name)])


def test_what_is_no_image_has_no_size_either(tmp_path: Path) -> None:
    for name in ("text.jpg", "empty.jpg", "bomb.png"):
        data, why = BROKEN[name]
        with pytest.raises(ItemError, match=why):
            image_size(data)


@pytest.mark.parametrize("fixture", ENCODERS)
def test_a_missing_image_is_named(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "nowhere.png"
    for read in (load_image, image_size):
        with pytest.raises(ItemError, match=r"^image '.*/nowhere\.png' does not exist$"):
            read(path)
    encoder = request.getfixturevalue(fixture)()
    with pytest.raises(ItemError, match=r"^image '.*/nowhere\.png' does not exist$"):
        encoder.encode([mh.Item(image=path)])


def test_a_folder_in_place_of_an_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=r"cannot be read: .*[Ii]s a directory"):
        load_image(tmp_path)


def test_a_picture_too_thin_for_the_processor_is_refused_with_its_size(
    tiny_qwen: Callable[..., Any], tmp_path: Path
) -> None:
    Image.new("RGB", (30, 9000)).save(tmp_path / "thin.png")
    encoder = tiny_qwen(image_resolution="processor")
    with pytest.raises(ItemError, match=r"image of 30x9000 pixels does not fit: .*aspect ratio"):
        encoder.encode([mh.Item(image=tmp_path / "thin.png")])
