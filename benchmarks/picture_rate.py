"""How many pictures a core prepares in a second, and so how many cores a GPU needs.

    OMP_NUM_THREADS=1 python benchmarks/picture_rate.py --photos FOLDER --items-per-second 50

What is timed is what a worker process does: Qwen2-VL's `prepare` for batches of 16 items with a
picture and an instruction each, one thread, at each of VLM2Vec's resolutions. Decoding and resizing
(Pillow) and cutting into patches (transformers' image processor on NumPy) are also timed apart,
within the same calls. Rates are by CPU seconds. The cores are those that prepare as many pictures
as a GPU takes in a second, `--items-per-second`, if nothing else runs on them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import measuring
from device_limit import Clock
from measuring import Took, described, say, timed
from mixed_pairs import PLACEHOLDER, Pictures
from mmeb_harness.engines.batch import prepare_batch
from mmeb_harness.item import Item
from random_qwen import RandomQwen, make_encoder

BATCH = 16
PARTS = {"picture": "decode, resize", "process": "cut patches"}


@dataclass(kw_only=True)
class Resolution:
    """A resolution, and what preparing at it took in each round."""

    name: str
    encoder: RandomQwen
    tokens: int = 0
    times: list[Took] = field(default_factory=list)
    clock: Clock = field(default_factory=partial(Clock, "cpu"))

    def prepare(self, items: Sequence[Item]) -> None:
        """Prepare all the items, in batches."""
        rendered = [self.encoder.render(item) for item in items]
        self.tokens = self.encoder.size(rendered[0])
        for start in range(0, len(rendered), BATCH):
            prepared = prepare_batch(self.encoder, rendered[start : start + BATCH])
            assert not prepared.failures, prepared.failures

    def prepare_apart(self, items: Sequence[Item]) -> None:
        """The same with timers around its parts."""
        with (
            patch.object(self.encoder, "picture", self._around("picture")),
            patch.object(self.encoder, "process", self._around("process")),
        ):
            self.prepare(items)

    def _around(self, method: str) -> object:
        return self.clock.around(PARTS[method], getattr(self.encoder, method))


def measure(arguments: argparse.Namespace, folder: Path) -> list[Resolution]:
    """Time each resolution in every round, all with the same pictures."""
    pictures = Pictures(arguments.seed, arguments.photos)
    paths = [folder / f"{number}.jpg" for number in range(arguments.pictures)]
    for path in paths:
        path.write_bytes(pictures.next())
    items = [Item(text=f"{PLACEHOLDER}w1 w2 w3", image=str(path)) for path in paths]
    every = [
        Resolution(
            name=name,
            encoder=make_encoder("tiny", folder, device="cpu", dtype="float32", resolution=name),
        )
        for name in arguments.resolutions
    ]
    for one in every:
        one.prepare(items[:BATCH])
    for number in range(arguments.rounds):
        for one in measuring.turned(every, number):
            one.times.append(timed(partial(one.prepare, items), "cpu")[1])
            say(f"round {number + 1}, {one.name}: {one.times[-1]}")
    for one in every:
        one.prepare_apart(items)
    return every


def report(every: Sequence[Resolution], arguments: argparse.Namespace) -> str:
    """Return the section of results."""
    wanted = arguments.items_per_second
    head = ["resolution", "tokens an item", "pictures/s of a core", "decode, resize ms"]
    head += ["cut patches ms", f"cores at {wanted:g} pictures/s"]
    rows = []
    for one in every:
        rates = [arguments.pictures / took.cpu for took in one.times]
        middle = statistics.median(rates)
        apart = [1000 * one.clock.parts[part].cpu / arguments.pictures for part in PARTS.values()]
        rows.append(
            [
                one.name,
                one.tokens,
                f"{middle:.1f} ({min(rates):.1f}-{max(rates):.1f})",
                *(f"{milliseconds:.1f}" for milliseconds in apart),
                f"{wanted / middle:.2f}, so {math.ceil(wanted / middle)}",
            ]
        )
    shown = "drawn pictures" if arguments.photos is None else "pieces of photographs"
    return "\n".join(
        [
            measuring.heading("Pictures a core prepares", "cpu"),
            f"{arguments.pictures} {shown}; {arguments.rounds} rounds, resolutions in turn; "
            "medians with the smallest and largest.\n",
            measuring.table(head, rows),
            "",
        ]
    )


def main() -> None:
    """Measure, and print the section of results."""
    parser = described(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of .jpg in place of drawn pictures")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resolutions", nargs="+", default=["low", "mid", "high"])
    parser.add_argument("--items-per-second", type=float, default=50, help="what a GPU takes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(report(measure(arguments, Path(folder)), arguments))


if __name__ == "__main__":
    main()
