"""Small run folders written by hand, so that tests of reports know what must be shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmeb_harness.item import Item
from mmeb_harness.result import Run, RunRecord, TaskName, TaskResult
from mmeb_harness.rows import TaskItems, TaskRows, clusters_of, write_rows
from mmeb_harness.score import TIE_TOLERANCE
from mmeb_harness.summary import wilson
from mmeb_harness.task import MetaTask, Split
from PIL import Image


def draw(path: Path, colour: str, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a picture of two colours."""
    image = Image.new("RGB", size, colour)
    image.putpixel((3, 3), (0, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query, what is right, and the candidates' scores by their place in the items."""

    query: int
    gold: Sequence[int]
    scores: Mapping[int, float]


def ranked(query: int, gold: int, order: Sequence[int]) -> Asked:
    """A query whose candidates are scored 0.9, 0.8, ... in the order given."""
    return Asked(
        query=query,
        gold=[gold],
        scores={item: 0.9 - 0.1 * place for place, item in enumerate(order)},
    )


def items_table(items: Sequence[Item]) -> TaskItems:
    """The items as a run keeps them; an image that is not there has a digest of its name."""

    def digest(image: Any) -> str | None:
        if image is None:
            return None
        path = Path(image)
        content = path.read_bytes() if path.is_file() else str(image).encode()
        return hashlib.sha256(content).hexdigest()

    return TaskItems(
        keys=[number.to_bytes(16, "big") for number in range(len(items))],
        texts=[item.text for item in items],
        instructions=[item.instruction for item in items],
        images=[None if item.image is None else str(item.image) for item in items],
        image_digests=[digest(item.image) for item in items],
    )


def rows_table(asked: Sequence[Asked], top: int = 10) -> TaskRows:
    """The outcomes of queries whose scores are known."""
    better, tied, tied_gold, tops = [], [], [], []
    for one in asked:
        best = max(one.scores[item] for item in one.gold)
        level = [item for item in one.scores if abs(one.scores[item] - best) <= TIE_TOLERANCE]
        better.append(sum(score > best + TIE_TOLERANCE for score in one.scores.values()))
        tied.append(len(level))
        tied_gold.append(len(set(level) & set(one.gold)))
        tops.append(sorted(one.scores, key=lambda item: -one.scores[item])[:top])
    hits = [0.0 if b else g / t for b, t, g in zip(better, tied, tied_gold, strict=True)]
    return TaskRows(
        better=np.array(better, dtype=np.int32),
        tied=np.array(tied, dtype=np.int32),
        tied_gold=np.array(tied_gold, dtype=np.int32),
        hit_at_1=np.array(hits),
        top_candidates=[np.arange(len(row), dtype=np.int32) for row in tops],
        top_scores=[
            np.array([one.scores[item] for item in row], dtype=np.float32)
            for one, row in zip(asked, tops, strict=True)
        ],
        query_items=np.array([one.query for one in asked], dtype=np.int32),
        gold_items=[np.array(one.gold, dtype=np.int32) for one in asked],
        top_items=[np.array(row, dtype=np.int32) for row in tops],
        clusters=np.arange(len(asked), dtype=np.int32),
    )


def write_run(
    folder: Path,
    model: str,
    tasks: Mapping[str, tuple[Sequence[Item], Sequence[Asked]]],
    *,
    suite: str = "toy",
    digest: str = "the same data",
    kinds: Mapping[str, tuple[MetaTask, Split]] | None = None,
    **record: Any,
) -> Run:
    """Write a run's folder as a run leaves it, and return the run.

    A task is of meta-task vqa and split ind unless `kinds` says otherwise; `kinds` may name more
    tasks of the suite than there are results.
    """
    of_task = {**dict.fromkeys(tasks, ("vqa", "ind")), **(kinds or {})}
    names = tuple(TaskName(name=name, meta_task=m, split=s) for name, (m, s) in of_task.items())
    made = RunRecord(
        model=model,
        encoder=f"encoder of {model}",
        suite=suite,
        suite_tasks=names,
        tasks=tuple(tasks),
        scoring="expected",
        similarity="cosine",
        batch_tokens=1024,
        workers=0,
        started="2026-11-22T10:00:00+00:00",
        finished="2026-11-22T10:01:00+00:00",
        **record,
    )
    results = {}
    for name, (items, asked) in tasks.items():
        rows = rows_table(asked)
        (folder / "tasks").mkdir(parents=True, exist_ok=True)
        write_rows(folder, name, rows, items_table(items))
        results[name] = _result(made, names, name, rows, digest, asked)
        path = folder / "tasks" / f"{name}.json"
        path.write_text(results[name].model_dump_json(), encoding="utf-8")
    (folder / "run.json").write_text(made.model_dump_json(), encoding="utf-8")
    return Run(record=made, tasks=results, output_dir=folder)


def _result(
    record: RunRecord,
    names: Sequence[TaskName],
    name: str,
    rows: TaskRows,
    digest: str,
    asked: Sequence[Asked],
) -> TaskResult:
    (task,) = (one for one in names if one.name == name)
    score = float(rows.hit_at_1.mean())
    sizes = [len(one.scores) for one in asked]
    return TaskResult(
        name=name,
        suite=record.suite,
        meta_task=task.meta_task,
        split=task.split,
        metric="hit_at_1",
        status="ok",
        score=score,
        hit_at_1=score,
        ci=tuple(wilson(score, len(rows))),
        chance=1 / sizes[0],
        ties=0.0,
        n_queries=len(rows),
        n_candidates=(min(sizes), max(sizes)),
        n_items=len(set().union(*(one.scores for one in asked))) + 1,
        clusters=clusters_of(rows),
        encoder=record.encoder,
        scoring=record.scoring,
        similarity=record.similarity,
        data_digest=digest,
    )
