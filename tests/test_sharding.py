"""A model dealt out to several processes gives what a whole one gives, and is saved whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import torch
from mmeb_harness.errors import UsageError
from mmeb_harness.trainers.processes import Processes, is_sharded
from mmeb_harness.trainers.sharding import own_values, put_values, shard, sum_after, whole_state
from several_processes import run_together

CHECKS = {
    "weights": ["everything", "checkpointed", "embeddings frozen", "checkpoints are made"],
    "families": ["LLaVA-NeXT", "Qwen3-VL"],
    "adapters": [
        "LoRA",
        "LoRA, checkpointed",
        "LoRA on the tower too",
        "DoRA",
        "DoRA, bfloat16 base",
    ],
    "states": ["whole values", "everything goes on", "DoRA goes on", "no vectors by the way"],
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("group", "processes"),
    [("weights", 2), ("families", 2), ("adapters", 2), ("states", 3)],
)
def test_dealt_out(tmp_path: Path, group: str, processes: int) -> None:
    passed = run_together("sharding.py", processes, tmp_path, group)
    assert passed == [CHECKS[group]] * processes


# -- in a single process ---------------------------------------------------------------------------


def load_qwen(goldens: Path) -> Any:
    return mh.load_encoder(f"qwen2-vl:{goldens}/models/tiny-qwen2vl", device="cpu")


def test_alone_nothing_is_dealt_out(goldens: Path) -> None:
    encoder = load_qwen(goldens)
    shard(encoder, Processes())
    sum_after(encoder.module, True)
    assert not any(map(is_sharded, encoder.module.parameters()))
    state = encoder.module.state_dict()
    whole = whole_state(encoder.module, Processes(), {"language_model.norm.weight"})
    assert torch.equal(whole.pop("language_model.norm.weight"), state["language_model.norm.weight"])
    assert not whole
    assert not torch.distributed.is_initialized()


def test_values_are_put_back(goldens: Path) -> None:
    encoder = load_qwen(goldens)
    encoder.module.visual.requires_grad_(False)
    values = {name: value.clone() for name, value in own_values(encoder.module).items()}
    assert values
    assert not [name for name in values if name.startswith("visual")]
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.zero_()
    put_values(encoder.module, values)
    for name, value in encoder.module.named_parameters():
        assert torch.equal(value, values.get(name, torch.zeros_like(value)))


@pytest.mark.parametrize("processes", [1, 2])
def test_models_without_a_trunk_are_refused(tiny_clip: Callable[..., Any], processes: int) -> None:
    """In a single process too, where it would come to nothing: before many are asked for."""
    with pytest.raises(UsageError, match="this model cannot be dealt out"):
        shard(tiny_clip(), Processes(count=processes))


def test_phi3_and_mllama_have_no_trunk() -> None:
    """One runs twice for batches of short and long items, one with and without cross-attention."""
    from mmeb_harness.plugins.mllama import Mllama
    from mmeb_harness.plugins.phi3_v import Phi3V

    for kind in (Phi3V, Mllama):
        assert kind.trunk.fget(object()) is None  # type: ignore[attr-defined]
