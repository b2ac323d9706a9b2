"""What a little more costs: a second model, one more task, one changed instruction, more actors.

    OMP_NUM_THREADS=1 python benchmarks/growth.py

The first run encodes all datasets of `eval_mix.py` but one. What is then asked for in addition is
done twice, in turn: with the vectors that the first run stored, as ours does, and from nothing, as
whoever keeps none must. A second model shares nothing with the first; it shows that nothing else
grows. With Ray at hand, the first run is done by 1, 2 and 4 actors as well, on a machine whose
cores they share: their start is in the time, since a user waits for it, and beside it.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import measuring
from eval_mix import Subset, distinct, draw_workload
from measuring import Took, described, say, timed
from mmeb_harness.encode import encode_missing
from mmeb_harness.engines.batch import Encoded
from mmeb_harness.engines.engine import Batches, Engine, EngineSettings, open_engine
from mmeb_harness.files import FileIndex
from mmeb_harness.gather import Work, gather_items
from mmeb_harness.item import Item
from mmeb_harness.plan import make_plan, new_plan_name
from mmeb_harness.run import CPU_BATCH_TOKENS, DEVICE_BATCH_TOKENS
from mmeb_harness.store import VectorStore
from random_qwen import SIZES, RandomQwen, make_encoder, shape_of

Make = Callable[[RandomQwen, int], Engine]

CHANGED = "GQA"
"""The dataset whose instruction is changed."""


def local(encoder: RandomQwen, batches: int) -> Engine:
    """Return the engine that is used where nothing is said."""
    return open_engine(EngineSettings(), encoder, batches)


def bring(encoder: RandomQwen, subsets: Sequence[Subset], folder: Path, make: Make = local) -> int:
    """Bring the vectors of all items into a store, those that are missing; return their number."""
    index = FileIndex(folder / "index")
    store, work = VectorStore(folder / "vectors"), Work()
    for subset in subsets:
        items = distinct(item for side in subset.sides for item in side)
        gather_items(items, encoder, index, store, work)
    sizes = work.measure(encoder)
    budget = CPU_BATCH_TOKENS if encoder.device == "cpu" else DEVICE_BATCH_TOKENS
    plan = make_plan(
        list(work.missing),
        sizes,
        budget=budget,
        identity="",
        name=new_plan_name(),
        pictures=work.pictures(),
    )
    if plan.keys:
        engine = make(encoder, int(plan.batches.max()) + 1)
        for _ in encode_missing(plan, work, store, engine):
            pass
    assert not work.faults, next(iter(work.faults.values()))
    return len(plan.keys)


def reworded(subset: Subset) -> Subset:
    """Return a dataset whose queries have another instruction."""

    def other(item: Item) -> Item:
        text = item.text or ""
        return replace(item, text=text.replace("Represent", "Please represent", 1))

    queries = [other(item) for item in subset.queries]
    assert queries != list(subset.queries), f"{subset.name} has no such instruction"
    return replace(subset, queries=queries)


class Growth:
    """A first run, and what is asked for after it."""

    def __init__(self, encoder: RandomQwen, subsets: list[Subset], folder: Path) -> None:
        self.encoder, self.folder = encoder, folder
        self.first = subsets[:-1]
        changed = [reworded(one) if one.name == CHANGED else one for one in self.first]
        self.asked = {
            "the same again": self.first,
            f"one more dataset ({subsets[-1].name})": subsets,
            f"another instruction ({CHANGED})": changed,
        }

    def run(self) -> tuple[int, Took]:
        """Do the first run; its vectors stay."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return timed(lambda: bring(self.encoder, self.first, self.folder), self.encoder.device)

    def more(self, name: str) -> tuple[int, Took]:
        """Do what is asked for in addition, on a copy of what the first run left."""
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            work = partial(bring, self.encoder, self.asked[name], Path(copy))
            return timed(work, self.encoder.device)

    def anew(self, name: str) -> tuple[int, Took]:
        """Do it from nothing."""
        with tempfile.TemporaryDirectory() as empty:
            work = partial(bring, self.encoder, self.asked[name], Path(empty))
            return timed(work, self.encoder.device)


class Noting(Engine):
    """An engine that notes when batches come back."""

    name = "ray"

    def __init__(self, engine: Engine, came: list[float]) -> None:
        self._engine, self._came = engine, came

    def run(self, batches: Batches) -> Generator[tuple[int, Encoded], None, None]:
        """Run them as the engine does."""
        for done in self._engine.run(batches):
            self._came.append(perf_counter())
            yield done


def with_actors(encoder: RandomQwen, subsets: Sequence[Subset], actors: int) -> tuple[float, float]:
    """Return the seconds of a run by so many actors, and those from its first vectors on."""
    came: list[float] = []

    def make(given: RandomQwen, batches: int) -> Engine:
        return Noting(open_engine(EngineSettings(actors=actors), given, batches), came)

    with tempfile.TemporaryDirectory() as empty:
        started = perf_counter()
        bring(encoder, subsets, Path(empty), make)
        ended = perf_counter()
    return ended - started, ended - came[0]


def main() -> None:
    """Print the section."""
    parser = described(__doc__)
    parser.add_argument("--model", choices=sorted(SIZES), default="10m")
    parser.add_argument("--queries", type=int, default=8, help="of each dataset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--resolution", default="low")
    parser.add_argument(
        "--photos", type=Path, help="a folder of JPEG files, in place of drawn ones"
    )
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        encoders = [
            make_encoder(
                given.model,
                place / f"model-{number}",
                device=given.device,
                dtype=given.dtype,
                resolution=given.resolution,
            )
            for number in range(2)
        ]
        subsets = draw_workload("mix", given.queries, place / "images", photos=given.photos)
        print(measuring.heading(f"What a little more costs: {given.model}", given.device))
        for encoder in encoders:
            _ = encoder.module  # loaded before anything is timed
        model = shape_of(encoders[0]).rpartition(";")[0] + ")"  # nothing is under training
        print(f"{model}; {len(subsets)} datasets, {given.queries} queries each.\n")
        first = Growth(encoders[0], subsets, place / "first")
        second = Growth(encoders[1], subsets, place / "second")
        _print_growth(first, second, given.rounds)
        _print_actors(encoders[0], subsets, given.actors, given.rounds)


def _print_growth(first: Growth, second: Growth, rounds: int) -> None:
    whole: list[tuple[int, Took]] = []
    other: list[tuple[int, Took]] = []
    more: dict[str, list[tuple[int, Took]]] = {name: [] for name in first.asked}
    anew: dict[str, list[tuple[int, Took]]] = {name: [] for name in first.asked}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        whole.append(first.run())
        other.append(second.run())
        for name in measuring.turned(list(first.asked), number):
            more[name].append(first.more(name))
            anew[name].append(first.anew(name))
    rows = [("the first run", *_told(whole), ""), ("a second model", *_told(other), "")]
    for name in first.asked:
        ratio = measuring.ratio(
            [took.cpu for _, took in anew[name]], [took.cpu for _, took in more[name]]
        )
        rows.append((name, *_told(more[name]), ratio))
    head = ("asked for", "encoded", "s by the clock", "CPU s", "from nothing / ours, CPU")
    print(measuring.table(head, rows), end="\n\n")


def _told(runs: Sequence[tuple[int, Took]]) -> tuple[str, str, str]:
    walls, cpus = ([getattr(took, name) for _, took in runs] for name in ("wall", "cpu"))
    return f"{runs[0][0]:,}", f"{statistics.median(walls):.2f}", f"{statistics.median(cpus):.2f}"


def _print_actors(
    encoder: RandomQwen, subsets: Sequence[Subset], actors: Sequence[int], rounds: int
) -> None:
    took: dict[int, list[tuple[float, float]]] = {count: [] for count in actors}
    for number in range(rounds):
        for count in measuring.turned(list(actors), number):
            say(f"{count} actors, round {number + 1} of {rounds}")
            took[count].append(with_actors(encoder, subsets, count))
    if not took:
        return
    alone = [working for _, working in took[actors[0]]]
    rows = [
        (
            str(count),
            f"{statistics.median(whole for whole, _ in runs):.2f}",
            f"{statistics.median(working for _, working in runs):.2f}",
            measuring.ratio(alone, [working for _, working in runs]),
        )
        for count, runs in took.items()
    ]
    head = ("actors", "s in all", "s from the first vectors on", f"{actors[0]} / so many")
    print(measuring.table(head, rows))


if __name__ == "__main__":
    main()
