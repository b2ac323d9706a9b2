"""`doctor`: probes under the card's settings and the alternatives, loading, and what it prints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from mmeb_harness.card import Probe
from mmeb_harness.cli.main import _run as run_command
from mmeb_harness.doctor import diagnose
from mmeb_harness.machine import examine_machine
from mmeb_harness.models import Model
from mmeb_harness.registry import build_registry

pytestmark = pytest.mark.thorough

QUERY = "<|image_1|> Represent the given image with the following question: What is in the image"
IMAGE = files("mmeb_harness.plugins") / "cards"
OTHERS = ("a dog", "two red chairs beside a window", "no")
ADAPTER = "tiny-qwen2vl-dora-init-randB"


@pytest.fixture
def model(goldens: Path) -> Model:
    """Return the tiny Qwen2-VL with an adapter that changes much."""
    owned = build_registry().cards["qwen2-vl"]
    folders = goldens / "models"
    card = owned.thing.model_copy(
        update={
            "base": f"{folders}/tiny-qwen2vl",
            "adapter": f"{folders}/{ADAPTER}",
            "image_resolution": "low",
        }
    )
    return Model(card=card, plugin=owned.plugin, overrides={})


def with_probes(model: Model, *probes: Probe) -> Model:
    card = model.card.model_copy(update={"probes": probes})
    return Model(card=card, plugin=model.plugin, overrides={})


def similarities(goldens: Path, **options: Any) -> dict[str, tuple[float, ...]]:
    """Compute a probe's cosines without the doctor."""
    settings = {"adapter": f"{goldens}/models/{ADAPTER}", "image_resolution": "low", **options}
    encoder = mh.load_encoder(
        f"qwen2-vl:{goldens}/models/tiny-qwen2vl",
        device="cpu",
        **{key: value for key, value in settings.items() if value is not None},
    )
    image = str(files("mmeb_harness.plugins") / "cards/example.jpg")
    one = encoder.encode([mh.Item(text=QUERY, image=image)])[0]
    others = encoder.encode([mh.Item(text=text) for text in OTHERS])
    cosines = others @ one / np.linalg.norm(one) / np.linalg.norm(others, axis=1)
    return {text: (float(cosine),) for text, cosine in zip(OTHERS, cosines, strict=True)}


def parting(one: dict[str, tuple[float, ...]], other: dict[str, tuple[float, ...]]) -> float:
    return max(abs(one[text][0] - other[text][0]) for text in OTHERS)


def probe(others: Mapping[str, Sequence[float]], **fields: Any) -> Probe:
    return Probe(text=QUERY, image="example.jpg", others=others, **fields)


def test_a_probe_that_holds_under_the_cards_settings_is_found_to(
    model: Model, goldens: Path
) -> None:
    published = similarities(goldens)
    cosine = published["a dog"][0]
    published["a dog"] = (0.99, cosine + 0.009)  # one of several rows, within the tolerance
    found = list(diagnose(with_probes(model, probe(published))))
    assert [one.check for one in found if one.status == "failed"] == []
    said = next(one for one in found if one.check == "probe 1").detail
    assert f"'a dog' {cosine:.4f} (published 0.9900/{cosine + 0.009:.4f})" in said
    assert "matches under the card's settings" in said


def test_a_probe_that_is_off_by_more_than_the_tolerance_fails(model: Model, goldens: Path) -> None:
    published = similarities(goldens)
    published["a dog"] = (published["a dog"][0] + 0.011,)  # one of three is enough
    found = {one.check: one for one in diagnose(with_probes(model, probe(published)))}
    assert found["probe 1"].status == "failed"


@pytest.mark.parametrize(
    ("options", "name"),
    [({"positions": "mrope"}, "positions=mrope"), ({"adapter": None}, "adapter off")],
)
def test_a_probe_that_holds_under_an_alternative_only_says_which(
    options: dict[str, Any], name: str, model: Model, goldens: Path
) -> None:
    published = similarities(goldens, **options)
    assert parting(published, similarities(goldens)) > 0.02
    found = list(diagnose(with_probes(model, probe(published))))
    failed = [one for one in found if one.status == "failed"]
    assert [one.check for one in failed] == ["probe 1"]
    assert failed[0].detail.endswith(f"matches under {name}")


def test_a_probe_has_settings_of_its_own(model: Model, goldens: Path) -> None:
    mid = similarities(goldens, image_resolution="mid")
    assert parting(mid, similarities(goldens)) > 0.02
    own, without = probe(mid, settings={"image_resolution": "mid"}), probe(mid)
    found = {one.check: one for one in diagnose(with_probes(model, own, without))}
    assert found["probe 1"].status == "ok"
    assert found["probe 2"].status == "failed"
    assert found["probe 2"].detail.endswith("matches under none of them")


def test_every_probe_of_every_card_can_be_encoded(goldens: Path) -> None:
    """With tiny weights the numbers are others, but texts, images and settings must be usable."""
    registry = build_registry()
    probed = [one.thing for one in registry.cards.values() if one.thing.probes]
    assert len(probed) >= 5
    for card in probed:
        for one in card.probes:
            if one.image is not None:
                assert (IMAGE / one.image).is_file()
            card.model_copy(update=dict(one.settings)).model_validate(
                {**card.model_dump(), **one.settings}
            )


def test_the_command_prints_a_line_a_check_and_fails_with_status_1(
    model: Model, goldens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = f"qwen2-vl:{goldens}/models/tiny-qwen2vl"
    command = ["doctor", "-m", reference, "-M", "image_resolution=low", "--device", "cpu"]
    assert run_command(command) == 0
    out = capsys.readouterr().out
    assert "ok       batch neighbours" in out
    assert out.strip().splitlines()[-1].startswith(f"{reference}: ")
    assert run_command(["doctor", "-m", reference, "-M", "positions=sideways"]) == 2
    assert run_command(["doctor", "-m", "no-such-model"]) == 2


def test_the_command_prints_one_json_object(
    goldens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["doctor", "-m", "random", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["failed"]) == ("random", 0)
    assert {"check", "status", "detail"} == set(told["findings"][0])


def test_the_machine_is_examined_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["doctor", "--cache-dir", str(tmp_path / "cache")]) == 0
    out = capsys.readouterr().out
    for name in ("torch", "transformers", "device", "plugins", "cache", "open-clip-torch"):
        assert f" {name} " in out


def test_a_broken_plugin_is_a_fault_of_the_machine(
    install_plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(install_plugin("bad-plugin", "import no_such_module")))
    failed = [one for one in examine_machine(build_registry()) if one.status == "failed"]
    assert [one.check for one in failed] == ["plugin"]
    assert "no_such_module" in failed[0].detail


def test_a_model_that_cannot_be_loaded_ends_with_status_3_and_one_line(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(goldens / "models/tiny-qwen2vl", tmp_path / "model")
    os.truncate(tmp_path / "model/model.safetensors", 1000)
    command = ["doctor", "-m", f"qwen2-vl:{tmp_path / 'model'}", "--device", "cpu"]
    assert run_command(command) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: the weights in ")
    assert len(err.splitlines()) == 1
    assert run_command([*command, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["error"].startswith("the weights in ")
    assert [finding["check"] for finding in told["findings"]] == ["versions"]


@pytest.mark.parametrize("role", ["candidate", "query"])
def test_both_sides_of_a_probe_have_their_roles(role: str, model: Model, goldens: Path) -> None:
    template = "{% if image %}<|image_pad|>{% endif %}{{ role }}: {{ text }}"
    other = {"candidate": "query", "query": "candidate"}[role]
    encoder = mh.load_encoder(
        f"qwen2-vl:{goldens}/models/tiny-qwen2vl", device="cpu", image_resolution="low",
        adapter=f"{goldens}/models/{ADAPTER}", template=template,
    )  # fmt: skip
    image = str(files("mmeb_harness.plugins") / "cards/example.jpg")

    def cosine(own: Any, others: Any) -> float:
        one, two = encoder.encode(
            [mh.Item(text=QUERY, image=image, role=own), mh.Item(text="a dog", role=others)]
        )
        return float(one @ two)

    right, wrong = (
        cosine(other, role),
        [cosine(role, role), cosine(other, other), cosine(None, None)],
    )
    assert min(abs(right - one) for one in wrong) > 1e-3
    published = {"a dog": (right + 0.01 * (1 if right > max(wrong) else -1),)}
    card = model.card.model_copy(
        update={
            "prompt": "template",
            "template": template,
            "probes": (probe(published, others_role=role),),
        }
    )
    found = {
        one.check: one
        for one in diagnose(Model(card=card, plugin=model.plugin, overrides={}), device="cpu")
    }
    assert f"'a dog' {right:.4f} (published" in found["probe 1"].detail
