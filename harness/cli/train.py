"""`mmeb-harness train`: train a model as a YAML file says."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from mmeb_harness.cli import options
from mmeb_harness.errors import UsageError

if TYPE_CHECKING:
    from mmeb_harness.trainer import Trained

STOPPED = 130
"""The exit status of an interrupted command."""


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, how, where to.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes, such as optimizer.lr=1e-4."),
    ] = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
) -> None:
    """Train an embedding model on pairs of a query and its target.

    CONFIG.yaml at its shortest (`mmeb-harness show contrastive` prints one with all keys, what
    they mean and their defaults; `list trainers` the trainers there are):

    \b
      model: qwen2-vl:Qwen/Qwen2-VL-2B-Instruct    # as -m names one
      data: my-pairs                               # a folder of tables of pairs
      run:
        output_dir: models/mine
        epochs: 1

    Words behind it change single values. The model in OUTPUT_DIR is what `mmeb-harness run -m
    OUTPUT_DIR` scores; OUTPUT_DIR/training has its log, its curve (loss and scores) and its
    checkpoints. Stopped at any moment, the same command goes on from the newest one.

    Examples:

      mmeb-harness train mine.yaml

      mmeb-harness train mine.yaml optimizer.lr=1e-4 run.output_dir=runs/faster

      mmeb-harness train mine.yaml data.cap=1000 lora=false

      accelerate launch -m mmeb_harness train mine.yaml

      torchrun --nproc-per-node 8 -m mmeb_harness train mine.yaml
    """
    options.go_offline(offline)
    import mmeb_harness
    from mmeb_harness.cli.console import Console
    from mmeb_harness.cli.training_console import training_progress

    console = Console(quiet=as_json or process_rank() > 0)
    # with --json, whatever a plugin prints goes where it does not spoil the object
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    console.say("loading data and model")
    with aside, training_progress(console) as progress:
        trained = mmeb_harness.train(config, changes or (), progress=progress)
    if process_rank() > 0:
        return
    if as_json:
        typer.echo(json.dumps(_as_json(trained)))
    else:
        _print(trained)


def process_rank() -> int:
    """Return which of a training's processes this is: what accelerate and torchrun set."""
    return _number("RANK")


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0


def fail_beside(message: str, status: int) -> int:
    """Tell why one of several processes fails, but for what the first one tells as well."""
    here = _number("LOCAL_RANK")
    everywhere = status == STOPPED or (status == UsageError.exit_status and here > 0)
    if not everywhere:
        typer.echo(f"error: process {process_rank()}: {message}", err=True)
    return status


def _as_json(trained: Trained) -> dict[str, Any]:
    return {
        "output_dir": str(trained.output_dir),
        "steps": trained.steps,
        "loss": _finite(trained.loss),
        "scores": {name: _finite(score) for name, score in trained.scores.items()},
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _print(trained: Trained) -> None:
    from mmeb_harness.cli.training_console import scores_line

    folder = str(trained.output_dir)
    told = {
        "steps": f"{trained.steps:,}",
        "loss": "" if trained.loss is None else f"{trained.loss:.4g}",
        "scores": scores_line(trained.scores),
        "model": folder,
        "score it": f"mmeb-harness run -m {shlex.quote(folder)}  (suite mmeb; or --suite mini)",
    }
    for what, text in told.items():
        if text:
            typer.echo(f"{what:10}{text}")
