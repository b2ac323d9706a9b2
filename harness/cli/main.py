"""The commands, and how errors become one clear line and an exit status."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from mmeb_harness.cli import (
    cache,
    compare,
    data,
    doctor,
    embed,
    exchange,
    listing,
    report,
    run,
    train,
)
from mmeb_harness.errors import HarnessError

TRUE = ("1", "true", "yes", "on", "t", "y")

NO_RESULT: dict[str, dict[str, Any]] = {
    "run": {
        **dict.fromkeys(("model", "suite", "overall", "ind", "ood", "output_dir")),
        "meta_tasks": {},
        "tasks": {},
    },
    "train": {**dict.fromkeys(("output_dir", "steps", "loss")), "scores": {}},
    "compare": {"tasks": {}, "averages": {}, "left_out": {}, "conclusion": None},
}
"""The object that a command's `--json` prints, where there is nothing to report but an error."""

STOPPED = {"train": "stopped; the same command goes on from the newest checkpoint"}
STOPPED_ELSE = "stopped; what was computed is kept, the same command goes on"
"""What is said when a command is interrupted."""

DEBUG = "MMEB_HARNESS_DEBUG"

_UsageFault: Any = typer.BadParameter.__mro__[2]
"""Typer's base of all usage errors (ClickException), which it does not export by name."""

app = typer.Typer(
    name="mmeb-harness",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Score multimodal embedding models on MMEB (36 datasets, 4 meta-tasks, IND and OOD).

    Try it with nothing downloaded: `mmeb-harness run`. Then `mmeb-harness list models` and
    `mmeb-harness run -m MODEL`. Every option can come from the environment as
    MMEB_HARNESS_OPTION, for instance MMEB_HARNESS_DATA_DIR.""",
)
app.command("run")(run.run)
app.command("embed")(embed.embed)
app.command("train")(train.train)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("export")(exchange.export_scores)
app.command("import")(exchange.import_scores)
app.command("doctor")(doctor.doctor)
app.command("list")(listing.list_things)
app.command("show")(listing.show)
app.add_typer(cache.app, name="cache")
app.add_typer(data.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"mmeb-harness {version('mmeb-harness')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit: 0 well, 1 a task failed, 2 usage, 3 surroundings, 130 stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        status = app(arguments, standalone_mode=False, prog_name="mmeb-harness")
        return status if isinstance(status, int) else 0
    except typer.Exit as exit_request:
        return int(exit_request.exit_code)
    except _UsageFault as error:
        return _fail(arguments, error.format_message(), error.exit_code, error)
    except HarnessError as error:
        return _fail(arguments, str(error), error.exit_status)
    except (_Stopped, KeyboardInterrupt, typer.Abort):
        return _fail(arguments, STOPPED.get(_command(arguments), STOPPED_ELSE), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(arguments, f"{error}", 3)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        what = f"{type(error).__name__}: {error}"
        return _fail(arguments, f"{what} (a defect here or in a plugin; {DEBUG}=1 shows where)", 1)


def _command(arguments: list[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def _fail(arguments: list[str], message: str, status: int, usage: Any = None) -> int:
    if _command(arguments) == "train" and train.process_rank() > 0:
        return train.fail_beside(message, status)
    context = getattr(usage, "ctx", None)
    if context is not None:
        typer.echo(context.get_usage(), err=True)
    typer.echo(f"error: {message}", err=True)
    if "--json" in arguments or os.environ.get("MMEB_HARNESS_JSON", "0").lower() in TRUE:
        typer.echo(json.dumps({**NO_RESULT.get(_command(arguments), {}), "error": message}))
    return status


class _Stopped(BaseException):
    """The user or the system wants an end; no `except Exception` on the way may swallow that."""


def _stop(*_: object) -> NoReturn:
    raise _Stopped
