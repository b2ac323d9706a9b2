"""The key of a vector: a digest of all that determines it, and of nothing else.

Two parts. The namespace digests the encoder: its fingerprint (weights, adapter, settings), its
plugin and version, the numeric stack, dtype and device. The key digests one rendered item within
it. So the same rendered input has one vector, whatever the task, the role or the run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from mmeb_harness.errors import ItemError
from mmeb_harness.files import FileIndex
from mmeb_harness.image import describe, pixel_digest
from mmeb_harness.item import ImageSource, Rendered
from mmeb_harness.plan import Key

STACK = ("torch", "transformers", "pillow")
"""Distributions whose version can move a vector."""


@cache
def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, by metadata only."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def numeric_stack() -> Mapping[str, str | None]:
    """Return the versions that can move a vector, and a digest of one resized image.

    The digest tells apart builds of the image library that resize differently.
    """
    from PIL import Image

    reference = Image.linear_gradient("L").rotate(30).crop((20, 30, 191, 247)).convert("RGB")
    resized = hashlib.sha256(reference.resize((53, 61)).tobytes()).hexdigest()[:16]
    return {**{name: installed_version(name) for name in STACK}, "resized_image": resized}


def source_digest(factory: str) -> str | None:
    """Digest the source of the module that a factory is in, and of the modules beside it in its
    package, so that while one edits an encoder its old vectors do not come back."""
    try:
        spec = importlib.util.find_spec(factory.partition(":")[0])
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        return None
    own = Path(spec.origin)
    digest = hashlib.sha256()
    for path in sorted(own.parent.glob("*.py")) if spec.parent else [own]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def digest_of(facts: Mapping[str, Any]) -> str:
    """Digest a mapping of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def item_key(rendered: Rendered, image: str | None) -> Key:
    """Return the key of one rendered item, `image` being the digest of its image."""
    settings = ", ".join(map(_quoted, rendered.settings))
    content = f"[{_quoted(rendered.text)}, {_quoted(image)}, [{settings}]]"  # a list in JSON
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:16]


def _quoted(text: str | None) -> str:
    """Return `json.dumps`, without its preparations."""
    return "null" if text is None else encode_basestring_ascii(text)


def image_digest(source: ImageSource | None, index: FileIndex) -> str | None:
    """Digest an image's bytes, or the pixels of a PIL image.

    Raises:
        ItemError: where the image cannot be read.
    """
    if source is None:
        return None
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if not isinstance(source, str | os.PathLike):
        return pixel_digest(source)
    try:
        return index.digest(source)
    except FileNotFoundError:
        raise ItemError(
            f"image {describe(source)} does not exist (--image-dir names the root of the paths)"
        ) from None
    except (OSError, ValueError) as error:
        raise ItemError(f"image {describe(source)} cannot be read: {error}") from None
