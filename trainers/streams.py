"""Endless orders of rows, and random numbers that can be had for any step at once.

Both are counted, not carried on: the fifth permutation of a stream, and the numbers of the fifth
step, depend on nothing that came before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Stream:
    """The rows from `first` on, permuted again and again: `seed_of` gives each epoch its seed."""

    def __init__(self, first: int, size: int, seed_of: Callable[[int], int]) -> None:
        self.first, self.size = first, size
        self.position = 0
        self._seed_of = seed_of
        self._epoch = -1
        self._order: Rows = np.zeros(0, dtype=np.int64)

    def ahead(self, most: int) -> Rows:
        """Return the next rows, as far as this permutation goes, without passing them."""
        epoch, place = divmod(self.position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        return self._order[place : place + most]

    def take(self, count: int) -> Rows:
        """Return the next rows and pass them."""
        parts = [np.zeros(0, dtype=np.int64)]
        while count:
            parts.append(self.ahead(count))
            self.position += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> Rows:
        import torch

        generator = torch.Generator().manual_seed(self._seed_of(epoch))
        order: Rows = torch.randperm(self.size, generator=generator).numpy()
        return order + self.first


def derived_seed(*parts: object) -> int:
    """Return 64 bits that other parts would not give."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def random_numbers(seed: int, step: int, steps: int, each: int) -> NDArray[np.float64]:
    """Return `each` numbers in [0, 1) for each of some steps, (steps, each).

    They are made from a bit generator's raw stream, which numpy keeps the same in all versions.
    """
    blocks = -(-each // 4)  # Philox counts in blocks of four
    bits = np.random.Philox(key=seed, counter=step * blocks).random_raw(steps * blocks * 4)
    numbers: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers.reshape(steps, blocks * 4)[:, :each]
