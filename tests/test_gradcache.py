"""Cached gradients are those of the whole batch: the same numbers from one plain graph over it.

A difference of gradients is the largest of any tensor, as a share of that tensor's largest number.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness.errors import TaskError
from mmeb_harness.item import Item
from mmeb_harness.task import Pair
from mmeb_harness.trainers.gradcache import Chunk, RandomState, backward_all, embed_all
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import clip
from mmeb_harness.trainers.step import Stepper
from mmeb_harness.trainers.train import _save_memory
from several_processes import run_together
from torch import Tensor, nn
from training_parts import (
    difference,
    direct,
    gradients,
    image_pairs,
    load,
    mixed_pairs,
    said,
    seen,
    stepped,
    stepper,
    text_pairs,
    under_training,
)

LOSS = InfoNCE(temperature=0.05)

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
TRAINED: Mapping[str, Mapping[str, Any]] = {
    "everything": {"lora": False},
    "LoRA": {"lora": LORA},
    "DoRA": {"lora": {**LORA, "dora": True}},
    "rsLoRA": {"lora": {**LORA, "rslora": True}},
}
BATCHES: Mapping[str, Callable[[], list[Pair]]] = {
    "mixed": lambda: mixed_pairs(6, 4),
    "texts": lambda: text_pairs(4),
    "images": lambda: image_pairs(4),
}
EXACT = 1e-9
"""For a model that computes in float64 throughout."""

NEAR = 1e-6
"""For models whose norms and attention compute in float32, whatever their type."""

LIMITS = {"clip": EXACT, "qwen2-vl": NEAR, "llava-next": NEAR, "phi3-v": NEAR}


# -- there and back, on a toy ----------------------------------------------------------------------


class Toy(nn.Module):
    """A layer with dropout, whose runs are counted."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3, 2, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)
        self.runs: list[tuple[int, bool]] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.runs.append((len(rows), torch.is_grad_enabled()))
        vectors: Tensor = self.layer(self.dropout(rows)).tanh()
        return vectors


def toy_chunks(*sizes: int, keep: int = 0) -> list[Chunk]:
    """Draw chunks, of which the last so many say that there is room for their graphs."""
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes]
    first = len(sizes) - keep
    return [
        Chunk(batch=rows, items=len(rows), keeps=number >= first)
        for number, rows in enumerate(drawn)
    ]


def there_and_back(toy: Toy, chunks: Sequence[Chunk], **more: Any) -> Tensor:
    """Return the gradient of the weights for a loss in which all vectors meet."""
    toy.zero_grad()
    cached = embed_all(toy, chunks, **more)
    leaves = cached.vectors_ID.requires_grad_()
    torch.autograd.backward((leaves @ leaves.T).exp().sum().log())
    assert leaves.grad is not None
    backward_all(toy, chunks, cached, leaves.grad)
    return weight_gradient(toy)


def weight_gradient(toy: Toy) -> Tensor:
    assert toy.layer.weight.grad is not None
    return toy.layer.weight.grad.clone()


def one_graph(toy: Toy, chunks: Sequence[Chunk]) -> Tensor:
    toy.zero_grad()
    vectors = torch.cat([toy(chunk.batch)[: chunk.items] for chunk in chunks])
    (vectors @ vectors.T).exp().sum().log().backward()
    return weight_gradient(toy)


@pytest.mark.parametrize("keep", [None, 0, 1, 2])
@pytest.mark.parametrize("sizes", [(6,), (1, 5), (2, 2, 2), (1, 1, 1, 1, 1, 1)])
def test_chunks_change_nothing(sizes: Sequence[int], keep: int | None) -> None:
    """However many keep their graphs: the last always does, unless none shall (None)."""
    toy, chunks = Toy(), toy_chunks(*sizes, keep=keep or 0)
    found = there_and_back(toy, chunks, keep_last=keep is not None)
    graphs = [with_graph for _, with_graph in toy.runs]
    assert graphs.count(True) == len(sizes)
    kept = 0 if keep is None else min(max(1, keep), len(sizes))
    assert graphs.count(False) == len(sizes) - kept
    torch.testing.assert_close(found, one_graph(toy, chunks), rtol=1e-13, atol=0)


@pytest.mark.parametrize("keep", [None, 1, 2])
def test_dropout_is_played_again(keep: int | None) -> None:
    keep_last = keep is not None
    toy, chunks = Toy(0.5), toy_chunks(3, 2, 4, keep=keep or 0)
    torch.manual_seed(3)
    found = there_and_back(toy, chunks, keep_last=keep_last)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    expected = one_graph(toy, chunks)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert torch.equal(after, torch.get_rng_state())  # as if every chunk had run once
    torch.manual_seed(4)
    assert not torch.allclose(there_and_back(toy, chunks), expected, rtol=0.1)


def test_a_chunk_for_company_adds_nothing() -> None:
    toy, chunks = Toy(), toy_chunks(3, 2)
    company = Chunk(batch=chunks[0].batch, items=0)
    found = there_and_back(toy, [company, *chunks], keep_last=False)
    assert [rows for rows, _ in toy.runs] == [3, 3, 2, 2, 3, 3]
    torch.testing.assert_close(found, one_graph(toy, chunks), rtol=1e-13, atol=0)


def test_tells_when_the_last_chunk_goes_back() -> None:
    toy, chunks = Toy(), toy_chunks(3, 2, 1)
    cached = embed_all(toy, chunks)
    toy.runs.clear()
    seen_at: list[int] = []
    backward_all(
        toy, chunks, cached, torch.ones(6, 2).double(), lambda: seen_at.append(len(toy.runs))
    )
    assert seen_at == [1]  # of the two that are run again, one was
    assert [rows for rows, _ in toy.runs] == [2, 3]


def test_no_chunk_has_no_vector() -> None:
    assert embed_all(Toy(), []).vectors_ID.shape == (0, 0)


# -- models ----------------------------------------------------------------------------------------


def check_cached(
    family: str, trained: str, kind: str, cuts: Sequence[Mapping[str, int]], **more: Any
) -> None:
    """Compare a step over one batch, cut in several ways, with one graph over all of it."""
    pairs = BATCHES[kind]()
    hard = any(pair.negative is not None for pair in pairs)
    encoder = load(family, dtype="float64")
    chosen = under_training(encoder, **TRAINED[trained])
    expected_loss, expected = direct(
        encoder, [pairs], chosen, temperature=LOSS.temperature, hard_negatives=hard
    )
    assert expected_loss > 0.1
    for cut in cuts:
        result, found = stepped(
            stepper(encoder, LOSS, negatives=hard, **cut, **more), [pairs], chosen
        )
        assert result.loss == pytest.approx(expected_loss, rel=LIMITS[family]), cut
        assert difference(found, expected) <= LIMITS[family], cut


@pytest.mark.parametrize(
    ("family", "trained"), [("clip", "everything"), ("clip", "DoRA"), ("qwen2-vl", "LoRA")]
)
def test_cached_gradients_are_the_direct_ones(family: str, trained: str) -> None:
    """A glance; the next test has all cases."""
    check_cached(family, trained, "mixed", [{"items": 2}, {"tokens": 100}])


CUTS = [*({"items": count} for count in (1, 2, 3, 5)), *({"tokens": n} for n in (60, 150, 1000))]
FEWER = [{"items": 1}, {"items": 3}, {"tokens": 60}, {"tokens": 300}]
CASES = [
    *(("clip", trained, "mixed", CUTS) for trained in TRAINED),
    *(("qwen2-vl", trained, "mixed", CUTS) for trained in ("everything", "DoRA")),
    *(("qwen2-vl", trained, "mixed", FEWER) for trained in ("LoRA", "rsLoRA")),
    *(("llava-next", trained, "mixed", FEWER) for trained in TRAINED),
    *(("phi3-v", trained, "mixed", FEWER[1:3]) for trained in ("everything", "DoRA")),
    *((family, "DoRA", "texts", FEWER[1:3]) for family in LIMITS),
    *((family, "everything", "images", FEWER[1:3]) for family in ("clip", "qwen2-vl")),
    *((family, "LoRA", "images", FEWER[1:3]) for family in ("clip", "qwen2-vl", "llava-next")),
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "trained", "kind", "cuts"), CASES, ids=["-".join(one[:3]) for one in CASES]
)
def test_cached_gradients_are_the_direct_ones_in_all_cases(
    family: str, trained: str, kind: str, cuts: Sequence[Mapping[str, int]]
) -> None:
    check_cached(family, trained, kind, cuts)


@contextlib.contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Count the runs of a module while the context lasts."""
    runs: list[int] = []
    hook = module.register_forward_pre_hook(lambda *_: runs.append(1))
    yield runs
    hook.remove()


@pytest.mark.thorough
@pytest.mark.parametrize("trained", ["everything", "DoRA"])
@pytest.mark.parametrize("family", ["clip", "qwen2-vl", "llava-next"])
def test_layers_computed_again_change_nothing(family: str, trained: str) -> None:
    """With gradient checkpointing; that layers are computed again is seen, too."""
    encoder = load(family, dtype="float64")
    chosen = under_training(encoder, **TRAINED[trained])
    pairs = mixed_pairs(3)
    _, expected = direct(encoder, [pairs], chosen, temperature=LOSS.temperature)
    cached = stepper(encoder, LOSS, items=2)
    named = encoder.module.named_modules()
    layer = next(
        one for name, one in named if re.search(r"(language|text)_.*layers\.0\.mlp$", name)
    )
    with counted(layer) as plainly:
        stepped(cached, [pairs], chosen)
    _save_memory(encoder.module)
    with counted(layer) as again:
        _, found = stepped(cached, [pairs], chosen)
    assert len(again) > len(plainly)
    assert difference(found, expected) <= LIMITS[family]


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["clip", "qwen2-vl"])
def test_several_batches_make_one_step(family: str) -> None:
    """The gradient is of the mean of their losses; equal items of two batches are no matter."""
    encoder = load(family, dtype="float64")
    chosen = under_training(encoder, **TRAINED["LoRA"])
    batches = [mixed_pairs(5), text_pairs(3), image_pairs(2)]
    loss, expected = direct(encoder, batches, chosen, temperature=LOSS.temperature)
    result, found = stepped(stepper(encoder, LOSS, items=2), batches, chosen)
    assert result.loss == pytest.approx(loss, rel=LIMITS[family])
    assert (result.pairs, result.negatives) == (10, pytest.approx((18 / 5 + 2 + 1) / 3))
    assert difference(found, expected) <= LIMITS[family]
    norm = torch.cat([one.flatten() for one in expected.values()]).norm().item()
    assert clip(list(chosen.parameters.values()), norm / 3) == pytest.approx(norm, rel=1e-6)
    clipped = {name: one / 3 for name, one in expected.items()}
    assert difference(gradients(chosen), clipped) <= NEAR


@pytest.mark.parametrize("family", ["clip", "qwen2-vl"])
def test_a_chunk_in_which_nothing_is_trained_has_a_say_in_the_loss_alone(family: str) -> None:
    """Texts, where the vision tower alone is under training."""
    encoder = load(family, dtype="float64")
    tower = {"clip": ("vision_model", "visual_projection"), "qwen2-vl": ("visual",)}[family]
    chosen = under_training(encoder, lora=False, train=tower)
    pairs = mixed_pairs(3)
    loss, expected = direct(encoder, [pairs], chosen, temperature=LOSS.temperature)
    for items in (1, 4):
        result, found = stepped(stepper(encoder, LOSS, items=items), [pairs], chosen)
        assert result.loss == pytest.approx(loss, rel=LIMITS[family])
        assert difference(found, expected) <= LIMITS[family]
    result, found = stepped(stepper(encoder, LOSS, items=1), [text_pairs(2)], chosen)
    assert result.loss > 0
    assert all(not one.any() for one in found.values())


# -- how often what is run -------------------------------------------------------------------------


@contextlib.contextmanager
def images_seen(encoder: Any) -> Iterator[list[int]]:
    """Collect how many images each run of the vision tower sees."""
    name = {"Qwen2VL": "visual", "LlavaNext": "vision_tower", "Clip": "vision_model"}
    tower = encoder.module.get_submodule(name[type(encoder).__name__])
    counts: list[int] = []

    def count(_: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        grids = named.get("grid_thw")
        pixels = named.get("pixel_values", arguments[0] if arguments else None)
        counts.append(len(grids if grids is not None else pixels))

    hook = tower.register_forward_pre_hook(count, with_kwargs=True)
    yield counts
    hook.remove()


TRUNKS = {"qwen2-vl": "language_model", "llava-next": "language_model", "clip": "text_model"}


@pytest.mark.parametrize("family", ["qwen2-vl", "clip"])
def test_what_is_frozen_runs_once(family: str) -> None:
    check_runs(family)


@pytest.mark.thorough
def test_what_is_frozen_runs_once_in_llava_next() -> None:
    check_runs("llava-next")


def check_runs(family: str) -> None:
    """Each distinct picture is seen once a step, what is trained runs twice a chunk but for one: in
    every step but the first, in which one of two towers is found out by running it."""
    encoder = load(family)
    targets = [TRUNKS[family]] if family == "clip" else None
    chosen = under_training(encoder, lora={**LORA, "targets": targets})
    pairs = mixed_pairs(6, 4)
    sides = [(pair.query, pair.positive, pair.negative) for pair in pairs]
    items = [one for side in sides for one in side if one is not None]
    distinct = {(one.text, one.image and one.image.tobytes()) for one in items}
    pictures = sum(image is not None for _, image in distinct)
    assert (pictures, sum(one.image is not None for one in items)) == (4, 6)
    tiles = 5 if family == "llava-next" else 1  # a whole and four
    trunk = encoder.module.get_submodule(TRUNKS[family])
    for number, cut in enumerate(({"items": 3}, {"items": 100}, {"items": 3}, {"tokens": 150})):
        one = stepper(encoder, LOSS, negatives=True, **cut)
        ready = one.preparer(pairs)
        with images_seen(encoder) as counts, counted(trunk) as runs:
            result = one.gradients([ready], list(chosen.parameters.values()))
        assert sum(counts) == pictures * tiles
        assert result.items == len(distinct) == sum(chunk.items for chunk in ready.chunks)
        times = [1 if chunk.keeps else 2 for chunk in ready.chunks]
        by_trunk = [bool(getattr(chunk.batch, "text_rows", True)) for chunk in ready.chunks]
        found_out = family == "clip" and number == 0
        assert len(runs) == int(np.dot(times, by_trunk)) + found_out
        if "items" in cut:
            count = -(-len(distinct) // cut["items"])
            assert times == [2] * (count - 1) + [1]
    assert not any("vis" in name for name in gradients(chosen))


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["qwen2-vl", "llava-next", "clip"])
def test_what_is_trained_runs_again_with_a_graph(family: str) -> None:
    encoder = load(family)
    chosen = under_training(encoder, lora=False)
    pairs = mixed_pairs(6, 4)
    one = stepper(encoder, LOSS, negatives=True, items=3)
    ready = one.preparer(pairs)
    parameters = list(chosen.parameters.values())
    one.gradients([ready], parameters)  # finds out what is trained
    with images_seen(encoder) as counts:
        one.gradients([ready], parameters)
    times = [1 if chunk.keeps else 2 for chunk in ready.chunks]
    assert len(counts) == int(np.dot(times, [_pictures(chunk.batch) for chunk in ready.chunks]))
    tower = {name: one for name, one in gradients(chosen).items() if "vis" in name}
    assert tower
    assert all(one.any() for name, one in tower.items() if "k_proj.bias" not in name)


def _pictures(batch: Any) -> bool:
    return bool(batch.image_rows if hasattr(batch, "image_rows") else batch.images is not None)


# -- dropout ---------------------------------------------------------------------------------------


def kept_graph(
    encoder: Any, one: Stepper, pairs: Sequence[Pair], seed: int, *, half: bool = False
) -> Mapping[str, Tensor]:
    """Return gradients by the same chunks, their graphs kept, from the same random state."""
    ready = one.preparer(pairs)
    for parameter in encoder.module.parameters():
        parameter.grad = None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        batches = [encoder.settled(chunk.batch) for chunk in ready.chunks]
    torch.manual_seed(seed)

    def embed(batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            vectors: Tensor = encoder.forward(batch)
        return vectors

    vectors = torch.cat([embed(batch) for batch in batches])
    codes = torch.from_numpy(ready.codes_I[ready.positives_P])
    LOSS(vectors[ready.queries_P], vectors[ready.positives_P], codes).backward()
    named = encoder.module.named_parameters()
    return {name: one.grad.clone() for name, one in named if one.grad is not None}


def test_dropout_of_adapters_is_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    check_dropout("clip", monkeypatch)


DROPOUT: Sequence[tuple[str, Sequence[str], bool]] = [
    ("qwen2-vl", ("visual", "language_model"), False),
    ("qwen2-vl", ("visual", "language_model"), True),
    ("llava-next", ("language_model",), True),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("family", "targets", "checkpointed"), DROPOUT)
def test_dropout_is_played_again_everywhere(
    family: str, targets: Sequence[str], checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a vision tower has adapters, too; where layers are computed again on the way back."""
    check_dropout(family, monkeypatch, targets, checkpointed)


def check_dropout(
    family: str,
    monkeypatch: pytest.MonkeyPatch,
    targets: Sequence[str] | None = None,
    checkpointed: bool = False,
) -> None:
    encoder = load(family, dtype="float64")
    lora = {**LORA, "dropout": 0.3, "targets": targets}
    chosen = under_training(encoder, lora=lora)
    if checkpointed:
        _save_memory(encoder.module)
    pairs = mixed_pairs(4)
    one = stepper(encoder, LOSS, items=2)
    expected = kept_graph(encoder, one, pairs, 9)
    after = torch.get_rng_state()
    for _ in range(2):
        torch.manual_seed(9)
        _, found = stepped(one, [pairs], chosen)
        assert torch.equal(after, torch.get_rng_state())
        assert difference(found, expected) <= LIMITS[family]
    torch.manual_seed(10)
    assert difference(stepped(one, [pairs], chosen)[1], expected) > 0.05
    monkeypatch.setattr(RandomState, "replayed", lambda self: contextlib.nullcontext())
    torch.manual_seed(9)
    assert difference(stepped(one, [pairs], chosen)[1], expected) > 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["clip", "qwen2-vl"])
def test_a_first_step_draws_as_every_other(family: str) -> None:
    """Finding out what is trained leaves no trace: a training that goes on does it again."""
    states = []
    encoder = load(family)
    targets = [".*"] if family == "clip" else ["visual", "language_model"]
    chosen = under_training(encoder, lora={**LORA, "dropout": 0.3, "targets": targets})
    for _ in range(2):
        torch.manual_seed(9)
        stepped(stepper(encoder, LOSS, items=2), [mixed_pairs(4)], chosen)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# -- vectors and precision -------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("trained", ["everything", "DoRA"])
@pytest.mark.parametrize("family", ["clip", "qwen2-vl", "llava-next"])
def test_the_first_pass_gives_the_vectors_of_encode(family: str, trained: str) -> None:
    encoder = load(family)
    under_training(encoder, **TRAINED[trained])
    assert encoder.module.training
    pairs = mixed_pairs(6, 4)
    items = [one.query for one in pairs] + [one.positive for one in pairs]
    for cut in ({"items": 2}, {"tokens": 150}, {}):
        ready = stepper(encoder, LOSS, **cut).preparer(pairs)
        with torch.no_grad():
            chunks = [
                Chunk(batch=encoder.settled(one.batch), items=one.items) for one in ready.chunks
            ]
        vectors_ID = embed_all(encoder.forward, chunks).vectors_ID
        places = np.concatenate([ready.queries_P, ready.positives_P])
        encoder.module.eval()
        expected = encoder.encode(items)
        encoder.module.train()
        assert np.abs(vectors_ID[places].numpy() - expected).max() <= 1e-5


@pytest.mark.thorough
def test_half_precision_goes_there_and_back_alike() -> None:
    """Under autocast, gradients are those of the same chunks with their graphs kept; and near those
    of full precision."""
    encoder = load("qwen2-vl")
    chosen = under_training(encoder, **TRAINED["LoRA"])
    pairs = mixed_pairs(4)
    half = stepper(encoder, LOSS, items=2, precision="bfloat16")
    result, found = stepped(half, [pairs], chosen)
    exact, precise = stepped(stepper(encoder, LOSS, items=2), [pairs], chosen)
    expected = kept_graph(encoder, half, pairs, 0, half=True)
    assert all(one.dtype == torch.float32 for one in found.values())
    assert difference(found, expected) <= 1e-6
    assert 1e-4 < difference(found, precise) < 0.5
    assert result.loss != exact.loss
    assert result.loss == pytest.approx(exact.loss, rel=0.1)


# -- several processes -----------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(("processes", "checks"), [(2, "all"), (4, "steps")])
def test_processes_together_are_one(processes: int, checks: str, tmp_path: Path) -> None:
    """Loss and summed gradients, sharded ones too; see `distributed/training.py`."""
    passed = run_together("training.py", processes, tmp_path, checks)
    assert all(one == passed[0] for one in passed)
    assert len(passed[0]) == {"all": 15, "steps": 5}[checks]


# -- what cannot be trained on ---------------------------------------------------------------------


@pytest.mark.thorough
def test_vectors_of_fewer_bits_are_widened_before_they_are_compared() -> None:
    """Those of a stranger's encoder: loss and gradients are as if they had been float32 already."""
    encoder = load("clip")
    chosen = under_training(encoder, **TRAINED["LoRA"])
    forward = encoder.forward
    encoder.forward = lambda batch: forward(batch).bfloat16().float()
    expected_loss, expected = direct(
        encoder, [mixed_pairs(4)], chosen, temperature=LOSS.temperature
    )
    encoder.forward = lambda batch: forward(batch).bfloat16()
    result, found = stepped(stepper(encoder, LOSS, items=3), [mixed_pairs(4)], chosen)
    assert result.loss == pytest.approx(expected_loss, rel=1e-5)
    assert difference(found, expected) <= 0.02  # a gradient of so few bits


def test_a_batch_of_one_pair_needs_a_negative() -> None:
    encoder = load("clip")
    chosen = under_training(encoder, **TRAINED["LoRA"])
    alone = Pair(query=seen(0), positive=said(1))
    with pytest.raises(TaskError, match="the only pair of a batch has no negative"):
        stepped(stepper(encoder, LOSS, negatives=True), [[alone]], chosen)
    held_against = Pair(query=seen(0), positive=said(1), negative=Item(text="a red cube"))
    result, found = stepped(stepper(encoder, LOSS, negatives=True), [[held_against]], chosen)
    assert (result.pairs, result.negatives, result.items) == (1, 1, 3)
    assert all(one.any() for one in found.values())
