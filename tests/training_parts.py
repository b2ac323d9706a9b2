"""What tests of training share: golden pairs, tiny models to train, a step and its gradients.

Everything here that a trained gradient is compared with is written out plainly: one batch, one
graph, no part of the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import torch
from mmeb_harness.task import Pair
from mmeb_harness.trainconfig import checked_config
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.chunks import Preparer
from mmeb_harness.trainers.config import ContrastiveConfig
from mmeb_harness.trainers.lora import UnderTraining, choose_parameters, to_training
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import Processes
from mmeb_harness.trainers.step import Stepper, StepResult

GOLDENS = Path(__file__).parent / "goldens"
SUBSETS = ("ImageNet_1K", "MSCOCO_t2i", "CIRR")
"""The golden training data, in the order in which the reference concatenated it."""

TINY: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen2-vl": ("tiny-qwen2vl", {"image_resolution": "low", "max_length": 256}),
    "clip": ("tiny-clip", {}),
    "llava-next": ("tiny-llava-next", {"image_resolution": "low"}),
    "phi3-v": ("tiny-phi35v", {"num_crops": 1}),
}
"""The tiny model of each family, and settings that keep its images small."""

Gradients = Mapping[str, torch.Tensor]


# -- models ----------------------------------------------------------------------------------------


def load(family: str, dtype: str | None = None, **options: Any) -> Any:
    """Load a tiny model of one's own; `dtype` may be float64."""
    folder, usual = TINY[family]
    settings = {**usual, **options}
    wide = dtype == "float64"
    encoder = mh.load_encoder(
        f"{family}:{GOLDENS}/models/{folder}",
        device="cpu",
        dtype="float32" if wide else dtype,
        **settings,
    )
    if wide:
        encoder.module.double()
        encoder.dtype = "float64"
    return encoder


def config(output_dir: str | Path = "trained", **sections: Any) -> ContrastiveConfig:
    """Return a configuration of one step that writes into `output_dir`, with sections changed."""
    run = {"output_dir": output_dir, **sections.pop("run", {})}
    if not {"steps", "epochs"} & run.keys():
        run["steps"] = 1
    given = {"model": "tiny", "data": "pairs", **sections, "run": run}
    checked = checked_config(ContrastiveConfig, given)
    assert isinstance(checked, ContrastiveConfig)
    return checked


def under_training(encoder: Any, *, seed: int = 5, **sections: Any) -> UnderTraining:
    """Choose what is trained as a configuration says, and switch to training.

    The low-rank matrices that begin as zero are drawn, since otherwise half of the gradients are 0.
    """
    torch.manual_seed(seed)
    chosen = choose_parameters(encoder, config(**sections))
    go_on = isinstance(sections.get("lora"), Mapping) and sections["lora"].get("go_on")
    for name, parameter in chosen.parameters.items():
        if "lora_B" in name and not go_on:
            torch.nn.init.normal_(parameter, std=0.1)
    to_training(encoder.module)
    return chosen


# -- pairs -----------------------------------------------------------------------------------------


def golden_pairs(images: str = "stored") -> list[Pair]:
    """Return the golden training pairs, in order; images as the reference resized them (`stored`),
    or as files (`files`)."""
    import pyarrow.parquet as pq
    from PIL import Image

    stored = np.load(GOLDENS / "expected/resized_low_train_uint8.npz")

    def item(text: str, path: str) -> mh.Item:
        image: Any = None
        if path and images == "stored":
            image = Image.fromarray(stored[path])
        elif path:
            image = str(GOLDENS / "data/train_images" / path)
        return mh.Item(text=text or None, image=image)

    folders = [GOLDENS / "data/train" / name for name in SUBSETS]
    return [
        Pair(
            query=item(row["qry"], row["qry_image_path"]),
            positive=item(row["pos_text"], row["pos_image_path"]),
        )
        for folder in folders
        for row in pq.read_table(next(folder.glob("original-*.parquet"))).to_pylist()
    ]


def golden_subsets(images: str = "stored") -> list[Subset]:
    """Return the golden training pairs as a trainer takes them."""
    pairs = golden_pairs(images)
    return [
        Subset(name=name, pairs=pairs[16 * number : 16 * number + 16])
        for number, name in enumerate(SUBSETS)
    ]


def golden_encoder(adapter: str) -> Any:
    """Return the golden model with one of its adapters: as initialised (`ref`), or with a drawn B
    (`randB`), so that no gradient is 0."""
    return load("qwen2-vl", adapter=str(GOLDENS / f"models/tiny-qwen2vl-dora-init-{adapter}"))


def golden_name(name: str) -> str:
    """Return today's name of a parameter of the reference."""
    today = name.replace("model.layers", "language_model.layers")
    return today.replace("vector.default", "vector.default.weight")


def golden_config(folder: Path, **sections: Mapping[str, Any]) -> ContrastiveConfig:
    """Return the configuration of the reference trainer's six steps, with sections added to."""
    given: dict[str, dict[str, Any]] = {
        "lora": {"go_on": True, "dropout": 0.0},
        "batch": {"size": 8, "chunk_items": 2},
        "loss": {"mask_equal_targets": False},
        "optimizer": {"lr": 1e-3, "warmup": 2},
        "run": {"steps": 6, "checkpoint_every": 6},
    }
    for name, section in sections.items():
        given[name] = {**given[name], **section}
    return config(folder, **given)


def check_golden_run(log: Sequence[Mapping[str, Any]], golden: Mapping[str, Any]) -> None:
    """Compare the steps of a log with those of the reference trainer."""
    steps = [line for line in log if line["kind"] == "step"]
    assert [one["step"] for one in steps] == list(range(1, len(golden["steps"]) + 1))
    for found, wanted in zip(steps, golden["steps"], strict=True):
        norm = wanted["grad_norm_before_clip"]
        assert abs(found["loss"] - wanted["loss"]) <= 1e-5 * wanted["loss"]
        assert abs(found["grad_norm"] - norm) <= 1e-5 * norm
        assert abs(found["lr"] - wanted["lr_at_step"]) <= 1e-12
        assert (found["pairs"], found["negatives"]) == (8, 7)


def check_final_norms(folder: Path, golden: Mapping[str, Any]) -> None:
    """Compare the adapter in a trained folder with the reference's, by the norm of each tensor."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == len(golden["final_param_norms"]) == 30
    for name, norm in golden["final_param_norms"].items():
        today = golden_name(name).replace(".default", "").removesuffix("_vector.weight")
        key = next(one for one in tensors if one.startswith(f"base_model.model.{today}"))
        assert abs(np.linalg.norm(tensors[key]) - norm) <= 1e-5 * norm, name


def picture(number: int, size: tuple[int, int] = (40, 32)) -> Any:
    """Draw a small picture, another for each number."""
    from PIL import Image

    drawn = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize(size, Image.Resampling.BICUBIC)


def seen(number: int, text: str = "Represent the given image.") -> mh.Item:
    """An item with a picture, of another shape for every other number."""
    size = (40, 32) if number % 2 else (48, 64)
    return mh.Item(text=f"<|image_1|>\n{text}", image=picture(number, size))


def said(number: int) -> mh.Item:
    """An item without a picture, of another length for every number."""
    return mh.Item(text=f"a blue ring {'and a small square ' * (number % 4)}{number}")


def mixed_pairs(count: int, negatives: int = 0) -> list[Pair]:
    """Return pairs of pictures with texts, texts with pictures, texts with texts; the fifth's
    target is the second's, and its query the first's. `negatives` of them have a negative, of
    which the first is the third pair's target."""
    pairs = []
    for number in range(count):
        query = seen(number) if number % 3 == 0 else said(number)
        target = seen(100 + number, "") if number % 3 == 1 else said(101 + number)
        pairs.append((query, target))
    if count > 4:
        pairs[4] = (pairs[0][0], pairs[1][1])
    others = [pairs[2][1], *(seen(200), said(200), said(201), seen(201))][:negatives]
    return [
        Pair(query=one[0], positive=one[1], negative=others[at] if at < len(others) else None)
        for at, one in enumerate(pairs)
    ]


def text_pairs(count: int) -> list[Pair]:
    return [Pair(query=said(number), positive=said(101 + number)) for number in range(count)]


def image_pairs(count: int) -> list[Pair]:
    return [Pair(query=seen(number), positive=seen(100 + number, "")) for number in range(count)]


# -- a step of the trainer -------------------------------------------------------------------------


def stepper(
    encoder: Any,
    loss: InfoNCE,
    *,
    tokens: int = 1 << 20,
    items: int | None = None,
    negatives: bool = False,
    processes: Processes | None = None,
    precision: str = "float32",
    **more: Any,
) -> Stepper:
    """Return what takes steps of the trainer, by chunks of so many tokens or items."""
    preparer = Preparer(encoder=encoder, tokens=tokens, items=items, negatives=negatives)
    together = processes or Processes()
    return Stepper(encoder, loss, preparer, together, precision=precision, **more)


def stepped(
    one: Stepper, batches: Sequence[Sequence[Pair]], chosen: UnderTraining
) -> tuple[StepResult, Gradients]:
    """Return what a step over some batches comes to, and the gradients that it leaves."""
    ready = [one.preparer(pairs) for pairs in batches]
    result = one.gradients(ready, list(chosen.parameters.values()))
    return result, gradients(chosen)


def gradients(chosen: UnderTraining) -> Gradients:
    """Return copies of the gradients that there are."""
    found = {name: one.grad for name, one in chosen.parameters.items()}
    return {name: one.clone() for name, one in found.items() if one is not None}


# -- the same, directly ----------------------------------------------------------------------------


def direct(
    encoder: Any,
    batches: Sequence[Sequence[Pair]],
    chosen: UnderTraining,
    *,
    temperature: float = 0.02,
    hard_negatives: bool = False,
) -> tuple[float, Gradients]:
    """Return loss and gradients by one graph over each whole batch, every item in it as often as it
    occurs, the frozen part as well."""
    for parameter in chosen.parameters.values():
        parameter.grad = None
    losses = []
    for pairs in batches:
        targets = [pair.positive for pair in pairs]
        if hard_negatives:
            targets += [pair.negative for pair in pairs if pair.negative is not None]
        items = [*(pair.query for pair in pairs), *targets]
        vectors = encoder.forward(encoder.prepare([encoder.render(one) for one in items]))
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        scores = unit[: len(pairs)] @ unit[len(pairs) :].T / temperature
        each = []
        for number, pair in enumerate(pairs):
            rivals = [at for at, one in enumerate(targets) if not same(one, pair.positive)]
            each.append(scores[number, [number, *rivals]].logsumexp(0) - scores[number, number])
        losses.append(torch.stack(each).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), gradients(chosen)


def same(one: mh.Item, other: mh.Item) -> bool:
    """Whether two items show the same."""
    if one.text != other.text or (one.image is None) != (other.image is None):
        return False
    return one.image is None or np.array_equal(np.asarray(one.image), np.asarray(other.image))


def difference(found: Gradients, expected: Gradients) -> float:
    """Return the largest difference of any tensor's gradient, as a share of its largest number.

    A gradient below a ten-thousandth of the largest of all (the bias of keys in attention has none
    but rounding, by symmetry) is measured by that ten-thousandth.
    """
    assert found.keys() == expected.keys()
    largest = max(one.abs().max().item() for one in expected.values())
    assert largest > 0
    return max(
        ((found[name] - one).abs().max() / max(one.abs().max().item(), 1e-4 * largest)).item()
        for name, one in expected.items()
    )
