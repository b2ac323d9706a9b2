"""Everything the page shows of one suite, gathered: the table, the plots, the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from mmeb_harness.comparison import compare
from mmeb_harness.errors import UsageError
from mmeb_harness.reports.board.build import PUBLISHED_SUITE
from mmeb_harness.reports.board.leaderboard import Board, Entry, full_name
from mmeb_harness.reports.board.ledger import ledger
from mmeb_harness.reports.page.header import SuiteHead, suite_head
from mmeb_harness.reports.page.models import Model, models_of
from mmeb_harness.reports.page.reproduction import LedgerView, ledger_view
from mmeb_harness.reports.page.table import Table, table_of
from mmeb_harness.reports.page.tasks import TaskSection, tasks_of
from mmeb_harness.reports.plots.bars import BarPanel, bars_of
from mmeb_harness.reports.plots.curve import Curve, curve_of
from mmeb_harness.reports.plots.forest import Forest, forest_of
from mmeb_harness.reports.plots.profile import profile_of
from mmeb_harness.reports.plots.scatter import Scatter, by_parameters, ind_against_ood
from mmeb_harness.reports.readable import cut
from mmeb_harness.sweep import read_sweep

COMPARED = 4
"""So many runs are compared with each other, the best first."""


@dataclass(frozen=True, kw_only=True)
class SuiteView:
    """One suite; `id` begins every id of its section, `alone` says that there is but one model, and
    `tones` how its bars look."""

    id: str
    suite: str
    alone: bool
    head: SuiteHead
    table: Table
    bars: Sequence[BarPanel]
    tones: Sequence[str]
    scatters: Sequence[Scatter]
    forests: Sequence[Forest]
    not_compared: Sequence[str]
    curves: Sequence[Curve]
    tasks: Sequence[TaskSection]
    models: Sequence[Model]
    ledgers: Mapping[str, LedgerView]


def suite_view(board: Board, number: int) -> SuiteView:
    """Gather what the page shows of a board, the `number`th on it."""
    runs = [entry for entry in board.entries if entry.run and entry.kind == "measured"]
    forests, refused = _forests(runs)
    alone = len(board.entries) == 1
    scatters = () if alone else (by_parameters(board), ind_against_ood(board))
    panels = profile_of(board) if alone else bars_of(board)
    bars = [bar for panel in panels for bar in panel.bars]
    return SuiteView(
        id=f"s{number}",
        suite=board.suite,
        alone=alone,
        head=suite_head(board),
        table=table_of(board),
        bars=panels,
        tones=sorted({bar.tone for bar in bars} | {"chance" for bar in bars if bar.chance}),
        scatters=[scatter for scatter in scatters if scatter],
        forests=forests,
        not_compared=refused,
        curves=_curves(runs),
        tasks=tasks_of(board),
        models=models_of(board),
        ledgers=_ledgers(board, runs),
    )


def _forests(entries: Sequence[Entry]) -> tuple[list[Forest], list[str]]:
    """Compare the first runs in pairs; what cannot be compared is said."""
    forests, refused = [], []
    for a, b in combinations(entries[:COMPARED], 2):
        if a.run is None or b.run is None:
            continue
        try:
            comparison = compare(a.run, b.run)
        except UsageError as error:
            refused.append(f"{_title(a)} and {_title(b)}: {cut(str(error), 300)}")
            continue
        if comparison.tasks:
            forests.append(forest_of(comparison, _title(a), _title(b)))
    return forests, refused


def _title(entry: Entry) -> str:
    return cut(full_name(entry), 40)


def _curves(entries: Sequence[Entry]) -> list[Curve]:
    curves = []
    for entry in entries:
        sweep = read_sweep(entry.run.output_dir, entry.run.record.encoder) if entry.run else None
        curve = curve_of(sweep, _title(entry)) if sweep else None
        if curve:
            curves.append(curve)
    return curves


def _ledgers(board: Board, entries: Sequence[Entry]) -> dict[str, LedgerView]:
    """Return the ledgers of the runs of the suite whose scores are published, by entry."""
    if board.suite != PUBLISHED_SUITE:
        return {}
    made = {entry.key: ledger(entry.run) for entry in entries if entry.run}
    return {key: ledger_view(found) for key, found in made.items() if found}
