"""What a step of the trainer promises, checked in every one of several processes.

Every process first takes each step alone, on all pairs: what comes of that, the processes together
must come to, each with its share.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import torch
from mmeb_harness.task import Pair
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers import checkpoint
from mmeb_harness.trainers.log import read_log
from mmeb_harness.trainers.lora import UnderTraining
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import is_sharded, start
from mmeb_harness.trainers.sharding import shard, sum_after
from mmeb_harness.trainers.step import StepResult
from mmeb_harness.trainers.train import train
from several_processes import go_through
from training_parts import (
    GOLDENS,
    Gradients,
    check_final_norms,
    check_golden_run,
    config,
    difference,
    golden_config,
    golden_encoder,
    golden_subsets,
    gradients,
    load,
    mixed_pairs,
    stepper,
    text_pairs,
    under_training,
)

FOLDER = Path(sys.argv[1])

processes = start("cpu" if torch.cuda.is_available() else None)

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
EVERYTHING = {"lora": False}
LIMIT = 1e-6
BATCHES = [mixed_pairs(7, 4)]
"""Shares are unequal; equal targets are in different processes, and a negative equals the target of
another pair."""


def taken(
    encoder: Any,
    chosen: UnderTraining,
    batches: Sequence[Sequence[Pair]],
    loss: InfoNCE,
    *,
    alone: bool,
    **cut: Any,
) -> tuple[StepResult, Gradients]:
    """Take a step alone, or with the others on this process's share of each batch."""
    if not alone:
        batches = [batch[processes.share(len(batch))] for batch in batches]
        cut["processes"] = processes
    one = stepper(encoder, loss, negatives=True, **cut)
    ready = [one.preparer(list(batch)) for batch in batches]
    result = one.gradients(ready, list(chosen.parameters.values()))
    return result, gradients(chosen)


def check_steps(
    family: str,
    trained: Mapping[str, Any],
    *,
    batches: Sequence[Sequence[Pair]] = BATCHES,
    loss: InfoNCE | None = None,
    dtype: str = "float64",
) -> None:
    encoder = load(family, dtype=dtype)
    chosen = under_training(encoder, **trained)
    loss = loss or InfoNCE(temperature=0.05)
    expected, whole = taken(encoder, chosen, batches, loss, alone=True)
    for cut in ({"items": 2}, {"tokens": 150}):
        found, summed = taken(encoder, chosen, batches, loss, alone=False, **cut)
        assert abs(found.loss - expected.loss) <= LIMIT * expected.loss
        assert (found.pairs, found.negatives) == (expected.pairs, expected.negatives)
        assert found.items >= expected.items  # what is equal in two processes is there twice
        assert difference(summed, whole) <= (LIMIT if dtype == "float64" else 10 * LIMIT)
        for name in list(summed)[:3]:
            same = processes._gathered(summed[name].contiguous())
            assert all(torch.equal(one, same[0]) for one in same)


def equal_targets_are_masked_wherever_they_are() -> None:
    """The count and the loss show it; unmasked, both are others."""
    encoder = load("clip", dtype="float64")
    chosen = under_training(encoder, lora=LORA)
    losses = []
    for masked in (True, False):
        loss = InfoNCE(temperature=0.05, mask_equal_targets=masked)
        result, _ = taken(encoder, chosen, BATCHES, loss, alone=False)
        # of 11 targets, pairs 1 and 4 have the same one, and a negative is that of pair 2
        assert abs(result.negatives - (10 - 3 / 7 * masked)) < 1e-9
        losses.append(result.loss)
    assert abs(losses[0] - losses[1]) > 1e-3


def chunks_differ_in_number() -> None:
    """Else the checks above would say less than they seem to."""
    encoder = load("clip")
    share = BATCHES[0][processes.share(7)]
    prepared = stepper(encoder, InfoNCE(temperature=1), items=2, negatives=True).preparer(share)
    chunks = len(prepared.chunks)
    assert processes.maximum(chunks) > -processes.maximum(-chunks)


COMBINED = InfoNCE(temperature=0.1, symmetric=True, dimensions=(8, 32), similarity="dot")

STEPS: Mapping[str, Callable[[], None]] = {
    "CLIP": partial(check_steps, "clip", EVERYTHING),
    "CLIP, every setting of the loss": partial(check_steps, "clip", {"lora": LORA}, loss=COMBINED),
    "fewer pairs than processes": partial(
        check_steps, "qwen2-vl", {"lora": LORA}, batches=[mixed_pairs(3)], dtype="float32"
    ),
    "equal targets": equal_targets_are_masked_wherever_they_are,
    "chunks differ": chunks_differ_in_number,
}


# -- sharded ---------------------------------------------------------------------------------------


def sharded_steps(family: str, trained: Mapping[str, Any]) -> None:
    """The gradients of several batches are those of whole models, alone and together."""
    loss = InfoNCE(temperature=0.05)
    batches = [*BATCHES, mixed_pairs(4)]
    encoder = load(family, dtype="float64")
    chosen = under_training(encoder, **trained)
    results = [taken(encoder, chosen, batches, loss, alone=alone) for alone in (True, False)]
    dealt = load(family, dtype="float64")
    under_training(dealt, **trained)
    shard(dealt, processes)
    parameters = {name: one for name, one in dealt.module.named_parameters() if one.requires_grad}
    assert any(map(is_sharded, parameters.values()))
    again = UnderTraining(parameters=parameters, adapted=())
    told: list[bool] = []

    def sync(last: bool) -> None:
        told.append(last)
        sum_after(dealt.module, last)

    for cut in ({"items": 2}, {}):
        told.clear()
        found, parts = taken(dealt, again, batches, loss, alone=False, sync=sync, **cut)
        assert told == [False, False, False, True]  # communication is once, at the very end
        for expected, whole in results:
            assert abs(found.loss - expected.loss) <= LIMIT * expected.loss
            assert (
                difference({name: put_together(one) for name, one in parts.items()}, whole) <= LIMIT
            )


def put_together(tensor: Any) -> torch.Tensor:
    whole: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return whole


def sharded_training(name: str, trained: Mapping[str, Any]) -> None:
    """A folder that loads, with the vectors of a training that was not sharded."""
    pairs = [Subset(name="pairs", pairs=mixed_pairs(11))]
    items = [one.query for one in pairs[0].pairs]
    for way in ("whole", "sharded"):
        chosen = config(
            FOLDER / f"{name} {way}",
            **trained,
            batch={"size": 5, "chunk_items": 2, "accumulate": 2},
            loss={"temperature": 0.1},
            optimizer={"name": "sgd", "lr": 0.01, "momentum": 0.9},
            run={"steps": 3, "shard": way == "sharded", "checkpoint_every": 3},
        )
        train(chosen, load("qwen2-vl"), pairs)
    if processes.is_main:
        vectors = [
            mh.load_encoder(str(FOLDER / f"{name} {way}"), device="cpu").encode(items)
            for way in ("whole", "sharded")
        ]
        assert np.abs(vectors[0] - vectors[1]).max() <= 1e-5
        assert np.abs(vectors[0] - load("qwen2-vl").encode(items)).max() > 1e-3
    processes.wait()


# -- the reference's run ---------------------------------------------------------------------------


def golden_run(way: str, **run: Any) -> None:
    train(golden_config(FOLDER / way, run=run), golden_encoder("ref"), golden_subsets())
    golden = json.loads((GOLDENS / "expected/train/trainer_run_ddp2.json").read_text())
    assert processes.count == golden["_meta"]["world_size"]
    if processes.is_main:
        check_golden_run(read_log(FOLDER / way / "training/log.jsonl"), golden)
        check_final_norms(FOLDER / way, golden)
        encoder = mh.load_encoder(str(FOLDER / way), device="cpu")
        assert encoder.encode([mh.Item(text="a cat")]).shape == (1, 64)


# -- checkpoints -----------------------------------------------------------------------------------


def a_checkpoint_is_left_alone_by_the_others() -> None:
    """They are through with it before the first process has given it its name."""
    if processes.is_main:
        remove = checkpoint._remove
        checkpoint._remove = lambda path: (time.sleep(0.5), remove(path))[1]
    kept = checkpoint.Checkpoints(output_dir=FOLDER / "kept", keep=1, processes=processes)
    folder = kept.write(1, lambda aside: aside.joinpath("card.json").touch(), {"of": 1})
    processes.wait()
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"card.json", *(f"state/process-{one}.pt" for one in range(processes.count))}


CHECKS: Mapping[str, Mapping[str, Callable[[], None]]] = {
    "steps": STEPS,
    "all": {
        "golden run": partial(golden_run, "golden"),
        "golden run, sharded": partial(golden_run, "golden sharded", shard=True),
        **STEPS,
        "Qwen2-VL, DoRA": partial(check_steps, "qwen2-vl", {"lora": {**LORA, "dora": True}}),
        "several batches": partial(
            check_steps, "clip", {"lora": LORA}, batches=[*BATCHES, text_pairs(5), mixed_pairs(4)]
        ),
        "sharded steps, weights": partial(sharded_steps, "qwen2-vl", EVERYTHING),
        "sharded steps, DoRA": partial(sharded_steps, "qwen2-vl", {"lora": {**LORA, "dora": True}}),
        "sharded steps, LLaVA": partial(sharded_steps, "llava-next", {"lora": LORA}),
        "sharded training, weights": partial(sharded_training, "weights", EVERYTHING),
        "sharded training, adapter": partial(sharded_training, "adapter", {"lora": LORA}),
        "checkpoint": a_checkpoint_is_left_alone_by_the_others,
    },
}

if __name__ == "__main__":
    go_through(CHECKS[sys.argv[2]], processes.rank)
