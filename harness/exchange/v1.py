"""The form of MMEB's first scripts: a file `DATASET_score.json` for each dataset.

Its keys are acc (a fraction), num_correct and num_pred. Source: TIGER-AI-Lab/VLM2Vec, eval.py of
the branch v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmeb_harness.errors import UsageError
from mmeb_harness.exchange.forms import SUITE, Told, count, fraction, quoted
from mmeb_harness.result import TaskResult

AGREES = 1e-6
"""How far acc may be from num_correct / num_pred."""


def score_of(result: TaskResult) -> dict[str, Any]:
    """Return what a scored task's file holds; num_correct is a fraction where queries tied."""
    if result.hit_at_1 is None:
        raise ValueError(f"{result.name} has no score")
    score: dict[str, Any] = {"acc": result.hit_at_1}
    if result.n_queries:
        correct = result.hit_at_1 * result.n_queries
        whole = round(correct)
        score["num_correct"] = whole if abs(correct - whole) < AGREES else correct
        score["num_pred"] = result.n_queries
    return score if result.suite == SUITE else {**score, "suite": result.suite}


def read_score(content: Mapping[str, Any], where: str) -> Told:
    """Read one file. Raises UsageError naming what is wrong with it."""
    score = fraction(content["acc"], f"{where}: acc")
    if content.get("num_pred") is None:
        return Told(score=score)
    queries = count(content["num_pred"], f"{where}: num_pred")
    correct = content.get("num_correct", score * queries)
    if isinstance(correct, bool) or not isinstance(correct, int | float):
        raise UsageError(f"{where}: num_correct is {quoted(correct)}, not a number")
    if not (0 <= correct <= queries and abs(correct / queries - score) <= AGREES):
        raise UsageError(
            f"{where}: acc is {score:g}, but num_correct / num_pred is "
            f"{quoted(correct)} / {queries}"
        )
    return Told(score=score, queries=queries)
