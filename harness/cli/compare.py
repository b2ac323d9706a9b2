"""`mmeb-harness compare`: set two runs against each other, query by query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from mmeb_harness.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmeb_harness.comparison import Comparison, Difference
    from rich.table import Table

TITLES = {"overall": "Overall", "ind": "IND", "ood": "OOD", "vqa": "VQA"}

COLUMNS = ("A", "B", "A - B", "95 % interval", "p", "corrected")

NAME, REASON = 24, 300
"""Characters of a task's name in the table, and of what is said below it."""

WIDTH = 100
"""Columns where there is no terminal."""


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run's folder.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, of the same suite.")],
    as_json: AsJson = False,
) -> None:
    """Tell whether one run is better than another, on what, and how sure that is.

    Each query is compared with itself in the other run, which sees much smaller differences than
    two intervals side by side. Queries that show one image count together.

    A - B is in points, with its 95 % interval. p says how often two equally good models would
    differ as much by chance (signs of the differences flipped at random); `corrected` is p after
    Holm's correction for the number of tasks, and * marks what is below 0.05 in it. Averages stand
    below, over sets of tasks that both runs have whole; their p is not corrected. Tasks that cannot
    be compared are named with the reason.

    Exit status 0 whatever the outcome; 2 where the runs cannot be compared (another suite, limit or
    scoring; scores that were imported).

    Example: mmeb-harness compare runs/vlm2vec-qwen2vl-2b runs/clip-vit-large-patch14
    """
    from mmeb_harness.comparison import compare as compare_runs
    from mmeb_harness.runfolder import read_run

    comparison = compare_runs(read_run(run_a), read_run(run_b))
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
    else:
        _show(comparison)


def _show(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for letter, run in (("A", comparison.a), ("B", comparison.b)):
        named = f"{_cut(run.record.model, REASON)}  ({_cut(str(run.output_dir), REASON)})"
        console.print(Text(f"{letter}  {named}"), soft_wrap=True)
    console.print(_table(comparison))
    console.print(Text(comparison.conclusion))
    for line in _left_out(comparison):
        console.print(Text(line), soft_wrap=True)


def _table(comparison: Comparison) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    limit = comparison.a.record.limit
    first = "" if limit is None else f", first {limit}"
    table.add_column(Text(f"{_cut(comparison.a.record.suite, NAME)}  hit@1, %{first}"))
    for title in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    _add_rows(table, comparison.tasks, {})
    table.add_section()
    _add_rows(table, comparison.averages, TITLES)
    return table


def _add_rows(table: Table, differences: Sequence[Difference], titles: dict[str, str]) -> None:
    from rich.text import Text

    for one in differences:
        name = titles.get(one.key, one.key.capitalize() if titles else one.key)
        cells = [Text(cell) for cell in (_cut(name, NAME), *_numbers(one))]
        table.add_row(*cells, style="bold" if one.is_significant else None)


def _numbers(one: Difference) -> list[str]:
    low, high = (f"{100 * end:+.1f}" for end in one.interval)
    mark = "*" if one.is_significant else " "
    corrected = mark if one.corrected is None else f"{_probability(one.corrected)} {mark}"
    return [
        f"{100 * one.a:.1f}",
        f"{100 * one.b:.1f}",
        f"{100 * one.difference:+.1f}",
        f"{low} to {high}",
        _probability(one.p_value),
        corrected,
    ]


def _probability(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _left_out(comparison: Comparison) -> Iterable[str]:
    """Name the tasks that were left out, together where the reason is one."""
    tasks: dict[str, list[str]] = {}
    for task, reason in comparison.left_out.items():
        tasks.setdefault(reason, []).append(_cut(task, NAME))
    for reason, names in tasks.items():
        yield f"left out, {_cut(reason, REASON)}: {', '.join(names)}"


def _cut(text: str, length: int) -> str:
    """Make text from a file one printable line of at most so many characters."""
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
