"""`mmeb-harness data`: the evaluation data of a suite, fetched from the Hub."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True, help="Fetch the evaluation data of a suite.", rich_markup_mode=None
)


@app.callback()
def _data() -> None:
    pass
