"""`mmeb-harness cache`: what is stored, and how to be rid of it."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer
from mmeb_harness.cli import options
from mmeb_harness.cli.options import option
from mmeb_harness.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="List or clear stored vectors and data.", rich_markup_mode=None
)


@app.command("list")
def list_cache(cache_dir: options.CacheDir = None) -> None:
    """List stored vectors, an encoder a line, and the fetched data."""
    from mmeb_harness.files import cache_root
    from mmeb_harness.store import stored_encoders

    root = cache_root(cache_dir)
    typer.echo(f"cache  {root}")
    for stored in stored_encoders(root / "vectors"):
        size = f"{stored.size_bytes / 1e6:>9.1f} MB"
        typer.echo(f"{stored.folder.name}  {stored.vectors:>9,} vectors  {size}  {stored.name}")
    for folder in sorted(path for path in (root / "data").glob("*") if path.is_dir()):
        typer.echo(f"data   {folder}")


@app.command("clear")
def clear_cache(
    cache_dir: options.CacheDir = None,
    model: options.Model = None,
    data: Annotated[bool, option("--data", help="Clear the fetched data as well.")] = False,
    yes: Annotated[bool, option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete stored vectors: all, or those of one model (-m). Runs and their scores stay."""
    from mmeb_harness.errors import unknown_name
    from mmeb_harness.files import cache_root
    from mmeb_harness.store import remove, stored_encoders

    root = cache_root(cache_dir)
    stored = stored_encoders(root / "vectors")
    if model is not None:
        chosen = [one for one in stored if one.name == model]
        if stored and not chosen:
            raise unknown_name("model in the cache", model, {one.name for one in stored})
        stored = chosen
    total = sum(one.vectors for one in stored)
    if not yes and not _confirmed(f"Delete {total:,} vectors under {root}?"):
        return
    for one in stored:
        remove(one)
    if data:
        shutil.rmtree(root / "data", ignore_errors=True)
    typer.echo(f"deleted {total:,} vectors")


def _confirmed(question: str) -> bool:
    import sys

    if not sys.stdin.isatty():
        raise UsageError("not on a terminal: say --yes")
    return typer.confirm(question)
