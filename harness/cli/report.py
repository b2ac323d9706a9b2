"""`mmeb-harness report`: render finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from mmeb_harness.cli.options import option
from mmeb_harness.errors import UsageError, unknown_name


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Run folders (default: all under runs/)."),
    ] = None,
    format: Annotated[str, option("--format", help="How: `list reporters` shows all.")] = "table",
    output: Annotated[
        Path | None, option("-o", "--output", metavar="FILE", help="Write to a file.")
    ] = None,
) -> None:
    """Set runs side by side in one leaderboard.

    Example: mmeb-harness report runs/random runs/clip-vit-large-patch14
    """
    from mmeb_harness.cli.console import render_table
    from mmeb_harness.files import write_aside
    from mmeb_harness.registry import build_registry
    from mmeb_harness.runfolder import RUN_FILE, read_run

    registry = build_registry()
    formats = [name for owned in registry.reporters.values() for name in owned.thing.formats]
    if format not in formats:
        raise unknown_name("format", format, formats)
    folders = runs or sorted(path.parent for path in Path("runs").glob(f"*/{RUN_FILE}"))
    if not folders:
        raise UsageError("there are no runs under runs/: name run folders, or make one with `run`")
    document = render_table(registry, [read_run(folder) for folder in folders], format)
    if output is None:
        typer.echo(document)
        return
    with write_aside(output) as target:
        target.write_text(document + "\n")
