"""A run killed at any moment goes on where it was, and ends bit-identical to one left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.thorough

# Its vectors depend on their neighbours in the batch, as those of a real model do in their last
# bits, so that other batches would show. Every batch becomes a shard: more moments to die in.
SLOW = """
import hashlib, time

import mmeb_harness as mh
import numpy as np
from mmeb_harness import store

store.SHARD_SECONDS = store.SHARD_SHARE = 0.0

@mh.hookimpl
def register_encoders(register):
    register(mh.Card(name="slow", factory="slow_plugin:Slow"))

class Slow(mh.PlannedEncoder):
    def render(self, item):
        return mh.Rendered(text=item.text, image=item.image)

    def size(self, rendered):
        return len(rendered.text)

    def prepare(self, rendered):
        return [one.text for one in rendered]

    def forward(self, batch):
        time.sleep(0.01)
        seeds = [hashlib.sha256(repr((batch, text)).encode()).digest() for text in batch]
        return np.stack([np.random.default_rng(list(seed)).random(8) for seed in seeds])

    def fingerprint(self):
        return "slow 1"
"""

TASKS = "OK-VQA,A-OKVQA"
Start = Callable[[str], "subprocess.Popen[str]"]
Stored = Callable[[Path], dict[bytes, bytes]]


@pytest.fixture
def start(
    tmp_path: Path, make_task_folder: Callable[..., Path], install_plugin: Callable[..., Path]
) -> Start:
    """Return `(name) -> process`: a run into folder `name` with a cache of its own."""
    site = install_plugin("slow-plugin", SLOW)
    for task in TASKS.split(","):
        data = make_task_folder(task, queries=90, candidates=4)

    def run(name: str) -> subprocess.Popen[str]:
        arguments = ["run", "-m", "slow", "-t", TASKS, "--data-dir", data, "-o", tmp_path / name]
        cache = ["--cache-dir", tmp_path / f"{name} cache", "--batch-tokens", "400", "--json"]
        return subprocess.Popen(
            [sys.executable, "-m", "mmeb_harness", *map(str, [*arguments, *cache])],
            env={**os.environ, "PYTHONPATH": str(site)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # where pytest was started in the background, interrupts are ignored by inheritance
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return run


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    result: dict[str, Any] = json.loads(output)
    return result


def shards(cache: Path) -> set[Path]:
    return set(cache.rglob("[0-9]*.arrow"))


def wait_for_shards(process: subprocess.Popen[str], cache: Path, wanted: int) -> None:
    """Wait until so many more batches are stored, or the process has ended."""
    before = len(shards(cache))
    while process.poll() is None and len(shards(cache)) < before + wanted:
        time.sleep(0.002)


def test_a_run_killed_again_and_again_ends_bit_identical_and_computes_no_batch_twice(
    tmp_path: Path, start: Start, stored_vectors: Stored
) -> None:
    expected = finish(start("whole"))
    draw, killed = random.Random(20), 0
    for _ in range(5):
        process = start("killed")
        wait_for_shards(process, tmp_path / "killed cache", draw.choice([1, 1, 2, 5]))
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 4, "the runs ended before they could be killed"
    before = len(stored_vectors(tmp_path / "killed cache"))
    result = finish(start("killed"))

    whole = stored_vectors(tmp_path / "whole cache")
    assert stored_vectors(tmp_path / "killed cache") == whole
    assert 0 < before < len(whole), "nothing was left to go on with"
    record = json.loads((tmp_path / "killed/run.json").read_text())
    assert record["computed"] == len(whole) - before
    assert sum(record["reused"].values()) == before
    assert result["tasks"] == expected["tasks"]


def test_a_run_killed_before_its_first_batch_starts_over(
    tmp_path: Path, start: Start, stored_vectors: Stored
) -> None:
    expected = finish(start("whole"))
    draw = random.Random(5)
    for _ in range(3):
        process = start("killed")
        time.sleep(0.3 + draw.random() * 0.6)  # importing, reading, planning
        process.kill()
        process.communicate()
    assert finish(start("killed"))["tasks"] == expected["tasks"]
    assert stored_vectors(tmp_path / "killed cache") == stored_vectors(tmp_path / "whole cache")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_a_run_that_is_told_to_stop_says_so_keeps_its_state_and_goes_on(
    tmp_path: Path, start: Start, stored_vectors: Stored, number: signal.Signals
) -> None:
    process = start("stopped")
    wait_for_shards(process, tmp_path / "stopped cache", 3)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "kept" in errors
    assert "kept" in json.loads(output)["error"]
    kept = len(stored_vectors(tmp_path / "stopped cache"))
    assert kept > 0
    assert json.loads((tmp_path / "stopped/run.json").read_text())["finished"] is None
    finish(start("stopped"))
    record = json.loads((tmp_path / "stopped/run.json").read_text())
    assert sum(record["reused"].values()) == kept
    assert record["finished"] is not None
