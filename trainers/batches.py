"""Which pairs meet in which step: a pure function of the pairs' numbers, the settings and the seed.

The one idea: a batch is made of runs, each of so many next rows of one endless stream; which
streams those are is drawn by step number. No worker, process or clock has a say, and the order can
be entered at any step: at once, or with `distinct_positives` by going through the steps before
without reading a pair.

Shapes: P pairs of a batch, R runs of a batch, B batches, S streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from operator import add

import numpy as np
from mmeb_harness.errors import UsageError
from mmeb_harness.pairs import positive_codes
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.config import BatchSection
from mmeb_harness.trainers.distinct import DistinctBatches, draw
from mmeb_harness.trainers.streams import Rows, Stream, derived_seed, random_numbers

_BLOCK = 1024
"""Batches whose streams are drawn together."""


class BatchOrder:
    """The order in which pairs are trained on; see `batch` of the configuration.

    `mixed` without weights is one permutation of all pairs an epoch, seeded with `seed + epoch`:
    the order of VLM2Vec's trainer. Otherwise each subset has permutations of its own, and for each
    run of a batch a subset is drawn by weight (None: its number of pairs), or taken in turn.

    Raises:
        UsageError: where a batch asks for more pairs, or more distinct ones, than there are.
    """

    def __init__(self, subsets: Sequence[Subset], section: BatchSection, seed: int) -> None:
        self.section, self.seed = section, seed
        weighted = any(subset.weight is not None for subset in subsets)
        if weighted and section.composition == "round_robin":
            raise UsageError(
                "data.weights have no say in batch.composition=round_robin, which takes the "
                "subsets in turn: leave them out, or choose homogeneous"
            )
        sizes = [len(subset.pairs) for subset in subsets]
        self._starts_S = np.cumsum([0, *sizes])[:-1]
        drawn = [at for at, size in enumerate(sizes) if size and subsets[at].weight != 0]
        self.pairs_in_epoch = sum(sizes[at] for at in drawn)
        self._as_one = section.composition == "mixed" and not weighted
        if self._as_one:
            self._spans = [(0, self.pairs_in_epoch)]
            self._names = ["the data"]
            self._weights_S = np.ones(1)
        else:
            self._spans = [(int(self._starts_S[at]), sizes[at]) for at in drawn]
            self._names = [f"subset {subsets[at].name}" for at in drawn]
            given = [subsets[at].weight for at in drawn]
            self._weights_S = np.array(
                [sizes[at] if one is None else one for at, one in zip(drawn, given, strict=True)],
                dtype=np.float64,
            )
        self._lengths_R = _run_lengths(section, self._as_one)
        self._codes: Rows | None = None
        if section.distinct_positives and drawn:
            self._codes = np.concatenate(positive_codes([subset.pairs for subset in subsets]))
        self._check_sizes()

    def batches(self, start: int = 0) -> Iterator[Sequence[tuple[int, int]]]:
        """Yield without end, from batch number `start` on, the (subset, row) of each pair."""
        filled = self._plain(start) if self._codes is None else self._distinct(self._codes, start)
        for rows_P in filled:
            subsets_P = np.searchsorted(self._starts_S, rows_P, side="right") - 1
            inner_P = rows_P - self._starts_S[subsets_P]
            yield list(zip(subsets_P.tolist(), inner_P.tolist(), strict=True))

    def _plain(self, start: int) -> Iterator[Rows]:
        """Yield batches of the streams' next rows, the streams set to where they are at `start`."""
        streams = self._streams()
        for stream, passed in zip(streams, self._passed_before(start), strict=True):
            stream.position = int(passed)
        for streams_R in self._drawn(start):
            streams_P = np.repeat(streams_R, self._lengths_R)
            rows_P = np.empty_like(streams_P)
            for number in np.unique(streams_R):
                places = np.flatnonzero(streams_P == number)
                rows_P[places] = streams[number].take(len(places))
            yield rows_P

    def _distinct(self, codes: Rows, start: int) -> Iterator[Rows]:
        """Yield batches without equal positives, those before `start` filled but not shown."""
        batches = DistinctBatches(
            self._streams(), self._lengths_R, codes, self._weights_S, self.seed
        )
        for number, streams_R in enumerate(self._drawn(0)):
            rows_P = batches.fill(streams_R, number)
            if number >= start:
                yield rows_P

    def _streams(self) -> list[Stream]:
        if self._as_one:
            return [Stream(*self._spans[0], partial(add, self.seed))]
        return [
            Stream(*span, partial(derived_seed, self.seed, "rows", at))
            for at, span in enumerate(self._spans)
        ]

    # -- which streams the runs are of -------------------------------------------------------------

    def _drawn(self, start: int) -> Iterator[Rows]:
        """Yield without end the stream of each run, (R,), from batch number `start` on."""
        for first in count(start, _BLOCK):
            yield from self._drawn_block(first, _BLOCK)

    def _drawn_block(self, first: int, batches: int) -> Rows:
        """Return the stream of each run of some batches, (B, R)."""
        runs = len(self._lengths_R)
        if self.section.composition == "round_robin":
            numbers = np.arange(first * runs, (first + batches) * runs)
            return (numbers % len(self._spans)).reshape(batches, runs)
        if len(self._spans) == 1:
            return np.zeros((batches, runs), dtype=np.int64)
        seed = derived_seed(self.seed, "streams")
        return draw(self._weights_S, random_numbers(seed, first, batches, runs))

    def _passed_before(self, start: int) -> Rows:
        """Return how many rows of each stream come before batch number `start`, (S,)."""
        passed_S = np.zeros(len(self._spans), dtype=np.int64)
        for first in range(0, start, _BLOCK):
            block_BR = self._drawn_block(first, min(_BLOCK, start - first))
            lengths_BR = np.broadcast_to(self._lengths_R, block_BR.shape)
            np.add.at(passed_S, block_BR.ravel(), lengths_BR.ravel())
        return passed_S

    # -- what cannot be filled ---------------------------------------------------------------------

    def _check_sizes(self) -> None:
        """Find batches that can never be filled."""
        what, having_S, total = "pairs", [size for _, size in self._spans], self.pairs_in_epoch
        if self._codes is not None:
            codes = [self._codes[first : first + size] for first, size in self._spans]
            what, having_S = "distinct positives", [len(np.unique(one)) for one in codes]
            total = len(np.unique(np.concatenate(codes)))
        if not total:
            raise UsageError("there are no pairs to train on")
        size = self.section.size
        if size > total:
            raise UsageError(
                f"batch.size {size} is more than the {total} {what} there are: give {total} at most"
            )
        for name, having, needed in zip(self._names, having_S, self._needed(), strict=True):
            if needed > having:
                raise UsageError(
                    f"{name} has {having} {what}, and a batch takes {needed} of it: give a smaller "
                    "batch.size or batch.sub_batch, or leave the subset out"
                )
        full = size // int(self._lengths_R[0])
        if self._codes is not None and full > sum(
            having // int(self._lengths_R[0]) for having in having_S
        ):
            raise UsageError(
                f"the subsets' {what} do not make {full} runs of {self._lengths_R[0]}: give a "
                "smaller batch.size or batch.sub_batch"
            )

    def _needed(self) -> list[int]:
        """Return how many pairs of each stream a batch may be certain to take at once, (S,)."""
        if self.section.composition != "round_robin":
            return [int(self._lengths_R[0])] * len(self._spans)
        needed_S = np.zeros(len(self._spans), dtype=np.int64)
        for streams_R in self._drawn_block(0, len(self._spans)):  # after those it repeats
            taken_S = np.bincount(streams_R, self._lengths_R, len(self._spans)).astype(np.int64)
            needed_S = np.maximum(needed_S, taken_S)
        return needed_S.tolist()


def _run_lengths(section: BatchSection, as_one: bool) -> Rows:
    """Return how many pairs each run of a batch has, (R,)."""
    length = section.sub_batch or section.size
    if section.composition == "mixed":
        length = section.size if as_one else 1
    full, rest = divmod(section.size, length)
    return np.array([length] * full + [rest] * bool(rest), dtype=np.int64)
