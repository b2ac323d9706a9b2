"""Every benchmark runs, and its sides do the same work. How long that takes is no test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHARED = {"measuring", "mixed_pairs", "random_qwen"}


def printed(name: str, *arguments: str) -> str:
    """Return what a benchmark prints, at its smallest."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--model", "tiny", *arguments]
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


def test_every_benchmark_has_its_place_in_the_overview() -> None:
    overview = (BENCHMARKS / "README.md").read_text()
    results = (BENCHMARKS / "RESULTS.md").read_text()
    for path in BENCHMARKS.glob("*.py"):
        assert f"`{path.name}`" in overview
        assert path.stem in SHARED or f"python benchmarks/{path.name}" in results, path.name
