"""Work on the rows of large arrays by all cores.

The one idea: numpy's loops use one core and let go of the interpreter's lock meanwhile, so that
threads, each with a range of rows, share the memory's whole bandwidth.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from mmeb_harness.environment import cores

FEW_ROWS = 512
"""Rows that are not worth a thread of their own."""


def over_rows(rows: int, work: Callable[[slice], None]) -> None:
    """Call `work` with ranges that make up so many rows, each in a thread of its own.

    As many as cores that this process may use, or as `OMP_NUM_THREADS`, which the libraries that
    multiply matrices heed.
    """
    threads = min(_threads(), rows // FEW_ROWS)
    if threads < 2:
        work(slice(0, rows))
        return
    edges = [rows * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, slice(*edge)) for edge in pairwise(edges)]:
            done.result()


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list by depth of nesting
    return int(asked) if asked.isdecimal() and int(asked) else cores()
