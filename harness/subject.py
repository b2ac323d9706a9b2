"""The encoder under test, with the identity under which its vectors are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmeb_harness.card import Card
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.files import FileIndex
from mmeb_harness.hub import commit_of
from mmeb_harness.keys import digest_of, installed_version, numeric_stack, source_digest
from mmeb_harness.models import Model, build_encoder, resolve_model, unproven
from mmeb_harness.registry import Registry
from mmeb_harness.wholeitem import planned


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder ready to be run.

    `namespace` digests all of it that decides a vector; `kept` says whether its vectors may be
    kept for other runs (it has a fingerprint) or only in the folder of one.
    """

    name: str
    encoder: PlannedEncoder
    namespace: str
    kept: bool
    card: Card | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    plugin: Mapping[str, str | None] = field(default_factory=dict)
    revisions: Mapping[str, str | None] = field(default_factory=dict)
    asked: Mapping[str, str | None] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def dtype(self) -> str | None:
        """Numeric type of the model: what the encoder says, or was asked for."""
        return _text(getattr(self.encoder, "dtype", None)) or self.asked.get("dtype")

    @property
    def device(self) -> str | None:
        """Device of the model: what the encoder says, or was asked for."""
        return _text(getattr(self.encoder, "device", None)) or self.asked.get("device")

    @property
    def similarity(self) -> Any:
        """How its vectors are compared."""
        return "cosine" if self.card is None else self.card.similarity

    def vector_folder(self, cache: Path, run_folder: Path) -> Path:
        """Return where its vectors lie."""
        root = cache / "vectors" if self.kept else run_folder / "vectors"
        return root / self.namespace[:32]


def subject_from_name(
    registry: Registry,
    name: str,
    overrides: Mapping[str, Any],
    index: FileIndex,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> Subject:
    """Resolve and build what `-m` names."""
    model = resolve_model(registry, name, overrides)
    encoder = build_encoder(model.card, device=device, dtype=dtype)
    return _subject(name, encoder, index, model, {"device": device, "dtype": dtype})


def subject_from_object(encoder: Any, index: FileIndex) -> Subject:
    """Take any object with `encode`, or an encoder that `load_encoder` made."""
    model: Model | None = getattr(encoder, "mmeb_model", None)
    name = model.card.name if model is not None else type(encoder).__name__
    return _subject(name, encoder, index, model, {})


def _subject(
    name: str,
    given: Any,
    index: FileIndex,
    model: Model | None,
    asked: Mapping[str, str | None],
) -> Subject:
    encoder = planned(given)
    fingerprint = encoder.fingerprint()
    places, told = encoder.weight_folders(), sorted(encoder.revisions().items())
    folders = [_folder_identity(folder, index) for folder in places]
    index.flush()
    plugin = {} if model is None else _plugin_facts(model)
    device = _text(getattr(encoder, "device", None)) or asked.get("device")
    identity = {
        "fingerprint": fingerprint if fingerprint is not None else f"live {name}",
        "weights": folders,
        "settings": _class_facts(given) if model is None else model.card.vector_settings(),
        # an encoder that names no folders is told apart by what it was asked to load
        "reference": None if folders or model is None else [*_reference(model.card), *told],
        "plugin": plugin,
        "stack": numeric_stack(),
        "libraries": {} if model is None else _libraries(model.card),
        "dtype": _text(getattr(encoder, "dtype", None)) or asked.get("dtype"),
        "device": None if device is None else device.partition(":")[0],
    }
    return Subject(
        name=name,
        encoder=encoder,
        namespace=digest_of(identity),
        kept=fingerprint is not None,
        card=None if model is None else model.card,
        overrides={} if model is None else model.overrides,
        plugin=plugin,
        asked=asked,
        warnings=() if model is None else unproven(model.card),
        revisions={
            folder.parent.parent.name if commit_of(folder) else str(folder): commit
            for folder, commit in zip(places, folders, strict=True)
        }
        | dict(told),
    )


def _text(value: Any) -> str | None:
    """Write a device or dtype, which may be torch's own, as text."""
    return None if value is None else str(value).removeprefix("torch.")


def _class_facts(given: Any) -> dict[str, str | None]:
    kind = type(given)
    source = source_digest(kind.__module__) if kind.__module__ != "__main__" else None
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "source": source}


def _libraries(card: Card) -> dict[str, str | None]:
    """Return the versions of the libraries that this card's vectors come from."""
    return {name: installed_version(name) for name in (*card.requires, *card.proven_with)}


def _reference(card: Card) -> list[str | None]:
    return [card.base, card.revision, card.adapter, card.adapter_revision]


def _folder_identity(folder: Path, index: FileIndex) -> str:
    return commit_of(folder) or index.folder_digest(folder)


def _plugin_facts(model: Model) -> dict[str, str | None]:
    return {
        "name": model.plugin.name,
        "distribution": model.plugin.distribution,
        "version": model.plugin.version,
        "source": source_digest(model.card.factory),
    }
