"""The conformance kit: the sound pass, and each broken encoder fails by the name of its fault."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import broken_encoders
import mmeb_harness as mh
import pytest
from mmeb_harness.conformance import CHECKS
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.loading import load_object
from mmeb_harness.models import Model, build_encoder
from mmeb_harness.registry import build_registry
from mmeb_harness.testing import check_encoder

pytestmark = pytest.mark.thorough

ASKED = (
    "{% if image %}<|image_pad|>{% endif %}"
    "{{ instruction if instruction and role == 'query' else 'Default.' }} {{ text }}"
)
ROLES = "{% if image %}<|image_pad|>{% endif %}{{ role or '' }}: {{ text }}"

BROKEN = [
    ("PoolsPadding", {}, "padding", "the wrong side"),
    ("ForgetsAdapter", {"adapter": "tiny-qwen2vl-dora-init-randB"}, "adapter effect", "not bound"),
    ("CutsImages", {}, "whole image", "image tokens are truncated"),
    ("CutsAtMaxLength", {}, "image tokens", "an image takes 3 tokens of"),
    ("CutsImagesForText", {}, "whole image", "beside a long text"),
    ("NotNormalised", {}, "normalised", "the card says normalised, but"),
    ("SecretlyNormalised", {"normalize": False}, "normalised", "the card says unnormalised, but"),
    ("DependsOnBatch", {}, "batch neighbours", "computed over the batch"),
    ("MixesRows", {}, "batch neighbours", "rows are mixed up"),
    ("NanBesideLonger", {}, "padding", "changes by inf"),
    ("SeesHalf", {}, "whole image", "the last rows of a picture change a vector by"),
    ("SeesOtherHalf", {}, "whole image", "the first rows of a picture change nothing"),
    ("NanOnBlank", {}, "finite", "NaN for"),
    ("IgnoresRole", {"prompt": "template", "template": ROLES}, "role", "the role matters, but"),
    ("IgnoresRole", {"prompt": "template", "template": ASKED}, "role", "the role matters, but"),
    ("AddsRole", {}, "role", "the card does not say so"),
    ("IgnoresInstruction", {}, "instruction", "keeps the instruction, but it changes nothing"),
    ("KeepsInstruction", {"prompt": "plain"}, "instruction", "leaves the instruction out, but"),
    ("IgnoresImage", {}, "tells items apart", "another image changes nothing"),
    ("DropsAtRandom", {}, "repeatable", "dropout"),
    ("RandomHead", {}, "second load", "some weights are random"),
    ("LosesItself", {}, "plan", "pickled copy"),
    ("PathsOnly", {}, "image sources", "a path, bytes or PIL image"),
    ("SizesNothing", {}, "plan", "size() gives 0 tokens"),
    ("Detaches", {}, "training", "vectors without a graph"),
    ("SettlesElse", {}, "training", "settled() changes vectors by"),
    ("Qwen2VL", {"dimension": 63}, "dimension", "64 dimensions, the card declares 63"),
]


def model_of(factory: str, goldens: Path, **fields: Any) -> Model:
    """Return a model with the facts of `qwen2-vl`, over the tiny weights, built by `factory`."""
    registry = build_registry()
    owned = registry.cards["qwen2-vl"]
    if "adapter" in fields:
        fields["adapter"] = str(goldens / "models" / fields["adapter"])
    card = owned.thing.model_copy(
        update={
            "name": "under-test",
            "factory": factory,
            "base": str(goldens / "models/tiny-qwen2vl"),
            "image_resolution": "low",
            **fields,
        }
    )
    return Model(card=card, plugin=owned.plugin, overrides={})


def built(model: Model) -> Any:
    encoder = build_encoder(model.card, device="cpu")
    encoder.mmeb_model = model
    return encoder


def checked(encoder: Any, card: mh.Card | None = None) -> str:
    """Return what `check_encoder` says of a broken encoder."""
    with pytest.raises(AssertionError) as raised:
        check_encoder(encoder, card)
    return str(raised.value)


@pytest.mark.parametrize(("kind", "fields", "check", "fault"), BROKEN)
def test_a_broken_encoder_fails_by_the_name_of_its_fault(
    kind: str, fields: dict[str, Any], check: str, fault: str, goldens: Path
) -> None:
    module = "mmeb_harness.plugins.qwen2_vl" if kind == "Qwen2VL" else "broken_encoders"
    said = checked(built(model_of(f"{module}:{kind}", goldens, **fields)))
    named = {line.partition(": ")[0]: line.partition(": ")[2] for line in said.splitlines()}
    assert check in named, said
    assert fault in named[check]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"positions": "mrope"},
        {"normalize": False, "dimension": 64},
        {"adapter": "tiny-qwen2vl-dora-init-randB"},
        {"prompt": "plain"},
        {"prompt": "template", "template": ROLES},
        {"prompt": "template", "template": ROLES, "asymmetric": True},
        {"prompt": "template", "template": ASKED},
    ],
)
def test_the_same_encoder_unbroken_passes(fields: dict[str, Any], goldens: Path) -> None:
    findings = check_encoder(
        built(model_of("mmeb_harness.plugins.qwen2_vl:Qwen2VL", goldens, **fields))
    )
    ran = {one.check for one in findings if one.status == "ok"}
    assert set(CHECKS) <= ran
    bound = next(one for one in findings if one.check == "adapter bound")
    assert bound.status == ("ok" if "adapter" in fields else "skipped")
    if "adapter" in fields:
        assert bound.detail.startswith("30 of 30 tensors of ")


def test_every_check_has_a_broken_encoder_that_fails_it() -> None:
    assert set(CHECKS) <= {check for _, _, check, _ in BROKEN}


def test_an_object_with_encode_is_checked_without_a_card() -> None:
    findings = {one.check: one.status for one in check_encoder(broken_encoders.Sound())}
    assert findings["padding"] == findings["tells items apart"] == "ok"
    assert findings["normalised"] == findings["role"] == "skipped"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("kind", ["Sound", "TextOnly", "ImageOnly"])
def test_a_sound_object_passes_whatever_its_scale_and_what_it_takes(
    kind: str, scale: float
) -> None:
    encoder = load_object(f"broken_encoders:{kind}")()
    encoder.scale = scale
    check_encoder(encoder)


def test_small_values_that_depend_on_the_batch_are_found() -> None:
    assert "batch neighbours: " in checked(broken_encoders.TinyBatch())


@pytest.mark.parametrize("fields", [{}, {"adapter": "tiny-qwen2vl-dora-init-randB"}])
def test_a_sound_encoder_passes_in_half_precision(fields: dict[str, Any], goldens: Path) -> None:
    model = model_of("mmeb_harness.plugins.qwen2_vl:Qwen2VL", goldens, **fields)
    encoder = build_encoder(model.card, device="cpu", dtype="bfloat16")
    encoder.mmeb_model = model
    check_encoder(encoder)


def test_a_broken_encoder_fails_in_half_precision_too(goldens: Path) -> None:
    for kind, check in (("PoolsPadding", "padding"), ("DependsOnBatch", "batch neighbours")):
        model = model_of(f"broken_encoders:{kind}", goldens)
        encoder = build_encoder(model.card, device="cpu", dtype="bfloat16")
        encoder.mmeb_model = model
        assert f"{check}: " in checked(encoder)


def test_weights_that_cannot_be_loaded_are_no_finding(goldens: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(goldens / "models/tiny-qwen2vl", folder)
    os.truncate(folder / "model.safetensors", 1000)
    with pytest.raises(EnvironmentFault, match="cannot be loaded"):
        check_encoder(mh.load_encoder(f"qwen2-vl:{folder}", device="cpu"))


def test_an_object_is_checked_against_the_card_it_is_given() -> None:
    card = mh.Card(name="sound", factory="broken_encoders:Sound", normalize=True, asymmetric=True)
    said = checked(broken_encoders.Sound(), card)
    assert "normalised: the card says normalised, but" in said
    assert "role: the card says that the role matters, but" in said
    assert "instruction" not in said


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("RefusesAll", "text refused: no"),
        ("Flat", "not (1, dim)"),
        ("Leaves", "SystemExit: enough"),
    ],
)
def test_an_encoder_that_encodes_nothing_fails_at_once(kind: str, fault: str) -> None:
    said = checked(load_object(f"broken_encoders:{kind}")())
    assert said.startswith("encodes: ")
    assert fault in said
