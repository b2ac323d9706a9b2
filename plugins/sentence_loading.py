"""Loads a model of the sentence-transformers library whole, or says what is wrong with it.

The one idea: the library only warns of weights that are missing, and leaves adapters to
transformers, which drops what does not fit; here a vector with random parts is never made.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.plugins.pretrained import quiet_transformers


def usable_modules(folder: Path, reference: str) -> list[dict[str, Any]]:
    """Return the entries of `modules.json`, of a model that can be loaded here at all.

    Raises:
        UsageError: for what is no such model, or gives no single vector an item.
        EnvironmentFault: for a model that needs code of its own, or an adapter.
    """
    entries = _read_json(folder / "modules.json")
    if not isinstance(entries, list) or not entries or not all(map(_is_entry, entries)):
        raise UsageError(
            f"{reference} has no usable modules.json: it is no sentence-transformers model"
        )
    config = _read_json(folder / "config_sentence_transformers.json") or {}
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UsageError(f"{reference} is a {kind}, which gives no single vector an item")
    for entry in entries:
        if not entry["type"].startswith("sentence_transformers."):
            raise EnvironmentFault(
                f"{reference} needs code of its own ({entry['type']}), which is never run here"
            )
        _refuse_adapter(folder / entry["path"])
    return entries


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(name), str) for name in ("type", "path")
    )


def load_model(folder: Path, **options: Any) -> Any:
    """Load a model from a folder and nowhere else.

    Raises:
        EnvironmentFault: for weights that are missing or damaged, or a model that needs other code.
    """
    from sentence_transformers import SentenceTransformer

    with quiet():
        try:
            return SentenceTransformer(str(folder), local_files_only=True, **options)
        except Exception as error:  # every library layer has errors of its own here
            if "trust_remote_code" in str(error):
                raise EnvironmentFault(
                    f"{folder} needs code of its own, which is never run here"
                ) from error
            raise EnvironmentFault(
                f"the model in {folder} cannot be loaded: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error


def _refuse_adapter(folder: Path) -> None:
    """Refuse an adapter: the library leaves it to transformers, which drops what does not fit."""
    if (folder / "adapter_config.json").is_file():
        raise EnvironmentFault(
            f"{folder} holds an adapter, which the library binds without checking: merge it into "
            "its base with peft, save the whole model, and load that"
        )


def check_complete(hollow: Any, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a model if a weight is missing: the library only warns.

    Raises:
        EnvironmentFault: naming what is missing.
    """
    for transformer, place in _transformers(hollow, folder, entries):
        _refuse_adapter(place)
        with quiet():
            _, report = type(transformer.model).from_pretrained(
                place,
                config=transformer.model.config,
                device_map="meta",
                output_loading_info=True,
                local_files_only=True,
            )
        unused = "pooler." if transformer.module_output_name == "token_embeddings" else "\0"
        missing = sorted(key for key in report["missing_keys"] if not key.startswith(unused))
        if missing:
            raise EnvironmentFault(
                f"the weights in {place} lack {len(missing)} tensors of the model "
                f"({', '.join(missing[:3])}, ...): they would be random"
            )


def _transformers(
    hollow: Any, folder: Path, entries: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Any, Path]]:
    """Yield the modules that wrap a model of transformers, each with its folder."""
    from sentence_transformers.base.modules import Router, Transformer

    for module, entry in zip(hollow.children(), entries, strict=True):
        place = folder / entry["path"]
        if isinstance(module, Transformer):
            yield module, place
        elif isinstance(module, Router):
            config = _read_json(place / "router_config.json") or _read_json(place / "config.json")
            for route, names in config["structure"].items():
                inside: Any = module.sub_modules[route]
                for inner, name in zip(inside, names, strict=True):
                    if isinstance(inner, Transformer):
                        yield inner, place / name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep both libraries from printing; what matters is checked by code."""
    logger = logging.getLogger("sentence_transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet_transformers():
            yield
    finally:
        logger.setLevel(before)


def _read_json(path: Path) -> Any:
    """Read a JSON file, or return None where there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from None


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
