"""What the text formats say of a run's reproduction: a sentence, and for programs every line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from mmeb_harness.reports.board.leaderboard import Entry
from mmeb_harness.reports.board.ledger import Ledger, Verdict, ledger

NAMED = 6
"""Tasks outside the noise are named up to so many."""


def reproduction_sentence(entry: Entry) -> str:
    """Count what came of the tasks; nothing where none of them can be compared."""
    found = None if entry.run is None else ledger(entry.run)
    if found is None or set(found.counts) <= {"not comparable"}:
        return ""
    counts = [f"{count} {verdict}{_outside(found, verdict)}" for verdict, count in _counts(found)]
    return f"tasks against the published {found.row.name}: {', '.join(counts)}"


def reproduction_values(entry: Entry) -> dict[str, Any] | None:
    """Return the whole ledger of a run whose card names published scores."""
    found = None if entry.run is None else ledger(entry.run)
    if found is None:
        return None
    lines = [asdict(line) | {"difference": line.difference} for line in found.tasks]
    averages = [asdict(line) | {"difference": line.difference} for line in found.averages]
    return {"published": found.row.name, "tasks": lines, "averages": averages}


def _counts(found: Ledger) -> list[tuple[Verdict, int]]:
    counts = found.counts
    return [(verdict, counts[verdict]) for verdict in get_args(Verdict) if counts.get(verdict)]


def _outside(found: Ledger, verdict: Verdict) -> str:
    names = [line.key for line in found.tasks if line.verdict == verdict == "outside"]
    return f" ({', '.join(names)})" if 0 < len(names) <= NAMED else ""
