"""`mmeb-harness run`: score an encoder and print the leaderboard."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from mmeb_harness.cli import options
from mmeb_harness.cli.options import option, parse_pairs


def run(
    model: options.Model = None,
    model_options: options.ModelOptions = None,
    tasks: options.Tasks = None,
    suite: Annotated[
        str | None, option("--suite", help="mmeb, or mini: small, embedded, nothing downloaded.")
    ] = None,
    data_dir: options.DataDir = None,
    image_dir: options.ImageDir = None,
    output_dir: Annotated[
        Path | None,
        option("-o", "--output-dir", metavar="DIR", help="The run's folder (default: runs/MODEL)."),
    ] = None,
    cache_dir: options.CacheDir = None,
    fresh: Annotated[
        bool, option("--fresh", help="Replace the folder's run and compute every vector anew.")
    ] = False,
    limit: Annotated[
        int | None,
        option("--limit", metavar="N", help="Only the first N queries of each task; marked so."),
    ] = None,
    scoring: Annotated[
        str,
        option(
            "--scoring",
            help="expected: ties share the hit; reference: the first maximum wins, as originally.",
        ),
    ] = "expected",
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_tokens: options.BatchTokens = None,
    packing: options.Packing = "auto",
    engine: options.Engine = None,
    gpus: options.Gpus = None,
    actors: options.Actors = None,
    workers: options.Workers = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Say what would be computed, how long, what is missing.")
    ] = False,
    offline: options.Offline = False,
    strict: Annotated[
        bool, option("--strict", help="Exit with status 1 if the result carries any warning.")
    ] = False,
    as_json: options.AsJson = False,
) -> int:
    """Score an encoder on a suite and print the IND/OOD leaderboard.

    Without options: `mini-vlm`, a small model in the package, on the embedded suite `mini`, with
    nothing downloaded. With -m, the suite is `mmeb` unless --suite says otherwise. Stopped at any
    moment, the same command goes on where it was; run again when done, it computes nothing.

    Examples:

      mmeb-harness run

      mmeb-harness run -m vlm2vec-qwen2vl-7b -t ood --data-dir MMEB-eval

      mmeb-harness run -m clip:openai/clip-vit-base-patch32 --suite mini

      mmeb-harness run -m vlm2vec-qwen2vl-7b --gpus 8
    """
    options.go_offline(offline)
    from mmeb_harness.api import Request, prepare_job
    from mmeb_harness.cli.console import Console

    console = Console(quiet=as_json)
    request = Request(
        model=model,
        overrides=parse_pairs(model_options),
        tasks=tasks,
        suite=suite,
        data_dir=data_dir,
        image_dir=image_dir,
        output_dir=output_dir,
        cache_dir=cache_dir,
        fresh=fresh,
        limit=limit,
        scoring=scoring,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        packing=packing,
        engine=engine,
        gpus=gpus,
        actors=actors,
        workers=workers,
    )
    # with --json, whatever a plugin prints goes where it does not spoil the object
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with aside, console.progress() as progress:
        job = prepare_job(request, progress=progress)
        if model is None:
            console.say("No -m given: mini-vlm, a small model in this package, on the suite mini.")
        if dry_run:
            forecast = job.forecast()
        else:
            result = job.run()
    if dry_run:
        console.forecast(forecast, as_json=as_json)
        return 0
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        console.leaderboard(job.registry, [result])
        console.say(f"Results: {result.output_dir}")
        console.page(job.registry, result)
    warned = any(task.warnings for task in result.tasks.values()) or result.record.warnings
    return 1 if job.any_failed or (strict and warned) else 0
