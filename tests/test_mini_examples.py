"""The examples around `mini-vlm`: pairs of a task that is new to it, and its controls."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from mmeb_harness.pairfiles import own_pairs
from mmeb_harness.tasks.mini.evaluation import questions
from mmeb_harness.tasks.mini.recipes import RECIPES
from mmeb_harness.tasks.table import dataset_facts
from mmeb_harness.trainconfig import read_config
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
ADAPTED = str(read_config(EXAMPLES / "adapt/train.yaml")["evaluation"]["tasks"])


@pytest.fixture(scope="module")
def adapt() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "adapt/make.py"))


@pytest.fixture(scope="module")
def controls() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "mini-vlm/controls.py"))


@pytest.mark.thorough
def test_the_pairs_to_adapt_by_are_read_and_are_not_what_is_asked(
    adapt: dict[str, Any], tmp_path: Path
) -> None:
    assert dataset_facts()[ADAPTED].split == "ood"
    assert adapt["write_pairs"](tmp_path, ADAPTED) == adapt["PAIRS"]
    (pairs,) = own_pairs(tmp_path, None, "original").values()
    assert len(pairs) == adapt["PAIRS"]
    asked = {one.example.query.seen()[1] for one in questions(RECIPES[ADAPTED])}
    for pair in pairs:
        assert isinstance(pair.query.image, Path | str)
        with Image.open(pair.query.image) as image:
            assert image.tobytes() not in asked
        assert pair.positive.text


def test_a_view_counts_where_it_takes_something_away(controls: dict[str, Any]) -> None:
    facts, takes_away = dataset_facts(), controls["takes_away"]
    for name in ("text-only", "image-only"):
        assert takes_away(name, facts["Visual7W"])
        assert takes_away(name, facts["WebQA"])
        assert not takes_away(name, facts["VOC2007"])
        assert not takes_away(name, facts["MSCOCO_t2i"])
    assert takes_away("without-order", facts["MSCOCO_t2i"])
    assert not takes_away("without-order", facts["NIGHTS"])
    assert takes_away("shuffled", facts["NIGHTS"])


def test_averages_are_over_the_tasks_that_they_name(controls: dict[str, Any]) -> None:
    facts = dataset_facts()
    of = {name: float(one.split == "ind") + 10 * (name == "NIGHTS") for name, one in facts.items()}
    means = controls["averages"](of)
    assert means["IND"] == pytest.approx(1.5)
    assert means["OOD"] == 0
    pictures = {
        name
        for name, one in facts.items()
        if "text" not in (one.query_modality, one.target_modality)
    }
    assert {"NIGHTS", "CIRR", "MSCOCO", "WebQA"} & pictures == {"NIGHTS", "CIRR", "MSCOCO"}
    assert means["pictures on both sides"] == pytest.approx(
        sum(of[name] for name in pictures) / len(pictures)
    )


@pytest.mark.thorough
def test_controls_score_chance_as_nothing(
    controls: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["controls.py", "random", "text-only=random"])
    controls["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 36 + 4
    told = {line[:26].strip(): line[26:].split() for line in lines[1:]}
    assert abs(float(told["IND"][0])) < 0.05
    assert abs(float(told["OOD"][0])) < 0.05
    assert told["VOC2007 (ind)"][1] == "-"
