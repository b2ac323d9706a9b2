"""What `trainers/sharding.py` promises, checked in every one of several processes.

Every process first runs all chunks of all processes through a whole model of its own: what comes
of that, the processes together must come to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import torch
from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.config import OptimizerSection
from mmeb_harness.trainers.optimizer import make_optimizer
from mmeb_harness.trainers.processes import clip, is_sharded, own_part, start
from mmeb_harness.trainers.sharding import (
    optimizer_state,
    own_values,
    put_optimizer_state,
    put_values,
    shard,
    sum_after,
    whole_state,
)
from several_processes import go_through
from tiny import qwen3_vl
from torch import Tensor

GOLDENS = Path(__file__).parent.parent / "goldens"
PROJECTIONS = r"(q|k|v|o|gate|up|down)_proj"

processes = start("cpu" if torch.cuda.is_available() else None)

Prepare = Callable[[torch.nn.Module], None]
"""What is done to a module before it is trained: adapters put on it, parameters frozen."""


# -- models ----------------------------------------------------------------------------------------


LLAVA = f"llava-next:{GOLDENS}/models/tiny-llava-next"
QWEN = f"qwen2-vl:{GOLDENS}/models/tiny-qwen2vl"


def load(prepare: Prepare, model: str = QWEN) -> Any:
    """Load a tiny model and prepare it, alike every time."""
    encoder = mh.load_encoder(model, device="cpu", image_resolution="low")
    torch.manual_seed(5)
    encoder.module.train()
    prepare(encoder.module)
    return encoder


def everything(module: torch.nn.Module) -> None:
    assert all(one.requires_grad for one in module.parameters())


def embeddings_frozen(module: torch.nn.Module) -> None:
    """Then the trunk's input requires a gradient in chunks with images only."""
    embeddings: Any = module.get_input_embeddings()  # type: ignore[operator]  # typed as a tensor or a module
    embeddings.weight.requires_grad_(False)


def checkpointed(module: torch.nn.Module, prepare: Prepare = everything) -> None:
    prepare(module)
    newer = "activation_checkpointing_enable"  # of transformers; its older name warns
    enable: Any = getattr(module, newer, None) or module.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def adapter(
    module: torch.nn.Module,
    *,
    targets: str = rf".*language_model.*\.{PROJECTIONS}",
    dora: bool = False,
    base: torch.dtype = torch.float32,
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    module.to(base)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, use_dora=dora)
    inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
        if "lora_B" in name:  # zero at first: then nothing goes back to A
            torch.nn.init.normal_(parameter, std=0.1)


WITH_TOWER = rf".*\.({PROJECTIONS}|qkv|fc1)"

MODELS: dict[str, Prepare] = {
    "everything": everything,
    "checkpointed": checkpointed,
    "embeddings frozen": embeddings_frozen,
    "LoRA": adapter,
    "LoRA, checkpointed": partial(checkpointed, prepare=adapter),
    "LoRA on the tower too": partial(adapter, targets=WITH_TOWER),
    "DoRA": partial(adapter, dora=True),
    "DoRA, bfloat16 base": partial(adapter, dora=True, base=torch.bfloat16),
}


# -- data ------------------------------------------------------------------------------------------

IMAGE, TEXT = "image", "text"
KINDS = ((IMAGE, TEXT, IMAGE), (TEXT, IMAGE, TEXT))
"""Kinds of chunks, process by process: a text beside an image each time, also at the last."""


def chunk(kind: str, number: int) -> list[mh.Item]:
    if kind == TEXT:
        return [mh.Item(text=f"a blue ring {'and a square ' * row}{number}") for row in range(2)]
    image = GOLDENS / f"data/eval_images/CIRR/img_{number:03}.png"
    asked = "<|image_1|>\nRepresent the given image."
    return [mh.Item(text=asked, image=image), mh.Item(text=f"picture {number}")]


def chunks_of(rank: int) -> list[list[mh.Item]]:
    kinds = KINDS[rank % len(KINDS)]
    return [chunk(kind, 3 * rank + number + 1) for number, kind in enumerate(kinds)]


def weights(rank: int, number: int, vectors: torch.Tensor) -> torch.Tensor:
    """The gradient that each vector of a chunk gets; the last process runs its last for company."""
    if rank == processes.count - 1 and number == len(chunks_of(rank)) - 1:
        return torch.zeros_like(vectors)
    drawn = torch.Generator().manual_seed(100 * rank + number)
    return torch.randn(vectors.shape, generator=drawn).to(vectors)


def vectors_of(encoder: Any, items: Sequence[mh.Item]) -> torch.Tensor:
    batch = encoder.prepare([encoder.render(one) for one in items])
    mixed = any(one.dtype == torch.bfloat16 for one in encoder.module.parameters())
    with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
        vectors: torch.Tensor = encoder.forward(batch)
    return vectors


def go_back(encoder: Any, rank: int, number: int) -> None:
    vectors = vectors_of(encoder, chunks_of(rank)[number])
    vectors.backward(weights(rank, number, vectors))


def step_alone(encoder: Any) -> None:
    """Leave the gradient of all chunks of all processes in a whole model."""
    for rank in range(processes.count):
        for number in range(len(chunks_of(rank))):
            go_back(encoder, rank, number)


def step_together(encoder: Any) -> None:
    """Leave the same gradient in a model dealt out, as the loop goes about it."""
    mine = chunks_of(processes.rank)
    with torch.no_grad():
        for items in mine:
            vectors_of(encoder, items)
    for number in range(len(mine)):
        sum_after(encoder.module, number == len(mine) - 1)
        go_back(encoder, processes.rank, number)
        dealt = [one for one in trained(encoder) if is_sharded(one)]
        assert all((one.grad is None) == (number < len(mine) - 1) for one in dealt)
    processes.sum_gradients(encoder.module.parameters())


def trained(encoder: Any) -> list[torch.nn.Parameter]:
    return [one for one in encoder.module.parameters() if one.requires_grad]


# -- checks ----------------------------------------------------------------------------------------


def whole(tensor: torch.Tensor) -> torch.Tensor:
    dealt: Any = tensor.detach()
    return dealt.full_tensor() if is_sharded(tensor) else dealt


def assert_near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], limit: float) -> None:
    """One by one, as good as bit by bit; what is zero but for rounding is not looked at closely."""
    assert found.keys() == expected.keys()
    floor = torch.stack([value.norm() for value in expected.values()]).norm() / 1000
    for name, value in expected.items():
        assert (found[name] - value).norm() <= limit * (value.norm() + floor), name


def gradients(encoder: Any) -> dict[str, Tensor]:
    found = {name: one.grad for name, one in encoder.module.named_parameters()}
    return {name: whole(one) for name, one in found.items() if one is not None}


EMBEDDINGS = "language_model.embed_tokens.weight"


def same_steps(prepare: Prepare, model: str = QWEN) -> None:
    """Gradients, norms and two steps of an optimiser are those of a whole model."""
    alone, together = load(prepare, model), load(prepare, model)
    shard(together, processes)
    trunk = dict(together.trunk.named_parameters(prefix="language_model"))
    assert [one for one in trunk if not is_sharded(trunk[one])] == [EMBEDDINGS]
    everywhere = dict(together.module.named_parameters())
    assert {one for one in everywhere if is_sharded(everywhere[one])} == {*trunk} - {EMBEDDINGS}
    steps = [
        make_optimizer(trained(one), OptimizerSection(name="sgd", lr=0.1, momentum=0.9))
        for one in (alone, together)
    ]
    for limit in (1e-6, 1e-5):  # the second step begins with what the first left of rounding
        step_alone(alone)
        step_together(together)
        assert_near(gradients(together), gradients(alone), limit)
        expected = torch.nn.utils.clip_grad_norm_(trained(alone), 0.5).item()
        assert abs(clip(trained(together), 0.5) - expected) <= limit * expected
        assert_near(gradients(together), gradients(alone), 2 * limit)
        for one in steps:
            one.step()
            one.zero_grad()
        assert_near(
            {key: whole(one) for key, one in together.module.named_parameters()},
            dict(alone.module.named_parameters()),
            limit,
        )


def same_steps_of_qwen3() -> None:
    """Its decoder is given features of several depths of the tower, in chunks with images only."""
    folder = Path(sys.argv[1]) / "qwen3"
    if processes.is_main:
        qwen3_vl.make(folder)
    processes.wait()
    same_steps(everything, f"qwen3-vl:{folder}")


def checkpoints_are_made() -> None:
    """Layers are run a second time when gradients go back, so that the case above means it."""
    encoder = load(MODELS["checkpointed"])
    shard(encoder, processes)
    runs = []
    encoder.trunk.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    sum_after(encoder.module, True)
    go_back(encoder, processes.rank, 0)
    assert len(runs) == 2


def whole_values() -> None:
    """The first process gets every value as it was, others none; a folder saved of it loads."""
    alone, together = load(everything), load(everything)
    shard(together, processes)
    expected = alone.module.state_dict()
    found = whole_state(together.module, processes)
    some = whole_state(together.module, processes, {"language_model.norm.weight"})
    if not processes.is_main:
        assert (found, some) == ({}, {})
        return
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(map(is_sharded, found.values()))
    assert list(some) == ["language_model.norm.weight"]
    folder = Path(sys.argv[1]) / "saved"
    together.save(folder, state=found)
    loaded = mh.load_encoder(str(folder), device="cpu")
    with torch.no_grad():
        vectors = [vectors_of(one, chunk(IMAGE, 1)) for one in (loaded, alone)]
    assert torch.equal(*vectors)


def goes_on_bit_by_bit(name: str) -> None:
    """A state written and read again in new objects leads where it led."""
    encoder = load(MODELS[name])
    shard(encoder, processes)
    optimizer = make_optimizer(trained(encoder), OptimizerSection(lr=0.01))
    take_step(encoder, optimizer)
    path = Path(sys.argv[1]) / f"{processes.rank}.pt"
    state = {"values": own_values(encoder.module), "optimizer": optimizer_state(optimizer)}
    torch.save(state, path)
    take_step(encoder, optimizer)
    again = load(MODELS[name])
    shard(again, processes)
    optimizer = make_optimizer(trained(again), OptimizerSection(lr=0.5))
    read = torch.load(path, weights_only=True)
    put_values(again.module, read["values"])
    put_optimizer_state(optimizer, read["optimizer"])
    take_step(again, optimizer)
    for one, other in zip(trained(encoder), trained(again), strict=True):
        assert torch.equal(own_part(one), own_part(other))


def no_vectors_by_the_way() -> None:
    """One process alone would wait for the others for ever, and inference spoils the weights."""
    encoder = load(everything)
    shard(encoder, processes)
    if processes.is_main:
        with pytest.raises(UsageError, match="gives no vectors while it is trained"):
            encoder.encode(chunk(TEXT, 1))
    take_step(encoder, make_optimizer(trained(encoder), OptimizerSection()))


def take_step(encoder: Any, optimizer: torch.optim.Optimizer) -> None:
    step_together(encoder)
    optimizer.step()
    optimizer.zero_grad()


CHECKS: dict[str, dict[str, Callable[[], None]]] = {
    "weights": {
        **{name: partial(same_steps, MODELS[name]) for name in MODELS if "RA" not in name},
        "checkpoints are made": checkpoints_are_made,
    },
    "families": {
        "LLaVA-NeXT": partial(same_steps, everything, LLAVA),
        "Qwen3-VL": same_steps_of_qwen3,
    },
    "adapters": {name: partial(same_steps, MODELS[name]) for name in MODELS if "RA" in name},
    "states": {
        "whole values": whole_values,
        "everything goes on": partial(goes_on_bit_by_bit, "everything"),
        "DoRA goes on": partial(goes_on_bit_by_bit, "DoRA"),
        "no vectors by the way": no_vectors_by_the_way,
    },
}

if __name__ == "__main__":
    go_through(CHECKS[sys.argv[2]], processes.rank)
