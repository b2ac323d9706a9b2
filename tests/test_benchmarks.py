"""Every benchmark runs, and its sides do the same work. How long that takes is no test."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHARED = {
    "anonymous_memory",
    "device_limit",
    "eval_mix",
    "made_tasks",
    "measuring",
    "mixed_pairs",
    "plain_loop",
    "random_qwen",
}


def printed(name: str, *arguments: str, model: str | None = "tiny") -> str:
    """Return what a benchmark prints, at its smallest."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py")]
    command += [*(() if model is None else ("--model", model)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(section: str) -> list[list[str]]:
    """Return the cells of its table, without the head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.thorough
def test_all_sides_of_a_step_find_the_same_loss_and_gradients() -> None:
    section = printed(
        "training_step", "--batch", "8", "--steps", "1", "--dropout", "0", "--chunk-tokens", "150"
    )
    by_name = {cells[0]: cells for cells in rows(section)}
    assert list(by_name)[:3] == ["ours", "bound", "plain"]
    assert len(by_name) == 3 + 2 * 3
    ours = by_name["ours"]
    for name, cells in by_name.items():
        if name not in ("bound", "plain"):
            assert float(cells[-2]) == pytest.approx(float(ours[-2]), rel=1e-4)
            assert float(cells[-1]) == pytest.approx(float(ours[-1]), rel=1e-3)
    assert "Ours / bound" in section
    assert "python benchmarks/training_step.py --model tiny --batch 8" in section


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak")
def test_memory_is_told_for_every_batch_size() -> None:
    cells = rows(printed("training_memory", "--batches", "2", "8"))
    assert [row[0] for row in cells] == ["2", "8"]
    for _, items, chunks, peak, inputs, features, vectors, left in cells:
        assert int(items) > 2
        assert int(chunks) >= 1
        known = int(inputs) + int(features) + int(vectors)
        assert int(peak) == pytest.approx(known + int(left), abs=2)
    assert int(cells[1][4]) > 2 * int(cells[0][4])  # pixels grow with the batch


@pytest.mark.thorough
def test_a_page_of_models_is_made_and_timed() -> None:
    command = [sys.executable, str(BENCHMARKS / "report_size.py"), "--models", "2", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["1 models", "2 models"]
    assert lines[2].startswith("ratio ")
    assert lines[3].startswith("sort: ")


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_bookkeeping_finds_the_plain_scores_for_every_kind_of_task() -> None:
    section = printed(
        "bookkeeping",
        *("--tasks", "HatefulMemes,ImageNet-R,ChartQA,CIRR,RefCOCO-Matching"),
        *("--queries", "5", "--dim", "8", "--rounds", "2", "--lean"),
        model=None,
    )
    kinds = {cells[0]: int(cells[1]) for cells in rows(section)}
    assert kinds == {
        "classification": 2,
        "vqa": 1,
        "retrieval": 1,
        "grounding": 1,
        "few candidates": 1,
        "candidates shared by all queries": 1,
        "a query's own candidates, of a pool": 3,
        "**the whole run**": 5,
    }
    assert "found the same scores" in section
    assert "Anonymous memory of our side at most" in section


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_memory_is_read_from_the_first_item_to_the_last() -> None:
    cells = rows(printed("item_memory", "--items", "3000", "--dim", "4", model=None))
    assert [row[0] for row in cells] == ["0%", "10%", "25%", "50%", "75%", "100%"]


def tables(section: str) -> list[list[list[str]]]:
    """Return the rows of each of its tables, without the heads."""
    parts = [part for part in section.split("\n\n") if part.startswith("|")]
    return [rows(part) for part in parts]


def number(cell: str) -> int:
    """Return a cell's first number."""
    return int(cell.split(maxsplit=1)[0].replace(",", ""))


@pytest.mark.thorough
def test_our_engine_does_no_more_than_the_plain_loop_and_finds_its_vectors() -> None:
    section = printed("encoding", "--queries", "1", "--rounds", "1", "--budgets", "256")
    times, work, apart, limit = tables(section)
    names = ["mix", "texts", "images"]
    sides = ["plain", "ours", "ours, 256 tokens"]
    assert [row[0] for row in times] == [f"{name}, {side}" for name in names for side in sides]
    assert [row[0] for row in work] == [row[0] for row in limit] == names
    for _, given, per_side, once, pictures, plain, ours in work:
        assert number(given) >= number(per_side) >= number(once) >= number(pictures)
        assert number(plain) >= number(ours)
    mix, texts, images = work
    assert number(mix[2]) > number(mix[3])  # ImageNet's labels
    assert texts[2] == texts[3]
    assert texts[4] == "0"
    assert images[2] == images[3] == images[4]
    assert [row[0] for row in apart[-2:]] == ["vision tower", "store"]


@pytest.mark.thorough
def test_the_arithmetic_is_what_torch_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch
    from mmeb_harness.item import Item
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.syspath_prepend(BENCHMARKS)
    from device_limit import Arithmetic
    from mixed_pairs import Pictures
    from random_qwen import make_encoder

    encoder = make_encoder("tiny", tmp_path, device="cpu", dtype="float32", resolution="low")
    pictures = Pictures(0)
    images = [pictures.next(), pictures.next()]
    items = [Item(text="<|image_1|>\nw1 w2", image=images[place]) for place in (0, 1, 0)]
    batch = encoder.prepare([encoder.render(item) for item in items])
    arithmetic = Arithmetic.of(encoder)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder.forward(batch)
    linear = replace(arithmetic, decoder_attention=0, tower_attention=0).operations(batch)
    counts = counter.get_flop_counts()["Global"]
    convolution = counts.get(torch.ops.aten.convolution, 0)
    products = counts[torch.ops.aten.mm] + counts[torch.ops.aten.addmm]
    assert convolution + products == linear
    length, patches, pairs = 27, 100, 27 * 28 / 2
    decoder, tower = 3 * 4 * (2 * 64) * pairs, 2 * 4 * (2 * 32) * patches**2
    assert batch.mask_BL.sum() == 3 * length
    assert arithmetic.operations(batch) - linear == decoder + tower


@pytest.mark.thorough
def test_pictures_are_prepared_at_every_resolution() -> None:
    arguments = ("--pictures", "2", "--rounds", "1", "--items-per-second", "1000000")
    cells = rows(printed("picture_rate", *arguments, model=None))
    assert [row[0] for row in cells] == ["low", "mid", "high"]
    assert [int(row[1]) for row in cells] == [28, 579, 2307]
    assert all(int(row[-1].split()[-1]) > 1 for row in cells)


@pytest.mark.thorough
def test_commands_are_timed_to_their_end_and_a_run_to_its_first_batch() -> None:
    section = printed("startup", "--rounds", "1", "--tasks", "ImageNet-1K", model=None)
    names = [row[0] for row in rows(section)]
    assert names[:2] == ["torch, transformers", "mmeb-harness --help"]
    assert len(names) == 5


@pytest.mark.thorough
def test_a_little_more_costs_a_little_more() -> None:
    section = printed("growth", "--queries", "2", "--rounds", "1", "--actors", "1")
    cells = rows(section.partition("| actors")[0])
    encoded = {row[0]: int(row[1].replace(",", "")) for row in cells}
    assert encoded["a second model"] == encoded["the first run"] > 150
    assert encoded["the same again"] == 0
    assert encoded["another instruction (GQA)"] == 2
    assert 2 <= encoded["one more dataset (Visual7W-Pointing)"] < 20
    assert [row[0] for row in rows("| actors" + section.partition("| actors")[2])] == ["1"]


def test_every_benchmark_has_its_place_in_the_overview() -> None:
    overview = (BENCHMARKS / "README.md").read_text()
    results = (BENCHMARKS / "RESULTS.md").read_text()
    for path in BENCHMARKS.glob("*.py"):
        assert f"`{path.name}`" in overview
        assert path.stem in SHARED or f"python benchmarks/{path.name}" in results, path.name
