"""How long a training step takes: ours, a bound, and chunks of a fixed count as the original has.

One model (random weights, LoRA on the decoder, its vision tower frozen), one process, the same
pairs for all sides in each round. Preparation (wording, tokens, decoding, resizing) is timed apart:
it happens in worker processes.

ours        the trainer's own step: distinct items, chunks by tokens of items of like size, the
            frozen tower once, every chunk without a graph (the last ones keep theirs, as many as a
            full chunk's memory holds), the loss, every other chunk with a graph.
bound       over the very same chunks: the frozen tower once, one forward of the rest without a
            graph, and plain training, which is one forward of it with a graph and the way back. The
            gradient of the vectors is made up: there is no loss, no gathering, and no state of
            random numbers is kept. A step that keeps no graph cannot be faster; ours keeps the last
            ones, so where a batch is a few chunks it is below.
plain       the bound without the forward that is without a graph: chunks trained one by one, as if
            the loss of each knew no other. No step over the same chunks can be faster.
ours, N tokens
            ours with other chunks (`--budgets`).
original N  chunks of N items of one side, in the order of the data, as VLM2Vec's GradCache has
            them (`src/trainer.py`, chunk sizes 2 and 4 in its recipes): all chunks without a graph,
            the loss, all chunks again with a graph, and the whole model both times, the frozen
            tower included. It is this project's model code on both sides, which leaves out what
            else the original does: the vocabulary's projection of every position, and pictures of
            zeros for items without an image.
  tower once  the same chunks, the tower once.
ours N      ours with chunks of N items in place of a number of tokens: what sorting by size, equal
            items once and the last chunk's graph give at that count.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
import numpy as np
from measuring import Took, described, say, timed
from mixed_pairs import Pictures, draw_pairs
from mmeb_harness.task import Pair
from mmeb_harness.trainconfig import checked_config
from mmeb_harness.trainers.chunks import Preparer, ReadyBatch
from mmeb_harness.trainers.config import ContrastiveConfig
from mmeb_harness.trainers.gradcache import Chunk, backward_all, embed_all
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import Processes
from mmeb_harness.trainers.step import Stepper
from random_qwen import SIZES, RandomQwen, make_encoder, put_under_training, shape_of

if TYPE_CHECKING:
    import torch

SMALL = 4
"""Pairs of a round that only warms up."""

Gradients = Callable[[ReadyBatch], float | None]
"""Puts a batch's gradients on the parameters; returns the loss, where there is one."""


@dataclass(kw_only=True)
class Side:
    """One way of doing a step, and what it took."""

    name: str
    prepare: Callable[[Sequence[Pair]], ReadyBatch]
    gradients: Gradients
    steps: list[Took] = field(default_factory=list)
    preparations: list[Took] = field(default_factory=list)
    loss: float | None = None
    norm: float = 0.0
    made_of: str = ""


class Workbench:
    """A model under training, and every side's way of getting gradients for it."""

    def __init__(
        self,
        encoder: RandomQwen,
        parameters: Sequence[torch.nn.Parameter],
        config: ContrastiveConfig,
    ) -> None:
        self.encoder, self.parameters = encoder, parameters
        self.precision = config.precision_on(encoder.device)
        self.loss = InfoNCE(temperature=config.loss.temperature)

    def sides(self, tokens: int, budgets: Sequence[int], counts: Sequence[int]) -> list[Side]:
        """Return all sides: ours, the bound, and the others."""
        ours = Preparer(encoder=self.encoder, tokens=tokens)
        sides = [
            Side(name="ours", prepare=ours, gradients=self.by_stepper(ours)),
            Side(name="bound", prepare=ours, gradients=partial(self.bound, forwards=1)),
            Side(name="plain", prepare=ours, gradients=partial(self.bound, forwards=0)),
        ]
        for budget in budgets:
            other, name = replace(ours, tokens=budget), f"ours, {budget} tokens"
            sides.append(Side(name=name, prepare=other, gradients=self.by_stepper(other)))
        for count in counts:
            plain, sorted_too = partial(self.in_order, count), replace(ours, items=count)
            once = self.by_stepper(ours)
            sides += [
                Side(name=f"original {count}", prepare=plain, gradients=self.everything_twice),
                Side(name=f"original {count}, tower once", prepare=plain, gradients=once),
                Side(
                    name=f"ours {count}",
                    prepare=sorted_too,
                    gradients=self.by_stepper(sorted_too),
                ),
            ]
        return sides

    def by_stepper(self, preparer: Preparer) -> Gradients:
        """Return the trainer's own step."""
        stepper = Stepper(self.encoder, self.loss, preparer, Processes(), precision=self.precision)
        return lambda ready: stepper.gradients([ready], self.parameters).loss

    def bound(self, ready: ReadyBatch, forwards: int) -> None:
        """Run the frozen part, so many forwards without a graph, one with it and the way back."""
        import torch

        self.forget()
        with torch.no_grad():
            batches = [self.encoder.settled(chunk.batch) for chunk in ready.chunks]
            for batch in batches * forwards:
                self.embed(batch)
        for batch in batches:
            vectors_ID = self.embed(batch)
            torch.autograd.backward(vectors_ID, torch.full_like(vectors_ID, 1e-3))

    def everything_twice(self, ready: ReadyBatch) -> float:
        """Every chunk through the whole model without a graph, then all again with one."""
        import torch

        self.forget()
        cached = embed_all(self.embed, ready.chunks, keep_last=False)
        leaves_ID = cached.vectors_ID.requires_grad_()
        queries_P, positives_P, codes_T = (
            torch.from_numpy(places).to(leaves_ID.device)
            for places in (ready.queries_P, ready.positives_P, ready.codes_I[ready.positives_P])
        )
        loss = self.loss(leaves_ID[queries_P], leaves_ID[positives_P], codes_T)
        loss.backward()
        assert leaves_ID.grad is not None
        backward_all(self.embed, ready.chunks, cached, leaves_ID.grad)
        return loss.item()

    def in_order(self, count: int, pairs: Sequence[Pair]) -> ReadyBatch:
        """Prepare queries and then targets, so many at a time, as they come."""
        rendered = [
            [self.encoder.render(item) for item in side]
            for side in ([pair.query for pair in pairs], [pair.positive for pair in pairs])
        ]
        numbers: dict[object, int] = {}
        codes = [numbers.setdefault(one, len(numbers)) for side in rendered for one in side]
        chunks = [
            Chunk(batch=self.encoder.prepare(part), items=len(part))
            for side in rendered
            for part in (side[at : at + count] for at in range(0, len(side), count))
        ]
        return ReadyBatch(
            pairs=pairs,
            queries_P=np.arange(len(pairs)),
            positives_P=np.arange(len(pairs), 2 * len(pairs)),
            negatives_N=np.zeros(0, dtype=np.int64),
            codes_I=np.array(codes),
            chunks=chunks,
            tokens=sum(int(chunk.batch.mask_BL.sum()) for chunk in chunks),
        )

    def embed(self, batch: Any) -> torch.Tensor:
        """Return the vectors of a prepared batch, in the run's precision."""
        import torch

        half = self.precision == "bfloat16"
        kind = torch.device(self.encoder.device).type
        with torch.autocast(kind, torch.bfloat16) if half else contextlib.nullcontext():
            return self.encoder.forward(batch)

    def forget(self) -> None:
        """Take the gradients off."""
        for parameter in self.parameters:
            parameter.grad = None


# -- rounds ----------------------------------------------------------------------------------------


def measure(sides: Sequence[Side], bench: Workbench, arguments: argparse.Namespace) -> None:
    """Time every side in every round, each round with pairs of its own."""
    import torch

    pairs = draw_pairs(arguments.seed, Pictures(arguments.seed, arguments.photos))
    for number in range(-arguments.warmup, arguments.steps):
        batch = list(islice(pairs, arguments.batch if number >= 0 else SMALL))
        for side in measuring.turned(sides, number):
            torch.manual_seed(number)
            ready, preparation = timed(partial(side.prepare, batch), "cpu")
            loss, took = timed(partial(side.gradients, ready), arguments.device)
            say(f"round {number + 1} of {arguments.steps}, {side.name}: {took}")
            if number < 0:
                continue
            side.steps.append(took)
            side.preparations.append(preparation)
            side.loss, side.norm = loss, gradient_norm(bench.parameters)
            side.made_of = told(ready)


def gradient_norm(parameters: Sequence[torch.nn.Parameter]) -> float:
    """Return the norm of all gradients."""
    import torch

    gradients = [one.grad for one in parameters if one.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item()


def told(ready: ReadyBatch) -> str:
    """Say how many items, chunks and tokens a batch came to."""
    padded = sum(chunk.batch.mask_BL.numel() for chunk in ready.chunks)
    items = sum(chunk.items for chunk in ready.chunks)
    return f"{items} items, {len(ready.chunks)} chunks, {padded} tokens ({ready.tokens} real)"


def report(sides: Sequence[Side], arguments: argparse.Namespace, model: str) -> str:
    """Return the section of results."""
    ours = sides[0]
    head = ["side", "step s", "of its own CPU s", "side / ours", "by CPU", "loss", "gradient norm"]
    rows = [
        [
            side.name,
            f"{statistics.median(took.wall for took in side.steps):.2f}",
            f"{statistics.median(took.cpu for took in side.steps):.2f}",
            measuring.ratio(*([took.wall for took in one.steps] for one in (side, ours))),
            measuring.ratio(*([took.cpu for took in one.steps] for one in (side, ours))),
            "" if side.loss is None else f"{side.loss:.5f}",
            f"{side.norm:.4g}" if side.loss is not None else "",
        ]
        for side in sides
    ]
    title = f"Time of a training step: {arguments.model}, {arguments.batch} pairs"
    pictures = "drawn pictures" if arguments.photos is None else "pieces of photographs"
    prepared = [
        f"{side.name} {statistics.median(took.wall for took in side.preparations):.2f} s"
        for side in sides
        if side.loss is not None
    ]
    made_of = [f"- {side.name}: {side.made_of}" for side in sides if side.loss is not None]
    bound = sides[1].steps
    by = {
        name: measuring.ratio(
            [getattr(took, name) for took in ours.steps], [getattr(took, name) for took in bound]
        )
        for name in ("wall", "cpu")
    }
    return "\n".join(
        [
            measuring.heading(title, arguments.device),
            f"{model}; {pictures}, resolution {arguments.resolution}; {len(ours.steps)} rounds; "
            "medians, ratios round by round with the smallest and largest.",
            f"**Ours / bound: {by['wall']}** (by CPU time {by['cpu']}).\n",
            measuring.table(head, rows),
            "\nThe last round's batch (loss and norm above are of it):\n",
            *made_of,
            f"\nPreparing a batch, apart, in one process: {'; '.join(prepared)}.\n",
        ]
    )


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    parser.add_argument("--model", choices=SIZES, default="100m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64, help="pairs")
    parser.add_argument("--steps", type=int, default=5, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=1, help="small rounds before them")
    parser.add_argument("--chunk-tokens", type=int, help="default: the trainer's, by device")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="other chunk tokens")
    parser.add_argument("--counts", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--resolution", default="low")
    parser.add_argument("--photos", type=Path, help="a folder of .jpg in place of drawn pictures")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def training_config(arguments: argparse.Namespace) -> ContrastiveConfig:
    """Return the trainer's configuration: its defaults but for what the arguments say."""
    return checked_config(
        ContrastiveConfig,
        {
            "model": "random",
            "data": "none",
            "lora": {"dropout": arguments.dropout, "dora": arguments.dora},
            "run": {"output_dir": "none", "steps": 1, "checkpointing": arguments.checkpointing},
        },
    )


def chunk_tokens(arguments: argparse.Namespace) -> int:
    """Return the budget of a chunk."""
    from mmeb_harness.trainers.train import CPU_CHUNK_TOKENS, DEVICE_CHUNK_TOKENS

    usual = CPU_CHUNK_TOKENS if arguments.device == "cpu" else DEVICE_CHUNK_TOKENS
    return arguments.chunk_tokens or usual


def main() -> None:
    """Measure, and print the section of results."""
    arguments = read_arguments()
    config = training_config(arguments)
    with tempfile.TemporaryDirectory() as folder:
        encoder = make_encoder(
            arguments.model,
            Path(folder),
            device=arguments.device,
            dtype=config.weights_dtype(arguments.device),
            resolution=arguments.resolution,
        )
        parameters = put_under_training(encoder, config)
        bench = Workbench(encoder, parameters, config)
        sides = bench.sides(chunk_tokens(arguments), arguments.budgets, arguments.counts)
        measure(sides, bench, arguments)
        print(report(sides, arguments, shape_of(encoder)))


if __name__ == "__main__":
    main()
