"""`mmeb-harness export` and `import`: scores in the forms of MMEB's own scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from mmeb_harness.cli.options import option


def export_scores(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    form: Annotated[
        str,
        option(
            "--format",
            metavar="FORM",
            help="mmeb-v1: a DATASET_score.json each; mmeb-v2: one JSON, as the leaderboard has.",
        ),
    ],
    output: Annotated[
        Path | None,
        option(
            "-o",
            "--output",
            metavar="PATH",
            help="A folder (mmeb-v1) or a file (mmeb-v2); by default under RUN/export.",
        ),
    ] = None,
) -> int:
    """Write a run's scores as the public leaderboard takes them.

    Exit status 1 if tasks of the suite are missing in it.

    Example: mmeb-harness export runs/vlm2vec-qwen2vl-2b --format mmeb-v2
    """
    from mmeb_harness.cli.console import Console
    from mmeb_harness.exchange import export_run
    from mmeb_harness.runfolder import read_run

    console = Console()
    exported = export_run(read_run(run), form, output)
    for note in exported.notes:
        console.say(f"note: {note}")
    typer.echo(exported.path)
    return 1 if exported.lacking else 0


def import_scores(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Score files, or folders of them.")
    ],
    model: Annotated[
        str, option("-m", "--model", metavar="NAME", help="What reports call the model.")
    ],
    output_dir: Annotated[
        Path, option("-o", "--output-dir", metavar="RUN", help="The run's folder, a new one.")
    ],
    suite: Annotated[
        str | None,
        option("--suite", help="The suite that was scored (default: mmeb, or what files say)."),
    ] = None,
) -> int:
    """Make a run of scores made elsewhere, so that reports set it beside others.

    Takes DATASET_score.json files (MMEB's scripts, first or second form) or the leaderboard's JSON.
    Exit status 1 if a file says that a dataset has no score.

    Example: mmeb-harness import scores/*_score.json --model my-model -o runs/my-model
    """
    from mmeb_harness import exchange
    from mmeb_harness.cli.console import Console
    from mmeb_harness.registry import build_registry

    console = Console()
    run = exchange.import_scores(
        files, build_registry(), model=model, output_dir=output_dir, suite=suite
    )
    for note in run.record.warnings:
        console.say(f"note: {note}")
    for failed in run.failed:
        console.say(f"no score: {failed.name} ({failed.error})")
    if run.summary.missing:
        console.say(f"{len(run.summary.missing)} of {len(run.record.suite_tasks)} tasks missing")
    typer.echo(run.output_dir)
    return 1 if run.failed else 0
