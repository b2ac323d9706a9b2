"""Several processes as one: what is gathered, summed and clipped, and how they find together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.trainers import processes as module
from mmeb_harness.trainers.processes import Processes, clip, make_accelerator, start, started
from several_processes import accelerate_launch, run_together, torchrun

CHECKS = [
    "are_together",
    "share_every_pair_once",
    "gather_rows_bit_by_bit",
    "gather_what_is_odd",
    "sum_gradients",
    "clip_what_is_whole",
    "broadcast",
    "agree_on_numbers",
    "wait_for_the_last",
    "name_who_disagrees",
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("processes", "launcher"), [(2, torchrun), (4, torchrun), (2, accelerate_launch)]
)
def test_several_processes(
    tmp_path: Path, processes: int, launcher: Callable[[int], list[str]]
) -> None:
    passed = run_together("processes.py", processes, tmp_path, launcher=launcher)
    assert passed == [CHECKS] * processes


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*module.COUNTS, *module.OTHER_WAYS, "ACCELERATE_USE_CPU", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


# -- a single process ------------------------------------------------------------------------------


def test_a_single_process_talks_to_nobody() -> None:
    alone = start()
    assert alone == Processes(rank=0, count=1, device=None)
    assert alone.is_main
    rows = torch.randn(3, 2, requires_grad=True)
    gathered, place = alone.gather_rows(rows)
    assert torch.equal(gathered, rows)
    assert not gathered.requires_grad
    assert place == slice(0, 3)
    parameter = torch.nn.Parameter(torch.ones(2))
    alone.sum_gradients([parameter])
    assert parameter.grad is None
    alone.broadcast([parameter])
    alone.wait()
    alone.agree("the configuration", "any")
    assert (alone.total(3), alone.maximum(-1.5), alone.from_main("here")) == (3, -1.5, "here")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("pairs", [0, 1, 6, 7, 8, 100])
def test_shares_are_neighbours_and_alike(count: int, pairs: int) -> None:
    shares = [Processes(rank=rank, count=count).share(pairs) for rank in range(count)]
    rows = list(range(pairs))
    assert [row for share in shares for row in rows[share]] == rows
    sizes = [len(rows[share]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


# -- how they find together ------------------------------------------------------------------------


@pytest.mark.parametrize("name", module.COUNTS)
def test_what_launchers_say(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert started() == 1
    monkeypatch.setenv(name, "3")
    assert started() == 3


def test_a_launcher_of_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert start("cuda:1") == Processes(device="cuda:1")
    assert not torch.distributed.is_initialized()


def test_accelerates_cpu_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert start() == Processes(device="cpu")
    assert start("cuda") == Processes(device="cuda")


@pytest.mark.parametrize("name", module.OTHER_WAYS)
def test_other_ways_of_sharing_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(UsageError, match=f"{name} is set.*run.shard=true"):
        make_accelerator("cpu")


def test_several_processes_share_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="device=cuda:1: each of several processes"):
        start("cuda:1")


def test_processes_that_do_not_see_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train alone and write over the others."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    accelerator: Any = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("mps"))
    with pytest.raises(EnvironmentFault, match=r"4 processes were started, but.*device=cpu"):
        Processes.of(accelerator)


# -- gradients -------------------------------------------------------------------------------------


def test_buckets_hold_each_tensor_once() -> None:
    sizes = [3, 9, 2, 30, 1, 1, 8, 8]
    tensors = [
        torch.full((size,), float(number), dtype=(torch.float32, torch.float64)[number % 2])
        for number, size in enumerate(sizes)
    ]
    found = list(module.buckets(tensors, most=10))
    numbers = [[int(one[0]) for one in bucket] for bucket in found]
    assert sorted(number for bucket in numbers for number in bucket) == list(range(8))
    assert all(bucket == sorted(bucket) for bucket in numbers)
    for bucket in found:
        assert len({one.dtype for one in bucket}) == 1
        assert len(bucket) == 1 or sum(one.numel() for one in bucket) <= 10
    assert len(found) < len(tensors)


@pytest.mark.parametrize("most", [0.1, 1e6, None])
def test_clips_as_torch_does(most: float | None) -> None:
    def parameters() -> list[torch.nn.Parameter]:
        torch.manual_seed(3)
        made = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2,))]
        for parameter in made[:2]:
            parameter.grad = torch.randn(parameter.shape)
        return made

    ours, torchs = parameters(), parameters()
    norm = clip(iter(ours), most)
    assert norm == torch.nn.utils.clip_grad_norm_(torchs, most or float("inf")).item()
    for one, other in zip(ours[:2], torchs[:2], strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)
    assert ours[2].grad is None


def test_a_gradient_that_is_no_number_shows_in_the_norm() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, float("nan")])
    norm = clip([parameter], 1.0)
    assert norm != norm
