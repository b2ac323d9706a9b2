"""The head of the page and of each suite: what is here, from when, and what stands against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.reports.board.leaderboard import Board
from mmeb_harness.reports.numbers import counted
from mmeb_harness.reports.readable import cut
from mmeb_harness.result import Run

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SuiteHead:
    """What is said of a suite before its table; `alerts` are what a reader must not miss."""

    title: str
    facts: Sequence[str]
    alerts: Sequence[str]


def suite_head(board: Board) -> SuiteHead:
    """Say what a board holds."""
    measured = sum(entry.kind == "measured" for entry in board.entries)
    facts = [counted(len(board.entries), "model"), counted(len(board.tasks), "task")]
    if 0 < measured < len(board.entries):
        facts.append(f"{measured:,} measured here")
    ranked = sum(entry.rank is not None for entry in board.entries)
    if ranked < len(board.entries):
        facts.append(f"{ranked:,} complete, and so ranked")
    return SuiteHead(title=cut(board.suite), facts=facts, alerts=_alerts(board))


def _alerts(board: Board) -> list[str]:
    """Say which of the runs are limited or not whole."""
    runs = [entry for entry in board.entries if entry.run]
    limited = sum(entry.limit is not None for entry in runs)
    broken = sum(bool(entry.missing) and entry.limit is None for entry in runs)
    alerts = []
    if limited:
        alerts.append(
            f"{counted(limited, 'run')} with only the first queries of each task (--limit): "
            "not ranked, and not to be set beside the others."
        )
    if broken:
        alerts.append(
            f"{counted(broken, 'run')} without all {len(board.tasks)} tasks: not ranked, and no "
            "average is formed over a set that is not whole."
        )
    return alerts


def day_of(runs: Sequence[Run]) -> str:
    """Return the day of the latest run in words, empty without runs."""
    days = sorted({(run.record.finished or run.record.started)[:10] for run in runs})
    return next((words for day in reversed(days) if (words := _in_words(day))), "")


def _in_words(day: str) -> str:
    """Write 2026-11-22 as 22 November 2026; what is no day is nothing."""
    year, _, rest = day.partition("-")
    month, _, date = rest.partition("-")
    if not (year.isdecimal() and month.isdecimal() and date.isdecimal()):
        return ""
    if not 1 <= int(month) <= len(MONTHS):
        return ""
    return f"{int(date)} {MONTHS[int(month) - 1]} {year}"
