"""The ledger: what may be compared with a published score, and what of it noise explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import ALL, made_run
from mmeb_harness.card import Card
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.ledger import Ledger, Line, ledger
from mmeb_harness.reports.board.published import PublishedRow
from mmeb_harness.result import Run
from mmeb_harness.summary import wilson

V2 = "VLM2Vec-V2.0-Qwen2VL-2B (V2 code, v2.0.0)"
V1 = "VLM2Vec LLaVA-1.6 LoRA, high resolution (1344)"
UNSTEADY = ("LamRA-Ret-Qwen2.5VL-7b", "colpali-v1.3")


def scores_of(name: str) -> dict[str, float]:
    row = published.row_named(name)
    assert row is not None
    return dict(row.scores)


def run_as(folder: Path, name: str, hits: dict[str, Any] | None = None, **changes: Any) -> Run:
    """Return a run of a card that names this row, with its scores unless others are given."""
    card = Card(name="model", factory="toy:Toy", published_as=name)
    hits = scores_of(name) if hits is None else hits
    return made_run(folder, hits, **{"card": card, **changes})


def ledger_of(run: Run) -> Ledger:
    found = ledger(run)
    assert found is not None
    return found


def line(run: Run, key: str) -> Line:
    found = ledger_of(run)
    (line,) = [line for line in [*found.tasks, *found.averages] if line.key == key]
    return line


def test_the_published_scores_themselves_are_within_noise(tmp_path: Path) -> None:
    found = ledger_of(run_as(tmp_path, V1))
    assert [line.key for line in found.tasks] == list(ALL)
    assert {line.key for line in found.averages} == {
        "overall", "ind", "ood", "classification", "vqa", "retrieval", "grounding",
    }  # fmt: skip
    assert dict(found.counts) == {"within noise": 36}
    assert {line.verdict for line in found.averages} == {"within noise"}
    assert all(line.difference == pytest.approx(0) and not line.reason for line in found.tasks)


@pytest.mark.parametrize("rerun", published.reruns(), ids=lambda rerun: rerun.model)
def test_what_the_original_code_gave_another_time_is_within_noise(
    tmp_path: Path, rerun: published.Rerun
) -> None:
    first, second = (f"{rerun.model} {when}" for when in published.RERUNS)
    found = ledger_of(run_as(tmp_path, first, scores_of(second)))
    far = {line.key for line in found.tasks if line.verdict != "within noise"}
    far |= {line.key for line in found.averages if line.verdict != "within noise"}
    assert bool(far) == (rerun.model in UNSTEADY), far


def test_a_wrong_input_format_is_outside(tmp_path: Path) -> None:
    """The same weights with a wrong prompt, as a third party measured both."""
    right = "Qwen3-VL-Embedding-8B, re-run with corrected VLM2Vec code"
    wrong = "Qwen3-VL-Embedding-8B, re-run with VLM2Vec code before the input-format fixes"
    found = ledger_of(run_as(tmp_path, right, scores_of(wrong)))
    assert found.counts["outside"] > 25
    assert {line.verdict for line in found.averages} == {"outside"}


@pytest.mark.parametrize(
    ("off", "verdict"),
    [(0.0149, "within noise"), (0.0151, "outside"), (-0.0149, "within noise"), (-0.02, "outside")],
)
def test_a_task_may_be_off_by_1_5_points(tmp_path: Path, off: float, verdict: str) -> None:
    known = scores_of(V1)["GQA"]
    run = run_as(tmp_path, V1, {"GQA": known + off}, queries=10_000)
    assert line(run, "GQA").verdict == verdict
    assert line(run, "GQA").difference == pytest.approx(off)


def test_near_the_ends_the_binomial_interval_is_the_bound(tmp_path: Path) -> None:
    name = "Qwen3-VL-Embedding-8B (leaderboard file)"
    known = scores_of(name)
    task = max(known, key=lambda name: known[name])
    assert known[task] > 0.96
    near = run_as(tmp_path, name, {task: known[task] + 0.009})
    far = run_as(tmp_path, name, {task: known[task] + 0.012})
    below = run_as(tmp_path, name, {task: known[task] - 0.012})
    verdicts = [line(run, task).verdict for run in (near, far, below)]
    assert verdicts == ["within noise", "outside", "within noise"]


def test_exactly_the_noise_is_within_it_and_a_thousandth_point_more_is_not(tmp_path: Path) -> None:
    """Read as they are printed, most scores that are 1.5 points apart differ by a little more."""
    known = scores_of(V1)
    at = ledger_of(run_as(tmp_path, V1, {name: score + 0.015 for name, score in known.items()}))
    assert any((line.difference or 0) > 0.015 for line in at.tasks)
    assert dict(at.counts) == {"within noise": 36}
    beyond = run_as(tmp_path, V1, {"GQA": known["GQA"] + 0.01501}, queries=100_000)
    assert line(beyond, "GQA").verdict == "outside"


@pytest.mark.parametrize(
    ("more", "verdict"), [(0.0004, "within noise"), (0.0006, "outside")], ids=["within", "outside"]
)
@pytest.mark.parametrize("side", ["above", "below"])
def test_the_bound_near_the_ends_has_room_for_what_printing_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str, more: float, verdict: str
) -> None:
    """The published score may be half a tenth of a point off what was measured."""
    name, task = "New 9B", "DocVQA"
    known = 0.99 if side == "above" else 0.01
    row = PublishedRow(name=name, kind="paper", by="b", source="s", scores={task: known})
    low, high = wilson(known, 1000)
    hit = high + more if side == "above" else low - more
    run = run_as(tmp_path, name, {task: hit}, queries=100_000)
    monkeypatch.setattr(published, "row_named", lambda name: row)
    assert line(run, task).verdict == verdict


@pytest.mark.parametrize(
    ("key", "off", "verdict"),
    [
        ("overall", 0.0025, "within noise"),
        ("overall", 0.0035, "outside"),
        ("ood", -0.0035, "outside"),
        ("vqa", 0.0045, "within noise"),
        ("vqa", -0.0055, "outside"),
    ],
)
def test_averages_may_be_off_by_less(tmp_path: Path, key: str, off: float, verdict: str) -> None:
    hits = {name: score + off for name, score in scores_of(V1).items()}
    run = run_as(tmp_path, V1, hits, queries=10_000)
    assert line(run, key).verdict == verdict
    assert ledger_of(run).counts["within noise"] == 36


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"suite": "mini"}, "suite mini, not mmeb"),
        ({"limit": 10}, "--limit 10"),
        ({"overrides": {"pooling": "eos"}}, "-M pooling=eos"),
        ({"overrides": {"revision": "main"}}, "-M revision=main"),
        ({"overrides": {"adapter": "./mine", "max_length": 9}}, "-M adapter=./mine; -M max_len"),
    ],
)
def test_another_model_or_other_data_cannot_be_compared(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    found = ledger_of(run_as(tmp_path, V1, **changes))
    for line in [*found.tasks, *found.averages]:
        assert line.verdict == "not comparable"
        assert line.reason.startswith(reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float32"}, "--dtype float32, published with bfloat16"),
        ({"overrides": {"attention": "eager"}}, "-M attention=eager"),
        ({"task": {"data_digest": None}}, "which data was scored is not recorded"),
    ],
)
def test_a_setting_that_moves_scores_a_little_is_told_with_a_score_outside(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    known = scores_of(V1)
    hits = {
        "GQA": known["GQA"] + 0.01, "TextVQA": known["TextVQA"] + 0.02, "OVEN": known["OVEN"] + 0.04
    }  # fmt: skip
    run = run_as(tmp_path, V1, hits, **changes)
    lines = [line(run, key) for key in hits]
    assert [(line.verdict, line.reason) for line in lines] == [
        ("within noise", ""), ("not comparable", reason), ("outside", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(("off", "verdict"), [(0.044, "not comparable"), (0.046, "outside")])
def test_causes_explain_together_what_none_does_alone(
    tmp_path: Path, off: float, verdict: str
) -> None:
    """1.5 points of noise and as much for each of two causes; both are told."""
    changes: dict[str, Any] = {"dtype": "float32", "overrides": {"attention": "eager"}}
    run = run_as(tmp_path, V1, {"GQA": scores_of(V1)["GQA"] - off}, **changes)
    reason = "-M attention=eager; --dtype float32, published with bfloat16"
    assert (line(run, "GQA").verdict, line(run, "GQA").reason) == (
        verdict, reason if verdict == "not comparable" else "",
    )  # fmt: skip


@pytest.mark.parametrize("setting", ["attention", "concurrency", "request_form"])
def test_how_a_vector_is_computed_makes_no_other_model(tmp_path: Path, setting: str) -> None:
    """Taken for another model, a run with another attention could not be compared at all."""
    found = ledger_of(run_as(tmp_path, V1, overrides={setting: "other"}))
    assert dict(found.counts) == {"within noise": 36}


def test_an_average_is_excused_by_what_moved_one_of_its_tasks(tmp_path: Path) -> None:
    """Every task is a point off; the cause is known of one task of VQA only."""
    hits = {name: score + 0.01 for name, score in scores_of(V1).items()}
    run = run_as(tmp_path, V1, hits)
    assert {line(run, key).verdict for key in ("vqa", "retrieval")} == {"outside"}
    run.tasks["GQA"].__dict__["data_digest"] = None
    assert line(run, "vqa").reason == "which data was scored is not recorded"
    assert line(run, "retrieval").verdict == "outside"
    run = run_as(tmp_path, V1, hits)
    run.tasks["GQA"].__dict__["ties"] = 0.1  # 1 % of the queries of the 10 tasks of VQA
    assert line(run, "vqa").reason == "ties in 1.0% of the queries (--scoring expected)"
    assert line(run, "retrieval").verdict == "outside"
    run.tasks["GQA"].__dict__["ties"] = 0.04
    assert line(run, "vqa").verdict == "outside", "ties of 0.4 % do not move a mean by a point"


@pytest.mark.parametrize(
    ("name", "scoring", "excused"),
    [(V1, "expected", True), (V2, "expected", True), (V2, "reference", True),
     (V1, "reference", False)],
)  # fmt: skip
def test_ties_excuse_what_they_can_explain(
    tmp_path: Path, name: str, scoring: str, excused: bool
) -> None:
    known = scores_of(name)
    hits = {"GQA": known["GQA"] - 0.06, "TextVQA": known["TextVQA"] - 0.07}
    run = run_as(tmp_path, name, hits, scoring=scoring, task={"ties": 0.05})
    verdict = "not comparable" if excused else "outside"
    assert line(run, "GQA").verdict == verdict
    assert ("ties in 5.0% of the queries" in line(run, "GQA").reason) == excused
    assert line(run, "TextVQA").verdict == "outside"


def test_the_v2_code_scores_shared_images_otherwise(tmp_path: Path) -> None:
    hits = {name: score - 0.05 for name, score in scores_of(V2).items()}
    run = run_as(tmp_path, V2, hits)
    kept = {line.key for line in ledger_of(run).tasks if line.verdict == "not comparable"}
    assert kept == {"WebQA", "EDIS"}
    hits = {name: score - 0.05 for name, score in scores_of(V1).items()}
    assert ledger_of(run_as(tmp_path, V1, hits)).counts["outside"] == 36


@pytest.mark.parametrize(("off", "verdict"), [(0.0, "not comparable"), (0.12, "outside")])
def test_shared_images_excuse_what_both_tasks_are_off(
    tmp_path: Path, off: float, verdict: str
) -> None:
    """WebQA and EDIS are 20 points off: each excuses its own part of the mean, nothing beyond."""
    hits = scores_of(V2)
    hits |= {name: hits[name] - 0.2 for name in ("WebQA", "EDIS")}
    run = run_as(tmp_path, V2, hits | {"OVEN": hits["OVEN"] - off})
    assert [line(run, name).verdict for name in ("WebQA", "EDIS")] == ["not comparable"] * 2
    assert line(run, "retrieval").verdict == verdict


@pytest.mark.parametrize(("off", "verdict"), [(0.020, "not comparable"), (0.024, "outside")])
def test_shared_images_of_unknown_scores_excuse_ten_points_of_each_task(
    tmp_path: Path, off: float, verdict: str
) -> None:
    """Only averages are published: 2 of 12 tasks, 10 points each, are 1.7 points of their mean."""
    name = "Seed-1.6-embedding-1215"
    row = published.row_named(name)
    assert row is not None
    assert (row.protocol, row.scores) == ("v2", {})
    run = run_as(tmp_path, name, dict.fromkeys(ALL, row.averages["retrieval"].value - off))
    assert line(run, "retrieval").verdict == verdict


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    known = scores_of(V1)
    run = run_as(tmp_path, V1, {"GQA": None, "OVEN": known["OVEN"]})
    assert (line(run, "GQA").reason, line(run, "EDIS").reason) == ("failed", "not run")
    assert line(run, "OVEN").verdict == "within noise"
    assert line(run, "overall").reason == "not all of its tasks are scored"
    assert line(run, "overall").measured is None
    assert line(run, "overall").difference is None
    assert ledger_of(run).counts == {"within noise": 1, "not comparable": 35}


def test_what_is_not_there_and_what_was_changed_are_both_said(tmp_path: Path) -> None:
    """With one reason alone, a reader would mend that and still have nothing to compare."""
    known = scores_of(V1)["GQA"]
    limited = run_as(tmp_path, V1, {"GQA": known}, limit=10)
    assert line(limited, "GQA").reason == "--limit 10"
    assert line(limited, "EDIS").reason == "not run; --limit 10"
    assert line(limited, "vqa").reason == "not all of its tasks are scored; --limit 10"


def test_part_of_the_tasks_is_no_average(tmp_path: Path) -> None:
    """What was run is scored, all of it: its mean is still not that of the meta-task."""
    run = run_as(tmp_path, V1, {"GQA": scores_of(V1)["GQA"]})
    assert (line(run, "vqa").verdict, line(run, "vqa").measured) == ("not comparable", None)


def test_a_row_of_averages_alone_judges_averages_alone(tmp_path: Path) -> None:
    name = "VLM2Vec Qwen2-VL-2B LoRA, high resolution"
    run = run_as(tmp_path, name, dict.fromkeys(ALL, 0.601))
    assert {line.reason for line in ledger_of(run).tasks} == {"not published"}
    assert line(run, "overall").published == pytest.approx(0.601), "the corrected one counts"
    assert line(run, "overall").verdict == "within noise"
    assert line(run, "vqa").verdict == "outside"


def test_a_card_may_bring_the_averages_of_a_row_that_is_not_listed(tmp_path: Path) -> None:
    card = Card(
        name="new",
        factory="toy:Toy",
        published_as="New 9B",
        published={"overall": 50.0, "odd": 1},
        sources=("https://example.org/a", "b"),
    )
    found = ledger_of(made_run(tmp_path, dict.fromkeys(ALL, 0.501), card=card))
    assert (found.row.name, found.row.source) == ("New 9B", "https://example.org/a, b")
    assert [(line.key, line.verdict) for line in found.averages] == [("overall", "within noise")]


def test_a_run_of_no_published_row_has_no_ledger(tmp_path: Path) -> None:
    assert ledger(made_run(tmp_path, {})) is None
    assert ledger(made_run(tmp_path, {}, card=None)) is None
