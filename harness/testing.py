"""A pytest kit for encoders: `check_encoder(encoder)` in a plugin's own tests."""

from __future__ import annotations

from typing import Any

from mmeb_harness.card import Card
from mmeb_harness.conformance import examine
from mmeb_harness.doctor import diagnose
from mmeb_harness.models import Model
from mmeb_harness.patient import Finding, Patient
from mmeb_harness.wholeitem import planned

__all__ = ["Finding", "check_encoder"]


def check_encoder(encoder: Any, card: Card | None = None) -> list[Finding]:
    """Check that an encoder keeps its contract; return what was found, a finding a check.

    An encoder from `load_encoder` is checked against its card, and loaded again to compare; any
    other object with `encode(items)` against `card`, where one is given.

    Raises:
        AssertionError: naming each check that failed, and what would explain it.
    """
    model: Model | None = getattr(encoder, "mmeb_model", None)
    if model is not None and card is None:
        device, dtype = (getattr(encoder, name, None) for name in ("device", "dtype"))
        findings = list(diagnose(model, encoder, device=device, dtype=dtype))
    else:
        findings = list(examine(Patient(planned(encoder), card)))
    failed = [one for one in findings if one.status == "failed"]
    assert not failed, "\n".join(f"{one.check}: {one.detail}" for one in failed)
    return findings
