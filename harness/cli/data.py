"""`mmeb-harness data`: the evaluation data of a suite, fetched from the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from mmeb_harness.cli import options
from mmeb_harness.cli.options import option
from mmeb_harness.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="Fetch the evaluation data of a suite.", rich_markup_mode=None
)


@app.callback()
def _data() -> None:
    pass


@app.command("fetch")
def fetch(
    tasks: options.Tasks = None,
    suite: Annotated[str, option("--suite", help="Whose data to fetch.")] = "mmeb",
    data_dir: options.DataDir = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Fetch tables and images from the Hub; `run` then finds them without further options.

    Without -t: all tasks of the suite. A download that was cut goes on where it stopped, and what
    is there already is not fetched again.

    Example: mmeb-harness data fetch -t RefCOCO,OK-VQA
    """
    from mmeb_harness.files import cache_root
    from mmeb_harness.loading import load_object
    from mmeb_harness.registry import build_registry
    from mmeb_harness.selection import select_tasks, suite_tasks

    chosen = select_tasks(suite_tasks(build_registry(), suite), tasks)
    folder = data_dir or cache_root(cache_dir) / "data" / suite
    fetchers = dict.fromkeys(task.fetcher for task in chosen if task.fetcher)
    if not fetchers:
        raise UsageError(f"the data of suite {suite!r} comes with the package: nothing to fetch")
    for fetcher in fetchers:
        wanted = [task for task in chosen if task.fetcher == fetcher]
        with _shown() as progress:
            fetched = load_object(fetcher)(wanted, folder, progress)
        megabytes = fetched.bytes_downloaded / 1e6
        typer.echo(
            f"{len(wanted)} tasks in {folder} at {fetched.revision}: {fetched.files} files and "
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
