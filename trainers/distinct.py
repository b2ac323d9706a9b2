"""Batches in which no two pairs have equal positives, and nothing is lost for it.

The one idea: a pair that would meet its equal waits in the queue of its positive, and queues are
served before new rows are read. A pair that still waits when its next permutation comes is not
queued again, so that queues hold each pair once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count

import numpy as np
from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.streams import Rows, Stream, derived_seed, random_numbers
from numpy.typing import NDArray


class DistinctStream:
    """A stream from which rows are taken that fit: whose positive is not in the batch yet.

    `codes` numbers the positives of all rows; `last` holds, by that number, the last batch that a
    positive was in, and is shared by all streams. (Lists: row by row they are faster than arrays.)
    """

    def __init__(self, stream: Stream, codes: Rows, last: list[int]) -> None:
        self.stream, self.last = stream, last
        self.codes = codes[stream.first : stream.first + stream.size]
        self.distinct: list[int] = np.unique(self.codes).tolist()
        self._waits = bytearray(stream.size)
        self._queues: dict[int, deque[int]] = {}

    def room(self, batch: int) -> int:
        """Return how many more rows fit into a batch."""
        last = self.last
        return sum(last[code] != batch for code in self.distinct)

    def take(self, count: int, batch: int) -> list[int]:
        """Return rows that fit, the longest waiting first; there must be room for them."""
        taken = self._served(count, batch)
        while len(taken) < count:
            taken += self._read(count - len(taken), batch)
        return taken

    def _served(self, count: int, batch: int) -> list[int]:
        """Take from the queues, one of each; a positive with more moves to the end of the line."""
        taken: list[int] = []
        for code in list(self._queues):
            if len(taken) == count:
                break
            if self.last[code] == batch:
                continue
            self.last[code] = batch
            queue = self._queues.pop(code)
            row = queue.popleft()
            if queue:
                self._queues[code] = queue
            self._waits[row - self.stream.first] = False
            taken.append(row)
        return taken

    def _read(self, count: int, batch: int) -> list[int]:
        """Read on for at most `count` rows that fit; those passed over go to their queues."""
        taken: list[int] = []
        ahead = self.stream.ahead(2 * count)
        codes = self.codes[ahead - self.stream.first].tolist()
        for row, code in zip(ahead.tolist(), codes, strict=True):
            self.stream.position += 1
            if self._waits[row - self.stream.first]:
                continue
            if self.last[code] == batch:
                self._queues.setdefault(code, deque()).append(row)
                self._waits[row - self.stream.first] = True
                continue
            self.last[code] = batch
            taken.append(row)
            if len(taken) == count:
                break
        return taken


class DistinctBatches:
    """Fills batches, each from runs of rows of one stream, with distinct positives.

    Where a run's stream has too few left that fit, another stream is drawn for it by `weights`.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        lengths_R: Rows,
        codes: Rows,
        weights: NDArray[np.float64],
        seed: int,
    ) -> None:
        last = [-1] * (int(codes.max()) + 1)
        self.streams = [DistinctStream(stream, codes, last) for stream in streams]
        self.lengths_R = lengths_R
        self.runs_P = np.repeat(np.arange(len(lengths_R)), lengths_R)
        self.weights = weights
        self.seed = derived_seed(seed, "another stream")

    def fill(self, streams_R: Rows, batch: int) -> Rows:
        """Return the rows of a batch, (P,). Raises UsageError where none fit."""
        rows_P = np.full(len(self.runs_P), -1, dtype=np.int64)
        left = np.arange(len(streams_R))
        for turn in count():
            unfilled = []
            for number in np.unique(streams_R[left]).tolist():
                runs = left[streams_R[left] == number]
                fits = self._fits(self.streams[number], runs, batch)
                self._put(rows_P, runs[fits], number, batch)
                unfilled += runs[~fits].tolist()
            if not unfilled:
                return rows_P
            left = np.array(sorted(unfilled))
            streams_R = streams_R.copy()
            streams_R[left] = self._others(left, batch, turn)
        raise AssertionError("unreachable")

    def _fits(self, stream: DistinctStream, runs: Rows, batch: int) -> NDArray[np.bool_]:
        """Tell which of these runs the stream can fill, the first ones first."""
        if len(stream.distinct) >= len(self.runs_P):  # more than the whole batch can take up
            return np.ones(len(runs), dtype=bool)
        fits: NDArray[np.bool_] = np.cumsum(self.lengths_R[runs]) <= stream.room(batch)
        return fits

    def _put(self, rows_P: Rows, runs: Rows, number: int, batch: int) -> None:
        filled_R = np.zeros(len(self.lengths_R), dtype=bool)
        filled_R[runs] = True
        places = np.flatnonzero(filled_R[self.runs_P])
        rows_P[places] = self.streams[number].take(len(places), batch)

    def _others(self, runs: Rows, batch: int, turn: int) -> Rows:
        """Draw other streams for runs, of those that can fill the longest of them."""
        longest = int(self.lengths_R[runs].max())
        ample = [len(stream.distinct) >= len(self.runs_P) for stream in self.streams]
        having = np.array(
            [
                enough or stream.room(batch) >= longest
                for enough, stream in zip(ample, self.streams, strict=True)
            ]
        )
        if not having.any():
            raise UsageError(
                f"batch {batch} cannot be filled with distinct positives: no subset has {longest} "
                "left that are not in it; give a smaller batch.size or batch.sub_batch, or set "
                "batch.distinct_positives=false"
            )
        seed = derived_seed(self.seed, batch, turn)
        return draw(self.weights * having, random_numbers(seed, 0, 1, len(runs))[0])


def draw(weights: NDArray[np.float64], numbers: NDArray[np.float64]) -> Rows:
    """Return a place in `weights` for each of the numbers, which lie in [0, 1)."""
    ends = np.cumsum(weights)
    places = np.searchsorted(ends, numbers * ends[-1], side="right").astype(np.int64)
    most = np.flatnonzero(weights)[-1]
    drawn: Rows = np.minimum(places, most)
    return drawn
