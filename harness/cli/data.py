"""`mmeb-harness data`: the data of a suite, to be scored on or to be trained on, from the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from mmeb_harness.cli import options
from mmeb_harness.cli.options import option
from mmeb_harness.errors import UsageError
from mmeb_harness.task import Task

app = typer.Typer(no_args_is_help=True, help="Fetch the data of a suite.", rich_markup_mode=None)


@app.callback()
def _data() -> None:
    pass


@app.command("fetch")
def fetch(
    context: typer.Context,
    tasks: options.Tasks = None,
    suite: Annotated[str, option("--suite", help="Whose data to fetch.")] = "mmeb",
    training: Annotated[
        bool, option("--training", help="The training parts, for `train`, not what is scored.")
    ] = False,
    split: Annotated[
        str | None,
        option("--split", metavar="NAME", help="Of the training parts (default: original)."),
    ] = None,
    data_dir: options.DataDir = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Fetch tables and images from the Hub; `run` and `train` then find them by themselves.

    Without -t: all tasks of the suite. A download that was cut goes on where it stopped, and what
    is there already is not fetched again.

    Example: mmeb-harness data fetch -t RefCOCO,OK-VQA
    """
    from mmeb_harness.files import cache_root
    from mmeb_harness.loading import load_object
    from mmeb_harness.registry import build_registry
    from mmeb_harness.selection import select_tasks, suite_tasks
    from mmeb_harness.trainingdata import ORIGINAL, training_folder, training_tasks

    if split is not None and not training:
        raise UsageError("--split is for the training parts: give --training with it")
    everything, cache = suite_tasks(build_registry(), suite), cache_root(cache_dir)
    if training:
        chosen = training_tasks(everything, tasks)
        fetchers = {task.name: task.training_fetcher for task in chosen}
        folder = _asked_for(context, data_dir) or training_folder(cache, suite)
        more = [split or ORIGINAL]
    else:
        chosen = select_tasks(everything, tasks)
        fetchers = {task.name: task.fetcher for task in chosen}
        folder = data_dir or cache / "data" / suite
        more = []
    if not any(fetchers.values()):
        raise UsageError(f"the data of suite {suite!r} comes with the package: nothing to fetch")
    for fetcher in dict.fromkeys(fetcher for fetcher in fetchers.values() if fetcher):
        wanted = [task for task in chosen if fetchers[task.name] == fetcher]
        _fetch(load_object(fetcher), wanted, folder, more)


def _asked_for(context: typer.Context, data_dir: Path | None) -> Path | None:
    """Return the folder that was typed: the environment's is where data to be scored on lies."""
    source = context.get_parameter_source("data_dir")
    return None if source is not None and source.name == "ENVIRONMENT" else data_dir


def _fetch(fetcher: Any, tasks: Sequence[Task], folder: Path, more: Sequence[str]) -> None:
    with _shown() as progress:
        fetched = fetcher(tasks, folder, progress, *more)
    megabytes = fetched.bytes_downloaded / 1e6
    typer.echo(
        f"{len(tasks)} tasks in {folder} at {fetched.revision}: {fetched.files} files and "
        f"{megabytes:,.1f} MB fetched, {fetched.images_unpacked:,} images unpacked, "
        f"{fetched.images_present:,} in place"
    )


@contextmanager
def _shown() -> Iterator[Any]:
    """Bars on a terminal, a line a file elsewhere; on stderr, so that results stay alone."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield _FetchBars(bars, console)


class _FetchBars:
    """Shows what a fetch reports."""

    def __init__(self, bars: Any, console: Any) -> None:
        self.bars, self.console = bars, console
        self.current: Any = None

    def started(self, name: str, total_bytes: int) -> None:
        self.current = self.bars.add_task(name, total=total_bytes)

    def advanced(self, n_bytes: int) -> None:
        self.bars.advance(self.current, n_bytes)

    def finished(self, name: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"fetched {name}", markup=False)

    def waiting(self, reason: str, seconds: float) -> None:
        self.console.print(f"{reason}; trying again in {seconds:.0f} s", markup=False)
