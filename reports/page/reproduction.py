"""The reproduction ledger of a run as rows: measured beside published, and what to make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.reports.board.leaderboard import title
from mmeb_harness.reports.board.ledger import Ledger, Line
from mmeb_harness.reports.numbers import percent, points
from mmeb_harness.reports.readable import cut

REASON = 300


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One score against the published one."""

    name: str
    measured: str
    published: str
    difference: str
    verdict: str
    outside: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class LedgerView:
    """The ledger in words: what it is set against, the verdicts counted, and the rows."""

    row: str
    source: str
    counts: str
    rows: Sequence[LedgerRow]


def ledger_view(ledger: Ledger) -> LedgerView:
    """Write a ledger down, its averages first."""
    verdicts = [f"{count} {verdict}" for verdict, count in ledger.counts.items()]
    return LedgerView(
        row=cut(ledger.row.name),
        source=cut(f"{ledger.row.by}: {ledger.row.source}", REASON),
        counts="of its tasks, " + ", ".join(verdicts),
        rows=[
            *(_row(line, title(line.key)) for line in ledger.averages),
            *(_row(line, cut(line.key)) for line in ledger.tasks),
        ],
    )


def _row(line: Line, name: str) -> LedgerRow:
    return LedgerRow(
        name=name,
        measured=percent(line.measured),
        published=percent(line.published),
        difference="" if line.difference is None else points(line.difference),
        verdict=line.verdict,
        outside=line.verdict == "outside",
        reason=cut(line.reason, REASON),
    )
