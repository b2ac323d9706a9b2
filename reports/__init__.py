"""Built-in reporters: they read results and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from mmeb_harness.hookspecs import hookimpl
from mmeb_harness.reporter import Reporter

BUILT_IN = (
    ("terminal", "text", "table", "A leaderboard for the terminal, with intervals and ties."),
    ("html", "page", "html", "One self-contained page with plots and the queries that went wrong."),
    ("csv", "text", "csv", "A row a model, with every score and its interval, as fractions."),
    ("markdown", "text", "markdown", "GitHub tables."),
    ("latex", "text", "latex", "Booktabs tables for a paper: best in bold, second underlined."),
    ("json", "text", "json", "Every value of the leaderboards."),
)
"""Name (and module), room, format, and what it is."""


@hookimpl
def register_reporters(register: Callable[[Reporter], None]) -> None:
    """Register the formats that ship."""
    for name, room, form, summary in BUILT_IN:
        register(
            Reporter(
                name=name,
                formats=(form,),
                factory=f"mmeb_harness.reports.{room}.{name}:render",
                summary=summary,
            )
        )
