"""Examines a model as a user would load it: the checks of any encoder, a second load, the adapter's
effect, and the similarities that its authors print.

One model is held at a time: what is compared across loads are vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from mmeb_harness.card import Card, Probe
from mmeb_harness.conformance import LEAST_SHARE, effects_of_rows, examine
from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import HarnessError, UsageError
from mmeb_harness.item import Item, Role
from mmeb_harness.keys import installed_version
from mmeb_harness.models import Model, build_encoder, unproven
from mmeb_harness.patient import Finding, Patient
from mmeb_harness.wholeitem import planned

PROBE_TOLERANCE = 0.01
"""Repeated rows in one batch of the authors' own examples differ by up to 0.003 (bfloat16, GPU)."""

SHORT = 3
"""Tokens that hold no image and hardly a text."""

WORDS = 16
"""Tokens of words around an image, at most; what more is cut were image tokens."""

PROBE_IMAGES = "cards"
"""The folder, beside the module of a card's factory, that holds the images of its probes."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Builds a model's encoder anew, its card changed as asked."""

    card: Card
    device: str | None = None
    dtype: str | None = None

    def __call__(self, **changes: Any) -> Patient:
        card = self.card.model_copy(update=changes)
        encoder = build_encoder(card, device=self.device, dtype=self.dtype)
        return Patient(planned(encoder), card)


def diagnose(
    model: Model,
    encoder: Any = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> Iterator[Finding]:
    """Yield a finding for each check of a model, or of an encoder made from it, as it is made.

    Raises:
        HarnessError: where the model cannot be loaded at all.
    """
    load = Loader(card=model.card, device=device, dtype=dtype)
    yield from _versions(model.card)
    patient = load() if encoder is None else Patient(planned(encoder), model.card)
    yield from examine(patient)
    if not patient.kinds:
        return
    items = list(patient.kinds.values())
    vectors = patient.alone(items)
    base, adapter = _parts(patient, model.card)
    yield _adapter_bound(patient, adapter)
    yield _image_tokens(load, patient)
    del patient  # its weights make room for the next load
    yield _second_load(load, items, vectors)
    yield _adapter_effect(load, base, adapter, items, vectors)
    yield from _probes(load, base, adapter)


def _versions(card: Card) -> Iterator[Finding]:
    """Warn of libraries outside the range that the card was proven with."""
    unknown = unproven(card)
    for message in unknown:
        yield Finding(check="versions", status="warned", detail=message)
    installed = [name for name in card.proven_with if installed_version(name)]
    if installed and not unknown:
        proven = ", ".join(f"{name} {card.proven_with[name]}" for name in installed)
        yield Finding(check="versions", status="ok", detail=f"proven with {proven}")


def _parts(patient: Patient, card: Card) -> tuple[str | None, str | None]:
    """Return base and adapter: the encoder's own, since a folder may turn out to be an adapter."""
    encoder = patient.encoder
    return getattr(encoder, "base", card.base), getattr(encoder, "adapter", card.adapter)


# -- loading ---------------------------------------------------------------------------------------


def _adapter_bound(patient: Patient, adapter: str | None) -> Finding:
    if adapter is None:
        return Finding(check="adapter bound", status="skipped", detail="there is no adapter")
    count = getattr(patient.encoder, "adapter_tensors", None)
    if count is None:
        return Finding(
            check="adapter bound", status="skipped", detail=f"{adapter}: the encoder does not count"
        )
    return Finding(
        check="adapter bound",
        status="ok",
        detail=f"{count} of {count} tensors of {adapter}, each compared with the file",
    )


def _image_tokens(load: Loader, patient: Patient) -> Finding:
    """Whatever `max_length`, a whole image is seen: only text is ever cut."""
    check = "image tokens"
    if "image" not in patient.kinds or "max_length" not in load.card.options:
        return Finding(check=check, status="skipped", detail="no max_length, or no images")
    try:
        short = load(max_length=SHORT).encoder  # its weights are never loaded
    except UsageError as error:
        return Finding(check=check, status="skipped", detail=str(error))
    item = patient.kinds["image"]
    size, whole = (one.size(one.render(item)) for one in (short, patient.encoder))
    if size <= SHORT and whole - size > WORDS:
        detail = f"with max_length={SHORT} an image takes {size} tokens of {whole}: truncated"
        return Finding(check=check, status="failed", detail=detail)
    first, last = effects_of_rows(replace(patient, half=short), None)
    if last < LEAST_SHARE * first:
        detail = (
            f"with max_length={SHORT} the last rows of a picture change a vector by {last:.1e}, "
            f"the first by {first:.1e}: image tokens are truncated"
        )
        return Finding(check=check, status="failed", detail=detail)
    return Finding(check=check, status="ok", detail=f"max_length={SHORT} cuts none of an image")


def _second_load(load: Loader, items: Sequence[Item], before: Vectors) -> Finding:
    patient = load()
    moved = patient.apart(before, patient.alone(items))
    if moved > patient.tolerance:
        detail = f"a second load parts by {moved:.1e}: some weights are random"
        return Finding(check="second load", status="failed", detail=detail)
    return Finding(check="second load", status="ok", detail=f"the same within {moved:.1e}")


def _adapter_effect(
    load: Loader, base: str | None, adapter: str | None, items: Sequence[Item], before: Vectors
) -> Finding:
    if adapter is None:
        return Finding(check="adapter effect", status="skipped", detail="there is no adapter")
    patient = load(base=base, adapter=None, adapter_revision=None)
    moved = patient.apart(before, patient.alone(items))
    if moved <= patient.sensible:
        detail = (
            f"without the adapter the vectors are the same ({moved:.1e}): it does nothing, or is "
            "not bound"
        )
        return Finding(check="adapter effect", status="failed", detail=detail)
    detail = f"without it vectors part by {moved:.1e}"
    return Finding(check="adapter effect", status="ok", detail=detail)


# -- probes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """How one probe came out under some settings."""

    told: str
    matches: bool


def _probes(load: Loader, base: str | None, adapter: str | None) -> Iterator[Finding]:
    """Compare the card's probes under its settings, then under the alternatives."""
    probes = load.card.probes
    if not probes:
        yield Finding(check="probes", status="skipped", detail="the card has none")
        return
    outcomes = {
        name: _probed(load, probes, changes)
        for name, changes in _alternatives(load.card, base, adapter).items()
    }
    for number in range(len(probes)):
        own, *others = [(name, results[number]) for name, results in outcomes.items()]
        told = [f"{own[1].told} under the card's settings"]
        told += [f"{name}: {outcome.told}" for name, outcome in others]
        matching = [name for name, outcome in (own, *others) if outcome.matches]
        told.append(f"matches under {' and '.join(matching) or 'none of them'}")
        yield Finding(
            check=f"probe {number + 1}",
            status="ok" if own[1].matches else "failed",
            detail="; ".join(told),
        )


def _alternatives(card: Card, base: str | None, adapter: str | None) -> dict[str, dict[str, Any]]:
    """Name the settings to try: the card's first, then what is most often wrong."""
    settings: dict[str, dict[str, Any]] = {"the card's settings": {}}
    if card.positions is not None:
        other = "mrope" if card.positions == "sequential" else "sequential"
        settings[f"positions={other}"] = {"positions": other}
    if adapter is not None:
        settings["adapter off"] = {"base": base, "adapter": None, "adapter_revision": None}
    return settings


def _probed(load: Loader, probes: Sequence[Probe], changes: Mapping[str, Any]) -> list[_Outcome]:
    """Try probes under changed settings, loading once for those that share their own settings."""
    outcomes: dict[int, _Outcome] = {}
    waiting = list(range(len(probes)))
    while waiting:
        settings = probes[waiting[0]].settings
        chosen = [number for number in waiting if probes[number].settings == settings]
        waiting = [number for number in waiting if number not in chosen]
        patient = load(**{**settings, **changes})
        outcomes |= {number: _outcome(patient, probes[number]) for number in chosen}
        del patient
    return [outcomes[number] for number in range(len(probes))]


def _outcome(patient: Patient, probe: Probe) -> _Outcome:
    try:
        found = _similarities(patient, probe)
    except HarnessError as error:
        return _Outcome(told=f"cannot be encoded ({error})", matches=False)
    pairs = [(text, found[text], published) for text, published in probe.others.items()]
    return _Outcome(
        told=", ".join(
            f"{text!r} {cosine:.4f} (published {'/'.join(f'{one:.4f}' for one in published)})"
            for text, cosine, published in pairs
        ),
        matches=all(
            min(abs(cosine - one) for one in published) <= PROBE_TOLERANCE
            for _, cosine, published in pairs
        ),
    )


def _similarities(patient: Patient, probe: Probe) -> dict[str, float]:
    """Return the cosine of the probe's text and image with each of its others."""
    own_role: Role = "query" if probe.others_role == "candidate" else "candidate"
    with _probe_image(patient.card, probe) as image:
        item = Item(text=probe.text, image=image, role=own_role)
        own = patient.encode([item])[0]
    found = {}
    for text in probe.others:
        other = patient.encode([Item(text=text, role=probe.others_role)])[0]
        found[text] = float(own @ other / (np.linalg.norm(own) * np.linalg.norm(other)))
    return found


@contextlib.contextmanager
def _probe_image(card: Card | None, probe: Probe) -> Iterator[Path | None]:
    if card is None or probe.image is None:
        yield None
        return
    package = card.factory.partition(":")[0].rpartition(".")[0]
    with as_file(files(package) / PROBE_IMAGES / probe.image) as path:
        yield path
