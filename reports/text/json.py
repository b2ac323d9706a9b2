"""The leaderboard as JSON: every value as it is, unrounded, for programs.

It is written in ASCII, with escapes for the rest, so that it survives any encoding and no terminal
acts upon a name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board, Entry, Score
from mmeb_harness.reports.text.reproduction import reproduction_values
from mmeb_harness.result import Run
from mmeb_harness.sweep import read_sweep

SCHEMA_VERSION = 1

PLAIN = ("key", "name", "variant", "kind", "source", "rank", "group", "complete", "limit",
         "parameters", "dimension")  # fmt: skip
"""Values of an entry that stand in the document as they are."""


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render all leaderboards."""
    return render_boards(build(runs, options), options)


def render_boards(boards: Sequence[Board], options: ReportOptions) -> str:
    """Render leaderboards as one object."""
    document = {"schema_version": SCHEMA_VERSION, "boards": [_board(board) for board in boards]}
    return json.dumps(document, indent=1) + "\n"


def _board(board: Board) -> dict[str, Any]:
    return {
        "suite": board.suite,
        "columns": [asdict(column) for column in board.columns],
        "entries": [_entry(entry) for entry in board.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        **{name: getattr(entry, name) for name in PLAIN},
        "missing": list(entry.missing),
        "failed": dict(entry.failed),
        "training": None if entry.training is None else list(entry.training),
        "remarks": list(entry.remarks),
        "scores": {key: _score(score) for key, score in entry.scores.items()},
        "folder": None if entry.run is None else str(entry.run.output_dir),
        "reproduction": reproduction_values(entry),
        "sweep": None if entry.run is None else _sweep(entry.run),
    }


def _sweep(run: Run) -> dict[str, Any] | None:
    sweep = read_sweep(run.output_dir, run.record.encoder)
    return None if sweep is None else sweep.model_dump(mode="json")


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval or (None, None)
    return {
        "value": score.value,
        "low": low,
        "high": high,
        "printed": score.printed,
        "seen": score.seen,
    }
