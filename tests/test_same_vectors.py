"""Where and how batches are run changes no vector beyond rounding, and no score at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from mmeb_harness.plan import read_plan
from mmeb_harness.result import Run
from mmeb_harness.store import VectorStore

pytestmark = pytest.mark.thorough

TASKS = "ImageNet-1K,OK-VQA,CIRR,WebQA,RefCOCO"
"""Texts, pictures and both; long and short; several questions about one picture."""

Variant = Callable[..., tuple[Run, dict[bytes, np.ndarray]]]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """Run mini-vlm in a cache of its own; return the run and its vectors by key."""

    def run(**options: Any) -> tuple[Run, dict[bytes, np.ndarray]]:
        folder: Path = tmp_path_factory.mktemp("variant")
        done = mh.evaluate(
            "mini-vlm",
            suite="mini",
            tasks=TASKS,
            limit=10,
            output_dir=folder / "run",
            cache_dir=folder / "cache",
            device="cpu",
            dtype="float32",
            **options,
        )
        (vectors,) = (folder / "cache/vectors").iterdir()
        plan = read_plan(folder / "run")
        assert plan is not None
        keys = list(plan.keys)
        return done, dict(zip(keys, VectorStore(vectors).get(keys), strict=True))

    return run


@pytest.fixture(scope="module")
def plain(variant: Variant) -> tuple[Run, dict[bytes, np.ndarray]]:
    """One process, a batch for each item."""
    return variant(batch_tokens=1, workers=0, packing="off")


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": 1},
        {"workers": 4, "batch_tokens": 64},
        {"batch_tokens": 100},
        {"batch_tokens": 100_000},
        {"packing": "on"},
        {"packing": "on", "batch_tokens": 100, "workers": 1},
        {"actors": 1, "workers": 0},
        {"actors": 2, "workers": 1, "batch_tokens": 100},
        {"actors": 4, "workers": 0, "packing": "on"},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_vectors_and_scores_are_the_same(
    options: dict[str, Any], variant: Variant, plain: tuple[Run, dict[bytes, np.ndarray]]
) -> None:
    run, vectors = variant(**options)
    expected_run, expected = plain
    assert len(expected) > 100
    assert vectors.keys() == expected.keys()
    apart = max(float(np.abs(vectors[key] - expected[key]).max()) for key in expected)
    assert apart <= 1e-5
    assert {name: result.score for name, result in run.tasks.items()} == {
        name: result.score for name, result in expected_run.tasks.items()
    }
    assert len(run.tasks) == 5
    assert run.record.engine == ("ray" if "actors" in options else "local")
    assert run.record.actors == options.get("actors", 1)
    assert run.record.workers == options.get("workers", 0)
    assert run.record.computed == expected_run.record.computed
    assert run.record.packed is (options.get("packing") == "on")
