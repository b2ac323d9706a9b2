"""What every benchmark here says of its machine, and how it times two sides against each other.

Machines are shared and their speed drifts: so the sides take turns within one process, in another
order each round, and what is quoted are medians, and medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves a description as it is, and says of each option what it is by default."""

    def add_argument(self, action: argparse.Action) -> None:
        """Say so, unless its help does or it is nothing."""
        told, usual = action.help or "", action.default
        nothing = usual is None or usual is False or usual in ([], argparse.SUPPRESS)
        if not nothing and "default" not in told:
            action.help = f"{told} (default: %(default)s)".lstrip()
        super().add_argument(action)


def described(text: str | None) -> argparse.ArgumentParser:
    """Return a command line whose help begins with a script's own description."""
    return argparse.ArgumentParser(description=text, formatter_class=Formatter)


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds by the clock, and seconds of this process's own work, which others do not stretch."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s, {self.cpu:.2f} s of its own"


def timed(work: Callable[[], Value], device: str) -> tuple[Value, Took]:
    """Return what some work gives and how long it took, to the end of what the device has to do."""
    _finish(device)
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    _finish(device)
    return value, Took(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def turned(sides: Sequence[Value], number: int) -> list[Value]:
    """Return the sides in the order of a round."""
    start = number % len(sides)
    return [*sides[start:], *sides[:start]]


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """Say the median of the ratios, pair by pair, and the smallest and largest."""
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    middle = statistics.median(ratios)
    return f"{middle:.3f}" + ("" if len(ratios) < 2 else f" ({min(ratios):.3f}-{max(ratios):.3f})")


def heading(title: str, device: str) -> str:
    """Return the first lines of a section of results: what was run, where, when."""
    import torch
    import transformers

    threads = torch.get_num_threads()
    where = f"{_processor()}, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''}"
    if device.startswith("cuda"):
        where += f"; {torch.cuda.get_device_name()}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return f"## {title}\n\n{today}; {where}; {versions}.\n\n    {command}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table: the first column is of words, the others of numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def say(text: str) -> None:
    """Tell whoever waits how far it is; results go to the standard output alone."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
