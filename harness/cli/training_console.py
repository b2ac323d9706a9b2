"""What a training shows while it goes: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from mmeb_harness.cli.console import PLAIN_SECONDS, Console, duration, outcome_line
from mmeb_harness.result import Run
from mmeb_harness.trainer import TrainingProgress
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

REMEMBERED = 20
"""Loss and speed are averaged over about so many steps."""

AVERAGES = {"overall": "overall", "ind": "IND", "ood": "OOD"}

NAMED = 6
"""So many tasks, or subsets, are named; the others are counted."""

Record = Mapping[str, Any]


@contextmanager
def training_progress(console: Console) -> Iterator[TrainingProgress]:
    """Show progress: a bar on a terminal, lines elsewhere, nothing when quiet."""
    if console.quiet:
        yield TrainingProgress()
    elif not console.errors.is_terminal:
        yield PlainTraining(console.errors)
    else:
        with RichProgress(
            TextColumn("step"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            console=console.errors,
            transient=True,
        ) as bars:
            yield BarTraining(bars)


class Pace:
    """How a training goes: loss and speed averaged over the last steps, and the time left."""

    def __init__(self, steps: int, done: int, clock: Callable[[], float] = perf_counter) -> None:
        self.steps = steps
        self.clock = clock
        self.seen = 0
        self.loss: float | None = None
        self.pairs = self.seconds = 0.0
        self.skipped = 0
        self.told = self.began = clock()
        self.began_at = self.step = done

    def stepped(self, step: int, record: Record) -> None:
        """Take in one step."""
        now = self.clock()
        weight = max(1 / REMEMBERED, 1 / (self.seen + 1))
        loss = record.get("loss")
        if loss is not None and math.isfinite(loss):
            self.loss = loss if self.loss is None else self.loss + weight * (loss - self.loss)
        self.pairs += weight * ((record.get("pairs") or 0) - self.pairs)
        self.seconds += weight * ((record.get("seconds") or now - self.told) - self.seconds)
        self.skipped += record.get("skipped") or 0
        self.told, self.step = now, step
        self.seen += 1
        if self.seen == 1:  # which also warms up: not a measure of the others
            self.began, self.began_at = now, step

    def left(self) -> float:
        """Return the seconds left, evaluations and checkpoints counted as so far."""
        done = self.step - self.began_at
        a_step = (self.told - self.began) / done if done else self.seconds
        return (self.steps - self.step) * a_step

    def words(self, record: Record) -> str:
        """Tell loss, learning rate, speed, pairs left out so far and the time left."""
        told = ["loss -" if self.loss is None else f"loss {self.loss:#.4g}"]
        if record.get("lr") is not None:
            told.append(f"lr {record['lr']:.3g}")
        if self.pairs and self.seconds:
            speed = self.pairs / self.seconds
            told.append(f"{speed:,.0f} pairs/s" if speed >= 100 else f"{speed:.3g} pairs/s")
        if self.skipped:
            told.append(f"{self.skipped:,} skipped")
        if self.step < self.steps:
            told.append(f"{duration(self.left())} left")
        return "  ".join(told)


class TrainingLines(TrainingProgress):
    """A line for each notable event."""

    def __init__(self, console: RichConsole) -> None:
        self.console = console
        self.pace = Pace(0, 0)

    def saved(self, step: int, folder: Path) -> None:
        self.say(f"step {step:,}  checkpoint {folder}")

    def evaluated(self, step: int, run: Run) -> None:
        scores = {"overall": run.overall, "ind": run.ind, "ood": run.ood}
        tasks = {name: result.score for name, result in run.tasks.items()}
        self.say(f"step {step:,}  evaluation  {scores_line({**scores, **tasks}) or 'no scores'}")
        for result in run.failed:
            self.say(outcome_line(result))

    def warned(self, message: str) -> None:
        self.say(f"warning: {message}")

    def say(self, message: str) -> None:
        """Print a line, as it stands."""
        self.console.print(message, markup=False, highlight=False)


class PlainTraining(TrainingLines):
    """Lines for a log: what is trained, and now and then how far it is."""

    told: float | None = None

    def started(self, steps: int, done: int, facts: Mapping[str, Any]) -> None:
        self.pace = Pace(steps, done)
        self.say("; ".join([opening(steps, done), *map(" ".join, fact_words(facts))]))

    def stepped(self, step: int, record: Record) -> None:
        self.pace.stepped(step, record)
        now = perf_counter()
        if self.told is None or now - self.told >= PLAIN_SECONDS or step == self.pace.steps:
            self.told = now
            self.say(f"step {step:,} of {self.pace.steps:,}  {self.pace.words(record)}")


class BarTraining(TrainingLines):
    """A bar over the steps."""

    def __init__(self, bars: RichProgress) -> None:
        super().__init__(bars.console)
        self.bars = bars
        self.bar: TaskID | None = None

    def started(self, steps: int, done: int, facts: Mapping[str, Any]) -> None:
        self.pace = Pace(steps, done)
        self.say(opening(steps, done))
        words = list(fact_words(facts))
        width = max((len(name) for name, _ in words), default=0)
        for name, value in words:
            self.say(f"  {name:{width}}  {value}")
        self.bar = self.bars.add_task("step", total=steps, completed=done, state="first step")

    def stepped(self, step: int, record: Record) -> None:
        self.pace.stepped(step, record)
        if self.bar is not None:
            self.bars.update(self.bar, completed=step, state=self.pace.words(record))


def opening(steps: int, done: int) -> str:
    """Tell how long the training is, and where it goes on."""
    going_on = f", going on after step {done:,}" if done else ""
    return f"training for {steps:,} steps{going_on}"


def fact_words(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each fact, in words."""
    for name, value in facts.items():
        text = _parts(value) if isinstance(value, Mapping) else _word(value)
        yield name.replace("_", " "), text


def _parts(counts: Mapping[str, Any]) -> str:
    """Tell what something is made of: its sum, where these are numbers, and the first parts."""
    parts = [f"{name} {_word(value)}" for name, value in list(counts.items())[:NAMED]]
    more = [f"and {len(counts) - NAMED} more"] if len(counts) > NAMED else []
    told = ", ".join([*parts, *more])
    numbers = all(isinstance(value, int) for value in counts.values())
    return f"{sum(counts.values()):,} ({told})" if numbers and len(counts) > 1 else told


def _word(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else str(value)


def scores_line(scores: Mapping[str, float | None]) -> str:
    """Tell the averages that there are, in percent; without any, the scores of tasks."""
    known = {name: f"{100 * score:.1f}" for name, score in scores.items() if score is not None}
    averages = [f"{word} {known[name]}" for name, word in AVERAGES.items() if name in known]
    if averages:
        return "  ".join(averages)
    tasks = [f"{name} {score}" for name, score in known.items()]
    more = [f"and {len(tasks) - NAMED} more"] if len(tasks) > NAMED else []
    return "  ".join([*tasks[:NAMED], *more])
