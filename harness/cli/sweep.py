"""The part of `report` that scores stored vectors at fewer dimensions and in lower precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mmeb_harness.cli.options import option
from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.progress import Progress

if TYPE_CHECKING:
    from mmeb_harness.cli.console import Console
    from mmeb_harness.quantise import Precision
    from mmeb_harness.registry import Registry
    from mmeb_harness.result import Run

FULL = "full"

Dims = Annotated[
    str | None,
    option(
        "--dims",
        metavar="D,D,...",
        help="Score the stored vectors cut to so many dimensions too: 64,128,full.",
    ),
]
Precisions = Annotated[
    str | None,
    option(
        "--precision",
        metavar="P,P,...",
        help="Score the stored vectors in these too: fp32, fp16, int8, binary.",
    ),
]


def make_sweeps(
    registry: Registry,
    runs: Iterable[Run],
    *,
    dims: str | None,
    precision: str | None,
    cache_dir: Path | None,
    console: Console,
) -> None:
    """Add the settings that are asked for to the sweep of each run that has vectors.

    Raises:
        UsageError: for settings that are none, or where no run has vectors.
    """
    from mmeb_harness.files import cache_root
    from mmeb_harness.sweep import make_sweep

    if dims is None and precision is None:
        return
    chosen = parse_dims(FULL if dims is None else dims)
    precisions = parse_precisions("fp32" if precision is None else precision)
    runs = list(runs)
    own = [run for run in runs if run.record.imported is None]
    if not own:
        raise UsageError(
            "--dims and --precision need a run of this harness: others have no vectors"
        )
    for run in runs:
        if run.record.imported is not None:
            console.say(f"{run.output_dir} was imported: no vectors, so no --dims or --precision")
    for run in own:
        with console.progress() as progress:
            make_sweep(
                run,
                registry,
                cache_dir=cache_root(cache_dir),
                dims=chosen,
                precisions=precisions,
                progress=progress if console.errors.is_terminal else _Lines(console, run),
            )


class _Lines(Progress):
    """A line for each task, for a log."""

    def __init__(self, console: Console, run: Run) -> None:
        self.console, self.run = console, run

    def gathering(self, task: str, items: int) -> None:
        self.console.say(f"{self.run.output_dir}: {task} at {items} settings")

    def warned(self, message: str) -> None:
        self.console.say(f"warning: {message}")


def parse_dims(text: str) -> list[int | None]:
    """Read `64,128,full`; None stands for full. Raises UsageError for anything else."""
    return [_dimension(word) for word in _words("--dims", text)]


def _dimension(word: str) -> int | None:
    if word == FULL:
        return None
    if not (word.isascii() and word.isdigit()) or len(word) > 9 or int(word) < 1:
        raise UsageError(f"--dims: {word!r} is neither a number of dimensions nor {FULL}")
    return int(word)


def parse_precisions(text: str) -> list[Precision]:
    """Read `fp32,int8`. Raises UsageError for a precision that does not exist."""
    from mmeb_harness.quantise import PRECISIONS

    by_name = {precision: precision for precision in PRECISIONS}
    chosen = []
    for word in _words("--precision", text):
        if word not in by_name:
            raise unknown_name("precision", word, PRECISIONS)
        chosen.append(by_name[word])
    return chosen


def _words(option_name: str, text: str) -> Sequence[str]:
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option_name} is empty")
    return words
