"""Ranges of rows, each in a thread of its own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from mmeb_harness.environment import cores
from mmeb_harness.rowwise import FEW_ROWS, over_rows


@pytest.mark.parametrize("rows", [0, 1, FEW_ROWS, 2 * FEW_ROWS - 1, 2 * FEW_ROWS, 5001])
@pytest.mark.parametrize("threads", ["1", "2", "3", "7,2", "", "nonsense", "0"])
def test_each_row_comes_once(monkeypatch: pytest.MonkeyPatch, rows: int, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    met = np.zeros(rows, dtype=int)

    def meet(part: slice) -> None:
        met[part] += 1

    over_rows(rows, meet)
    assert (met == 1).all()


def test_there_are_as_many_threads_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    together = threading.Barrier(3)  # passed only by three at once
    over_rows(3 * FEW_ROWS, lambda _: together.wait(timeout=60) and None)


def test_few_rows_stay_in_their_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    names = []
    over_rows(2 * FEW_ROWS - 1, lambda _: names.append(threading.current_thread()))
    assert names == [threading.current_thread()]


def test_what_fails_in_a_thread_fails_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def fail(part: slice) -> None:
        if part.start:
            raise ValueError("the second half")

    with pytest.raises(ValueError, match="the second half"):
        over_rows(2 * FEW_ROWS, fail)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a core cannot be taken away here")
def test_cores_are_those_that_a_scheduler_left() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)
