"""`mmeb-harness doctor`: does this machine, and does a model on it, do what they should?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer
from mmeb_harness.cli import options
from mmeb_harness.errors import HarnessError
from mmeb_harness.registry import build_registry

if TYPE_CHECKING:
    from mmeb_harness.patient import Finding

MARKS = {"ok": "ok", "failed": "FAILED", "warned": "warning", "skipped": "-"}


def doctor(
    model: options.Model = None,
    model_options: options.ModelOptions = None,
    cache_dir: options.CacheDir = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
) -> int:
    """Examine a model (-m), or this machine: does it do what it should?

    A model is loaded, its adapter bound and counted, and a handful of items encoded: finite, of the
    dimension declared, normalised as declared, independent of batch neighbours and padding, whole
    images seen, role and instruction changing what they should, the same on a second load, other
    with the adapter off. Then the card's probes, similarities that the authors print for the real
    weights, under its settings and the alternatives. Exit status 1 where a check fails.

    Example: mmeb-harness doctor -m vlm2vec-qwen2vl-2b
    """
    options.go_offline(offline)
    seen: list[Finding] = []
    error = None
    try:
        for finding in _findings(model, model_options, cache_dir, device, dtype):
            seen.append(finding)
            if not as_json:
                typer.echo(f"{MARKS[finding.status]:9}{finding.check:24}{finding.detail}")
    except HarnessError as fault:
        error = fault
        typer.echo(f"error: {error}", err=True)
    failed = sum(finding.status == "failed" for finding in seen)
    if as_json:
        rows = [vars(finding) for finding in seen]
        told = {"model": model, "failed": failed, "findings": rows}
        typer.echo(json.dumps(told if error is None else {**told, "error": str(error)}))
    elif error is None:
        typer.echo(f"{model or 'this machine'}: {_counted(seen)}")
    if error is not None:
        return error.exit_status
    return 1 if failed else 0


def _findings(
    model: str | None,
    model_options: list[str] | None,
    cache_dir: options.CacheDir,
    device: str | None,
    dtype: str | None,
) -> Iterator[Finding]:
    if model is None:
        from mmeb_harness.machine import examine_machine

        yield from examine_machine(build_registry(), cache_dir)
        return
    from mmeb_harness.doctor import diagnose
    from mmeb_harness.models import resolve_model

    overrides = options.parse_pairs(model_options)
    resolved = resolve_model(build_registry(), model, overrides)
    yield from diagnose(resolved, device=device, dtype=dtype)


def _counted(seen: Sequence[Finding]) -> str:
    words = {"ok": "ok", "failed": "failed", "warned": "warnings", "skipped": "not applicable"}
    counts = {status: sum(one.status == status for one in seen) for status in MARKS}
    return ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
