"""`mmeb-harness report`: render finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from mmeb_harness.cli import options as shared
from mmeb_harness.cli import sweep
from mmeb_harness.cli.options import option
from mmeb_harness.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from mmeb_harness.cli.console import Console
    from mmeb_harness.registry import Registry
    from mmeb_harness.result import Run

ENDINGS = {"md": "markdown", "tex": "latex", "htm": "html", "txt": "table", "": "table"}
"""What a file's ending means where it is not itself the name of a format."""

PUBLISHED_SUITE = "mmeb"
"""The suite that published scores are of."""

TRAINING = Path("training", "evaluations")
"""Where the runs of a training lie in its folder."""

NARROWEST = 40
"""The fewest columns that can be asked for."""


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Run folders (default: all under runs/)."),
    ] = None,
    published: Annotated[
        bool,
        option("--published", help="Set published scores beside the runs, or alone (suite mmeb)."),
    ] = False,
    format: Annotated[
        str | None,
        option(
            "--format",
            help="table, html, csv, markdown, latex, json; see `list reporters` "
            "(default: by the ending of -o, or table).",
        ),
    ] = None,
    output: Annotated[
        Path | None, option("-o", "--output", metavar="FILE", help="Write to a file.")
    ] = None,
    images: Annotated[
        str,
        option(
            "--images",
            metavar="N|none|all",
            help="How many queries of a task html shows with images (default 24).",
        ),
    ] = "24",
    width: Annotated[
        int | None,
        option(
            "--width", metavar="N", help="Columns of a table (default: the terminal's, or 100)."
        ),
    ] = None,
    dims: sweep.Dims = None,
    precision: sweep.Precisions = None,
    cache_dir: shared.CacheDir = None,
) -> None:
    """Set runs side by side in one leaderboard, with intervals; published scores beside them.

    Examples: mmeb-harness report runs/random runs/clip-vit-large-patch14

    mmeb-harness report --published -o board.html
    """
    from mmeb_harness.cli.console import Console, print_document, render, report_options
    from mmeb_harness.registry import build_registry

    registry = build_registry()
    options = report_options(
        format=_format(registry, format, output),
        width=_width(width),
        published=published,
        images=_images(images),
        to_file=output is not None,
    )
    console = Console()
    found = _runs(runs, published, console)
    sweep.make_sweeps(
        registry, found, dims=dims, precision=precision, cache_dir=cache_dir, console=console
    )
    document = render(registry, found, options)
    if output is None:
        print_document(document, as_bytes=options.format == "html")
    else:
        _write(output, document)
        console.say(f"Written: {output}")


def _format(registry: Registry, named: str | None, output: Path | None) -> str:
    """Return the format: as named, else by the file's ending, else a table."""
    formats = [name for owned in registry.reporters.values() for name in owned.thing.formats]
    if named is not None:
        if named not in formats:
            raise unknown_name("format", named, formats)
        return named
    ending = "" if output is None else output.suffix.lower().lstrip(".")
    format = ENDINGS.get(ending, ending)
    if format not in formats:
        raise UsageError(
            f"{output}: no format goes with the ending .{ending}; "
            f"give --format ({', '.join(formats)})"
        )
    return format


def _images(text: str) -> int | None:
    """Read how many images: None for all."""
    if text in ("none", "all"):
        return 0 if text == "none" else None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--images {text!r} is not a number, none or all")
    return int(text)


def _width(given: int | None) -> int | None:
    if given is not None and given < NARROWEST:
        raise UsageError(f"--width must be at least {NARROWEST}")
    return given


def _runs(named: Sequence[Path] | None, published: bool, console: Console) -> list[Run]:
    """Read the runs that are named; without any, those under runs/ that can be meant."""
    from mmeb_harness.runfolder import RUN_FILE, read_run

    if named:
        folders = _run_folders(named, RUN_FILE, console)
        return [read_run(folder) for folder in folders]
    runs = [read_run(path.parent) for path in sorted(Path("runs").glob(f"*/{RUN_FILE}"))]
    if published:
        return [run for run in runs if run.record.suite == PUBLISHED_SUITE]
    if not runs:
        raise UsageError("there are no runs under runs/: name run folders, or make one with `run`")
    return runs


def _run_folders(named: Sequence[Path], run_file: str, console: Console) -> list[Path]:
    """Return which of the paths are runs, each once; say of the others why they are none.

    A pattern such as runs/* names other things too: these are passed over while a run is left.

    Raises:
        UsageError: where a path does not exist, or none is a run.
    """
    folders: dict[Path, Path] = {}
    faults = []
    for path in named:
        folder = path.parent if path.name == run_file and path.is_file() else path
        if (folder / run_file).is_file():
            folders.setdefault(folder.resolve(), folder)
        elif not path.exists():
            raise UsageError(f"{path} holds no run: there is nothing of that name")
        else:
            faults.append(_no_run(path, run_file))
    if not folders:
        raise UsageError("; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else ""))
    for fault in faults:
        console.say(f"passed over: {fault}")
    return list(folders.values())


def _no_run(path: Path, run_file: str) -> str:
    if not path.is_dir():
        return f"{path} holds no run: it is a file"
    if (path / TRAINING).is_dir():
        return f"{path} holds no run but a trained model: its evaluations are in {path / TRAINING}"
    return f"{path} holds no run (no {run_file})"


def _write(path: Path, document: str) -> None:
    from mmeb_harness.files import write_aside

    with write_aside(path) as target:
        target.write_bytes(document.encode("utf-8", "backslashreplace"))
