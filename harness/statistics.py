"""How sure a number is: resampling of queries, clustered by the image that they show.

Pure functions of arrays. To be read with `summary`, which holds the averages themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmeb_harness.summary import Cluster, Interval


def average_interval(tasks: Sequence[Sequence[Cluster]]) -> Interval:
    """Return the 95 % interval of the plain mean over tasks of their hit@1."""
    raise NotImplementedError
