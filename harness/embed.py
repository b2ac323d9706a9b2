"""Vectors for a list of items, through the same plan, engine and store as a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmeb_harness.encode import encode_missing
from mmeb_harness.encoder import Vectors
from mmeb_harness.engines.engine import EngineSettings, open_engine
from mmeb_harness.errors import ItemError
from mmeb_harness.files import FileIndex
from mmeb_harness.gather import Work, gather_items, name_faults
from mmeb_harness.item import Item
from mmeb_harness.plan import Plan, make_plan, new_plan_name
from mmeb_harness.progress import Progress
from mmeb_harness.run import batch_budget
from mmeb_harness.store import VectorStore, describe_namespace
from mmeb_harness.subject import Subject


def embed_items(
    subject: Subject,
    items: Sequence[Item],
    *,
    index: FileIndex,
    cache_dir: Path,
    batch_tokens: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Vectors:
    """Return (n, dim) float32 vectors, a row an item, in order; stored ones are not recomputed.

    Raises:
        ItemError: naming the first unusable item and counting the others; the vectors of the
            usable ones are stored.
    """
    progress = progress or Progress()
    for message in subject.warnings:
        progress.warned(message)
    with TemporaryDirectory() as own:
        store = VectorStore(subject.vector_folder(cache_dir, Path(own)), run="embed")
        if subject.kept:
            describe_namespace(store.folder, {"model": subject.name, **subject.overrides})
        work = Work()
        progress.gathering("items", len(items))
        gathered = gather_items(items, subject.encoder, index, store, work, progress.gathered)
        keys, faults = gathered.keys, gathered.faults
        plan = _plan(subject, work, batch_budget(subject, batch_tokens))
        progress.planned(len(plan.keys), plan.tokens, len(work.stored))
        batches = len(list(plan.rows_by_batch()))
        engine = open_engine(EngineSettings(workers=workers), subject.encoder, batches)
        for step in encode_missing(plan, work, store, engine):
            progress.encoded(len(step.keys), step.tokens)
        faults |= {place: work.faults[key] for place, key in enumerate(keys) if key in work.faults}
        if faults:
            raise ItemError(name_faults(items, dict(sorted(faults.items()))))
        return store.get(keys) if keys else np.zeros((0, 0), dtype=np.float32)


def _plan(subject: Subject, work: Work, budget: int) -> Plan:
    sizes = work.measure(subject.encoder)
    return make_plan(
        list(work.missing),
        sizes,
        budget=budget,
        identity="",
        name=new_plan_name(),
        pictures=work.pictures(),
        pads=subject.encoder.pads,
    )
