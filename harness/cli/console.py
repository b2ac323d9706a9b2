"""What a run shows while it goes, and the leaderboard at its end; plain when not a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter

from mmeb_harness.forecast import Forecast
from mmeb_harness.progress import Progress
from mmeb_harness.registry import Registry
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.result import Run, TaskResult
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
        print(render_table(registry, runs))

    def forecast(self, forecast: Forecast, *, as_json: bool) -> None:
        """Print what a run would do."""
        if as_json:
            print(json.dumps(asdict(forecast)))
            return
        print(f"to encode   {forecast.items:,} items, {forecast.tokens:,} tokens")
        print(f"in          {forecast.batches:,} batches")
        print(f"reused      {forecast.reused:,} stored vectors")
        if forecast.seconds is not None:
            print(f"time        about {duration(forecast.seconds)} on this device")
        for task, why in forecast.missing.items():
            print(f"missing     {task}: {why}")


def render_table(registry: Registry, runs: Sequence[Run], format: str = "table") -> str:
    """Render runs through the reporter that has the format."""
    reporter = next(o.thing for o in registry.reporters.values() if format in o.thing.formats)
    terminal = RichConsole()
    color = terminal.is_terminal and terminal.color_system is not None
    width = terminal.width if terminal.is_terminal else 100
    options = ReportOptions(format=format, width=width, color=color)
    return str(reporter.render(runs, options)).rstrip("\n")


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
        self.tokens = 0
        self.started = perf_counter()

    def gathering(self, task: str, items: int) -> None:
        if self.gather is not None:
            self.bars.remove_task(self.gather)
        self.gather = self.bars.add_task(f"reading {task}", total=items, rate="")

    def gathered(self, items: int) -> None:
        if self.gather is not None:
            self.bars.advance(self.gather, items)

    def planned(self, items: int, tokens: int, reused: int) -> None:
        if self.gather is not None:
            self.bars.remove_task(self.gather)
            self.gather = None
        self.encode = self.bars.add_task(f"encoding ({reused:,} reused)", total=items, rate="")

    def loading(self, model: str) -> None:
        self.started = perf_counter()

    def encoded(self, items: int, tokens: int) -> None:
        self.tokens += tokens
        rate = self.tokens / max(1e-9, perf_counter() - self.started)
        if self.encode is not None:
            self.bars.update(self.encode, advance=items, rate=f"{rate:,.0f} tokens/s")

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
