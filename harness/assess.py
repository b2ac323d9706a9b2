"""From outcomes to a task's result: the score, its interval, and what should make one wary."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmeb_harness.encoder import Vectors
from mmeb_harness.result import TaskResult
from mmeb_harness.score import ROWS_IN_CACHE, Outcomes, chance, normalised
from mmeb_harness.statistics import task_interval
from mmeb_harness.task import Task
from mmeb_harness.taskdata import TaskData

COLLAPSED = 0.9999
"""Mean cosine to their centre above which vectors count as one."""

MANY_TIES = 0.01
"""Share of queries with a tied rival above which ties are worth a warning."""

NOTE_WARNINGS = {
    "unknown_instruction": "{} rows with an instruction that is not in the table",
    "stray_placeholder": "{} rows with a placeholder and no image (see stray_placeholder)",
}


def assess(
    task: Task, data: TaskData, outcomes: Outcomes, vectors: Vectors, facts: dict[str, Any]
) -> TaskResult:
    """Make the result of a scored task; `facts` are its other fields, `clusters` among them."""
    count = len(outcomes.hit_at_1)
    score = float(outcomes.hit_at_1.mean())
    expected = chance(data.candidates, data.gold)
    ties = float((outcomes.tied > outcomes.tied_gold).mean())
    interval = task_interval(facts["clusters"])
    lengths = data.candidates.lengths
    warnings = [
        NOTE_WARNINGS[note].format(number)
        for note, number in data.notes.items()
        if number and note in NOTE_WARNINGS
    ]
    if _collapsed(vectors):
        warnings.append("the vectors have collapsed: they are all but equal")
    if interval.low <= expected <= interval.high:
        warnings.append(f"at chance ({expected:.3%})")
    if ties > MANY_TIES:
        warnings.append(f"{ties:.1%} of the queries have a rival tied with their gold")
    return TaskResult(
        **_identity(task),
        **facts,
        status="ok",
        score=score,
        hit_at_1=score,
        ci=(interval.low, interval.high),
        chance=expected,
        ties=ties,
        n_queries=count,
        n_candidates=(int(lengths.min()), int(lengths.max())),
        n_items=len(data.items),
        data_digest=data.digest,
        notes=dict(data.notes),
        warnings=tuple(warnings),
    )


def failed(task: Task, why: str, facts: dict[str, Any]) -> TaskResult:
    """Make the result of a task that could not be scored."""
    return TaskResult(**_identity(task), **facts, status="failed", error=why)


def _identity(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "suite": task.suite,
        "meta_task": task.meta_task,
        "split": task.split,
        "metric": task.metric,
    }


def _collapsed(vectors: Vectors) -> bool:
    """Tell whether the mean of the unit vectors is all but one of them; a few that differ settle
    it, since the others can add no more than their number."""
    count, seen = len(vectors), 0
    total = np.zeros(vectors.shape[1:], dtype=np.float64)
    for start in range(0, count, ROWS_IN_CACHE):
        block = normalised(vectors[start : start + ROWS_IN_CACHE])
        total += block.sum(axis=0, dtype=np.float64)
        seen += len(block)
        if float(np.linalg.norm(total)) + count - seen <= COLLAPSED * count:
            return False
    return count > 2
