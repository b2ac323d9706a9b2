"""Built-in reporters: they read results and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from mmeb_harness.hookspecs import hookimpl
from mmeb_harness.reporter import Reporter

BUILT_IN = (
    ("terminal", ("table",), "A leaderboard for the terminal, with intervals and ties."),
    ("html", ("html",), "One self-contained page with plots and the queries that went wrong."),
    ("csv", ("csv",), "A row a model, with every score and its interval, as fractions."),
    ("markdown", ("markdown",), "GitHub tables."),
    ("latex", ("latex",), "Booktabs tables for a paper: best in bold, second underlined."),
    ("json", ("json",), "Every value of the leaderboards."),
)
"""Name (and module), formats, and what it is."""


@hookimpl
def register_reporters(register: Callable[[Reporter], None]) -> None:
    """Register the formats that ship."""
    for name, formats, summary in BUILT_IN:
        register(
            Reporter(
                name=name,
                formats=formats,
                factory=f"mmeb_harness.reports.{name}:render",
                summary=summary,
            )
        )
