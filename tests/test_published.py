"""Published scores: every printed average is formed again, and what is off is said."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
from mmeb_harness.registry import build_registry
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.published import PublishedRow
from pydantic import ValidationError

OFF = {
    "SigLIP": {"retrieval": 12.49},
    "MMRet-MLLM (LLaVA-1.6-7B), zero-shot on 26M synthetic pairs": {"ind": 0.8, "ood": -0.75},
    "MMRet-MLLM (LLaVA-1.6-7B), fine-tuned on MMEB-train": {"ind": 8.94, "ood": -8.85},
    "UniME (LLaVA-1.6-7B, LoRA, 336 px)": {"ind": -0.14, "overall": -2.97},
    "VLM2Vec (LLaVA-1.6-7B, 336 px), re-run by the UniME authors": {"overall": -3.27},
    "Qwen3-VL-Embedding-8B (leaderboard file)": {"retrieval": 0.16, "grounding": 0.1},
    "DUME-2B": {"vqa": 0.07},
    "PLUME": {"classification": -0.41, "vqa": 0.27, "grounding": -0.52, "overall": -0.09},
}
"""Rows with the scores of all tasks: what these give less what is printed, where more than 0.06."""

WITHOUT_TASKS = {
    "VLM2Vec Qwen2-VL-2B LoRA, high resolution": {"overall": (59.3, 60.1)},
    "UniME (Phi-3.5-V, LoRA)": {"overall": (64.2, 61.3)},
}
"""Rows of averages only: printed, and what it is taken to be."""


def row(**facts: Any) -> PublishedRow:
    return PublishedRow(**{"name": "a", "kind": "paper", "by": "b", "source": "c", **facts})


def means(scores: dict[str, float]) -> dict[str, float]:
    """Form all averages anew, by counting: not as the code under test does."""
    sums: dict[str, list[float]] = {}
    for task in published.tasks():
        for key in ("overall", task.split, task.meta_task):
            sums.setdefault(key, []).append(scores[task.name])
    return {key: sum(values) / len(values) for key, values in sums.items()}


def test_averages_of_complete_rows_are_within_006_points_of_the_printed_or_reported() -> None:
    complete = [row for row in published.rows() if len(row.scores) == 36]
    assert len(complete) == 38
    found: dict[str, dict[str, float]] = {}
    for each in complete:
        computed = means(dict(each.scores))
        for key, average in each.averages.items():
            assert average.value == pytest.approx(computed[key], abs=1e-12)
            off = 100 * (computed[key] - each.printed.get(key, computed[key]))
            if abs(off) > 0.06:
                found.setdefault(each.name, {})[key] = pytest.approx(off, abs=0.006)
                assert average.printed == each.printed[key]
            else:
                assert average.printed is None
    assert found == OFF
    said = {each.name: len(each.corrections) for each in complete if each.corrections}
    assert said == {name: len(keys) for name, keys in OFF.items()}


def test_corrections_of_printed_averages_alone() -> None:
    others = [row for row in published.rows() if len(row.scores) < 36]
    found = {
        each.name: {
            key: (round(100 * average.printed, 1), round(100 * average.value, 1))
            for key, average in each.averages.items()
            if average.printed is not None
        }
        for each in others
        if each.corrections
    }
    assert found == WITHOUT_TASKS
    corrected = published.row_named("VLM2Vec Qwen2-VL-2B LoRA, high resolution")
    assert corrected is not None
    assert corrected.averages["overall"].value == pytest.approx(0.601, abs=1e-12)


def test_a_correction_says_what_is_printed_and_what_it_should_be() -> None:
    siglip = published.row_named("SigLIP")
    assert siglip is not None
    assert siglip.corrections == [
        "Retrieval is printed as 31.6; the mean over its tasks is 44.1",
    ]
    assert siglip.averages["retrieval"].value == pytest.approx(0.44091667)
    assert siglip.averages["overall"].printed is None


def test_rounding_alone_corrects_nothing() -> None:
    scores = {task.name: 0.5 for task in published.tasks()}
    assert row(scores=scores, printed={"overall": 0.5005}).corrections == []
    assert row(scores=scores, printed={"overall": 0.5007}).corrections
    metas = dict.fromkeys(("classification", "vqa", "retrieval", "grounding"), 0.5)
    assert row(printed={**metas, "overall": 0.5009}).corrections == []
    assert row(printed={**metas, "overall": 0.5011}).corrections


def test_overall_is_derived_from_meta_tasks_by_their_tasks_and_only_from_all_four() -> None:
    metas = {"classification": 0.1, "vqa": 0.2, "retrieval": 0.3, "grounding": 0.9}
    average = row(printed={**metas, "overall": 0.9}).averages["overall"]
    assert average.value == pytest.approx((10 * 0.1 + 10 * 0.2 + 12 * 0.3 + 4 * 0.9) / 36)
    assert (average.basis, average.printed) == ("meta-tasks", 0.9)
    del metas["grounding"]
    assert row(printed={**metas, "overall": 0.9}).averages["overall"].basis == "printed"


def test_averages_of_part_of_the_tasks_are_the_printed_ones_or_none() -> None:
    scores = {task.name: 0.5 for task in published.tasks() if task.meta_task == "retrieval"}
    averages = row(scores=scores, printed={"overall": 0.3}).averages
    assert averages.keys() == {"overall", "retrieval"}
    assert averages["overall"].value == 0.3
    assert averages["retrieval"].basis == "tasks"


def test_the_table_is_that_of_the_suite() -> None:
    tasks = [owned.thing for owned in build_registry().tasks.values()]
    of_suite = [(t.name, t.meta_task, t.split) for t in tasks if t.suite == "mmeb"]
    assert [(t.name, t.meta_task, t.split) for t in published.tasks()] == of_suite
    assert len(of_suite) == 36


def test_rows_are_kept_apart_by_who_measured() -> None:
    rows = published.rows()
    assert len(rows) == 76
    assert len({row.name for row in rows}) == 76
    assert Counter(row.kind for row in rows) == {"paper": 32, "authors": 30, "third-party": 14}
    assert all(row.source and row.by for row in rows)
    assert {row.by for row in rows if row.kind == "paper"} == {"TIGER-Lab"}
    assert all(0 <= score <= 1 for row in rows for score in row.scores.values())


def test_every_card_that_names_a_row_agrees_with_it() -> None:
    named = 0
    for owned in build_registry().cards.values():
        card = owned.thing
        if card.published_as is None or owned.plugin.distribution != "mmeb-harness":
            continue
        found = published.row_named(card.published_as)
        assert found is not None, card.name
        named += 1
        if card.training_datasets is not None:
            assert found.training is not None, card.name
            assert set(card.training_datasets) == set(found.training), card.name
        for key, percent in card.published.items():
            known = (found.printed.get(key), found.averages[key].value)
            assert percent / 100 in [pytest.approx(value, abs=6e-4) for value in known], card.name
    assert named >= 10


def test_mmeb_train_means_the_tasks_in_distribution() -> None:
    found = published.row_named("VLM2Vec-V1-Qwen2VL-7B (V2 code, v2.0.0)")
    assert found is not None
    assert found.training is not None
    assert len(found.training) == 20
    assert "MSCOCO" in found.training
    assert "OVEN" not in found.training


def test_reruns_of_one_code_move_scores_as_documented() -> None:
    moved = {rerun.model: rerun for rerun in published.reruns()}
    assert len(moved) == 8
    largest = {
        model: round(100 * max(map(abs, rerun.tasks.values())), 1) for model, rerun in moved.items()
    }
    unsteady = {"LamRA-Ret-Qwen2.5VL-7b": 2.9, "colpali-v1.3": 2.7}
    assert {model: largest.pop(model) for model in unsteady} == unsteady
    assert max(largest.values()) == 1.2
    assert max(abs(rerun.averages["overall"]) for rerun in moved.values()) < 0.0013


def test_the_file_is_small_and_says_nothing_of_where_it_was_made() -> None:
    text = (files("mmeb_harness.reports.board") / "published.json").read_text(encoding="utf-8")
    assert len(text) < 60_000
    assert not re.search(r"/work|/tmp|/home|third-party file third", text)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda file: file["rows"].append(file["rows"][0]), "share a name"),
        (lambda file: file["rows"][0]["scores"].pop(), "35 scores of 36"),
        (lambda file: file["rows"][0]["printed"].update(all=50), "unknown average"),
        (lambda file: file["rows"][0].update(training=["COCO"]), "unknown task"),
        (lambda file: file["rows"][0].update(colour="red"), "Extra inputs"),
        (lambda file: file["rows"][0].update(kind="own"), "Input should be"),
        (lambda file: file["rows"][0]["printed"].update(overall=101), "less than or equal to 100"),
    ],
)
def test_a_wrong_file_is_refused(change: Any, complaint: str) -> None:
    file = json.loads((files("mmeb_harness.reports.board") / "published.json").read_text())
    published._File.model_validate(file)
    change(file)
    with pytest.raises(ValidationError, match=complaint):
        published._File.model_validate(file)
