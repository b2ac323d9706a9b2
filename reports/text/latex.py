"""The leaderboard as LaTeX for a paper: booktabs, the best in bold, the second underlined.

It needs the package booktabs, and longtable where there are more models than a page holds. Every
character that LaTeX reads is escaped, and what pdfLaTeX has no letter for is written by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, full_name, letters
from mmeb_harness.reports.numbers import percent
from mmeb_harness.reports.text.wording import (
    CORRECTED,
    TRAINED,
    average_mark,
    averages,
    mark,
    published,
    shortened,
    standing_at_length,
)
from mmeb_harness.result import Run

FEW = 8
"""Up to so many models have a table of all tasks."""

PAGE = 45
"""Rows that a page holds; a table with more goes over several."""

NAME = 90
"""Characters of a model's name."""

LAST = ("ind", "ood", "overall")
"""Averages over tasks of several meta-tasks stand behind those of one."""

ESCAPES = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "⟨": r"{[}",
    "⟩": r"{]}",
}
LETTER = re.compile(r"[ -~\u00c0-\u017f]")
"""Characters that every LaTeX sets: ASCII, and Latin with accents."""

MARKS = {TRAINED: "*", CORRECTED: r"\dag{}"}


def escaped(text: str, length: int = NAME) -> str:
    """Write text as LaTeX that shows it."""
    return re.sub("-(?=-)", "-{}", "".join(map(_escaped, shortened(text, length))))


def _escaped(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    return character if LETTER.fullmatch(character) else f"{{[}}U+{ord(character):04X}{{]}}"


def render(runs: Sequence[Run], options: ReportOptions) -> str:
    """Render the tables of each suite."""
    return render_boards(build(runs, options), options)


def render_boards(boards: Sequence[Board], options: ReportOptions) -> str:
    """Render tables of averages, and of all tasks where models are few."""
    tables = [line for board in boards for line in _models(board)]
    for board in boards:
        if len(board.entries) <= FEW:
            tables += ["", *_tasks(board)]
    package = "booktabs,longtable" if r"\begin{longtable}" in "\n".join(tables) else "booktabs"
    return "\n".join([f"% \\usepackage{{{package}}}", *tables]) + "\n"


def _models(board: Board) -> Iterable[str]:
    columns = _overall_last(averages(board))
    head = ["Model", *(escaped(column.title) for column in columns), r"95\,\% interval"]
    best = {column.key: _best(column, board.entries) for column in columns}
    body: list[str] = []
    here = [entry for entry in board.entries if not published(entry)]
    elsewhere = [entry for entry in board.entries if published(entry)]
    if here and elsewhere:
        body += [*_rows(here, columns, best, board), r"\midrule"]
        body += [rf"\multicolumn{{{len(head)}}}{{@{{}}l@{{}}}}{{\emph{{Published}}}} \\"]
        body += _rows(elsewhere, columns, best, board)
    else:
        body += _rows(board.entries, columns, best, board)
    yield from _table(
        caption=_caption(board),
        label=_label(board.suite),
        layout="l" + "r" * len(columns) + "l",
        head=head,
        body=body,
        rows=len(board.entries),
    )


def _overall_last(columns: Sequence[Column]) -> list[Column]:
    parts = [column for column in columns if column.key not in LAST]
    return parts + [column for key in LAST for column in columns if column.key == key]


def _rows(
    entries: Iterable[Entry],
    columns: Sequence[Column],
    best: Mapping[str, tuple[str, ...]],
    board: Board,
) -> Iterable[str]:
    signs = letters(board)
    for entry in entries:
        cells = [_name(entry, board)]
        for column in columns:
            cell = _value(entry, column, best[column.key])
            behind = MARKS.get(average_mark(entry, column, board), "")
            if column.key == "overall":
                behind += signs.get(entry.key, "")
            cells.append(cell + _raised(behind))
        yield _row([*cells, _interval(entry, "overall")])


def _name(entry: Entry, board: Board) -> str:
    return escaped(full_name(entry)) + standing_at_length(entry, board)


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _best(column: Column, entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the best value and the second, as printed; limited runs do not take part."""
    held = [entry.scores[column.key].value for entry in entries
            if entry.limit is None and column.key in entry.scores]  # fmt: skip
    if len(held) < 2:
        return ()
    return tuple(dict.fromkeys(percent(value) for value in sorted(held, reverse=True)))[:2]


def _value(entry: Entry, column: Column, best: Sequence[str]) -> str:
    score = entry.scores.get(column.key)
    if score is None:
        return "--"
    value = percent(score.value)
    if entry.limit is not None or value not in best:
        return value
    return rf"\{'textbf' if value == best[0] else 'underline'}{{{value}}}"


def _interval(entry: Entry, key: str) -> str:
    score = entry.scores.get(key)
    if score is None or score.interval is None:
        return ""
    return f"{percent(score.interval.low)}--{percent(score.interval.high)}"


def _tasks(board: Board) -> Iterable[str]:
    columns = [column for column in board.columns if column.kind == "task"]
    names = [_name(entry, board) for entry in board.entries]
    numbered = sum(map(len, names)) > NAME
    heads = [f"({n})" for n in range(1, len(names) + 1)] if numbered else names
    listed = "; ".join(map(" ".join, zip(heads, names))) if numbered else ""
    body = []
    for number, column in enumerate(columns):
        if number and column.meta_task != columns[number - 1].meta_task:
            body.append(r"\midrule")
        best = _best(column, board.entries)
        cells = [_value(entry, column, best) + _sign(entry, column) for entry in board.entries]
        body.append(_row([escaped(column.title), (column.split or "").upper(), *cells]))
    yield from _table(
        caption=f"{escaped(board.suite)}, each task: hit@1 in \\%. {listed}".rstrip(),
        label=f"{_label(board.suite)}-tasks",
        layout="ll" + "r" * len(names),
        head=["Task", "Split", *heads],
        body=body,
        rows=len(columns),
    )


def _sign(entry: Entry, column: Column) -> str:
    score = entry.scores.get(column.key)
    return _raised(MARKS.get(mark(column, score), "") if score else "")


def _raised(sign: str) -> str:
    """Raise a mark, without a width of its own: the numbers stay one below the other."""
    return rf"\rlap{{\textsuperscript{{{sign}}}}}" if sign else ""


def _table(
    *, caption: str, label: str, layout: str, head: Sequence[str], body: Sequence[str], rows: int
) -> Iterable[str]:
    """Put rows between the rules of one table, which goes over several pages if it must."""
    layout = f"{{@{{}}{layout}@{{}}}}"
    top = [r"\toprule", _row(head), r"\midrule"]
    named = [rf"\caption{{{caption}}}", rf"\label{{{label}}}"]
    if rows > PAGE:
        yield from [r"{\small", rf"\begin{{longtable}}{layout}", *named[:1], rf"{named[1]} \\"]
        yield from [*top, r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}", "}"]
        return
    yield from [r"\begin{table}[t]", r"\centering", *named, r"\small"]
    yield from [rf"\begin{{tabular}}{layout}", *top, *body, r"\bottomrule"]
    yield from [r"\end{tabular}", r"\end{table}"]


def _label(suite: str) -> str:
    return "tab:" + (re.sub("[^a-z0-9]+", "-", suite.lower()[:40]).strip("-") or "suite")


def _caption(board: Board) -> str:
    """Say what the numbers of a table are, and what its marks mean."""
    tasks = len(board.tasks)
    sentences = [
        f"{escaped(board.suite)}: hit@1 in \\%, plain means over tasks ({tasks} overall).",
        *(["Best in bold, second underlined."] if len(board.entries) > 1 else []),
        r"Intervals are 95\,\%, over queries.",
    ]
    if letters(board):
        sentences.append("Models are not told apart at 95\\,\\% from the first of their letter.")
    scores = [score for entry in board.entries for score in entry.scores.values()]
    if any(average_mark(e, c, board) == TRAINED for e in board.entries for c in board.columns):
        sentences.append(
            r"\textsuperscript{*}\,Trained on tasks that are out of distribution here."
        )
    if any(score.printed is not None for score in scores):
        sentences.append(
            r"\textsuperscript{\dag}\,As the tasks' scores give it; the source prints another."
        )
    return " ".join(sentences)
