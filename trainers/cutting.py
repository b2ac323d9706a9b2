"""Items into chunks, so that as little as possible of what the model computes is padding.

The one idea: a chunk costs its tokens with their padding, and a little for being a chunk at all;
over items in the order of their size the cheapest cuts are found exactly (dynamic programming).
Full chunks alone would be dear where a batch is no more than a few of them: short items would be
padded to the longest.
"""

from __future__ import annotations

import numpy as np
from mmeb_harness.plan import MAX_BATCH_ITEMS
from numpy.typing import NDArray

SHARE = 16
"""A chunk more is worth it where it saves as much padding as a full chunk's tokens by this."""


def cut_chunks(sizes: NDArray[np.int32], budget: int) -> list[NDArray[np.int64]]:
    """Cut items into chunks of neighbours in size, smallest first, padded tokens within the budget.

    Returns the indices of each chunk. A single item may exceed the budget alone.
    """
    order = np.argsort(sizes, kind="stable")
    costs = np.zeros(len(order) + 1)  # of the first so many items, at best
    starts = np.zeros(len(order) + 1, dtype=np.int64)  # of the last chunk of those
    for stop in range(1, len(order) + 1):
        longest = max(1, int(sizes[order[stop - 1]]))
        most = min(stop, MAX_BATCH_ITEMS, max(1, budget // longest))
        padded = longest * np.arange(most, 0, -1)
        whole = costs[stop - most : stop] + padded + budget / SHARE
        costs[stop] = whole.min()
        starts[stop] = stop - most + whole.argmin()
    chunks, stop = [], len(order)
    while stop:
        chunks.append(order[starts[stop] : stop])
        stop = int(starts[stop])
    return chunks[::-1]
