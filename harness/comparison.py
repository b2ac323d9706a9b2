"""Two runs set against each other, query by query: what differs, and whether it is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmeb_harness.result import Run
from mmeb_harness.summary import Interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of B taken from that of A, as fractions, with its 95 % interval.

    `key` is a task, or `overall`, `ind`, `ood`, a meta-task. `p_value` is two-sided; `corrected`
    is that of a task after correction for all tasks compared (Holm), None for an average.
    """

    key: str
    a: float
    b: float
    difference: float
    interval: Interval
    p_value: float
    corrected: float | None
    queries: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A against B: `tasks` in the suite's order, `averages` over the sets that both have whole.

    `left_out` says of each other task why it could not be compared.
    """

    a: Run
    b: Run
    tasks: Sequence[Difference]
    averages: Sequence[Difference]
    left_out: Mapping[str, str] = field(default_factory=dict)


def compare(a: Run, b: Run) -> Comparison:
    """Compare two runs of one suite, paired by query. Raises UsageError where they cannot be."""
    raise NotImplementedError
