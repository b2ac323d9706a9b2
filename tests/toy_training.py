"""A trainable encoder small enough to be trained, stopped and broken many times in a second.

What it learns does not matter; everything around the numbers does: dropout, pictures that may be
missing, vectors that are no numbers, a memory that may be too small.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import torch
from mmeb_harness.card import Card, write_card
from mmeb_harness.errors import ItemError
from mmeb_harness.image import load_image, to_rgb
from mmeb_harness.item import Rendered
from mmeb_harness.result import Run
from mmeb_harness.task import Pair
from mmeb_harness.trainer import Subset, Trained, TrainingProgress
from mmeb_harness.trainers.log import read_log
from mmeb_harness.trainers.train import train
from safetensors.torch import load_file, save_file
from training_parts import config

WORDS, PIXELS, WIDTH = 251, 4 * 4 * 3, 16
WEIGHTS = "weights.safetensors"

PLUGIN = "from toy_training import register_encoders as register_encoders\n"
"""The source of a plugin that brings the toy as `toy:new`, or `toy:FOLDER`."""

NO_NUMBER, NO_SLOPE = "poison", "brink"
"""Words whose items have a vector that is no number, and one whose gradient is none."""


@mh.hookimpl
def register_encoders(register: Any) -> None:
    register(Card(name="toy", factory="toy_training:Toy", options=("base", "max_length")))


class Network(torch.nn.Module):
    """Words and pictures added up, and two layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.EmbeddingBag(WORDS, WIDTH, mode="sum", padding_idx=0)
        self.picture = torch.nn.Linear(PIXELS, WIDTH)
        self.hidden = torch.nn.Linear(WIDTH, WIDTH)
        self.dropout = torch.nn.Dropout(0.2)
        self.out = torch.nn.Linear(WIDTH, 8)

    def forward(self, ids_BL: torch.Tensor, pixels_BP: torch.Tensor) -> torch.Tensor:
        seen_BD = torch.tanh(self.hidden(self.words(ids_BL) + self.picture(pixels_BP)))
        vectors: torch.Tensor = self.out(self.dropout(seen_BD))
        return vectors


@dataclass
class Memory:
    """So many tokens, padding counted, fit there and back; `failed` tells what did not."""

    there: int = 1 << 30
    back: int = 1 << 30
    failed: list[tuple[str, int]] = field(default_factory=list)

    def take(self, way: str, tokens: int) -> None:
        if tokens > getattr(self, way):
            self.failed.append((way, tokens))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


class Toy(mh.TrainableEncoder):
    """The encoder; equal seeds, equal weights."""

    def __init__(self, card: Card) -> None:
        self.card, self.device, self.dtype = card, "cpu", "float32"
        self.memory = Memory()
        self._module: Network | None = None

    @property
    def module(self) -> Network:
        if self._module is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                self._module = Network().eval()
            if self.card.base not in (None, "new"):
                self._module.load_state_dict(load_file(Path(str(self.card.base)) / WEIGHTS))
        return self._module

    def render(self, item: mh.Item) -> Rendered:
        if item.text is None and item.image is None:
            raise ItemError("has neither text nor image")
        return Rendered(text=item.text, image=item.image)

    def size(self, rendered: Rendered) -> int:
        return len((rendered.text or "").split()) + 4 * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> dict[str, torch.Tensor]:
        rows = [[_word(one) for one in (item.text or "").split()] for item in rendered]
        longest = max(1, *map(len, rows))
        pixels = [_pixels(item.image) for item in rendered]
        texts = [item.text or "" for item in rendered]
        return {
            "ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
            "pixels": torch.tensor(np.stack(pixels)),
            "tokens": torch.tensor(len(rows) * max(self.size(one) for one in rendered)),
            "no_number": torch.tensor([NO_NUMBER in text for text in texts]),
            "no_slope": torch.tensor([NO_SLOPE in text for text in texts]),
        }

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tokens = int(batch["tokens"])
        self.memory.take("there", tokens)
        vectors_BD = self.module(batch["ids"], batch["pixels"])
        vectors_BD = vectors_BD.masked_fill(batch["no_number"][:, None], float("nan"))
        steep = batch["no_slope"].nonzero()[:, 0]
        if len(steep):  # a root at nought: no change of the vector, an infinite slope
            vectors_BD = vectors_BD.index_add(0, steep, torch.sqrt(0 * vectors_BD[steep]))
        if vectors_BD.requires_grad:
            vectors_BD.register_hook(lambda _: self.memory.take("back", tokens))
        return vectors_BD

    def save(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(state or self.module.state_dict()), folder / WEIGHTS)
        write_card(self.card, folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_module": None}


def _word(word: str) -> int:
    return 1 + zlib.crc32(word.encode()) % (WORDS - 1)


def _pixels(image: Any) -> Any:
    if image is None:
        return np.zeros(PIXELS, dtype=np.float32)
    small = to_rgb(load_image(image)).resize((4, 4))
    return np.asarray(small, dtype=np.float32).ravel() / 255


# -- trainings of it -------------------------------------------------------------------------------


def toy(*, dropout: float = 0.2, base: str | None = "new") -> Toy:
    """Return a toy of one's own."""
    encoder = Toy(Card(name="toy:new", family="toy", factory="toy_training:Toy", base=base))
    encoder.module.dropout.p = dropout
    return encoder


def pair(number: int, *, text: str = "", image: Any = None) -> Pair:
    """Return a pair, the query with a text or image besides; every ninth target is the same."""
    query = mh.Item(text=f"{text} what is the {number}th thing".strip(), image=image, role="query")
    answer = " ".join(["it is", *["very"] * (number % 4), f"number {number % 9}"])
    return Pair(query=query, positive=mh.Item(text=answer, role="candidate"))


def pairs(count: int) -> list[Pair]:
    return [pair(number) for number in range(count)]


def subsets(*counts: int) -> list[Subset]:
    """Return subsets a, b, ... of so many pairs each."""
    made = [[pair(100 * at + number) for number in range(count)] for at, count in enumerate(counts)]
    return [Subset(name="abcdef"[at], pairs=one) for at, one in enumerate(made)]


def train_toy(
    folder: Path,
    of: Sequence[Subset] | None = None,
    encoder: Toy | None = None,
    *,
    progress: TrainingProgress | None = None,
    evaluate: Any = None,
    **sections: Any,
) -> Trained:
    """Train a toy: two batches of four pairs a step, five steps, a checkpoint every second one."""
    usual: dict[str, dict[str, Any]] = {
        "batch": {"size": 4, "accumulate": 2},
        "optimizer": {"lr": 1e-2, "clip": None},
        "run": {"steps": 5, "checkpoint_every": 2, "device": "cpu"},
    }
    if "epochs" in sections.get("run", {}):
        usual["run"].pop("steps")
    merged = {name: {**one, **sections.pop(name, {})} for name, one in usual.items()}
    return train(
        config(folder, lora=False, **merged, **sections),
        encoder or toy(),
        subsets(7, 6) if of is None else of,
        evaluate,
        progress,
    )


@dataclass
class Heard(TrainingProgress):
    """A listener that remembers; `stops_after` that step it interrupts the training."""

    stops_after: int | None = None
    events: list[tuple[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def started(self, steps: int, done: int, facts: Mapping[str, Any]) -> None:
        self.events.append(("started", (steps, done)))

    def stepped(self, step: int, record: Mapping[str, Any]) -> None:
        self.events.append(("stepped", step))
        if step == self.stops_after:
            raise KeyboardInterrupt

    def saved(self, step: int, folder: Path) -> None:
        self.events.append(("saved", step))

    def evaluated(self, step: int, run: Run) -> None:
        self.events.append(("evaluated", step))

    def warned(self, message: str) -> None:
        self.events.append(("warned", None))
        self.warnings.append(message)


# -- what they leave -------------------------------------------------------------------------------


def log_lines(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    """Return the lines of a kind in a training's log."""
    return [line for line in read_log(folder / "training/log.jsonl") if line["kind"] == kind]


def numbers(folder: Path) -> list[tuple[Any, ...]]:
    """Return what must be the same, bit for bit, of every step in a training's log."""
    names = ("step", "loss", "grad_norm", "lr", "pairs", "items", "tokens", "negatives", "skipped")
    return [tuple(line[name] for name in names) for line in log_lines(folder)]


def weights(folder: Path) -> dict[str, bytes]:
    """Return the tensors of a saved model, as bytes."""
    (file,) = folder.glob("*.safetensors")
    return {name: one.numpy().tobytes() for name, one in load_file(file).items()}


def checkpoints(folder: Path) -> list[int]:
    """Return the steps of the checkpoints that a training left."""
    found = sorted((folder / "training").glob("step-*"))
    return [int(one.name.removeprefix("step-")) for one in found]
