"""Scores out and in, in the forms of MMEB's own scripts: exact, whole, and nothing guessed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import UsageError
from mmeb_harness.exchange import export_run, import_scores
from mmeb_harness.exchange.ranking import measures
from mmeb_harness.registry import build_registry
from mmeb_harness.result import Run, RunRecord, TaskName, TaskResult
from mmeb_harness.rows import TaskRows
from mmeb_harness.runfolder import read_run, write_record, write_task
from mmeb_harness.selection import suite_tasks
from mmeb_harness.summary import wilson
from numpy.typing import NDArray

LEADERBOARD = [
    "ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A",
    "ImageNet-R", "ObjectNet", "Country211", "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA",
    "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA", "TextVQA", "VisDial", "CIRR",
    "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA",
    "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS", "MSCOCO", "RefCOCO", "RefCOCO-Matching",
    "Visual7W-Pointing",
]  # fmt: skip
"""The names of the leaderboard's own files (TIGER-AI-Lab/VLM2Vec, report_score_v2.py@main)."""

PUBLISHED = (
    80.8, 73.0, 55.8, 84.9, 70.9, 36.1, 47.6, 89.3, 65.1, 25.8,
    51.7, 44.0, 90.1, 59.1, 48.1, 52.8, 38.1, 43.3, 65.4, 71.6,
    82.7, 57.3, 74.7, 78.3, 75.9, 71.1, 68.4, 90.6, 19.6, 67.6, 64.8, 84.2,
    66.2, 87.0, 86.3, 69.0,
)  # fmt: skip
"""VLM2Vec-V2.0-Qwen2VL-2B (all_scores/v2.0.1 in the same place), percent; their mean is 64.92."""

MakeFolder = Callable[..., Path]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def bring_in(*files: Path, folder: Path, **options: Any) -> Run:
    return import_scores(files, build_registry(), model="theirs", output_dir=folder, **options)


def hits(run: Run) -> dict[str, float | None]:
    return {name: result.hit_at_1 for name, result in run.tasks.items()}


def make_run(folder: Path, scores: Sequence[float | None], **changes: Any) -> Run:
    """Write a run of the suite `mmeb` over 1,000 queries a task; None fails it."""
    shared: dict[str, Any] = {
        "encoder": "e", "suite": "mmeb", "scoring": "expected", "similarity": "cosine",
        "limit": None,
    } | changes  # fmt: skip
    tasks = suite_tasks(build_registry(), shared["suite"])
    record = RunRecord(
        model="org/model one",
        suite_tasks=[TaskName(name=t.name, meta_task=t.meta_task, split=t.split) for t in tasks],
        tasks=[task.name for task in tasks[: len(scores)]],
        batch_tokens=1,
        workers=0,
        started="",
        **shared,
    )
    for task, score in zip(tasks, scores, strict=False):
        told: dict[str, Any] = {"status": "failed", "error": "no such image"}
        if score is not None:
            told = {
                "status": "ok",
                "score": score,
                "hit_at_1": score,
                "n_queries": 1000,
                "ties": 0.0,
            }
        result = TaskResult(
            name=task.name, meta_task=task.meta_task, split=task.split, metric="hit_at_1",
            **shared, **told,
        )  # fmt: skip
        write_task(folder, result, None)
    write_record(folder, record)
    return read_run(folder)


@pytest.fixture
def whole(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", [score / 100 for score in PUBLISHED])


# -- out ----------------------------------------------------------------------------------------


def test_v1_is_a_file_for_each_dataset_with_the_keys_of_the_original(whole: Run) -> None:
    exported = export_run(whole, "mmeb-v1")
    assert exported.path == whole.output_dir / "export/mmeb-v1"
    assert not exported.lacking
    names = {path.name for path in exported.path.iterdir()}
    assert names == {f"{name}_score.json" for name in LEADERBOARD}
    assert read_json(exported.path / "OK-VQA_score.json") == {
        "acc": 0.517, "num_correct": 517, "num_pred": 1000,
    }  # fmt: skip
    assert isinstance(read_json(exported.path / "OK-VQA_score.json")["num_correct"], int)


def test_v2_is_one_document_with_the_names_of_the_leaderboard(whole: Run) -> None:
    exported = export_run(whole, "mmeb-v2")
    assert exported.path == whole.output_dir / "export/org-model-one.json"
    report = read_json(exported.path)
    assert list(report) == ["metadata", "metrics"]
    assert list(report["metadata"]) == [
        "model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens",
        "model_release_date", "data_source", "url", "report_generated_date",
    ]  # fmt: skip
    assert report["metadata"]["model_name"] == "org/model one"
    assert report["metadata"]["data_source"] == "Self-Reported"
    assert list(report["metrics"]) == ["image", "visdoc", "video"]
    assert list(report["metrics"]["image"]) == LEADERBOARD
    assert report["metrics"]["image"]["OK-VQA"] == {
        "hit@1": 0.517, "num_pred": 1000, "num_data": 1000,
    }  # fmt: skip
    for modality, count in (("visdoc", 27), ("video", 18)):
        assert list(report["metrics"][modality].values()) == ["DIR_N/A"] * count
    assert any("model_release_date, url" in note for note in exported.notes)


def test_a_card_fills_in_the_metadata(tmp_path: Path) -> None:
    card = build_registry().cards["vlm2vec-qwen2vl-2b"].thing
    run = make_run(tmp_path / "run", [0.5] * 36)
    write_record(run.output_dir, run.record.model_copy(update={"card": card}))
    told = read_json(export_run(read_run(run.output_dir), "mmeb-v2").path)["metadata"]
    assert told["model_size"] == pytest.approx(card.parameters / 1e9)
    assert told["embedding_dimension"] == card.dimension
    assert told["model_backbone"] == "qwen2-vl"


@pytest.mark.parametrize("form", ["mmeb-v1", "mmeb-v2"])
def test_a_run_that_is_not_whole_does_not_pass_for_it(tmp_path: Path, form: str) -> None:
    run = make_run(tmp_path / "run", [0.25, None, 0.75])
    exported = export_run(run, form)
    assert exported.lacking == ("N24News", *LEADERBOARD[3:])
    assert exported.notes[0].startswith("not whole: 34 tasks ")
    if form == "mmeb-v1":
        assert len(list(exported.path.iterdir())) == 2
    else:
        image = read_json(exported.path)["metrics"]["image"]
        assert [image[name] for name in exported.lacking] == ["FILE_N/A"] * 34
        assert image["HatefulMemes"]["hit@1"] == 0.75


def test_limited_and_empty_runs_are_refused(tmp_path: Path) -> None:
    limited = make_run(tmp_path / "limited", [0.5] * 36, limit=8)
    with pytest.raises(UsageError, match="limited to 8 queries a task"):
        export_run(limited, "mmeb-v2")
    with pytest.raises(UsageError, match="no scores to export"):
        export_run(make_run(tmp_path / "failed", [None, None]), "mmeb-v1")
    with pytest.raises(UsageError, match="unknown format 'mmeb-v3'; did you mean"):
        export_run(limited, "mmeb-v3")
    assert not list(tmp_path.glob("*/export"))


def test_scores_of_another_suite_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.5] * 36, suite="mini")
    for form in ("mmeb-v1", "mmeb-v2"):
        exported = export_run(run, form)
        assert any("suite 'mini'" in note for note in exported.notes)
        back = bring_in(exported.path, folder=tmp_path / form)
        assert back.record.suite == "mini", "it must not come back as MMEB"
        with pytest.raises(UsageError, match="they are of suite 'mini', not 'mmeb'"):
            bring_in(exported.path, folder=tmp_path / "other", suite="mmeb")


def test_ties_are_told_and_counted_in_part(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.5005] * 36)
    path = run.output_dir / "tasks/GQA.json"
    path.write_text(json.dumps({**read_json(path), "ties": 0.001}))
    exported = export_run(read_run(run.output_dir), "mmeb-v1")
    assert read_json(exported.path / "GQA_score.json")["num_correct"] == pytest.approx(500.5)
    assert [note for note in exported.notes if "--scoring reference" in note and "1 tasks" in note]
    assert not any("ties" in note for note in export_run(run, "mmeb-v1").notes)


def test_what_is_in_the_way_is_left(whole: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "OK-VQA_score.json").write_text("{}")
    export_run(whole, "mmeb-v1", folder)  # its own files are replaced
    assert read_json(folder / "OK-VQA_score.json")["acc"] == 0.517
    (folder / "MSVD_score.json").write_text("{}")
    with pytest.raises(UsageError, match=r"MSVD_score\.json"):
        export_run(whole, "mmeb-v1", folder)
    with pytest.raises(UsageError, match="is a folder: name the file"):
        export_run(whole, "mmeb-v2", folder)
    with pytest.raises(UsageError, match="is a file: name a folder"):
        export_run(whole, "mmeb-v1", folder / "MSVD_score.json")


# -- the measures beside hit@1 ------------------------------------------------------------------


def rows_of(**columns: Any) -> TaskRows:
    """Make rows of queries whose gold is item 0, from lists by column."""
    count = len(columns["top_items"])
    tops = [np.array(row, dtype=np.int32) for row in columns["top_items"]]
    numbers = {
        name: np.array(columns[name]) for name in ("better", "tied", "tied_gold", "hit_at_1")
    }
    return TaskRows(
        **numbers,
        top_candidates=tops,
        top_scores=[np.zeros(len(top), dtype=np.float32) for top in tops],
        query_items=np.zeros(count, dtype=np.int32),
        gold_items=[np.array(row) for row in columns.get("gold_items", [[0]] * count)],
        top_items=tops,
        clusters=np.zeros(count, dtype=np.int32),
    )


def in_the_original(ranking: Sequence[int], gold: int, cut: int) -> dict[str, float]:
    """Compute the measures of one query by definition; the ranking is of distinct items."""
    relevant = [float(item == gold) for item in ranking[:cut]]
    found = sum(relevant)
    precision, recall = found / cut, found / 1
    average, seen = 0.0, 0
    for place, value in enumerate(relevant, start=1):
        seen += value > 0
        average += seen / place * value
    dcg = sum(value / math.log2(place + 1) for place, value in enumerate(relevant, start=1))
    exponential = sum(
        (2**value - 1) / math.log2(place + 1) for place, value in enumerate(relevant, start=1)
    )
    first = next((1 / place for place, value in enumerate(relevant, start=1) if value), 0.0)
    return {
        f"hit@{cut}": float(found > 0), f"ndcg_linear@{cut}": dcg,
        f"ndcg_exponential@{cut}": exponential, f"precision@{cut}": precision,
        f"recall@{cut}": recall, f"f1@{cut}": 2 * precision * recall / (precision + recall or 1),
        f"map@{cut}": average, f"mrr@{cut}": first,
    }  # fmt: skip


class Content:
    """Vectors decided by content; `levels` makes them coarse, so that candidates tie."""

    def __init__(self, levels: float = 0.0) -> None:
        self.levels = levels

    def encode(self, items: Sequence[mh.Item]) -> NDArray[np.float32]:
        seeds = [hashlib.sha256(f"{item.text}".encode()).digest() for item in items]
        rows = [np.random.default_rng(list(seed)).standard_normal(6) for seed in seeds]
        vectors = np.array(rows, dtype=np.float32)
        return np.sign(vectors) if self.levels else vectors


def question(number: int, answers: Sequence[str]) -> dict[str, Any]:
    asked = "<|image_1|>\nRepresent the given image with the following question:"
    return {
        "qry_text": f"{asked} what is {number}?\n",
        "qry_img_path": f"{number % 3}.png",
        "tgt_text": list(answers),
        "tgt_img_path": [""] * len(answers),
    }


def test_measures_are_those_of_the_whole_ranking(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for number in range(40):
        answers = [f"{number} {place}" for place in range(14)]
        answers.insert(int(rng.integers(1, 14)), answers[0])  # the gold twice
        rows.append(question(number, answers))
    folder = make_task_folder("OK-VQA", rows)
    encoder = Content()
    run = mh.evaluate(encoder, data_dir=folder, output_dir=tmp_path / "run", tasks="OK-VQA")
    exported = read_json(export_run(run, "mmeb-v2").path)["metrics"]["image"]["OK-VQA"]
    expected: dict[str, list[float]] = {}
    for row in rows:
        names = list(dict.fromkeys(row["tgt_text"]))
        texts = [row["qry_text"], *names]
        vectors = encoder.encode([mh.Item(text=text) for text in texts]).astype(np.float64)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        ranking = np.argsort(-(unit[1:] @ unit[0])).tolist()
        for cut in (1, 5, 10):
            for name, value in in_the_original(ranking, 0, cut).items():
                expected.setdefault(name, []).append(value)
    means = {name: pytest.approx(fmean(values)) for name, values in expected.items()}
    assert exported == {**means, "num_pred": 40, "num_data": 40}
    assert 0 < exported["hit@1"] < exported["hit@5"] < exported["hit@10"] < 1


def test_measures_are_expectations_over_the_orders_of_the_tied() -> None:
    shown = [3, 0, 4, 5, 6, 7, 8, 9, 10, 11]  # 3 is better; 0, 4, 5, 6, 7 tie
    found = measures(
        rows_of(top_items=[shown], better=[1], tied=[5], tied_gold=[1], hit_at_1=[0.0]), "expected"
    )
    orders = [[3, *order, 8, 9, 10, 11] for order in permutations([0, 4, 5, 6, 7])]
    for cut in (5, 10):
        each = [in_the_original(order, 0, cut) for order in orders]
        for name in each[0]:
            assert found[name] == pytest.approx(fmean(one[name] for one in each)), name
    assert 0 < found["hit@5"] < found["hit@10"] == 1


def test_duplicates_of_a_better_candidate_count_once() -> None:
    shown = [5, 5, 5, 5, 5, 0, 6, 7, 8, 9]
    found = measures(
        rows_of(top_items=[shown], better=[5], tied=[1], tied_gold=[1], hit_at_1=[0.0]), "expected"
    )
    assert found["mrr@5"] == 0.5


@pytest.mark.parametrize(
    ("columns", "unknown"),
    [
        # the gold is beyond the ten that are shown, two of which are one: its rank may be 10
        ({"top_items": [[1, 1, 2, 3, 4, 5, 6, 7, 8, 9]], "better": [10], "tied": [1]}, ["@10"]),
        # more tie than are shown
        ({"top_items": [[1, 2, 3, 4, 5, 6, 7, 0, 8, 9]], "better": [7], "tied": [9]}, ["@10"]),
        (
            {"top_items": [[1, 0, 3, 4, 5, 6, 7, 2, 8, 9]], "better": [1], "tied": [12]},
            ["@5", "@10"],
        ),
        # those that tie are one candidate more than once
        (
            {"top_items": [[1, 2, 2, 0, 5, 6, 7, 3, 8, 9]], "better": [1], "tied": [3]},
            ["@5", "@10"],
        ),
    ],
)
def test_a_measure_that_is_not_known_is_left_out(columns: Any, unknown: list[str]) -> None:
    found = measures(rows_of(**columns, tied_gold=[1], hit_at_1=[0.0]), "expected")
    cuts = {name.partition("@")[2] for name in found}
    assert cuts == {"1", "5", "10"} - {cut.removeprefix("@") for cut in unknown}
    if unknown == ["@10"]:
        assert found["hit@5"] == 0.0


def test_a_gold_beyond_the_ten_shown_is_a_miss() -> None:
    rows = rows_of(
        top_items=[list(range(1, 11))], better=[17], tied=[1], tied_gold=[1], hit_at_1=[0.0]
    )
    assert measures(rows, "expected")["hit@10"] == 0.0


def test_with_the_first_maximum_winning_the_order_shown_counts() -> None:
    rows = rows_of(
        top_items=[[0, 1, 2], [4, 3, 0]], better=[0, 2], tied=[3, 1], tied_gold=[1, 1],
        hit_at_1=[1.0, 0.0],
    )  # fmt: skip
    assert measures(rows, "reference")["mrr@5"] == pytest.approx((1 + 1 / 3) / 2)


def test_several_gold_leave_hit_at_1_alone() -> None:
    rows = rows_of(
        top_items=[[0, 1]], better=[0], tied=[1], tied_gold=[1], hit_at_1=[1.0], gold_items=[[0, 1]]
    )
    assert measures(rows, "expected") == {"hit@1": 1.0}


def test_hit_at_1_stays_the_score_where_queries_tie(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    rows = [question(number, [f"{number} {place}" for place in range(8)]) for number in range(40)]
    folder = make_task_folder("OK-VQA", rows)
    run = mh.evaluate(Content(1.0), data_dir=folder, output_dir=tmp_path / "run", tasks="OK-VQA")
    assert run.tasks["OK-VQA"].ties
    image = read_json(export_run(run, "mmeb-v2").path)["metrics"]["image"]
    score = run.tasks["OK-VQA"].hit_at_1
    assert {image["OK-VQA"][name] for name in ("hit@1", "mrr@1", "f1@1")} == {score}
    assert image["OK-VQA"]["hit@10"] == pytest.approx(1.0)


# -- in -----------------------------------------------------------------------------------------


def report(scores: Any, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"model_name": "A", **metadata}, "metrics": {"image": scores}}


def scored(score: float, queries: int | None = 1000) -> dict[str, Any]:
    counts = {} if queries is None else {"num_pred": queries, "num_data": queries}
    return {"hit@1": score, "hit@5": 1.0, **counts}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("form", ["mmeb-v1", "mmeb-v2"])
def test_what_goes_out_comes_back_the_same(whole: Run, tmp_path: Path, form: str) -> None:
    exported = export_run(whole, form)
    back = bring_in(exported.path, folder=tmp_path / "back")
    assert hits(back) == hits(whole)
    assert (back.overall, back.ind, back.ood) == (whole.overall, whole.ind, whole.ood)
    assert back.meta_tasks == whole.meta_tasks
    assert back.record.suite_tasks == whole.record.suite_tasks
    assert back.record.model == "theirs"
    assert back.record.imported is not None
    assert back.record.imported.startswith(f"{form}, ")
    for name, result in back.tasks.items():
        assert result.n_queries == 1000
        assert result.ci == pytest.approx(wilson(whole.tasks[name].hit_at_1 or 0, 1000))
        assert result.clusters == ()
    once_more = export_run(back, form)
    assert hits(bring_in(once_more.path, folder=tmp_path / "again")) == hits(whole)


def test_a_published_file_gives_its_published_average(tmp_path: Path) -> None:
    scores = {name: scored(score / 100) for name, score in zip(LEADERBOARD, PUBLISHED)}
    content = report(scores, model_size=2.21, embedding_dimension=1536, url=None)
    content["metrics"]["visdoc"] = {"ViDoRe_arxivqa": {"ndcg_linear@5": 0.8}, "x": "FILE_N/A"}
    content["metrics"]["video"] = {"K700": "DIR_N/A"}
    run = bring_in(write(tmp_path / "A.json", content), folder=tmp_path / "run")
    assert run.overall == pytest.approx(0.6492, abs=5e-5)
    assert run.ind == pytest.approx(0.6882, abs=5e-5)
    assert run.ood == pytest.approx(0.6005, abs=5e-5)
    assert run.record.declared == {
        "model_name": "A", "model_size": 2.21, "embedding_dimension": 1536,
    }  # fmt: skip
    assert "left out: the part 'visdoc' with 1 datasets" in run.record.warnings[0]
    assert not any("'video'" in warning for warning in run.record.warnings)
    assert any("call the model 'A'" in warning for warning in run.record.warnings)


def test_score_files_of_the_second_form_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    for name, score in zip(LEADERBOARD, PUBLISHED):
        write(folder / f"{name}_score.json", scored(score / 100))
    run = bring_in(folder, folder=tmp_path / "run")
    assert run.overall == pytest.approx(0.6492, abs=5e-5)
    assert run.record.imported == f"mmeb-v2, {folder}"
    one = bring_in(folder / "GQA_score.json", folder=tmp_path / "one")
    other = bring_in(folder / "OK-VQA_score.json", folder=tmp_path / "other")
    assert len({run.record.encoder, one.record.encoder, other.record.encoder}) == 3


def test_what_a_file_does_not_say_stays_unknown(tmp_path: Path) -> None:
    scores = {"OK-VQA": scored(0.5, None), "GQA": "FILE_N/A", "DocVQA": "JSON_ERROR\x1b[2J" * 99}
    run = bring_in(write(tmp_path / "A.json", report(scores)), folder=tmp_path / "run")
    result = run.tasks["OK-VQA"]
    assert (result.score, result.n_queries, result.ci) == (0.5, 0, None)
    assert any("no intervals" in warning for warning in run.record.warnings)
    assert [failed.name for failed in run.failed] == ["DocVQA", "GQA"]
    assert run.tasks["GQA"].error == "no score in the file imported: 'FILE_N/A'"
    told = run.tasks["DocVQA"].error or ""
    assert len(told) < 200
    assert "\x1b" not in told
    assert run.overall is None
    assert "TextVQA" in run.summary.missing
    v1 = write(tmp_path / "OK-VQA_score.json", {"acc": 0.25})
    assert bring_in(v1, folder=tmp_path / "v1").tasks["OK-VQA"].n_queries == 0


def test_a_dataset_scored_in_part_has_no_score(tmp_path: Path) -> None:
    scores = {"OK-VQA": {"hit@1": 0.5, "num_pred": 300, "num_data": 1000}, "GQA": scored(0.5)}
    run = bring_in(write(tmp_path / "A.json", report(scores)), folder=tmp_path / "run")
    assert run.tasks["OK-VQA"].status == "failed"
    assert run.tasks["OK-VQA"].error == "only 300 of 1,000 queries were scored"


V1 = "OK-VQA_score.json"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("A.json", "{", "is not JSON"),
        ("A.json", "\x00\x01", "is not JSON"),
        ("A.json", "[" * 100_000, "is not JSON"),
        ("A.json", [1, 2], "is of neither form"),
        ("A.json", {"Model": "A", "Overall": 50}, "is of neither form"),
        ("A.json", {"acc": 0.5}, "call it DATASET_score.json"),
        ("A.json", {"metrics": []}, "metrics and metadata must be objects"),
        ("A.json", {"metrics": {"video": {"K700": scored(0.5)}}}, "has no scores of images"),
        ("A.json", {"metrics": {"image": "DIR_N/A"}}, "has no scores of images ('DIR_N/A')"),
        ("A.json", report({}), "there are no scores"),
        ("A.json", report({"GQA": "FILE_N/A"}), "there are no scores"),
        ("A.json", report({"GQA": {"acc": 0.5, "num_pred": 9}}), "'GQA' has no hit@1"),
        ("A.json", report({"GQA": 0.5}), "'GQA' has no hit@1"),
        ("A.json", report({"GQA": scored(65.4)}), "65.4: percent, it seems"),
        ("A.json", report({"GQA": scored(-0.1)}), "no fraction from 0 to 1"),
        ("A.json", report({"GQA": scored(1e9)}), "no fraction from 0 to 1"),
        ("A.json", report({"GQA": scored(math.nan)}), "is nan, which is no fraction"),
        ("A.json", report({"GQA": scored(math.inf)}), "is inf, which is no fraction"),
        ("A.json", report({"GQA": {"hit@1": "0.5"}}), "is '0.5', not a number"),
        ("A.json", report({"GQA": {"hit@1": True}}), "is True, not a number"),
        ("A.json", report({"GQA": {"hit@1": None}}), "is None, not a number"),
        ("A.json", report({"GQA": scored(0.5, 0)}), "0, not a number of queries"),
        ("A.json", report({"ImageNet_1K": scored(0.5)}), "did you mean 'ImageNet-1K'?"),
        ("A.json", report({"K700\x1b": scored(0.5)}), r"unknown dataset 'K700\x1b'"),
        (V1, {"acc": 51.7, "num_correct": 517, "num_pred": 1000}, "percent, it seems"),
        (V1, {"acc": 0.5, "num_correct": 517, "num_pred": 1000}, "num_correct / num_pred is 517"),
        (V1, {"acc": 0.5, "num_correct": "5", "num_pred": 10}, "num_correct is '5'"),
        (
            V1,
            {"acc": 0.5, "num_correct": math.nan, "num_pred": 10},
            "num_correct / num_pred is nan",
        ),
        (V1, {"acc": 0.5, "num_correct": 5, "num_pred": 10.5}, "10.5, not a number of queries"),
        (V1, {"acc": 0.5, "num_correct": 5, "num_pred": 10**300}, "not a number of queries"),
        (V1, {"acc": 0.5, "num_correct": 10**300, "num_pred": 10}, "num_correct / num_pred is"),
        ("K700_score.json", {"acc": 0.5}, "unknown dataset 'K700'"),
    ],
)
def test_what_cannot_be_right_is_an_error_that_names_the_file(
    tmp_path: Path, name: str, content: Any, told: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError) as error:
        bring_in(path, folder=tmp_path / "run")
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500 + 2 * len(str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    a = write(tmp_path / "A.json", report({"GQA": scored(0.5)}))
    b = write(tmp_path / "B.json", report({"DocVQA": scored(0.5)}, model_name="B"))
    again = write(tmp_path / "again.json", report({"GQA": scored(0.6)}))
    v1 = write(tmp_path / "v1" / V1, {"acc": 0.5})
    mini = write(tmp_path / "v1/GQA_score.json", {"acc": 0.5, "suite": "mini"})
    for files, told in (
        ((a, b), "different models: 'A' in .* and 'B' in "),
        ((a, again), "'GQA' is in two files"),
        ((a, a), "'GQA' is in two files"),
        ((a, v1), "different forms"),
        ((v1, mini), "different suites"),
        ((v1, tmp_path / "none.json"), r"none\.json cannot be read"),
        ((tmp_path,), r"is a folder without any \*_score\.json"),
    ):
        with pytest.raises(UsageError, match=told):
            bring_in(*files, folder=tmp_path / "run")


def test_a_run_in_the_way_is_left_as_it_is(whole: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in whole.output_dir.rglob("*.json")}
    with pytest.raises(UsageError, match="holds a run: name another folder"):
        bring_in(write(tmp_path / V1, {"acc": 0.5}), folder=whole.output_dir)
    assert {path: path.read_bytes() for path in whole.output_dir.rglob("*.json")} == before


# -- the commands -------------------------------------------------------------------------------


def test_the_commands(whole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["export", str(whole.output_dir), "--format", "mmeb-v1", "-o", "scores"]) == 0
    assert capsys.readouterr().out == "scores\n"
    files = [str(path) for path in sorted((tmp_path / "scores").iterdir())]
    assert _run(["import", *files[:-1], "--model", "theirs", "-o", "runs/theirs"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "runs/theirs\n"
    assert "1 of 36 tasks missing" in printed.err
    assert _run(["export", "runs/theirs", "--format", "mmeb-v2", "-o", "theirs.json"]) == 1
    assert "not whole: 1 tasks stand as FILE_N/A (Wiki-SS-NQ)" in capsys.readouterr().err
    assert _run(["import", "theirs.json", "--model", "theirs", "-o", "runs/back"]) == 1
    assert "no score: Wiki-SS-NQ" in capsys.readouterr().err
    assert _run(["report", "runs/theirs"]) == 0
    assert "theirs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "nowhere", "--format", "mmeb-v1"], "holds no run"),
        (["export", "nowhere"], "Missing option '--format'"),
        (["import", "x.json", "-o", "run"], "Missing option"),
        (["import", "x.json", "--model", "m", "-o", "run"], "x.json cannot be read"),
        (["import", "--model", "m", "-o", "run"], "Missing argument"),
    ],
)
def test_wrong_words(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(arguments) == 2
    assert told in capsys.readouterr().err
