"""Images from wherever they come: opened safely, measured without decoding, reduced to plain RGB.

The one idea: what the original code did to a picture is done here, and nothing more. EXIF
orientation is ignored, alpha is dropped, and the resize happens in the image's own mode.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from mmeb_harness.errors import ItemError

if TYPE_CHECKING:
    from mmeb_harness.item import ImageSource
    from PIL.Image import Image

Resolution = Literal["high", "mid", "low", "default", "processor"]

SQUARE_SIDES = {"high": 1344, "mid": 672, "low": 128}
"""VLM2Vec's square resize in pixels; `default` is 1344 only where the longer side exceeds it."""


@contextmanager
def _opened(source: Any) -> Iterator[Image]:
    """Open an image without decoding it, turning every way it can fail into an ItemError."""
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    name = describe(source)
    _accept_large_images()
    try:
        if isinstance(source, bytes):
            with pillow.open(io.BytesIO(source)) as image:
                yield image
        elif isinstance(source, str | os.PathLike):
            with pillow.open(source) as image:
                yield image
        elif isinstance(source, pillow.Image):
            yield source
        else:
            kind = type(source).__name__
            raise ItemError(f"image is given as {kind}; a path, bytes or a PIL image is needed")
    except FileNotFoundError:
        raise ItemError(f"image {name} does not exist") from None
    except UnidentifiedImageError:
        raise ItemError(f"image {name} is {_not_an_image(source)}") from None
    except pillow.DecompressionBombError as error:
        raise ItemError(f"image {name} is refused as a decompression bomb: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ItemError(f"image {name} cannot be read: {error}") from None


@cache
def _accept_large_images() -> None:
    """Pillow warns from its limit to twice the limit, and refuses above: the refusal is enough."""
    from PIL import Image as pillow

    warnings.filterwarnings("ignore", category=pillow.DecompressionBombWarning)


def _not_an_image(source: bytes | str | os.PathLike[str]) -> str:
    empty = not source if isinstance(source, bytes) else os.path.getsize(source) == 0
    return "empty (0 bytes)" if empty else "not an image file"


def describe(source: ImageSource) -> str:
    """Name an image in a message."""
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    return "given as bytes" if isinstance(source, bytes) else "given as a PIL image"


def source_key(source: ImageSource) -> Hashable:
    """Return what equal sources share: one path, one content, or one PIL image."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return source if isinstance(source, bytes) else id(source)


def distinct(sources: Sequence[ImageSource]) -> tuple[list[ImageSource], list[int]]:
    """Return the distinct sources in order, and of each given source its place among them."""
    first: dict[Hashable, int] = {}
    places = [first.setdefault(source_key(source), len(first)) for source in sources]
    found = dict(zip(places, sources, strict=True))
    return [found[place] for place in range(len(first))], places


def image_size(source: ImageSource) -> tuple[int, int]:
    """Return (width, height) in pixels from the header, without decoding."""
    with _opened(source) as image:
        return image.size


def load_image(source: ImageSource) -> Image:
    """Decode an image in its own mode; 16-bit greyscale is scaled to 8 bits (the high byte)."""
    with _opened(source) as image:
        image.load()
        decoded = image.copy() if isinstance(source, str | os.PathLike | bytes) else image
    return _to_8_bit(decoded) if decoded.mode.startswith("I") else decoded


def _to_8_bit(image: Image) -> Image:
    import numpy as np
    from PIL import Image as pillow

    values = np.asarray(image).astype(np.int64)
    if image.mode != "I" or values.max(initial=0) > 255:
        values = values >> 8
    return pillow.fromarray(values.clip(0, 255).astype(np.uint8))


def to_rgb(image: Image) -> Image:
    """Plain RGB with alpha dropped, as `convert` does, never composed onto a background.

    A colour declared transparent is a colour like any other; the declaration is dropped, too, since
    image processors would paint that colour white.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    with warnings.catch_warnings():  # Pillow advises RGBA for a palette with alpha: we drop alpha
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        plain = image.convert("RGB")
    plain.info.pop("transparency", None)
    return plain


def square_side(size: tuple[int, int], resolution: Resolution) -> int | None:
    """Return the side in pixels of VLM2Vec's square resize, or None where it leaves the image."""
    if resolution == "default":
        return SQUARE_SIDES["high"] if max(size) > SQUARE_SIDES["high"] else None
    return SQUARE_SIDES.get(resolution)


def resize_square(image: Image, resolution: Resolution) -> Image:
    """Apply VLM2Vec's square resize, in the image's own mode, without keeping the aspect ratio."""
    side = square_side(image.size, resolution)
    return image if side is None else image.resize((side, side))


def pixel_digest(image: Image) -> str:
    """Digest of a PIL image's content: mode, size, palette and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    if image.palette is not None:
        digest.update(bytes(image.palette.palette))
    digest.update(image.tobytes())
    return digest.hexdigest()
