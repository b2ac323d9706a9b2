"""Sweeps from stored vectors: what an encoder of that size and precision would have scored."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from mmeb_harness.cli.main import _run
from mmeb_harness.cli.sweep import parse_dims, parse_precisions
from mmeb_harness.errors import DataMissing, TaskError, UsageError
from mmeb_harness.progress import Progress
from mmeb_harness.quantise import PRECISIONS, bytes_per_million, quantised
from mmeb_harness.registry import build_registry
from mmeb_harness.result import Run
from mmeb_harness.runfolder import read_run, write_record
from mmeb_harness.statistics import average_interval
from mmeb_harness.sweep import Sweep, SweepPoint, make_sweep, read_sweep
from numpy.typing import NDArray

pytestmark = pytest.mark.thorough

FULL = 24
TASKS = ("OK-VQA", "GQA")

Vectors = NDArray[np.float32]
MakeFolder = Callable[..., Path]


class Content:
    """A vector decided by what an item says and shows, near one of a few: some rivals come close.

    `change` is done to the vectors, as an encoder of less would do it itself.
    """

    def __init__(self, change: Callable[[Vectors], Vectors] = lambda vectors: vectors) -> None:
        self.change = change
        self.calls = 0

    def encode(self, items: Sequence[mh.Item]) -> Vectors:
        self.calls += 1
        return self.change(np.array([self._vector(item) for item in items], dtype=np.float32))

    def _vector(self, item: mh.Item) -> Vectors:
        image = b"" if item.image is None else Path(str(item.image)).read_bytes()
        seed = hashlib.sha256((item.text or "").encode() + image).digest()
        drawn: Vectors = np.random.default_rng(list(seed)).standard_normal(FULL)
        return drawn + np.linspace(1, 0, FULL)


class Kept(Content):
    def fingerprint(self) -> str:
        return "content 1"


@pytest.fixture
def data(make_task_folder: MakeFolder) -> Path:
    for task in TASKS:
        folder = make_task_folder(task, queries=30, candidates=5)
    return folder


def evaluate(encoder: Any, data: Path, folder: Path, **options: Any) -> Run:
    return mh.evaluate(encoder, data_dir=data, output_dir=folder, tasks=TASKS, **options)


def of_two_tasks(run: Run) -> Run:
    """Make the two tasks the whole suite, so that there are averages."""
    tasks = tuple(task for task in run.record.suite_tasks if task.name in TASKS)
    write_record(run.output_dir, run.record.model_copy(update={"suite_tasks": tasks}))
    return read_run(run.output_dir)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    return of_two_tasks(evaluate(Kept(), data, tmp_path / "run"))


def sweep(run: Run, tmp_path: Path, dims: Any = (None,), precisions: Any = ("fp32",)) -> Sweep:
    return make_sweep(
        run, build_registry(), cache_dir=tmp_path / "cache", dims=dims, precisions=precisions
    )


def hits(run: Run) -> dict[str, float | None]:
    return {name: result.hit_at_1 for name, result in run.tasks.items()}


# -- the scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["expected", "reference"])
def test_all_dimensions_in_full_precision_are_the_run_itself(
    data: Path, tmp_path: Path, scoring: str
) -> None:
    coarse = Kept(lambda vectors: np.round(vectors / 3))  # ties
    run = of_two_tasks(evaluate(coarse, data, tmp_path / "run", scoring=scoring))
    assert any(result.ties for result in run.tasks.values())
    (point,) = sweep(run, tmp_path).points
    assert point.tasks == hits(run)
    assert (point.overall, point.ind, point.ood) == (run.overall, run.ind, run.ood)
    assert (point.dimension, point.precision) == (FULL, "fp32")
    assert point.bytes_per_million == FULL * 4 * 10**6


def unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def in_bits(vectors: Vectors) -> Vectors:
    bits = np.unpackbits(np.packbits(vectors > 0, axis=1), axis=1, count=vectors.shape[1])
    return (2.0 * bits - 1).astype(np.float32)


BY_HAND: dict[str, Callable[[Vectors], Vectors]] = {
    "fp32": lambda vectors: vectors,
    "fp16": lambda vectors: unit(vectors).astype(np.float16).astype(np.float32),
    "binary": in_bits,
}


@pytest.mark.parametrize("precision", BY_HAND)
@pytest.mark.parametrize("dimension", [3, 9, FULL])
def test_a_setting_scores_as_an_encoder_that_gives_such_vectors(
    run: Run, data: Path, tmp_path: Path, dimension: int, precision: str
) -> None:
    smaller = Content(lambda vectors: BY_HAND[precision](vectors[:, :dimension]))
    expected = hits(evaluate(smaller, data, tmp_path / "smaller"))
    (point,) = sweep(run, tmp_path, [dimension], [precision]).points
    assert point.tasks == pytest.approx(expected, abs=1e-9)
    if dimension == 3:
        assert point.tasks != hits(run)


def test_bytes_are_the_nearest_of_256_levels_over_each_dimensions_range() -> None:
    vectors = np.random.default_rng(5).standard_normal((900, 7)).astype(np.float32)
    stored, similarity = quantised(vectors, "int8", "cosine")
    assert similarity == "cosine"
    exact = unit(vectors)
    low, step = exact.min(axis=0), np.ptp(exact, axis=0) / 255
    levels = (stored - low) / step
    np.testing.assert_allclose(levels, np.round(levels), atol=2e-3)
    assert (levels.min(axis=0) < 1e-3).all()
    assert (levels.max(axis=0) > 254.99).all()
    error = np.abs(stored - exact) / step
    assert 0.45 < error.max() < 0.505
    raw = quantised(3 * vectors, "int8", "dot").vectors
    np.testing.assert_allclose(raw.max(axis=0), 3 * vectors.max(axis=0), rtol=1e-5)


def test_a_dimension_without_range_stays_as_it_is_in_bytes() -> None:
    vectors = np.array([[0.25, 1, -1], [0.25, 3, 0]], dtype=np.float32)
    stored, _ = quantised(vectors, "int8", "dot")
    assert (stored[:, 0] == 0.25).all()
    assert stored[0, 1] < stored[1, 1]


def test_bits_compare_by_their_hamming_distance_exactly() -> None:
    vectors = np.random.default_rng(6).standard_normal((40, 501)).astype(np.float32)
    stored, similarity = quantised(vectors, "binary", "cosine")
    assert similarity == "dot"
    distances = (np.signbit(-vectors)[:, None] != np.signbit(-vectors)[None]).sum(axis=2)
    assert (stored @ stored.T == 501 - 2 * distances).all()
    around_zero = np.array([[0.0, 1e-9, -1e-9]], dtype=np.float32)
    assert quantised(around_zero, "binary", "cosine").vectors.tolist() == [[-1, 1, -1]]


def test_numbers_beyond_the_range_of_half_precision_are_told() -> None:
    vectors = np.array([[1e5, 1.0], [1.0, 2.0]], dtype=np.float32)
    with pytest.raises(TaskError, match="range of fp16"):
        quantised(vectors, "fp16", "dot")
    assert np.isfinite(quantised(vectors, "fp16", "cosine").vectors).all()


@pytest.mark.parametrize(
    ("dimension", "precision", "size"),
    [(768, "fp32", 3072), (768, "fp16", 1536), (768, "int8", 768), (768, "binary", 96),
     (10, "binary", 2), (1, "binary", 1)],
)  # fmt: skip
def test_bytes_per_million(dimension: int, precision: Any, size: int) -> None:
    assert bytes_per_million(dimension, precision) == size * 10**6


def test_averages_have_intervals_and_an_incomplete_set_has_neither(
    run: Run, data: Path, tmp_path: Path
) -> None:
    (point,) = sweep(run, tmp_path, [6]).points
    scores = list(point.tasks.values())
    assert point.overall == pytest.approx(sum(scores) / 2)
    assert point.ind == point.tasks["OK-VQA"]
    assert point.ood == point.tasks["GQA"]
    assert set(point.intervals) == {"overall", "ind", "ood"}
    for key, (low, high) in point.intervals.items():
        assert 0 <= low < getattr(point, key) < high <= 1
    smaller = evaluate(Content(lambda vectors: vectors[:, :6]), data, tmp_path / "smaller")
    clusters = [smaller.tasks[task].clusters for task in TASKS]
    assert clusters != [run.tasks[task].clusters for task in TASKS]
    assert point.intervals["overall"] == average_interval(clusters)
    assert point.intervals["ood"] == average_interval(clusters[1:])
    whole = evaluate(Kept(), data, tmp_path / "whole")  # 2 of 36 tasks
    (point,) = sweep(whole, tmp_path).points
    assert (point.overall, point.ind, point.ood) == (None, None, None)
    assert not point.intervals
    assert set(point.tasks) == set(TASKS)


def test_queries_of_one_image_widen_the_interval(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    def one(number: int, image: str) -> dict[str, Any]:
        asked = "<|image_1|>\nRepresent the given image with the following question:"
        return {
            "qry_text": f"{asked} is it {image}?\n",
            "qry_img_path": f"{image}.png",
            "tgt_text": [f"answer {image} {place}" for place in range(4)],
            "tgt_img_path": [""] * 4,
        }

    widths = {}
    for name, images in (("apart", 64), ("together", 8)):
        for task in TASKS:
            rows = [one(number, f"{task} {number % images}") for number in range(64)]
            folder = make_task_folder(task, rows, folder=tmp_path / name)
        found = of_two_tasks(evaluate(Kept(), folder, tmp_path / f"run {name}"))
        low, high = sweep(found, tmp_path, [12]).points[0].intervals["overall"]
        widths[name] = high - low
    assert widths["together"] > 1.5 * widths["apart"]


# -- from what is stored, and nothing twice ---------------------------------------------------


def test_nothing_is_encoded_and_images_are_not_needed(data: Path, tmp_path: Path) -> None:
    encoder = Kept()
    run = evaluate(encoder, data, tmp_path / "run")
    calls = encoder.calls
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    assert len(sweep(run, tmp_path, [4, None], PRECISIONS).points) == 8
    assert encoder.calls == calls


def test_vectors_kept_in_the_runs_own_folder_are_found(data: Path, tmp_path: Path) -> None:
    run = evaluate(Content(), data, tmp_path / "run")  # without a fingerprint
    assert (run.output_dir / "vectors").is_dir()
    assert sweep(run, tmp_path).points[0].tasks == hits(run)


def test_a_run_begun_afresh_is_swept_from_its_own_vectors(data: Path, tmp_path: Path) -> None:
    evaluate(Kept(), data, tmp_path / "old")
    run = evaluate(Kept(lambda vectors: -np.abs(vectors)), data, tmp_path / "run", fresh=True)
    assert hits(run) != hits(read_run(tmp_path / "old"))
    evaluate(Kept(), data, tmp_path / "older", fresh=True)  # the newest of the same key
    assert sweep(run, tmp_path).points[0].tasks == hits(run)


def test_points_are_added_and_those_there_are_not_computed_again(run: Run, tmp_path: Path) -> None:
    sweep(run, tmp_path, [8, None], ["int8"])
    path = run.output_dir / "sweep.json"
    written = json.loads(path.read_text())
    written["points"][0]["tasks"]["GQA"] = 0.123
    path.write_text(json.dumps(written))
    both = sweep(run, tmp_path, [None, 8, 4], ["int8", "fp32"])
    places = [(point.precision, point.dimension) for point in both.points]
    assert places == [(p, d) for p in ("fp32", "int8") for d in (4, 8, FULL)]
    assert both.points[4].tasks["GQA"] == 0.123
    assert read_sweep(run.output_dir, run.record.encoder) == both
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "data")
    assert sweep(run, tmp_path, [4, FULL], ["fp32"]) == both


def test_a_sweep_of_another_encoder_or_of_other_results_does_not_count(
    run: Run, data: Path, tmp_path: Path
) -> None:
    sweep(run, tmp_path, [8])
    assert read_sweep(run.output_dir, "another") is None
    assert read_sweep(tmp_path / "nowhere", run.record.encoder) is None
    path = run.output_dir / "tasks/GQA.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "hit_at_1": 0.5, "score": 0.5, "clusters": []}))
    assert read_sweep(run.output_dir, run.record.encoder) is None
    path.write_text(json.dumps(result))
    assert read_sweep(run.output_dir, run.record.encoder) is not None
    evaluate(Kept(), data, run.output_dir, fresh=True)
    assert not (run.output_dir / "sweep.json").exists()


def test_a_sweep_made_by_hand_counts_for_its_encoder(tmp_path: Path) -> None:
    none = dict.fromkeys(("overall", "ind", "ood"))
    point = SweepPoint(dimension=4, precision="fp32", bytes_per_million=16, tasks={}, **none)
    made = Sweep(encoder="e", full=4, points=[point])
    (tmp_path / "sweep.json").write_text(made.model_dump_json())
    assert read_sweep(tmp_path, "e") == made


@pytest.mark.parametrize("text", ["{", '{"encoder": 3}', "[]", '{"schema_version": 2}'])
def test_a_damaged_sweep_is_named(run: Run, tmp_path: Path, text: str) -> None:
    (run.output_dir / "sweep.json").write_text(text)
    with pytest.raises(UsageError, match=r"sweep\.json .*(remove it|this release reads 1)"):
        sweep(run, tmp_path)


def test_it_is_told_where_the_vectors_no_longer_give_the_score(run: Run, tmp_path: Path) -> None:
    class Heard(Progress):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warned(self, message: str) -> None:
            self.warnings.append(message)

    path = run.output_dir / "tasks/GQA.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "hit_at_1": result["hit_at_1"] / 2}))
    heard = Heard()
    make_sweep(
        read_run(run.output_dir),
        build_registry(),
        cache_dir=tmp_path / "cache",
        dims=[None],
        precisions=["fp32", "fp16"],
        progress=heard,
    )
    assert len(heard.warnings) == 1
    assert heard.warnings[0].startswith("GQA scores ")


# -- what cannot be done ------------------------------------------------------------------------


def test_vectors_that_are_gone(run: Run, tmp_path: Path) -> None:
    shards = list((tmp_path / "cache/vectors").glob("*/*.arrow"))
    assert shards
    for shard in shards:
        shard.unlink()
    with pytest.raises(UsageError, match=r"vectors of OK-VQA are not in the cache .*--cache-dir"):
        sweep(run, tmp_path)
    assert not (run.output_dir / "sweep.json").exists()


def test_data_that_is_gone_or_has_changed(
    run: Run, tmp_path: Path, make_task_folder: MakeFolder
) -> None:
    make_task_folder("GQA", queries=30, candidates=6)
    with pytest.raises(UsageError, match=r"data of GQA is not what .* was scored on"):
        sweep(run, tmp_path)
    shutil.rmtree(tmp_path / "data/GQA")
    with pytest.raises(DataMissing, match="GQA"):
        sweep(run, tmp_path)


@pytest.mark.parametrize("dimension", [FULL + 1, 0, -3])
def test_dimensions_that_there_are_not(run: Run, tmp_path: Path, dimension: int) -> None:
    with pytest.raises(UsageError, match=f"have {FULL} dimensions: {dimension} cannot be had"):
        sweep(run, tmp_path, [4, dimension])


def test_a_run_without_a_table_of_its_items(run: Run, tmp_path: Path) -> None:
    (run.output_dir / "tasks/GQA.items.parquet").unlink()
    with pytest.raises(UsageError, match="does not say which vectors GQA is made of"):
        sweep(run, tmp_path)


def test_a_limited_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limited to 3 queries a task"):
        sweep(evaluate(Kept(), data, tmp_path / "limited", limit=3), tmp_path)


def test_an_imported_run_and_one_that_failed(run: Run, data: Path, tmp_path: Path) -> None:
    imported = run.record.model_copy(update={"imported": "mmeb-v1, scores"})
    with pytest.raises(UsageError, match="was imported: it has scores and no vectors"):
        sweep(Run(record=imported, tasks=run.tasks, output_dir=run.output_dir), tmp_path)

    with pytest.raises(UsageError, match="no scored task"):
        sweep(Run(record=run.record, tasks={}, output_dir=run.output_dir), tmp_path)


def test_a_failed_task_leaves_its_averages_out(run: Run, tmp_path: Path) -> None:
    path = run.output_dir / "tasks/GQA.json"
    told = {"status": "failed", "error": "no", "score": None, "hit_at_1": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    (point,) = sweep(read_run(run.output_dir), tmp_path).points
    assert set(point.tasks) == {"OK-VQA"}
    assert point.overall is None
    assert point.ood is None
    assert point.ind == point.tasks["OK-VQA"]
    assert set(point.intervals) == {"ind"}


# -- the command --------------------------------------------------------------------------------


def test_report_makes_the_sweep_and_shows_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", str(run.output_dir), "--dims", "8, full", "--precision", "fp32,BINARY"]
    assert _run(arguments) == 0
    printed = capsys.readouterr()
    made = read_sweep(run.output_dir, run.record.encoder)
    assert made is not None
    assert [(p.precision, p.dimension) for p in made.points] == [
        (precision, dimension) for precision in ("fp32", "binary") for dimension in (8, FULL)
    ]
    table = printed.out.partition("MB/1e6")[2].splitlines()
    shown = [line.split() for line in table if "." in line]
    assert [row[0] for row in shown] == ["fp32", "full", "binary", "full"]
    overall = [f"{100 * (point.overall or 0):.1f}" for point in made.points]
    assert [line for line, score in zip(map(" ".join, shown), overall) if score not in line] == []
    assert "OK-VQA at 4 settings" in printed.err
    assert _run(arguments) == 0
    again = capsys.readouterr()
    assert again.out == printed.out
    assert "settings" not in again.err, "there is nothing left to compute"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--dims", "8,many"], "--dims: 'many' is neither a number of dimensions nor full"),
        (["--dims", "0"], "--dims: '0' is neither"),
        (["--dims", "-4"], "--dims: '-4' is neither"),
        (["--dims", "²"], "--dims: '²' is neither"),
        (["--dims", ","], "--dims is empty"),
        (["--precision", "int4"], "unknown precision 'int4'; did you mean 'int8'?"),
        (["--precision", ""], "--precision is empty"),
        (["--dims", "99"], "have 24 dimensions: 99 cannot be had"),
    ],
)
def test_settings_that_are_none(
    run: Run, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["report", str(run.output_dir), *options]) == 2
    assert told in capsys.readouterr().err


def test_words_become_settings() -> None:
    assert parse_dims("64, 128,FULL") == [64, 128, None]
    assert parse_precisions("fp16,binary") == ["fp16", "binary"]
