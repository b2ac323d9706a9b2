"""What a run shows while it goes, and the leaderboard at its end; plain when not a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter

from mmeb_harness.files import write_aside
from mmeb_harness.forecast import Forecast
from mmeb_harness.progress import Progress
from mmeb_harness.registry import Registry
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.result import Run, TaskResult
from mmeb_harness.runfolder import PAGE_FILE
from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

PLAIN_SECONDS = 30.0
"""How often a plain log says how far the encoding is."""

WIDTH = 100
"""Columns of a report that is not for a terminal."""

LINE = "\u2500"
"""What the lines of tables are drawn with."""

IMAGES = 24
"""Queries of a task that a report shows with images, where it shows images."""


class Console:
    """Prints results on stdout, and everything else on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.errors = RichConsole(stderr=True, highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        """Tell the user something that is not a result."""
        if not self.quiet:
            self.errors.print(message, markup=False)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show progress: bars on a terminal, lines elsewhere, nothing when quiet."""
        if self.quiet:
            yield Progress()
        elif not self.errors.is_terminal:
            yield PlainProgress(self.errors)
        else:
            with RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self.errors,
                transient=True,
            ) as bars:
                yield BarProgress(bars)

    def leaderboard(self, registry: Registry, runs: Sequence[Run]) -> None:
        """Print the leaderboard of some runs."""
        print_document(render_table(registry, runs))

    def page(self, registry: Registry, run: Run) -> None:
        """Write a run's page into its folder; whatever is wrong with it, the results stand."""
        path = run.output_dir / PAGE_FILE
        try:
            document = render(registry, [run], report_options(format="html", to_file=True))
            with write_aside(path) as target:
                target.write_text(document, encoding="utf-8", errors="backslashreplace")
        except Exception as error:
            self.say(f"warning: {path} could not be written ({type(error).__name__}: {error})")
        else:
            self.say(f"Page: {path}")

    def forecast(self, forecast: Forecast, *, as_json: bool) -> None:
        """Print what a run would do."""
        if as_json:
            print(json.dumps(asdict(forecast)))
            return
        print("\n".join(forecast_lines(forecast)))


def forecast_lines(forecast: Forecast) -> Iterator[str]:
    """Say what a run would do: by task, in all, and what is missing."""
    if forecast.items:
        width = max(len(task.name) for task in forecast.tasks)
        yield f"{'task':{width}}  {'items':>9}  {'to encode':>9}  {'tokens':>13}"
        for task in forecast.tasks:
            counts = f"{task.items:>9,}  {task.to_encode:>9,}  {task.tokens:>13,}"
            yield f"{task.name:{width}}  {counts}"
        yield "What tasks share is counted in each of them, and below once."
        yield ""
    yield f"to encode   {forecast.items:,} items, {forecast.tokens:,} tokens"
    yield f"in          {forecast.batches:,} batches"
    yield f"reused      {forecast.reused:,} stored vectors"
    if forecast.seconds is not None:
        start = ", and 10 to 30 s to start Ray and the copies" if forecast.by_ray else ""
        yield f"time        about {duration(forecast.seconds)} on this device{start}"
    if forecast.memory_bytes is not None:
        cut = "; the largest batch did not fit, and would be cut" if forecast.is_cut else ""
        yield f"memory      {forecast.memory_bytes / 1e9:.1f} GB at most{cut}"
    if forecast.store_bytes is not None:
        yield f"on disk     {forecast.store_bytes / 1e6:,.1f} MB of vectors"
    if forecast.fault is not None:
        yield f"fault       an item of the largest batch: {forecast.fault}"
    for task_name, why in forecast.missing.items():
        yield f"missing     {task_name}: {why}"


def render_table(registry: Registry, runs: Sequence[Run]) -> str:
    """Render the leaderboard of some runs for this terminal."""
    return render(registry, runs, report_options())


def print_document(document: str, *, as_bytes: bool = False) -> None:
    """Print on stdout, with escapes for what its encoding does not have; as bytes, UTF-8 always."""
    if as_bytes:
        sys.stdout.flush()
        sys.stdout.buffer.write(document.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        document.encode(encoding)
    except UnicodeEncodeError:
        plain = document.replace(LINE, "-").encode(encoding, "backslashreplace")
        document = plain.decode(encoding)
    print(document, end="", flush=True)


def render(registry: Registry, runs: Sequence[Run], options: ReportOptions) -> str:
    """Render runs through the reporter that has the format; the text ends with a line's end."""
    reporter = next(
        o.thing for o in registry.reporters.values() if options.format in o.thing.formats
    )
    return str(reporter.render(runs, options)).rstrip("\n") + "\n"


def report_options(
    *,
    format: str = "table",
    width: int | None = None,
    published: bool = False,
    images: int | None = IMAGES,
    to_file: bool = False,
) -> ReportOptions:
    """Tell a reporter how wide and colourful what it is for can be.

    The width is the given one, else the terminal's or COLUMNS, else (in a file too) 100.
    """
    terminal = RichConsole()
    known = not to_file and (terminal.is_terminal or "COLUMNS" in os.environ)
    color = not to_file and terminal.is_terminal and terminal.color_system is not None
    return ReportOptions(
        format=format,
        width=width or (terminal.width if known else WIDTH),
        color=color,
        published=published,
        images=images,
    )


def duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


class PlainProgress(Progress):
    """Lines for a log: what is to be done, now and then how far it is, each score."""

    def __init__(self, console: RichConsole) -> None:
        self.console = console
        self.total = self.done = self.tokens = 0
        self.started = self.told = perf_counter()

    def planned(self, items: int, tokens: int, reused: int) -> None:
        self.total = items
        self._print(f"{items:,} items to encode ({tokens:,} tokens), {reused:,} vectors reused")

    def loading(self, model: str) -> None:
        self._print(f"loading {model}")
        self.started = self.told = perf_counter()

    def encoded(self, items: int, tokens: int) -> None:
        self.done += items
        self.tokens += tokens
        now = perf_counter()
        if now - self.told >= PLAIN_SECONDS:
            self.told = now
            rate = self.done / (now - self.started)
            left = duration((self.total - self.done) / rate)
            speed = self.tokens / (now - self.started)
            self._print(
                f"{self.done:,} of {self.total:,} items, {speed:,.0f} tokens/s, {left} left"
            )

    def scored(self, result: TaskResult) -> None:
        self._print(outcome_line(result))

    def warned(self, message: str) -> None:
        self._print(f"warning: {message}")

    def _print(self, message: str) -> None:
        self.console.print(message, markup=False)


class BarProgress(Progress):
    """A bar for looking items up, one for encoding them, a line for each task that is done."""

    def __init__(self, bars: RichProgress) -> None:
        self.bars = bars
        self.gather: TaskID | None = None
        self.encode: TaskID | None = None
        self.encoding = ""
        self.tokens = 0
        self.started = perf_counter()

    def gathering(self, task: str, items: int) -> None:
        if self.gather is not None:
            self.bars.remove_task(self.gather)
        self.gather = self.bars.add_task(f"reading {task}", total=items, rate="")

    def gathered(self, items: int) -> None:
        if self.gather is not None:
            self.bars.advance(self.gather, items)

    def planning(self, items: int) -> None:
        if self.gather is not None:
            self.bars.remove_task(self.gather)
        self.gather = self.bars.add_task(f"counting tokens of {items:,} items", total=None, rate="")

    def planned(self, items: int, tokens: int, reused: int) -> None:
        if self.gather is not None:
            self.bars.remove_task(self.gather)
            self.gather = None
        self.encoding = f"encoding ({reused:,} reused)"
        self.encode = self.bars.add_task(self.encoding, total=items, rate="")

    def loading(self, model: str) -> None:
        if self.encode is not None:
            self.bars.update(self.encode, description=f"loading {model}")
        self.started = perf_counter()

    def encoded(self, items: int, tokens: int) -> None:
        self.tokens += tokens
        rate = self.tokens / max(1e-9, perf_counter() - self.started)
        if self.encode is not None:
            told = f"{rate:,.0f} tokens/s"
            self.bars.update(self.encode, description=self.encoding, advance=items, rate=told)

    def scored(self, result: TaskResult) -> None:
        self.bars.console.print(outcome_line(result), markup=False, highlight=False)

    def warned(self, message: str) -> None:
        self.bars.console.print(f"warning: {message}", markup=False, highlight=False)


def shortened(text: str) -> str:
    """Cut a message for a line of progress; the result holds all of it."""
    return text if len(text) <= 100 else text[:97] + "..."


def outcome_line(result: TaskResult) -> str:
    """Tell one task's outcome in a line."""
    if result.score is None:
        return f"{result.name}  FAILED: {shortened(result.error or '')}"
    return f"{result.name}  {100 * result.score:.1f}" + "".join(f"  [{w}]" for w in result.warnings)
