"""`mmeb-harness embed`: vectors for a file of items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from mmeb_harness.cli import options
from mmeb_harness.cli.options import option, parse_pairs
from mmeb_harness.errors import ItemError, UsageError, unknown_name

if TYPE_CHECKING:
    from mmeb_harness.item import Item

KEYS = ("text", "image", "instruction", "role")


def embed(
    items: Annotated[Path, typer.Argument(metavar="ITEMS.jsonl", help="One JSON object a line.")],
    output: Annotated[
        Path, option("-o", "--output", metavar="VECTORS.npz", help="Where vectors go.")
    ],
    model: options.Model = None,
    model_options: options.ModelOptions = None,
    image_dir: options.ImageDir = None,
    cache_dir: options.CacheDir = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_tokens: options.BatchTokens = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
) -> None:
    """Embed the items of a file: `embeddings` (n, dim) float32 in VECTORS.npz, in their order.

    Each line of ITEMS.jsonl is an object with any of: text (verbatim, the placeholder <|image_1|>
    allowed), image (path under --image-dir, which defaults to the file's folder), instruction,
    role (query or candidate).

    Example: mmeb-harness embed -m vlm2vec-qwen2vl-2b items.jsonl -o vectors.npz
    """
    options.go_offline(offline)
    import numpy as np
    from mmeb_harness.cli.console import Console
    from mmeb_harness.embed import embed_items
    from mmeb_harness.files import FileIndex, cache_root, write_aside
    from mmeb_harness.registry import build_registry
    from mmeb_harness.subject import subject_from_name

    if model is None:
        raise UsageError("name a model with -m; `mmeb-harness list models` shows all")
    wanted = list(_read_items(items, image_dir or items.parent))
    cache = cache_root(cache_dir)
    index = FileIndex(cache)
    overrides = parse_pairs(model_options)
    subject = subject_from_name(
        build_registry(), model, overrides, index, device=device, dtype=dtype
    )
    with Console().progress() as progress:
        vectors = embed_items(
            subject,
            wanted,
            index=index,
            cache_dir=cache,
            batch_tokens=batch_tokens,
            workers=workers,
            progress=progress,
        )
    index.close()
    with write_aside(output) as target, target.open("wb") as file:
        np.savez(file, embeddings=vectors)
    typer.echo(f"{len(vectors)} vectors of {vectors.shape[1]} numbers in {output}")


def _read_items(path: Path, image_dir: Path) -> Iterator[Item]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from None
    if not any(line.strip() for line in lines):
        raise UsageError(f"{path} holds no items")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _item(_object(line, f"{path}:{number}"), image_dir, f"{path}:{number}")


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f'{place}: an object is needed, such as {{"text": "a cat"}}')
    for key, one in value.items():
        if key not in KEYS:
            raise unknown_name(f"key at {place}", key, KEYS)
        if one is not None and not isinstance(one, str):
            raise UsageError(f"{place}: {key} must be a string")
    if value.get("role") not in (None, "query", "candidate"):
        raise UsageError(f"{place}: role is query or candidate")
    return value


def _item(value: dict[str, Any], image_dir: Path, place: str) -> Item:
    from mmeb_harness.item import Item

    image = value.get("image") or None
    if image is not None:
        parts = PurePosixPath(image)
        if parts.is_absolute() or ".." in parts.parts:
            raise ItemError(f"{place}: image path {image!r} climbs out of {image_dir}")
        image = str(image_dir / image)
    return Item(**{**value, "image": image})
