"""What `trainers/processes.py` promises, checked in every one of several processes.

Every process knows what all of them hold, from a seed, so that each can tell what the sum is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.trainers import processes as module
from mmeb_harness.trainers.processes import clip, start
from several_processes import go_through

processes = start("cpu" if torch.cuda.is_available() else None)
others = range(processes.count)


def seeded(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(sum(1000**place * one for place, one in enumerate(seed)))


def are_together() -> None:
    assert processes.count in (2, 4)
    assert processes.device == "cpu"
    assert processes.is_main == (processes.rank == 0)
    assert sorted(int(one) for one in processes._gathered(torch.tensor(processes.rank))) == [
        *others
    ]


def share_every_pair_once() -> None:
    for pairs in range(12):
        own = torch.zeros(pairs)
        own[processes.share(pairs)] = 1
        parts = torch.stack(processes._gathered(own))
        assert (parts.sum(0) == 1).all()
        assert parts.sum(1).max() - parts.sum(1).min() <= 1
        assert parts.argmax(0).tolist() == sorted(parts.argmax(0).tolist())


ROWS = (2, 5, 0, 1)
"""How many rows each process has."""


def rows_of(rank: int, dtype: torch.dtype, width: int | None) -> torch.Tensor:
    """Rows in which every bit is drawn, NaN, -0 and numbers over 2**53 among them."""
    shape = (ROWS[rank], width or 1)
    bits = torch.randint(-(2**63), 2**63 - 1, shape, generator=seeded(rank, 1))
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    same_size = bits.to(sizes[dtype.itemsize])
    rows = same_size > 0 if dtype is torch.bool else same_size.view(dtype)
    return rows if width else rows[:, 0]


def as_bits(rows: torch.Tensor) -> list[int]:
    return rows.contiguous().view(-1).view(torch.uint8).tolist()


TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool)


def gather_rows_bit_by_bit() -> None:
    for dtype in TYPES:
        for width in (None, 1, 5):
            parts = [rows_of(rank, dtype, width) for rank in others]
            own = parts[processes.rank]
            gathered, place = processes.gather_rows(own)
            assert gathered.dtype == dtype
            assert gathered.shape == torch.cat(parts).shape
            assert as_bits(gathered) == as_bits(torch.cat(parts))
            assert as_bits(gathered[place]) == as_bits(own)


def gather_what_is_odd() -> None:
    if processes.rank == 1:  # has no row, and cannot know how wide they are
        own = torch.zeros(0, 0)
    else:  # laid out by columns, and part of a graph
        own = torch.arange(6.0).view(2, 3).T.requires_grad_() * (processes.rank + 1)
    gathered, place = processes.gather_rows(own)
    ranks = [rank for rank in others if rank != 1]
    expected = torch.cat([torch.arange(6.0).view(2, 3).T * (rank + 1) for rank in ranks])
    assert torch.equal(gathered, expected)
    assert not gathered.requires_grad
    assert place.stop - place.start == len(own)
    nothing, place = processes.gather_rows(torch.zeros(0, 4))
    assert nothing.shape == (0, 4)
    assert place == slice(0, 0)


SHAPES = ((4, 3), (40,), (2, 2), (7, 5), (1,), (3, 3), (6,))
DTYPES = (torch.float32, torch.float64)
UNUSED = 4


def gradients_of(rank: int) -> list[torch.Tensor | None]:
    """Gradients of one process: some lack in one process, one in all."""
    found: list[torch.Tensor | None] = []
    for number, shape in enumerate(SHAPES):
        drawn = torch.randn(shape, generator=seeded(rank, number), dtype=DTYPES[number % 2])
        lacks = number == UNUSED or number % processes.count == rank
        found.append(None if lacks else drawn)
    return found


def parameters() -> list[torch.nn.Parameter]:
    made = [
        torch.nn.Parameter(torch.zeros(shape, dtype=DTYPES[number % 2]))
        for number, shape in enumerate(SHAPES)
    ]
    for parameter, gradient in zip(made, gradients_of(processes.rank), strict=True):
        parameter.grad = gradient
    if (laid_out := made[3].grad) is not None:
        made[3].grad = laid_out.T.contiguous().T
    return made


def sums() -> list[torch.Tensor | None]:
    parts = zip(*(gradients_of(rank) for rank in others), strict=True)
    found = [[one for one in column if one is not None] for column in parts]
    return [sum(column[1:], column[0]) if column else None for column in found]


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Send no more numbers at once than so many."""
    usual = module.buckets
    module.buckets = partial(usual, most=most)
    yield
    module.buckets = usual


def sum_gradients() -> None:
    for most in (1 << 25, 16, 1):
        made = parameters()
        with limited(most):
            processes.sum_gradients(iter(made))
        check_sums(made, sums())


def check_sums(made: Sequence[torch.nn.Parameter], expected: Sequence[torch.Tensor | None]) -> None:
    for number, (parameter, total) in enumerate(zip(made, expected, strict=True)):
        if total is None:
            assert number == UNUSED
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, total, rtol=1e-6, atol=1e-7)
        same = [as_bits(one) for one in processes._gathered(parameter.grad.contiguous())]
        assert all(one == same[0] for one in same)


def clip_what_is_whole() -> None:
    """As torch does, bit by bit; every process counts a gradient once, not each its own."""
    for most in (0.5, 1e6, None):
        made, plain = parameters(), parameters()
        norm = clip(made, most)
        expected = torch.nn.utils.clip_grad_norm_(plain, most or float("inf"))
        assert norm == expected.item()
        for one, other in zip(made, plain, strict=True):
            assert (one.grad is None) == (other.grad is None)
            assert one.grad is None or as_bits(one.grad) == as_bits(other.grad)
    assert clip([], 1.0) == 0.0


def broadcast() -> None:
    drawn = [
        torch.randn(shape, generator=seeded(processes.rank, number), dtype=DTYPES[number % 2])
        for number, shape in enumerate(SHAPES)
    ]
    tensors = [torch.nn.Parameter(one) for one in drawn]
    tensors.append(torch.nn.Parameter(torch.full((3, 2), float(processes.rank)).T))
    buffers = [torch.tensor(processes.rank), torch.tensor([processes.rank > 0])]
    buffers.append(torch.full((20, 2), processes.rank, dtype=torch.bfloat16))
    with limited(16):
        processes.broadcast([*tensors, *buffers])
    for number, shape in enumerate(SHAPES):
        first = torch.randn(shape, generator=seeded(0, number), dtype=DTYPES[number % 2])
        assert as_bits(tensors[number].detach()) == as_bits(first)
    assert not any(one.any() for one in (tensors[-1].detach(), *buffers))


def agree_on_numbers() -> None:
    ranks = [*others]
    assert processes.total(processes.rank + 1) == sum(ranks) + processes.count
    assert isinstance(processes.total(1), int)
    assert processes.total(0.5 * processes.rank) == 0.5 * sum(ranks)
    assert processes.maximum(10 - processes.rank) == 10
    assert processes.maximum(-1.5 - processes.rank) == -1.5
    assert processes.total(2**50 + 1) == processes.count * (2**50 + 1)
    assert processes.from_main({"step": processes.rank, "at": "here"}) == {"step": 0, "at": "here"}


def wait_for_the_last() -> None:
    began = time.monotonic()
    if processes.rank == processes.count - 1:
        time.sleep(0.3)
    processes.wait()
    assert time.monotonic() - began >= 0.29


def name_who_disagrees() -> None:
    processes.agree("the configuration", "same")
    last = processes.count - 1
    try:
        processes.agree("the configuration", "other" if processes.rank == last else "same")
    except EnvironmentFault as fault:
        assert f"the configuration is not the same in all {processes.count}" in str(fault)
        assert f"process {last} on " in str(fault)
    else:
        raise AssertionError("nobody noticed")


CHECKS = (
    are_together,
    share_every_pair_once,
    gather_rows_bit_by_bit,
    gather_what_is_odd,
    sum_gradients,
    clip_what_is_whole,
    broadcast,
    agree_on_numbers,
    wait_for_the_last,
    name_who_disagrees,
)

if __name__ == "__main__":
    go_through({check.__name__: check for check in CHECKS}, processes.rank)
