"""Everything of an evaluation but the model: 36 tasks, 1,000 queries each, all vectors stored.

    python benchmarks/bookkeeping.py [--tasks all] [--queries 1000] [--dim 3584]

Both sides begin with the same Parquet rows on disk and end with a score for each task, and check
that they agree. OURS is a whole run by `Job`: rows to distinct items, wording, image digests, keys,
every stored vector found and its checksum compared, plan, scores with ties, the ten best candidates
and an interval for each task, tables and results written and synced. Its index of image digests is
warm, as in any run but the first; the first one's time is told apart. PLAIN is what the original
does and no worse, under the options of its published commands: for each subset the rows read three
times (for the queries, for the candidates, for the scores), the sets of the distinct (text, image)
pairs of either side, both sides' vectors unpickled into a dict by pair, and for each query the
vectors of its candidates stacked, their cosines with it (lengths computed anew), the first maximum.
It reads no image, checks no vector, and writes nothing; rows come by pyarrow, which is quicker than
the original's library. LEAN (`--lean`) reads the rows once and trusts vectors to be of unit length:
a bare dot product a query. The vectors are random and of unit length, the same on both
sides; both read files that the page cache holds: all are read once before each turn. Threads are
numpy's own choice for all sides, every core; one with OMP_NUM_THREADS=1. Disk: 32 KB a distinct
item, 5 GB at full size.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from anonymous_memory import anonymous_bytes, peak_memory
from made_tasks import is_shared, write_tasks
from measuring import Took, described, heading, ratio, say, table, turned
from mmeb_harness.api import Request, prepare_job
from mmeb_harness.card import Card
from mmeb_harness.encoder import PlannedEncoder, Vectors
from mmeb_harness.item import Item, Rendered
from mmeb_harness.progress import Progress
from mmeb_harness.prompt import worded
from mmeb_harness.result import Run, TaskResult
from mmeb_harness.rows import read_items
from mmeb_harness.run import Job
from mmeb_harness.store import VectorStore
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.tasks.table import dataset_facts, mmeb_tasks

CARD = Card(name="drawn", factory="", image_token="<|image_pad|>")
FEW = 100
"""Candidates up to which a task has few."""

Times = dict[str, Took]


class Drawn(PlannedEncoder):
    """Words items as Qwen2-VL's card does; its vectors are drawn, of unit length."""

    prepares = False

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._generator = np.random.default_rng(0)

    def render(self, item: Item) -> Rendered:
        return Rendered(text=worded(item, CARD), image=item.image)

    def size(self, rendered: Rendered) -> int:
        return 8

    def prepare(self, rendered: Sequence[Rendered]) -> int:
        return len(rendered)

    def forward(self, batch: int) -> Vectors:
        shape = (batch, self.dimension)
        vectors = self._generator.standard_normal(shape, dtype=np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def fingerprint(self) -> str:
        return f"drawn {self.dimension}"


# -- our side --------------------------------------------------------------------------------------


class Clock(Progress):
    """Notes when a run is done with each part of each task."""

    def __init__(self) -> None:
        self.tasks: Times = {}
        self._name = ""
        self._since = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _spent_on(self, task: str) -> None:
        now, known = self._now(), self.tasks.get(task, Took(wall=0, cpu=0))
        wall, cpu = (one - other for one, other in zip(now, self._since, strict=True))
        self.tasks[task] = Took(wall=known.wall + wall, cpu=known.cpu + cpu)
        self._since = now

    def begun(self) -> None:
        """What comes now is the next task's."""
        self._since = self._now()

    def gathering(self, task: str, items: int) -> None:
        self._name = task

    def gathered(self, items: int) -> None:
        self._spent_on(self._name)

    def planned(self, items: int, tokens: int, reused: int) -> None:
        self.begun()

    def scored(self, result: TaskResult) -> None:
        self._spent_on(result.name)


@dataclass(frozen=True, kw_only=True)
class ClockedTask(Task):
    """A task that says when it is loaded."""

    clock: Clock = field(default_factory=Clock)

    def load(self, location: DataLocation) -> Any:
        self.clock.begun()
        return super().load(location)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the data, the vectors and the results lie, and what is asked of them."""

    folder: Path
    tasks: Sequence[str]
    dimension: int

    def job(self, output: str, clock: Clock) -> Job:
        """Return a run of our side."""
        request = Request(
            model=Drawn(self.dimension),
            suite="mmeb",
            tasks=self.tasks,
            data_dir=self.folder / "data",
            image_dir=self.folder / "data" / "images",
            cache_dir=self.folder / "cache",
            output_dir=self.folder / output,
            workers=0,
        )
        job = prepare_job(request, progress=clock)
        tasks = [ClockedTask(**vars(task), clock=clock) for task in job.settings.tasks]
        job.settings = replace(job.settings, tasks=tasks)
        return job

    def warm(self) -> None:
        """Read the vectors, the pickles and the rows once, so that the page cache holds them."""
        for pattern in ("cache/vectors/*/*", "pickles/*", "data/*/*.parquet"):
            for path in self.folder.glob(pattern):
                with path.open("rb") as file:
                    while file.read(1 << 24):
                        pass

    def store(self) -> VectorStore:
        """Return the vectors."""
        (folder,) = (self.folder / "cache" / "vectors").iterdir()
        return VectorStore(folder)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a side found and how long it took: each task, and all of it."""

    scores: dict[str, float]
    tasks: Times
    whole: Took


@contextmanager
def stopwatch() -> Iterator[Callable[[], Took]]:
    """Give a function that tells how long it has been."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield lambda: Took(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def ours(place: Place, output: str) -> Done:
    """Run our side."""
    with stopwatch() as so_far:
        clock = Clock()
        run = place.job(output, clock).run()
        whole = so_far()
    return Done(scores=scores_of(run), tasks=clock.tasks, whole=whole)


def scores_of(run: Run) -> dict[str, float]:
    """Return the scores; whatever failed is an error here."""
    faults = [result.error for result in run.tasks.values() if result.score is None]
    if faults:
        raise SystemExit(f"a task failed: {faults[0]}")
    return {name: result.score for name, result in run.tasks.items() if result.score is not None}


# -- the plain side --------------------------------------------------------------------------------


def pickle_vectors(place: Place, first_run: Path) -> None:
    """Write for each subset and side what the original leaves: the matrix, and the pairs."""
    store, root = place.store(), place.folder / "data" / "images"
    for name in place.tasks:
        items = read_items(first_run, name)
        if items is None:
            raise SystemExit(f"{name} left no items")
        store.find(items.keys)
        vectors = store.get(items.keys)
        pairs = [
            {"text": text or "", "img_path": "" if path is None else os.path.relpath(path, root)}
            for text, path in zip(items.texts, items.images, strict=True)
        ]
        rows = pq.read_table(place.folder / "data" / name, columns=["qry_text", "qry_img_path"])
        count = len({*zip(*(rows[column].to_pylist() for column in rows.column_names))})
        for side, chosen in (("qry", slice(count)), ("tgt", slice(count, None))):
            path = place.folder / "pickles" / f"{name}_{side}"
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                pickle.dump((vectors[chosen].copy(), pairs[chosen]), file, protocol=4)


def plain(place: Place, *, lean: bool = False) -> Done:
    """Run the plain side."""
    scores, tasks = {}, {}
    with stopwatch() as so_far:
        for name in place.tasks:
            with stopwatch() as so_far_here:
                scores[name] = plain_task(place, name, lean=lean)
                tasks[name] = so_far_here()
        whole = so_far()
    return Done(scores=scores, tasks=tasks, whole=whole)


def plain_task(place: Place, name: str, *, lean: bool) -> float:
    """Score one subset: sets of pairs, a dict of vectors, a product a query."""
    rows = rows_of(place, name)
    asked = {(row["qry_text"], row["qry_img_path"]) for row in rows}
    rows = rows if lean else rows_of(place, name)
    answers: set[tuple[str, str]] = set()
    for row in rows:
        for pair in zip(row["tgt_text"], row["tgt_img_path"], strict=True):
            answers.add(pair)
    queries, candidates = unpickled(place, name, "qry"), unpickled(place, name, "tgt")
    if queries.keys() != asked or candidates.keys() != answers:
        raise SystemExit(f"{name}: the stored pairs are not those of the rows")
    right = 0
    rows = rows if lean else rows_of(place, name)
    for row in rows:
        query = queries[row["qry_text"], row["qry_img_path"]]
        stacked = np.stack(
            [candidates[pair] for pair in zip(row["tgt_text"], row["tgt_img_path"], strict=True)]
        )
        scores = np.dot(stacked, query)
        if not lean:
            scores = scores / (np.linalg.norm(stacked, axis=1) * np.linalg.norm(query))
        right += int(np.argmax(scores) == 0)
    return right / len(rows)


def rows_of(place: Place, name: str) -> list[dict[str, Any]]:
    """Read a subset's rows."""
    rows: list[dict[str, Any]] = pq.read_table(place.folder / "data" / name).to_pylist()
    return rows


def unpickled(place: Place, name: str, side: str) -> dict[tuple[str, str], Vectors]:
    """Load one side's vectors by pair."""
    with (place.folder / "pickles" / f"{name}_{side}").open("rb") as file:
        vectors, pairs = pickle.load(file)
    return {
        (pair["text"], pair["img_path"]): vector
        for pair, vector in zip(pairs, vectors, strict=True)
    }


# -- memory ----------------------------------------------------------------------------------------


def memory_of_ours(place: Place) -> tuple[int, int]:
    """Run our side in a process of its own; return its anonymous memory at the start and most."""
    command = [sys.executable, __file__, "--watch", str(place.folder), "--dim"]
    command += [str(place.dimension), "--tasks", ",".join(place.tasks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    start, most = done.stdout.split()
    return int(start), int(most)


def watch(place: Place) -> None:
    """Print the anonymous memory of a run of our side: at its start, and at most."""
    start = anonymous_bytes()
    with peak_memory() as most:
        ours(place, "watched")
        print(start, most())


# -- the comparison --------------------------------------------------------------------------------


def kinds(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Return the tasks of each kind: by meta-task, and by where their candidates come from."""
    found: dict[str, list[str]] = {}
    for name in tasks:
        facts = dataset_facts()[name]
        shape = "few candidates" if facts.candidates <= FEW else "candidates shared by all queries"
        shape = shape if is_shared(facts) else "a query's own candidates, of a pool"
        for kind in (facts.meta_task, shape):
            found.setdefault(kind, []).append(name)
    metas = ("classification", "vqa", "retrieval", "grounding")
    order = sorted(found, key=lambda kind: metas.index(kind) if kind in metas else len(metas))
    return {kind: found[kind] for kind in order}


@dataclass(frozen=True, kw_only=True)
class Round:
    """All sides, once."""

    ours: Done
    plain: Done
    lean: Done | None


def cells(rounds: Sequence[Round], spent: Callable[[Done], Took]) -> list[str]:
    """Return the figures of a row of the table: CPU seconds of the sides, and their ratios."""
    own, other = [spent(one.ours) for one in rounds], [spent(one.plain) for one in rounds]
    found = [
        *(_median_cpu(own), _median_cpu(other)),
        ratio([took.cpu for took in other], [took.cpu for took in own]),
        ratio([took.wall for took in other], [took.wall for took in own]),
    ]
    lean = [spent(one.lean) for one in rounds if one.lean is not None]
    if lean:
        found += [_median_cpu(lean), ratio([n.cpu for n in lean], [o.cpu for o in own])]
    return found


def _median_cpu(side: Sequence[Took]) -> str:
    return f"{statistics.median(took.cpu for took in side):.2f}"


def summed(names: Sequence[str], done: Done) -> Took:
    """Add up the times of some tasks."""
    chosen = [done.tasks[name] for name in names]
    return Took(wall=sum(took.wall for took in chosen), cpu=sum(took.cpu for took in chosen))


def compare(place: Place, rounds: int, *, lean: bool) -> list[Round]:
    """Let the sides take turns."""
    sides: dict[str, Callable[[int], Done]] = {
        "ours": lambda number: ours(place, f"run-{number}"),
        "plain": lambda number: plain(place),
    }
    if lean:
        sides["lean"] = lambda number: plain(place, lean=True)
    found = []
    for number in range(rounds):
        done = {}
        for name in turned(list(sides), number):
            place.warm()
            done[name] = sides[name](number)
        for name, score in done["ours"].scores.items():
            for side, one in done.items():
                if abs(score - one.scores[name]) > 1e-9:
                    raise SystemExit(f"{name}: ours {score}, {side} {one.scores[name]}")
        found.append(Round(ours=done["ours"], plain=done["plain"], lean=done.get("lean")))
        say(", ".join(f"{name} {one.whole}" for name, one in done.items()))
    return found


def print_section(place: Place, rounds: Sequence[Round], cold: Took, queries: int) -> None:
    """Print the results."""
    start, most = memory_of_ours(place)
    items = len(place.store())
    print(heading(f"Bookkeeping of {len(place.tasks)} tasks, {queries:,} queries each", "cpu"))
    print(
        f"{items:,} distinct items, {place.dimension:,} numbers a vector; {len(rounds)} rounds, "
        "sides in turn; medians, ratios round by round with the smallest and largest. Both sides "
        "found the same scores.\n"
    )
    head = ["tasks", "number", "ours, CPU s", "plain, CPU s", "plain / ours, CPU", "by the clock"]
    if rounds[0].lean is not None:
        head += ["lean, CPU s", "lean / ours, CPU"]
    rows: list[list[object]] = []
    for kind, names in kinds(place.tasks).items():
        rows.append([kind, len(names), *cells(rounds, partial(summed, names))])
    rows.append(["**the whole run**", len(place.tasks), *cells(rounds, lambda done: done.whole)])
    print(table(head, rows))
    warm = statistics.median(one.ours.whole.cpu for one in rounds)
    print(
        f"\nOurs with no image digest known, all files in the page cache: {cold} (warm {warm:.2f} "
        f"s). Anonymous memory of our side at most {most / 1e6:,.0f} MB, "
        f"{start / 1e6:,.0f} MB of it when the run starts."
    )


def chosen_tasks(wanted: str) -> list[str]:
    """Return the names of the tasks to run."""
    names = [task.name for task in mmeb_tasks()]
    return names if wanted == "all" else [name for name in names if name in wanted.split(",")]


def parsed() -> argparse.Namespace:
    parser = described(__doc__)
    parser.add_argument("--tasks", default="all", help="names, comma-separated")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=3584)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lean", action="store_true", help="a third side")
    parser.add_argument("--folder", type=Path, help="kept, and used again; else a temporary one")
    parser.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Make the data, let the sides take turns, print a section for RESULTS.md."""
    asked = parsed()
    names = chosen_tasks(asked.tasks)
    if asked.watch:
        watch(Place(folder=asked.watch, tasks=names, dimension=asked.dim))
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(folder=asked.folder or Path(temporary), tasks=names, dimension=asked.dim)
        made(place, asked.queries)
        rounds = compare(place, asked.rounds, lean=asked.lean)
        (place.folder / "cache" / "files.sqlite").unlink()
        cold = ours(place, "cold").whole
        print_section(place, rounds, cold, asked.queries)


def made(place: Place, queries: int) -> None:
    """Make rows, images and vectors, unless they are there."""
    if not (place.folder / "data").exists():
        say(f"{write_tasks(place.folder / 'data', place.tasks, queries):,} images")
    if not (place.folder / "pickles").exists():
        done = ours(place, "first")
        say(f"{len(place.store()):,} vectors: {done.whole}")
        pickle_vectors(place, place.folder / "first")


if __name__ == "__main__":
    main()
