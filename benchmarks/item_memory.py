"""Does the main process grow while it encodes? Many small items, an encoder that costs nothing.

    python benchmarks/item_memory.py [--items 200000] [--dim 64]

One task whose items are short texts, all distinct, run by `Job` as any other; nothing is stored
before. What is read is resident memory that no file backs (RssAnon: the store's own files are
mapped). Gathering keeps each item with its wording and key, and planning its size: that grows with
the items and is told in bytes an item. From then on memory should stay where it is, however many
batches are done; vectors go to disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from anonymous_memory import anonymous_bytes
from measuring import described, heading, say, table
from mmeb_harness.api import Request, prepare_job
from mmeb_harness.encoder import PlannedEncoder, Vectors
from mmeb_harness.item import Item, Rendered
from mmeb_harness.progress import Progress
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.taskdata import Ragged, TaskData
from numpy.typing import NDArray

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
QUERIES = 64


class Cheap(PlannedEncoder):
    """Vectors of a few numbers made of a text's hash."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def render(self, item: Item) -> Rendered:
        return Rendered(text=item.text)

    def size(self, rendered: Rendered) -> int:
        return 1 + len(rendered.text or "") // 4

    def prepare(self, rendered: Sequence[Rendered]) -> NDArray[np.float32]:
        return np.array([hash(one.text) % 8191 for one in rendered], dtype=np.float32)

    def forward(self, batch: NDArray[np.float32]) -> Vectors:
        vectors: Vectors = np.cos(batch[:, None] * np.arange(1, self.dimension + 1))
        return vectors

    def fingerprint(self) -> str:
        return f"cheap {self.dimension}"


def load(task: Task, location: DataLocation) -> TaskData:
    """Make the task's items: a few queries, which share all others as candidates."""
    count = task.facts["items"]
    items = [Item(text=f"a short text about thing {number}") for number in range(count)]
    starts = np.zeros(QUERIES, dtype=np.int64)
    pool = np.arange(QUERIES, count, dtype=np.int32)
    gold = Ragged(values=pool, starts=starts, stops=starts + 1)
    return TaskData(
        items=items,
        queries=np.arange(QUERIES, dtype=np.int32),
        candidates=replace(gold, stops=starts + len(pool)),
        gold=gold,
    )


class Gauge(Progress):
    """Reads the memory when the items are loaded, gathered, and as they are encoded."""

    def __init__(self, items: int) -> None:
        self.items, self.done = items, 0
        self.loaded = 0
        self.encoding: dict[float, int] = {}

    def gathering(self, task: str, items: int) -> None:
        self.loaded = anonymous_bytes()

    def loading(self, model: str) -> None:
        self.encoding[0.0] = anonymous_bytes()

    def encoded(self, items: int, tokens: int) -> None:
        self.done += items
        share = next((one for one in SHARES if one not in self.encoding), None)
        if share is not None and self.done >= share * self.items:
            self.encoding[share] = anonymous_bytes()
            say(f"{share:.0%}: {self.encoding[share] / 1e6:.1f} MB")


def measured(folder: Path, items: int, dimension: int) -> tuple[int, Gauge]:
    """Run the job; return the memory before it and what the gauge read."""
    gauge = Gauge(items)
    request = Request(
        model=Cheap(dimension), suite="mini", output_dir=folder, cache_dir=folder, workers=0
    )
    job = prepare_job(request, progress=gauge)
    task = Task(
        name="texts",
        suite="texts",
        meta_task="retrieval",
        split="ood",
        loader="item_memory:load",
        facts={"items": items},
    )
    job.settings = replace(job.settings, tasks=[task], suite_tasks=[task], batch_tokens=2048)
    before = anonymous_bytes()
    job.run()
    return before, gauge


def main() -> None:
    """Run it and print a section for RESULTS.md."""
    parser = described(__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, gauge = measured(Path(folder), asked.items, asked.dim)
    gathered = gauge.encoding[0.0]
    print(heading(f"Memory of the main process: {asked.items:,} small items", "cpu"))
    rows = [
        (f"{share:.0%}", f"{seen / 1e6:.1f}", f"{(seen - gathered) / 1e6:+.1f}")
        for share, seen in gauge.encoding.items()
    ]
    print(table(["encoded", "anonymous memory, MB", "since encoding began, MB"], rows))
    loaded, kept = gauge.loaded - before, gathered - gauge.loaded
    print(
        f"\nBefore the task {before / 1e6:.1f} MB. Its items as they are loaded take "
        f"{loaded / asked.items:.0f} bytes each, gathering and planning keep another "
        f"{kept / asked.items:.0f} bytes an item; while encoding, "
        f"{(gauge.encoding[1.0] - gathered) / asked.items:+.1f} bytes an item."
    )


if __name__ == "__main__":
    main()
