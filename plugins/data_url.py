"""An image as a data URL: what a server sees of it is what any encoder here sees, plain RGB.

The one idea: a file's own bytes travel where a server can make nothing else of them; any other
picture travels as plain pixels. Left to the server, alpha would be composed onto white (vLLM) and a
camera's orientation may be applied; the original code drops the one and ignores the other.
"""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmeb_harness.image import Resolution, load_image, resize_square, square_side, to_rgb

if TYPE_CHECKING:
    from mmeb_harness.item import ImageSource
    from PIL.Image import Image

SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
"""How the two kinds of files begin that every server reads."""

ORIENTATION = 0x0112
"""The EXIF field that asks for the picture to be turned; 1 is upright."""


def data_url(source: ImageSource, resolution: Resolution) -> str:
    """Return an image, resized to VLM2Vec's square where asked, as a data URL.

    Raises:
        ItemError: where the image cannot be read.
    """
    image = load_image(source)
    if square_side(image.size, resolution) is None:
        content = _file(source)
        kind = _plain_kind(content, image)
        if kind is not None:
            return _url(kind, content)
    return _url("image/png", _as_png(resize_square(image, resolution)))


def _file(source: ImageSource) -> bytes:
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes()
    return source if isinstance(source, bytes) else b""


def _plain_kind(content: bytes, image: Image) -> str | None:
    """Return the media type of a file that is plain RGB already, None for any other."""
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    return kind if kind and image is to_rgb(image) and _is_upright(image) else None


def _is_upright(image: Image) -> bool:
    try:
        return bool(image.getexif().get(ORIENTATION, 1) == 1)
    except Exception:  # damaged EXIF: nobody knows what a server makes of it
        return False


def _as_png(image: Image) -> bytes:
    plain = to_rgb(image).copy()
    plain.info.clear()  # orientation and colour profile would travel with it
    file = io.BytesIO()
    plain.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
