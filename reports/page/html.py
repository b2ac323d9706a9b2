"""The leaderboard as one HTML file that opens by double click: it loads nothing, runs only what is
in it, and can be read without a script.

The one idea: the same runs give the same bytes, and nothing from data can act. The template escapes
whatever it writes, and the page's own policy allows the styles and scripts by their digests alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board
from mmeb_harness.reports.examples.build import Examples
from mmeb_harness.reports.examples.build import build as build_examples
from mmeb_harness.reports.page.header import day_of
from mmeb_harness.reports.page.suite import SuiteView, suite_view
from mmeb_harness.reports.readable import visible
from mmeb_harness.result import Run

if TYPE_CHECKING:
    from jinja2 import Environment

STYLES = ("palette.css.jinja", "layout.css", "leaderboard.css", "plots.css", "sections.css",
          "examples.css", "print.css")  # fmt: skip
SCRIPTS = ("view.js", "suites.js", "leaderboard.js", "copies.js", "examples.js")
"""Templates that make the one style sheet and the one script, in order."""

BESIDE = 8
"""Runs of a suite whose answers stand side by side under a query."""

PARTS = (("Leaderboard", ""), ("Plots", "-plots"), ("Tasks", "-tasks"), ("Models", "-models"))
"""Parts of a suite's section, with the end of their ids."""


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render all leaderboards as one page; `options.extra["date"]` stands in for the runs' day."""
    return render_boards(build(runs, options), runs, options)


def render_boards(boards: Sequence[Board], runs: Sequence[Run], options: ReportOptions) -> str:
    """Render leaderboards of runs as one page, with what lies in the folders of the best."""
    from markupsafe import Markup

    environment = _environment()
    suites = [suite_view(board, number) for number, board in enumerate(boards, start=1)]
    early = _source("early.js")
    style = "\n".join(map(_source, STYLES))
    script = "\n".join(map(_source, SCRIPTS))
    day = str(options.extra.get("date") or day_of(runs))
    made = "mmeb-harness " + version("mmeb-harness")
    document: str = environment.get_template("page.html.jinja").render(
        title=_title(suites),
        facts=[fact for fact in ("hit@1 in percent", made, day) if fact],
        made=made,
        policy=_policy((early, script), style),
        early=Markup(early),
        style=Markup(style),
        script=Markup(script),
        suites=suites,
        parts=PARTS,
        examples=_examples(boards, options),
    )
    return document.encode("utf-8", "replace").decode()


def _examples(boards: Sequence[Board], options: ReportOptions) -> Examples:
    """Return the queries of the best runs of each board, and say of how many."""
    measured = [[entry for entry in board.entries if entry.kind == "measured"] for board in boards]
    best = [entry for entries in measured for entry in entries[:BESIDE]]
    runs = [entry.run for entry in best if entry.run is not None]
    names = [f"{entry.name} {entry.variant}".rstrip() for entry in best]
    found = build_examples(runs, options, names)
    remarks = [
        f"queries are shown of the best {BESIDE} of {len(entries)} runs: a report of fewer "
        "shows the others"
        for entries in measured
        if len(entries) > BESIDE
    ]
    return replace(found, remarks=(*remarks, *found.remarks))


def _title(suites: Sequence[SuiteView]) -> str:
    """Name the suites, and the model where there is one alone."""
    if len(suites) == 1 and suites[0].alone:
        return f"{suites[0].models[0].name} on {suites[0].head.title}"
    return ", ".join(suite.head.title for suite in suites) + " leaderboard"


def _policy(scripts: Sequence[str], style: str) -> str:
    """Allow these scripts and this style, pictures within the file, and nothing else."""
    allowed = " ".join(map(_digest, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    """Return jinja2 with everything escaped, and hidden characters of any text shown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=PackageLoader("mmeb_harness.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
    )


@cache
def _source(name: str) -> str:
    """Return a style sheet or script of the package, its own templates filled in."""
    environment = _environment()
    if name.endswith(".jinja"):
        return environment.get_template(name).render()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
