"""Built-in reporters: they read results and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from mmeb_harness.hookspecs import hookimpl
from mmeb_harness.reporter import Reporter


@hookimpl
def register_reporters(register: Callable[[Reporter], None]) -> None:
    """Register the formats that ship."""
    register(
        Reporter(
            name="terminal",
            formats=("table",),
            factory="mmeb_harness.reports.terminal:render",
            summary="A leaderboard for the terminal, grouped by meta-task.",
        )
    )
