"""How fast items become vectors: our engine against the plain loop, and against the device's limit.

    OMP_NUM_THREADS=1 python benchmarks/encoding.py --photos FOLDER

OURS is what a run does from a task's items to stored vectors: each dataset's items worded, their
images digested (no digest is known beforehand), keyed and looked up, what is missing sized,
planned, prepared and run by the local engine, and the vectors written into a store that was empty.
PLAIN is `plain_loop.py`, over the same weights. Both begin with the same items and pictures on
disk; their vectors are compared before anything is timed and again in every round.

mix     MMEB's 36 datasets, `--queries` of each and a pool in proportion (`eval_mix.py`); with fewer
        than 16, the plain loop's batches of queries are smaller than they really are.
texts   what of such datasets, twice as many queries, has no image, nothing twice.
images  what of such datasets, half as many queries, has an image, no picture twice.

The share of the limit is our batches' arithmetic over our time and the best rate at which this
process multiplied matrices in the pauses between rounds (`device_limit.py` has the formula); `plain
/ limit` is the ratio that an engine would have which did that arithmetic at that rate. Where
our time goes is measured in a pass of its own, in one process, with timers around the calls. The
device's idle share is the time between one forward's end and the next one's beginning; gaps within
a forward are not seen by it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import measuring
import numpy as np
from device_limit import Arithmetic, Clock, Forwards, matrix_rate
from eval_mix import Subset, Workload, distinct, draw_workload
from measuring import Took, described, say, timed
from mmeb_harness.encode import encode_missing
from mmeb_harness.encoder import Vectors
from mmeb_harness.engines.local import LocalEngine
from mmeb_harness.files import FileIndex
from mmeb_harness.gather import Work, gather_items
from mmeb_harness.plan import Key, make_plan, new_plan_name
from mmeb_harness.plugins.decoder import DecoderBatch
from mmeb_harness.plugins.qwen_vision import quicken
from mmeb_harness.run import CPU_BATCH_TOKENS, DEVICE_BATCH_TOKENS
from mmeb_harness.store import VectorStore
from plain_loop import PlainLoop
from random_qwen import SIZES, RandomQwen, make_encoder, shape_of

WORKLOADS: dict[Workload, float] = {"mix": 1, "texts": 2, "images": 0.5}
"""Queries of a dataset, in proportion to what was asked for."""

AGREE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""By how much a number of a unit vector may differ between the two sides."""


class Encoder(RandomQwen):
    """The random model with what the family does to a loaded one."""

    def load_base(self) -> Any:
        module = super().load_base()
        if self.attention == "sdpa":
            quicken(module.visual)
        return module


@dataclass(kw_only=True)
class Counted:
    """What went through our model, and what it cost."""

    items: int = 0
    pictures: int = 0
    batches: int = 0
    real: int = 0
    padded: int = 0
    operations: float = 0.0

    def add(self, batch: DecoderBatch, operations: float) -> None:
        """Count a batch."""
        self.items += len(batch.mask_BL)
        self.pictures += 0 if batch.images is None else len(batch.images["grids"])
        self.batches += 1
        self.real += int(batch.mask_BL.sum())
        self.padded += batch.mask_BL.numel()
        self.operations += operations


# -- our side --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where vectors lie after a run, and the keys of each dataset's items."""

    store: VectorStore
    keys: list[list[Key]]


@dataclass(frozen=True, kw_only=True)
class Ours:
    """The way of a run; `workers` None leaves their number to the engine."""

    encoder: Encoder
    budget: int
    workers: int | None = None

    def __call__(self, subsets: Sequence[Subset], clock: Clock | None = None) -> Stored:
        """Bring the vectors of all items into a new store."""
        part = contextlib.nullcontext if clock is None else partial(clock.part, "gather and plan")
        with tempfile.TemporaryDirectory() as place:
            index = FileIndex(Path(place))
            store, work = VectorStore(Path(place) / "vectors"), Work()
            with part():
                keys = [
                    gather_items(all_of(subset), self.encoder, index, store, work).keys
                    for subset in subsets
                ]
                plan = make_plan(
                    list(work.missing),
                    work.measure(self.encoder),
                    budget=self.budget,
                    identity="",
                    name=new_plan_name(),
                    pictures=work.pictures(),
                )
            engine = LocalEngine(self.encoder, self.workers, int(plan.batches.max(initial=0)) + 1)
            for _ in encode_missing(plan, work, store, engine):
                pass
            assert not work.faults, next(iter(work.faults.values()))
            return Stored(store=store, keys=keys)  # its files stay mapped

    @contextlib.contextmanager
    def taken_apart(self, clock: Clock) -> Iterator[Counted]:
        """Put timers around what a run calls, and count what goes through the model."""
        encoder, counted, arithmetic = self.encoder, Counted(), Arithmetic.of(self.encoder)
        forward, names = encoder.forward, {"picture": "decode, resize", "process": "cut patches"}

        def counting(batch: DecoderBatch) -> Any:
            counted.add(batch, arithmetic.operations(batch))
            with clock.part("decoder"):
                return forward(batch)

        with contextlib.ExitStack() as stack:
            names |= {"prepare": "tokens, padding", "see": "vision tower"}
            for method, name in names.items():
                inner = clock.around(name, getattr(encoder, method))
                stack.enter_context(patch.object(encoder, method, inner))
            stack.enter_context(patch.object(encoder, "forward", counting))
            for method in ("add", "flush"):
                inner = clock.around("store", getattr(VectorStore, method))
                stack.enter_context(patch.object(VectorStore, method, inner))
            yield counted


def all_of(subset: Subset) -> list[Any]:
    """Return a dataset's distinct items, as a task has them."""
    return distinct(item for side in subset.sides for item in side)


# -- one workload ----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Measured:
    """A workload, and what both sides took for it."""

    name: Workload
    subsets: list[Subset]
    times: dict[str, list[Took]] = field(default_factory=dict)
    counted: Counted = field(default_factory=Counted)
    plain_real: int = 0
    plain_padded: int = 0
    apart: dict[str, Took] = field(default_factory=dict)
    idle: float = 0.0

    @property
    def given(self) -> int:
        """Items as they are mentioned."""
        return sum(len(side) for subset in self.subsets for side in subset.sides)

    @property
    def per_side(self) -> int:
        """Items of which no two of one side of one dataset are equal."""
        return sum(len(distinct(side)) for subset in self.subsets for side in subset.sides)


class Bench:
    """Both sides over one model, and how fast its device multiplies."""

    def __init__(self, encoder: Encoder, arguments: argparse.Namespace) -> None:
        on_cpu = str(encoder.device).startswith("cpu")
        usual = CPU_BATCH_TOKENS if on_cpu else DEVICE_BATCH_TOKENS
        self.encoder, self.device = encoder, str(encoder.device)
        self.budget = arguments.batch_tokens or usual
        self.ours = Ours(encoder=encoder, budget=self.budget, workers=arguments.workers)
        self.plain = PlainLoop(encoder, LocalEngine(encoder, arguments.workers, 1 << 20).workers)
        self.sides: dict[str, Ours | PlainLoop] = {"plain": self.plain, "ours": self.ours}
        for budget in arguments.budgets:
            self.sides[f"ours, {budget} tokens"] = replace(self.ours, budget=budget)
        self.rates: list[Took] = []

    def rate(self) -> None:
        """Measure the limit once more."""
        self.rates.append(matrix_rate(self.encoder, self.budget))

    @property
    def limit(self) -> Took:
        """The best time of a million million operations."""
        return Took(
            wall=min(one.wall for one in self.rates), cpu=min(one.cpu for one in self.rates)
        )

    def compare(self, subsets: Sequence[Subset], ours: Stored, plain: Sequence[Vectors]) -> float:
        """Return the largest difference between the two sides' vectors, and refuse too large."""
        sides = iter(plain)
        worst = 0.0
        for subset, keys in zip(subsets, ours.keys, strict=True):
            places = {(one.text, one.image): key for one, key in zip(all_of(subset), keys)}
            for side, vectors in zip(subset.sides, sides):
                items = distinct(side)
                if items:
                    found = ours.store.get([places[one.text, one.image] for one in items])
                    worst = max(worst, float(np.abs(found - vectors).max()))
        assert worst <= AGREE[self.encoder.dtype], f"the two sides differ by {worst}"
        return worst

    def round(self, measured: Measured, number: int) -> None:
        """Time all sides, one after the other, and compare their vectors."""
        found: dict[str, Any] = {}
        for name in measuring.turned(list(self.sides), number):
            work = partial(self.sides[name], measured.subsets)
            found[name], took = timed(work, self.device)
            measured.times.setdefault(name, []).append(took)
            say(f"{measured.name}, round {number + 1}, {name}: {took}")
        counted = self.plain.counted
        measured.plain_real, measured.plain_padded = counted.real, counted.padded
        plain = found.pop("plain")
        for ours in found.values():
            self.compare(measured.subsets, ours, plain)

    def take_apart(self, measured: Measured) -> None:
        """Find where our time goes, in one process, and how long the device waits."""
        clock, forwards = Clock(self.device), Forwards(self.device)
        alone = replace(self.ours, workers=0)
        with contextlib.ExitStack() as stack:
            if not forwards.on_cuda:  # where one pass can tell both
                stack.enter_context(forwards.watched())
            measured.counted = stack.enter_context(self.ours.taken_apart(clock))
            stack.enter_context(clock.part("everything else"))
            alone(measured.subsets, clock)
        measured.apart = clock.parts
        if forwards.on_cuda:
            with forwards.watched():
                self.ours(measured.subsets)
        measured.idle = forwards.idle


def measure(bench: Bench, arguments: argparse.Namespace, folder: Path) -> list[Measured]:
    """Measure each workload in every round."""
    draw = partial(draw_workload, seed=arguments.seed, photos=arguments.photos)
    trial = draw("mix", 1, folder / "trial")
    worst = bench.compare(trial, bench.ours(trial), bench.plain(trial))
    say(f"the two sides' vectors differ by {worst:.1e} at most")
    every = [
        Measured(
            name=name,
            subsets=draw(name, max(1, round(WORKLOADS[name] * arguments.queries)), folder / name),
        )
        for name in cast("list[Workload]", arguments.workloads)
    ]
    for number in range(arguments.rounds):
        bench.rate()
        for one in measuring.turned(every, number):
            bench.round(one, number)
    for one in every:
        bench.take_apart(one)
    bench.rate()
    return every


# -- what is told ----------------------------------------------------------------------------------


def work_table(every: Sequence[Measured]) -> str:
    """Say what there was to do on either side."""
    head = ["workload", "given", "distinct, a dataset's side", "distinct", "pictures seen by us"]
    head += ["tokens, plain (with padding)", "tokens, ours (with padding)"]
    rows = [
        [
            one.name,
            f"{one.given:,}",
            f"{one.per_side:,}",
            f"{one.counted.items:,}",
            f"{one.counted.pictures:,}",
            f"{one.plain_real:,} ({one.plain_padded:,})",
            f"{one.counted.real:,} ({one.counted.padded:,})",
        ]
        for one in every
    ]
    return measuring.table(head, rows)


def time_table(every: Sequence[Measured]) -> str:
    """Say what each side took."""
    head = ["workload, side", "wall s", "CPU s", "plain / side", "by CPU"]
    rows = []
    for one in every:
        for name, times in one.times.items():
            pairs = [
                ([getattr(t, by) for t in one.times["plain"]], [getattr(t, by) for t in times])
                for by in ("wall", "cpu")
            ]
            medians = [f"{statistics.median(ours):.2f}" for _, ours in pairs]
            rows.append([f"{one.name}, {name}", *medians, *(measuring.ratio(*p) for p in pairs)])
    return measuring.table(head, rows)


def apart_table(every: Sequence[Measured], by: str) -> str:
    """Say where our time goes."""
    names = list(dict.fromkeys(name for one in every for name in one.apart))
    totals = [sum(getattr(took, by) for took in one.apart.values()) for one in every]
    rows = []
    for name in names:
        seconds = [getattr(one.apart.get(name, Took(wall=0, cpu=0)), by) for one in every]
        shares = [100 * part / total for part, total in zip(seconds, totals, strict=True)]
        rows.append([name, *(f"{s:.2f} ({p:.1f} %)" for s, p in zip(seconds, shares, strict=True))])
    return measuring.table(["part", *(one.name for one in every)], rows)


def limit_table(every: Sequence[Measured], bench: Bench, by: str) -> str:
    """Say how near to the limit we are, and for how long the device waits."""
    head = ["workload", "arithmetic, TFLOP", "share of the limit", "within forwards", "device idle"]
    head += ["plain / limit", "head beside it"]
    rows = []
    for one in every:
        operations = one.counted.operations / 1e12
        least = operations * getattr(bench.limit, by)
        forwards = sum(getattr(one.apart[part], by) for part in FORWARD if part in one.apart)
        ours, plain = (
            statistics.median(getattr(took, by) for took in one.times[name])
            for name in ("ours", "plain")
        )
        arithmetic = Arithmetic.of(bench.encoder)
        head_share = arithmetic.head_share(one.counted.real, one.counted.operations)
        rows.append(
            [
                one.name,
                f"{operations:.2f}",
                f"{100 * least / ours:.1f} %",
                f"{100 * least / forwards:.1f} %",
                f"{100 * one.idle:.1f} %",
                f"{plain / least:.2f}",
                f"{100 * head_share:.1f} %",
            ]
        )
    return measuring.table(head, rows)


FORWARD = ("decoder", "vision tower")


def report(every: Sequence[Measured], bench: Bench, arguments: argparse.Namespace) -> str:
    """Return the section of results."""
    by = "cpu" if bench.device == "cpu" else "wall"
    kind = "CPU seconds" if by == "cpu" else "seconds"
    pictures = "drawn pictures" if arguments.photos is None else "pieces of photographs"
    rate = 1 / getattr(bench.limit, by)
    model = shape_of(bench.encoder).rpartition(";")[0]  # nothing is under training
    return "\n".join(
        [
            measuring.heading(f"Items to vectors: {arguments.model}", bench.device),
            f"{model}); {bench.encoder.dtype}; {pictures}, resolution {arguments.resolution}; "
            f"{arguments.queries} queries of a dataset; batches of "
            f"{bench.budget} tokens; {arguments.rounds} rounds, sides in turn; medians, ratios "
            "round by round with the smallest and largest.\n",
            time_table(every),
            "\nWhat there was to do:\n",
            work_table(every),
            f"\nWhere our time goes, {kind}, apart:\n",
            apart_table(every, by),
            f"\nThe limit: {rate:.3f} TFLOP in a second{' of a core' if by == 'cpu' else ''}, the "
            "best of square matrices and the model's own shapes.\n",
            limit_table(every, bench, by),
            "",
        ]
    )


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    parser.add_argument("--model", "--size", choices=SIZES, default="100m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=AGREE)
    parser.add_argument("--resolution", default="low")
    parser.add_argument("--photos", type=Path, help="a folder of .jpg in place of drawn pictures")
    parser.add_argument("--queries", type=int, default=16, help="queries of a dataset")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, help="default: the run's, by device")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="other batch tokens")
    parser.add_argument("--workers", type=int, help="default: the engine's choice, for both sides")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main() -> None:
    """Measure, and print the section of results."""
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        random = make_encoder(
            arguments.model,
            folder,
            device=arguments.device,
            dtype=arguments.dtype,
            resolution=arguments.resolution,
        )
        bench = Bench(Encoder(random.card, random.device, random.dtype), arguments)
        every = measure(bench, arguments, folder)
        print(report(every, bench, arguments))


if __name__ == "__main__":
    main()
