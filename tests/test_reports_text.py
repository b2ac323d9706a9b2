"""The text formats: golden files of each, whatever names hold, and the command that writes them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mmeb_harness.cli.main import _run
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score, title
from mmeb_harness.reports.board.ledger import Ledger, Line
from mmeb_harness.reports.numbers import percent
from mmeb_harness.reports.text import csv as csv_report
from mmeb_harness.reports.text import json as json_report
from mmeb_harness.reports.text import latex, markdown, reproduction, terminal
from mmeb_harness.reports.text.wording import (
    averages,
    isolated,
    legend,
    mark,
    shortened,
    standing,
    standing_at_length,
    told_apart,
    visible,
)
from mmeb_harness.result import Run, TaskName
from mmeb_harness.runfolder import read_run
from mmeb_harness.summary import Interval, mean_if_complete
from mmeb_harness.sweep import Precision, Sweep, SweepPoint
from rich.cells import cell_len

EXPECTED = Path(__file__).parent / "reports/expected"

TASKS = (
    TaskName(name="ImageNet-1K", meta_task="classification", split="ind"),
    TaskName(name="ObjectNet", meta_task="classification", split="ood"),
    TaskName(name="GQA", meta_task="vqa", split="ood"),
    TaskName(name="VisualNews_t2i", meta_task="retrieval", split="ind"),
    TaskName(name="RefCOCO", meta_task="grounding", split="ood"),
)
HOSTILE = (
    'a|b & 50% $x$ #1 _under_ {c} ~d^ \\e <script>alert("x")</script> *[l](http://www.evil.com)*'
    " @me `q`\nnew line\x1b[31m red \u202eturned \u05d0\u05d1\u05d2\r\n\t=1+1\x00"
)
LONG = "models/" + "x" * 100_000 + "/last-step"
FORMULA = '=HYPERLINK("http://evil.example";"x")'

RENDER: dict[str, Callable[[Sequence[Board], ReportOptions], str]] = {
    "table": terminal.render_boards,
    "csv": csv_report.render_boards,
    "markdown": markdown.render_boards,
    "latex": latex.render_boards,
    "json": json_report.render_boards,
}


def columns() -> tuple[Column, ...]:
    sets = {
        "overall": TASKS,
        "ind": [task for task in TASKS if task.split == "ind"],
        "ood": [task for task in TASKS if task.split == "ood"],
        **{meta: [t for t in TASKS if t.meta_task == meta] for meta in META_TASKS},
        "seen": [],
        "unseen": [],
    }
    averages = [
        Column(key=key, title=title(key), tasks=tuple(t.name for t in tasks), kind="average")
        for key, tasks in sets.items()
    ]
    return (
        *averages,
        *(
            Column(
                key=task.name,
                title=task.name,
                tasks=(task.name,),
                kind="task",
                meta_task=task.meta_task,
                split=task.split,
            )
            for task in TASKS
        ),
    )


META_TASKS = ("classification", "vqa", "retrieval", "grounding")


def scores(*values: float | None, seen: Sequence[str] | None = None) -> dict[str, Score]:
    """Make scores of the tasks in order, and the averages that these give."""
    known = {task.name: value for task, value in zip(TASKS, values, strict=True)}
    found = {
        name: Score(
            value=value,
            interval=Interval(max(0.0, value - 0.03), min(1.0, value + 0.03)),
            seen=None if seen is None else name in seen,
        )
        for name, value in known.items()
        if value is not None
    }
    for column in columns():
        if column.kind == "average" and column.tasks:
            average = mean_if_complete([known[name] for name in column.tasks])
            if average is not None:
                found[column.key] = Score(
                    value=average,
                    interval=Interval(max(0.0, average - 0.01), min(1.0, average + 0.01)),
                )
    return found


def corrected(given: dict[str, Score], key: str, printed: float) -> dict[str, Score]:
    return given | {key: replace(given[key], printed=printed)}


BEST = Entry(
    key="best",
    name="clip:openai/clip-vit-large-patch14",
    kind="measured",
    scores=scores(0.9, 0.8, 0.7, 0.6, 0.5, seen=["ImageNet-1K", "ObjectNet"]),
    rank=1,
    group=1,
    parameters=0.428,
    dimension=768,
    training=("ImageNet-1K", "ObjectNet"),
)
TIED = replace(
    BEST,
    key="tied",
    variant="image_resolution=low",
    scores=scores(0.9, 0.79, 0.7, 0.6, 0.5),
    rank=2,
    training=None,
    remarks=("all 5 tasks: at chance (2.000%)",),
)
CORRECTED = Entry(
    key="corrected",
    name="SigLIP",
    kind="paper",
    source="the paper, Table 6",
    scores=corrected(scores(0.8, 0.7, 0.7, 0.4409, 0.5), "retrieval", 0.316),
    rank=3,
    group=2,
    remarks=("Retrieval is printed as 31.6; the mean over its tasks is 44.1",),
)
EVIL = Entry(
    key="evil",
    name=HOSTILE,
    kind="imported",
    source=FORMULA,
    scores=scores(0.5, 0.5, 0.5, 0.5, 0.5),
    rank=4,
    group=3,
    remarks=(HOSTILE,),
)
ENDLESS = Entry(
    key="endless",
    name=LONG,
    kind="third-party",
    scores=scores(0.4, 0.5, 0.5, 0.5, 0.5),
    rank=5,
    group=3,
)
FAILED = Entry(
    key="failed",
    name="random",
    kind="measured",
    scores=scores(0.02, 0.0, None, 1 / 3, None),
    missing=("GQA", "RefCOCO"),
    failed={"GQA": "item 'a|b' has no image\x07"},
    remarks=("RefCOCO not run", "averages that need a missing task are left out"),
)
LIMITED = Entry(
    key="limited",
    name="gme-qwen2-vl-2b",
    kind="measured",
    scores=scores(1.0, 1.0, 1.0, 1.0, 1.0),
    limit=10,
    remarks=("only the first 10 queries of each task: not ranked",),
)
AVERAGES = Entry(
    key="averages",
    name=FORMULA,
    kind="authors",
    scores={"overall": Score(value=0.61), "ind": Score(value=0.7, printed=0.5)},
    missing=tuple(task.name for task in TASKS),
)
ALL = (BEST, TIED, CORRECTED, EVIL, ENDLESS, FAILED, LIMITED, AVERAGES)


def board(*entries: Entry, suite: str = "toy") -> Board:
    return Board(suite=suite, tasks=TASKS, columns=columns(), entries=entries)


def render(format: str, *entries: Entry, width: int = 100, color: bool = False) -> str:
    return RENDER[format]([board(*entries)], ReportOptions(width=width, color=color))


# -- golden files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format", "entries", "width"),
    [
        ("one.txt", "table", ALL[:1], 100),
        ("few.txt", "table", (BEST, TIED, FAILED), 100),
        ("many-100.txt", "table", ALL, 100),
        ("many-80.txt", "table", ALL, 80),
        ("board.csv", "csv", tuple(e for e in ALL if e is not ENDLESS), 100),
        ("board.md", "markdown", ALL, 100),
        ("few.md", "markdown", (BEST, CORRECTED, FAILED), 100),
        ("board.tex", "latex", ALL, 100),
        ("board.json", "json", tuple(e for e in ALL if e is not ENDLESS), 100),
    ],
)
def test_golden(
    name: str, format: str, entries: Sequence[Entry], width: int, tmp_path: Path
) -> None:
    text = render(format, *entries, width=width)
    golden = EXPECTED / name
    if not golden.exists() or golden.read_bytes() != text.encode():
        made = tmp_path / name
        made.write_bytes(text.encode())
        expected = golden.read_text() if golden.exists() else ""
        assert text == expected, f"if {made} is right, it belongs in {golden}"


# -- numbers and marks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.81349, "81.3"), (0.81351, "81.4"), (0.9999, "100.0"), (0.0004, "0.0"), (1.0, "100.0"),
     (0.0, "0.0"), (None, "–")],
)  # fmt: skip
def test_percent_is_rounded_to_one_decimal_and_what_is_unknown_is_a_dash(
    value: float | None, written: str
) -> None:
    """A number would be a tenth of a point off, or an unknown one an empty place."""
    assert percent(value) == written


@pytest.mark.parametrize("format", [format for format in RENDER if format not in ("csv", "json")])
def test_scores_are_rounded_and_not_cut_off(format: str) -> None:
    """Every format would print other numbers than the sources do."""
    text = render(format, replace(BEST, scores=scores(0.1239, 0.9996, 0.5, 0.5, 0.5)))
    assert "12.4" in text
    assert "12.3" not in text
    assert "100.0" in text


def test_a_mark_says_what_the_source_prints_or_that_the_model_was_trained_on_it() -> None:
    """A score would be read as unseen, or as printed, that is not."""
    ind, ood = (next(c for c in columns() if c.split == split) for split in ("ind", "ood"))
    assert mark(ood, Score(value=0.5, seen=True)) == "*"
    assert mark(ind, Score(value=0.5, seen=True)) == "", "that is what it is in distribution for"
    assert mark(ood, Score(value=0.5, seen=False)) == mark(ood, Score(value=0.5)) == ""
    assert mark(ind, Score(value=0.5, printed=0.4)) == "^"
    assert mark(ood, Score(value=0.5, printed=0.4, seen=True)) == "^", "there is room for one"


@pytest.mark.parametrize(
    ("seen", "unseen", "told"),
    [
        ("ind", "ood", False),  # trained on what is in distribution: that is those two again
        (None, "overall", False),  # trained on none of it
        ("overall", None, True),  # trained on all of it
        ("ood", "ind", True),
        (None, None, False),
    ],
)
def test_averages_by_training_stand_where_they_say_more_than_the_splits(
    seen: str | None, unseen: str | None, told: bool
) -> None:
    """Two columns would repeat IND and OOD, or what was trained on would be hidden in them."""
    given = dict(BEST.scores)
    given |= {key: given[same] for key, same in (("seen", seen), ("unseen", unseen)) if same}
    keys = {column.key for column in averages(board(replace(BEST, scores=given)))}
    assert ({"seen", "unseen"} <= keys) == told
    assert {"overall", "ind", "ood", *META_TASKS} <= keys


def test_why_an_entry_has_no_rank_is_said_whole() -> None:
    """Of two reasons one would be lost, or averages be promised where there are none."""
    part = replace(FAILED, limit=10)
    assert standing(part, board(part)) == "3/5 limit 10"
    assert standing_at_length(part, board(part)) == " (first 10 queries, 3 of 5 tasks)"
    nothing = replace(AVERAGES, scores={})
    assert standing(nothing, board(nothing)) == "0/5", "there are no averages either"
    assert standing(AVERAGES, board(AVERAGES)) == "averages"
    assert standing(BEST, board(BEST)) == standing_at_length(BEST, board(BEST)) == ""


def test_a_legend_explains_what_stands_above_it_and_no_more() -> None:
    """Beside tasks, who made the scores and what is missing stands in the heads of the columns."""
    mixed = board(BEST, AVERAGES)
    by_task, by_model = (legend(mixed, by_letters=letters) for letters in (False, True))
    assert not any(line.startswith(("by:", "averages:")) for line in by_task)
    assert [line.split(":")[0] for line in by_model[:2]] == ["by", "averages"]
    assert set(by_model[2:]) == set(by_task)
    plain = replace(BEST, scores=scores(0.5, 0.5, 0.5, 0.5, 0.5))
    assert legend(board(plain), by_letters=True) == []


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", RENDER)
def test_nothing_in_a_name_leaves_its_line_or_moves_a_cursor(format: str) -> None:
    text = render(format, *ALL)
    for line in text.splitlines():
        shown = line.replace("\u200e", "")  # the marks around a name from right to left
        assert shown.isprintable(), [c for c in shown if not c.isprintable()]
    without = tuple(entry for entry in ALL if entry is not EVIL)
    lines = len(text.splitlines()) - len(render(format, *without).splitlines())
    more = {"table": 2, "csv": 1, "markdown": 2, "latex": 1}  # a row, and a remark below
    if format != "json":
        assert lines == more[format]


def test_with_color_a_name_brings_no_color_of_its_own() -> None:
    text = render("table", *ALL, color=True)
    assert "\x1b[" in text
    assert "\x1b[31m red" not in text
    assert "⟨U+001B⟩[31m red" in text


def test_visible_text_is_one_printable_line() -> None:
    assert visible("plain näme 模型") == "plain näme 模型"
    assert visible("a\nb\tc\x1bd\u202ee\u200bf\ud800") == "a b c⟨U+001B⟩d⟨U+202E⟩e⟨U+200B⟩f⟨U+D800⟩"
    assert isolated("\u05d0 1") == "\u200e\u05d0 1\u200e"
    assert isolated("a 1") == "a 1"


@pytest.mark.parametrize(("head", "before"), [(0.25, 5), (0.5, 10), (0.75, 15), (1.0, 20)])
@pytest.mark.parametrize("length", [40, 10_000])
def test_the_cut_stands_where_it_is_wanted_however_long_the_text(
    length: int, head: float, before: int
) -> None:
    """A name would lose more than it must where it is very long."""
    text = "".join(chr(ord("a") + n % 26) for n in range(length))
    assert shortened(text, 23, head=head) == f"{text[:before]}...{text[length - 20 + before :]}"


def test_only_letters_that_run_from_right_to_left_are_set_apart() -> None:
    """Numbers behind an Arabic name would change their places."""
    for text in ("\u05d0", "a \u0627 1", "\u0627"):  # Hebrew, Arabic
        assert isolated(text) == f"\u200e{text}\u200e"
    for text in ("1 + 1", "模型", "é"):
        assert isolated(text) == text


@pytest.mark.parametrize(
    ("place", "cut"),
    [
        (5, "xxxxx{}xxxx...xxxxxxxxxx"),
        (12, "xxxxxxxxxxxx{}xx...xxxxx"),
        (17, "xxxxxxxxxxxxxxxxx{}xx..."),
        (22, "xxxxx...xxxxxxxxxxxxxxx"),  # nothing that fits shows it
        (27, "xxxxx...xx{}xxxxxxxxxxxx"),
    ],
)
def test_names_that_would_be_cut_alike_are_cut_elsewhere(place: int, cut: str) -> None:
    """The others keep both ends, so that a name does not change with what stands beside it."""
    names = ["x" * place + sign + "x" * (39 - place) for sign in "ab"]
    other = "y" * 20 + "z" * 20
    short = told_apart([*names, other], 23)
    assert short == [cut.format("a"), cut.format("b"), "y" * 10 + "..." + "z" * 10]


@pytest.mark.parametrize("length", [10, 11, 40])
@pytest.mark.parametrize("text", ["a" * 9, "a" * 10, "a" * 41 + "end", "\x1b" * 500, LONG])
def test_a_shortened_text_keeps_both_ends(text: str, length: int) -> None:
    short = shortened(text, length)
    assert len(short) <= length
    if len(text) <= length and text.isprintable():
        assert short == text
    elif text.isprintable():
        head, tail = short.split("...")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(short) == length


# -- the terminal -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 90, 100, 140])
def test_published_rows_fit_the_width_and_each_can_be_told(width: int) -> None:
    boards = build([], ReportOptions(published=True))
    text = terminal.render_boards(boards, ReportOptions(width=width))
    rows = text.split("\n\na, b")[0].splitlines()
    assert max(map(cell_len, rows)) <= width
    assert "…" not in "".join(rows)
    models = [row for row in rows[2:] if row]
    assert len(models) == len(boards[0].entries)
    begin, end = rows[0].index("mmeb"), rows[0].index(" by ")
    assert len({row[begin:end] for row in models}) == len(models)
    assert end - begin >= 30
    assert ("Seen" in rows[0]) == (width >= 140)
    for column in ("Class", "VQA", "Retr", "Grnd"):
        assert (column in rows[0]) == (width >= 100)
    assert ("Classification, VQA, Retrieval, Grounding" in text) == (width < 100)


def test_as_many_models_as_fit_are_set_side_by_side() -> None:
    for count, width, by_task in [(1, 60, True), (2, 60, False), (3, 100, True), (4, 100, False)]:
        entries = [replace(BEST, key=f"k{n}") for n in range(count)]
        text = render("table", *entries, width=width)
        assert ("VisualNews_t2i" in text) == by_task, (count, width)
        table = text.split("\na, b")[0].split("\nclip:")[0]
        assert max(map(cell_len, table.splitlines())) <= width


def test_a_column_of_20_for_each_model_and_28_for_the_tasks_is_enough() -> None:
    """Models that fit would be a row each, or those that do not would break their lines."""
    for count in (1, 2, 3):
        entries = [replace(BEST, key=f"k{n}") for n in range(count)]
        for width, by_task in ((28 + 20 * count, True), (27 + 20 * count, count == 1)):
            text = render("table", *entries, width=width)
            assert ("VisualNews_t2i" in text) == by_task, (count, width)


def test_a_terminal_is_taken_to_have_60_columns() -> None:
    """Narrower ones wrap the lines: a table of 40 would say nothing."""
    assert render("table", *ALL, width=40) == render("table", *ALL, width=60)


def test_long_names_are_cut_where_they_head_a_column() -> None:
    """A long name would push the scores off the screen."""
    head = render("table", ENDLESS).split("Classification")[0]
    shown = "".join("".join(head.splitlines()).split())
    assert len(re.findall("x", shown)) < 60
    assert "..." in shown
    tasks = (TaskName(name="t" * 200, meta_task="vqa", split="ood"),)
    column = replace(columns()[-1], key="t", title=tasks[0].name, meta_task="vqa")
    entry = replace(BEST, scores={"t": Score(value=0.5)})
    odd = Board(suite="s" * 200, tasks=tasks, columns=(column,), entries=(entry,))
    text = terminal.render_boards([odd], ReportOptions(width=100))
    assert f"{'t' * 12}...{'t' * 13}" in text
    assert f"{'s' * 12}...{'s' * 13}  hit@1" in text
    assert max(map(cell_len, text.splitlines())) <= 100


def test_boards_stand_a_line_apart() -> None:
    """The head of a table would run into the notes of the one before."""
    two = [board(BEST), board(BEST, suite="mini")]
    text = terminal.render_boards(two, ReportOptions(width=100))
    assert text == "\n".join(terminal.render_boards([one], ReportOptions(width=100)) for one in two)


def test_a_readers_own_runs_are_bold_where_others_stand_beside_them() -> None:
    """Among 76 published rows they would not be found."""

    def bold(*entries: Entry) -> list[str]:
        lines = render("table", *entries, color=True).splitlines()
        return [line for line in lines[2 : 2 + len(entries)] if "\x1b[1m" in line]

    (own,) = bold(BEST, *[CORRECTED] * 5)
    assert "clip:" in own
    assert bold(*[BEST] * 5) == []


def test_a_sweep_is_a_table_below(tmp_path: Path) -> None:
    """What fewer dimensions cost would be wrong by a column or a unit."""
    settings: list[tuple[int, Precision, int]] = [
        (64, "fp32", 256_000_000), (1024, "fp32", 4_096_000_000), (1024, "binary", 128_000_000),
    ]  # fmt: skip
    points = [
        SweepPoint(
            dimension=dimension, precision=precision, bytes_per_million=size, tasks={},
            overall=0.5, ind=0.625, ood=None, intervals={"overall": Interval(0.4, 0.6)},
        )
        for dimension, precision, size in settings
    ]  # fmt: skip
    made = Sweep(encoder="e", full=1024, points=points)
    entry = replace(BEST, run=read_run(write_run(tmp_path)))
    (tmp_path / "sweep.json").write_text(made.model_dump_json())
    _, _, table = render("table", entry).partition("\n\nclip")
    assert table.splitlines() == [
        ":openai/clip-vit-large-patch14",
        "             dims  MB/1e6  Overall           IND    OOD",
        "─────────────────────────────────────────────────────────",
        "fp32           64     256   50.0  40.0-60.0   62.5      -",
        "        full 1024   4,096   50.0  40.0-60.0   62.5      -",
        "",
        "binary  full 1024     128   50.0  40.0-60.0   62.5      -",
    ]
    (told,) = json.loads(render("json", entry))["boards"][0]["entries"]
    assert told["sweep"] == json.loads(made.model_dump_json())
    (told,) = json.loads(render("json", BEST))["boards"][0]["entries"]
    assert (told["sweep"], told["folder"], told["reproduction"]) == (None, None, None)


def test_many_remarks_are_cut_and_counted() -> None:
    text = render("table", replace(BEST, remarks=tuple(f"remark {n}" for n in range(40))))
    assert text.count(": remark ") == 12
    assert "and 28 more" in text
    published = replace(CORRECTED, remarks=("one", "two"))
    text = render("table", *[replace(BEST, remarks=("own",))] * 5, *[published] * 5)
    assert text.count(": own") == 5
    assert ": one" not in text
    assert "and 10 more" in text


def test_a_reason_that_failed_many_tasks_is_said_once() -> None:
    names = tuple(task.name for task in TASKS)
    entry = replace(FAILED, scores={}, missing=names, failed=dict.fromkeys(names, "no disk"))
    text = render("table", replace(entry, remarks=()))
    assert text.count("no disk") == 1
    assert "5 tasks failed (ImageNet-1K, " in text


@pytest.mark.parametrize(("count", "named"), [(6, " (t0, t1, t2, t3, t4, t5)"), (7, "")])
def test_up_to_six_failed_tasks_are_named(count: int, named: str) -> None:
    """A reason that failed all tasks would be told with a list of them."""
    failed = {f"t{n}": "no disk" for n in range(count)}
    text = render("table", replace(FAILED, failed=failed))
    assert f"random: {count} tasks failed{named}: no disk\n" in text


def test_a_long_remark_is_cut() -> None:
    """An error message of any length would stand below the table."""
    text = render("table", replace(BEST, name="m", remarks=("r" * 1000, "s" * 300)))
    assert re.search("m: r{148}[.]{3}r{149}\n", text)
    assert f"m: {'s' * 300}\n" in text


def test_only_groups_of_several_have_letters() -> None:
    alone = [replace(BEST, key=f"k{n}", rank=n, group=n) for n in range(1, 6)]
    assert "same letter" not in render("table", *alone)
    groups = [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3)]
    tied = [replace(BEST, key=f"k{n}", rank=n, group=group) for n, group in groups]
    starts = [line[:3] for line in render("table", *tied).splitlines()[2:7]]
    assert starts == ["1 a", "2 a", "3  ", "4 b", "5 b"]


# -- CSV ----------------------------------------------------------------------------------------


def read_csv(*entries: Entry) -> list[dict[str, str]]:
    csv.field_size_limit(10_000_000)
    return list(csv.DictReader(io.StringIO(render("csv", *entries), newline="")))


def unquoted(cell: str) -> str:
    return cell.removeprefix("'")


def test_csv_is_read_back_to_the_same_values() -> None:
    rows = read_csv(*ALL)
    assert len(rows) == len(ALL)
    for row, entry in zip(rows, ALL, strict=True):
        assert unquoted(row["model"]) == visible(entry.name)
        assert row["rank"] == ("" if entry.rank is None else str(entry.rank))
        assert row["complete"] == ("true" if entry.complete else "false")
        assert unquoted(row["missing"]) == " | ".join(entry.missing)
        for column in columns():
            score = entry.scores.get(column.key)
            assert (row[column.key] == "") == (score is None)
            if score is not None:
                assert float(row[column.key]) == pytest.approx(score.value, abs=1e-6)
                low, high = score.interval or ("", "")
                ends = (row[f"{column.key}_low"], row[f"{column.key}_high"])
                assert [float(e) if e else "" for e in ends] == pytest.approx([low, high], abs=1e-6)
    assert rows[4]["model"] == LONG
    assert rows[2]["retrieval_printed"] == "0.316"
    assert rows[0]["seen_tasks"] == "ImageNet-1K | ObjectNet"


@pytest.mark.parametrize(
    "name",
    [*"=+-@'", "=1+1", " =1+1", "\t=1", "\n@SUM(A1)", "\x00=1", "-2", "＝1", "'=1", "\u200b=1"],
)
def test_no_cell_of_csv_begins_as_a_formula(name: str) -> None:
    (row,) = read_csv(replace(BEST, name=name, variant=name, remarks=(name,), training=(name,)))
    for cell in row.values():
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝", " =")), cell
    assert unquoted(row["model"]) == visible(name)


def test_csv_of_two_suites_has_the_columns_of_both() -> None:
    other = TaskName(name="Extra", meta_task="vqa", split="ood")
    second = Board(
        suite="mini",
        tasks=(other,),
        columns=(Column(key="Extra", title="Extra", tasks=("Extra",), kind="task"),),
        entries=(replace(BEST, scores={"Extra": Score(value=0.25)}),),
    )
    text = csv_report.render_boards([board(BEST), second], ReportOptions())
    first, last = csv.DictReader(io.StringIO(text))
    assert (first["suite"], first["overall"], first["Extra"]) == ("toy", "0.7", "")
    assert (last["suite"], last["overall"], last["Extra"]) == ("mini", "", "0.25")


def test_csv_has_numbers_as_they_are_known() -> None:
    """A size is a fact, whole; a score has the digits that any task's queries can give."""
    given = {"GQA": Score(value=2 / 3, interval=Interval(0.1234567, 1.0))}
    (row,) = read_csv(replace(BEST, parameters=8.291375104, scores=given))
    assert row["parameters"] == "8.291375104"
    assert (row["GQA"], row["GQA_low"], row["GQA_high"]) == ("0.666667", "0.123457", "1.0")


# -- Markdown -----------------------------------------------------------------------------------


def cells_of(row: str) -> list[str]:
    return row.strip("|").split("|")


def test_every_row_of_a_markdown_table_has_its_heads_cells() -> None:
    text = render("markdown", *ALL[:6]) + render("markdown", *ALL)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 3  # averages, tasks, averages
    for table in tables:
        assert len({len(cells_of(row)) for row in table.splitlines()}) == 1


def test_markdown_shows_a_hostile_name_as_it_is() -> None:
    text = render("markdown", EVIL)
    assert set(re.findall(r"<[^>]*>?", text)) == {"<sub>", "</sub>"}
    name = cells_of(text.splitlines()[4])[1].strip()
    for sign in "*`_[$#~@!":
        assert not re.search(rf"(?<!\\|&){re.escape(sign)}", name), sign
    assert "://" not in name
    assert "www." not in name
    read = html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", name))
    assert read == shortened(HOSTILE, 100)


@pytest.mark.parametrize("address", ["www.evil.com", "WWW.evil.com", "HTTP://evil.com"])
def test_markdown_makes_no_link_of_an_address(address: str) -> None:
    """A model's name could send readers anywhere."""
    written = markdown.escaped(address)
    assert not re.search(r"www\.|://", written, re.IGNORECASE)
    assert html.unescape(written) == address


def test_markdown_has_all_tasks_of_up_to_six_models_and_forty_remarks() -> None:
    """The tables would be wider, or the remarks longer, than a page shows."""
    few, more = ([replace(BEST, key=f"k{n}") for n in range(count)] for count in (6, 7))
    assert "| Task |" in render("markdown", *few)
    assert "| Task |" not in render("markdown", *more)
    told = render("markdown", replace(BEST, remarks=tuple(f"remark {n}" for n in range(41))))
    assert told.count(": remark ") == 40
    assert "... and 1 more in the formats json and html" in told
    whole = render("markdown", replace(BEST, remarks=tuple(f"remark {n}" for n in range(40))))
    assert " more in the formats" not in whole


# -- LaTeX --------------------------------------------------------------------------------------


def test_latex_is_balanced_and_every_row_has_the_heads_cells() -> None:
    for entries in (ALL, ALL[:3], ALL * 8):
        text = render("latex", *entries)
        bare = re.sub(r"\\[{}&%$#_\\]", "", text)
        assert bare.count("{") == bare.count("}")
        begun = Counter(re.findall(r"\\begin\{(\w+)\}", text))
        assert begun == Counter(re.findall(r"\\end\{(\w+)\}", text))
        assert ("longtable" in begun) == (len(entries) > 45)
        for layout, table in re.findall(
            r"\\begin\{(?:tabular|longtable)\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{", text, re.DOTALL
        ):
            rows = [row for row in table.splitlines() if row.endswith(r"\\") and "&" in row]
            for row in rows:
                assert len(re.findall(r"(?<!\\)&", row)) == len(layout) - 1, row
        for line in text.splitlines()[1:]:
            assert not re.search(r"(?<!\\)[%#]", line)
            assert not re.search(r"(?<!\\)[$]", line.replace(r"$\times$", ""))
        assert re.fullmatch(r"[\n -~\u00c0-\u017f]*", text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("B3_Qwen2_7B & 50 %", r"B3\_Qwen2\_7B \& 50 \%"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("$x^2$ ~ #", r"\$x\textasciicircum{}2\$ \textasciitilde{} \#"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("[x]*", "{[}x{]}{*}"),
        ("é模", "é{[}U+6A21{]}"),
        ("a\nb\x1b", "a b{[}U+001B{]}"),
    ],
)
def test_latex_escapes(text: str, written: str) -> None:
    assert latex.escaped(text) == written


def test_the_best_is_bold_the_second_underlined_and_a_limited_run_neither() -> None:
    rows = render("latex", BEST, TIED, CORRECTED, LIMITED).splitlines()
    name = "clip:openai/clip-vit-large-patch14"
    best = next(row for row in rows if row.startswith(f"{name} &"))
    tied = next(row for row in rows if row.startswith(f"{name} image"))
    printed = next(row for row in rows if row.startswith("SigLIP"))
    limited = next(row for row in rows if row.startswith("gme"))
    # classification, vqa, retrieval, grounding, ind, ood, overall
    assert re.findall(r"\\(textbf|underline)\{([\d.]+)\}", best) == [
        ("textbf", "85.0"), ("textbf", "70.0"), ("textbf", "60.0"), ("textbf", "50.0"),
        ("textbf", "75.0"), ("textbf", "66.7"), ("textbf", "70.0"),
    ]  # fmt: skip
    assert r"\underline{84.5}" in tied
    assert r"\textbf{70.0} & \underline{44.1}\rlap{\textsuperscript{\dag{}}}" in printed
    assert "100.0" in limited
    assert "textbf" not in limited + render("latex", LIMITED)
    assert rows.index(r"\midrule", rows.index(limited)) < rows.index(printed)


def test_one_model_alone_is_not_the_best() -> None:
    """A table of one model would be bold throughout."""
    text = render("latex", BEST)
    assert "textbf" not in text
    assert "Best in bold" not in text


def test_the_second_of_two_equal_bests_is_the_next_value() -> None:
    """Of 70.0, 70.0 and 60.0 the last is underlined."""
    entries = [replace(BEST, name=f"m{n}", scores=scores(*[v] * 5))
               for n, v in enumerate((0.7, 0.70004, 0.6))]  # fmt: skip
    text = render("latex", *entries)
    assert set(re.findall(r"\\textbf\{([\d.]+)\}", text)) == {"70.0"}
    assert set(re.findall(r"\\underline\{([\d.]+)\}", text)) == {"60.0"}


def test_latex_has_all_tasks_of_up_to_eight_models_and_pages_beyond_45() -> None:
    """A table would run off its page."""

    def many(count: int) -> str:
        return render("latex", *(replace(BEST, key=f"k{n}") for n in range(count)))

    assert "each task" in many(8)
    assert "each task" not in many(9)
    assert "longtable" not in many(45)
    assert "longtable" in many(46)


@pytest.mark.parametrize(
    ("suite", "label"),
    [("toy", "toy"), ("My Suite_2", "my-suite-2"), ("模型", "suite"), ("s" * 99, "s" * 40)],
)
def test_a_label_of_latex_is_of_plain_letters(suite: str, label: str) -> None:
    """A reference to it would not compile, or two tables would share an empty one."""
    text = latex.render_boards([board(BEST, suite=suite)], ReportOptions(format="latex"))
    assert re.findall(r"\\label\{(.*)\}", text) == [f"tab:{label}", f"tab:{label}-tasks"]


# -- JSON ---------------------------------------------------------------------------------------


def test_json_holds_every_value_whole() -> None:
    text = render("json", *ALL)
    assert text.isascii()
    document = json.loads(text)
    assert document["schema_version"] == 1
    (read,) = document["boards"]
    assert [column["key"] for column in read["columns"]] == [column.key for column in columns()]
    for told, entry in zip(read["entries"], ALL, strict=True):
        for name in (
            "key",
            "name",
            "kind",
            "source",
            "variant",
            "rank",
            "group",
            "limit",
            "complete",
        ):
            assert told[name] == getattr(entry, name)
        assert told["training"] == (None if entry.training is None else list(entry.training))
        assert (told["missing"], told["failed"]) == (list(entry.missing), dict(entry.failed))
        assert told["scores"].keys() == entry.scores.keys()
        for key, score in entry.scores.items():
            low, high = score.interval or (None, None)
            assert told["scores"][key] == {
                "value": score.value, "low": low, "high": high,
                "printed": score.printed, "seen": score.seen,
            }  # fmt: skip


# -- reproduction -------------------------------------------------------------------------------


def test_a_reproduction_is_a_sentence_in_text_and_whole_in_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = ("within noise", "outside", "not comparable", "within noise", "outside")
    lines = [
        Line(key=task.name, measured=0.5, published=0.4, verdict=verdict)
        for task, verdict in zip(TASKS, verdicts, strict=True)
    ]
    made = Ledger(row=published.rows()[0], tasks=lines, averages=())
    monkeypatch.setattr(reproduction, "ledger", lambda run: made)
    entry = replace(BEST, run=read_run(write_run(Path("one"))))
    told = (
        f"tasks against the published {published.rows()[0].name}: "
        "2 within noise, 2 outside (ObjectNet, RefCOCO), 1 not comparable"
    )
    assert f": {told}\n" in render("table", entry)
    (read,) = json.loads(render("json", entry))["boards"][0]["entries"]
    assert read["folder"] == "one"
    assert [line["verdict"] for line in read["reproduction"]["tasks"]] == list(verdicts)
    assert read["reproduction"]["tasks"][0]["difference"] == pytest.approx(0.1)
    made = Ledger(row=published.rows()[0], tasks=lines[2:3], averages=())
    assert "tasks against" not in render("table", entry)


@pytest.mark.parametrize(("count", "named"), [(6, " (t0, t1, t2, t3, t4, t5)"), (7, "")])
def test_up_to_six_tasks_outside_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int, named: str
) -> None:
    """The sentence would be a list of tasks, or name none of a few."""
    lines = [Line(key=f"t{n}", measured=0.5, published=0.4, verdict="outside")
             for n in range(count)]  # fmt: skip
    made = Ledger(row=published.rows()[0], tasks=lines, averages=())
    monkeypatch.setattr(reproduction, "ledger", lambda run: made)
    text = render("table", replace(BEST, run=read_run(write_run(tmp_path))))
    assert f"{published.rows()[0].name}: {count} outside{named}\n" in text


# -- the command --------------------------------------------------------------------------------

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `(*arguments) -> (exit status, stdout, stderr)` of `mmeb-harness report`."""

    def run(*arguments: object) -> Outcome:
        status = _run(["report", *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def write_run(folder: Path, *, suite: str = "toy", **changes: Any) -> Path:
    """Write a run whose tasks all have 3 right of 4."""
    from mmeb_harness.result import RunRecord, TaskResult
    from mmeb_harness.runfolder import write_record, write_task

    same: dict[str, Any] = {"encoder": "e", "suite": suite, "scoring": "expected"}
    same |= {"similarity": "cosine"} | changes
    names = tuple(task.name for task in TASKS)
    record = RunRecord(
        model=folder.name, suite_tasks=TASKS, tasks=names, batch_tokens=1, workers=0,
        started="2026-01-01T00:00:00Z", **same,
    )  # fmt: skip
    for task in TASKS:
        result = TaskResult(
            **task.model_dump(), **same, metric="hit@1", status="ok", score=0.75, hit_at_1=0.75,
            ci=(0.3, 0.95), n_queries=4,
        )  # fmt: skip
        write_task(folder, result, None)
    write_record(folder, record)
    return folder


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("board.csv", "suite,rank,"),
        ("board.md", "### toy"),
        ("board.TEX", "% \\usepackage{booktabs}"),
        ("board.json", "{"),
        ("board.txt", "toy  hit@1"),
        ("board", "toy  hit@1"),
        ("folder/board.html", "<!doctype html>"),
    ],
)
def test_the_files_ending_says_the_format(report: Command, name: str, start: str) -> None:
    write_run(Path("runs/one"))
    status, out, err = report("-o", name)
    assert (status, out, err) == (0, "", f"Written: {name}\n")
    text = Path(name).read_text()
    assert text.lower().startswith(start.lower())
    assert text.endswith("\n")
    assert not text.endswith("\n\n\n")
    assert [path.name for path in Path(name).parent.iterdir() if path.name.startswith(".")] == []


def test_a_named_format_wins_over_the_ending(report: Command) -> None:
    write_run(Path("runs/one"))
    assert report("-o", "board.xlsx", "--format", "csv")[0] == 0
    assert Path("board.xlsx").read_text().startswith("suite,rank")
    status, _, err = report("-o", "board.pdf")
    assert status == 2
    assert "no format goes with the ending .pdf; give --format (" in err
    assert not Path("board.pdf").exists()


def test_a_pattern_may_name_more_than_runs(report: Command) -> None:
    write_run(Path("runs/one"))
    Path("runs/trained/training/evaluations").mkdir(parents=True)
    Path("runs/notes.txt").touch()
    status, out, err = report(*sorted(Path("runs").iterdir()))
    assert status == 0
    assert "one" in out.splitlines()[0]
    assert err.splitlines() == [
        "passed over: runs/notes.txt holds no run: it is a file",
        "passed over: runs/trained holds no run but a trained model: "
        "its evaluations are in runs/trained/training/evaluations",
    ]
    status, out, err = report("runs/one", "runs/one/", "runs/one/run.json")
    assert (status, err, out.splitlines()[0].count("one")) == (0, "", 1)


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["runs/trained"], "runs/trained holds no run but a trained model"),
        (["runs/notes.txt"], "it is a file"),
        (["runs/trained", "runs/notes.txt"], "it is a file"),
        (["runs/one", "runs/on"], "runs/on holds no run: there is nothing of that name"),
        (["runs/one", "runs/damaged"], "runs/damaged/run.json cannot be read as a result"),
        (["runs/half"], "GQA.json cannot be read as a result"),
        ([], "runs/damaged/run.json cannot be read as a result"),
    ],
)
def test_what_is_no_run_is_named(report: Command, paths: list[str], told: str) -> None:
    write_run(Path("runs/one"))
    (write_run(Path("runs/half")) / "tasks/GQA.json").write_text("{")
    (write_run(Path("runs/damaged")) / "run.json").write_text('{"model": ')
    Path("runs/trained/training/evaluations").mkdir(parents=True)
    Path("runs/notes.txt").touch()
    status, out, err = report(*paths)
    assert (status, out) == (2, "")
    assert told in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


def test_published_scores_stand_alone_or_beside_runs_of_their_suite(report: Command) -> None:
    assert "there are no runs under runs/" in report()[2]
    status, out, _ = report("--published", "--format", "csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) >= 76
    assert {row["suite"] for row in rows} == {"mmeb"}
    write_run(Path("runs/other"))
    assert report("--published", "--format", "csv")[1] == out
    write_run(Path("runs/mine"), suite="mmeb")
    beside = list(csv.DictReader(io.StringIO(report("--published", "--format", "csv")[1])))
    assert len(beside) == len(rows) + 1
    assert [row["model"] for row in beside if row["kind"] == "measured"] == ["mine"]
    named = report("runs/other", "--published", "--format", "csv")[1]
    assert {row["suite"] for row in csv.DictReader(io.StringIO(named))} == {"mmeb", "toy"}


def test_a_file_that_cannot_be_written_is_one_line_and_status_3(report: Command) -> None:
    write_run(Path("runs/one"))
    Path("file").touch()
    status, out, err = report("-o", "file/board.csv")
    assert (status, out) == (3, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_the_width_is_the_given_one_else_the_terminals(
    report: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide(*arguments: object) -> int:
        status, out, _ = report("--published", *arguments)
        assert status == 0
        return len((out or Path("board.txt").read_text()).splitlines()[1])

    monkeypatch.delenv("COLUMNS", raising=False)
    assert 90 < wide() <= 100
    assert wide("--width", 80) <= 80
    monkeypatch.setenv("COLUMNS", "72")
    assert wide() <= 72
    assert 72 < wide("-o", "board.txt") <= 100
    assert "--width must be at least 40" in report("--published", "--width", 39)[2]


@pytest.mark.parametrize(("given", "images"), [("3", 3), ("none", 0), ("0", 0), ("all", None)])
def test_images_reach_the_reporter(
    report: Command, monkeypatch: pytest.MonkeyPatch, given: str, images: int | None
) -> None:
    seen: list[ReportOptions] = []
    monkeypatch.setattr(terminal, "render", lambda runs, options: seen.append(options) or "")
    write_run(Path("runs/one"))
    assert report("--images", given)[0] == 0
    assert seen[0].images == images
    for wrong in ("-1", "many", "1.5", "²"):
        assert "is not a number, none or all" in report(f"--images={wrong}")[2]


def test_a_folder_that_is_named_twice_is_read_once(
    report: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Run] = []
    monkeypatch.setattr(terminal, "render", lambda runs, options: seen.extend(runs) or "")
    write_run(Path("runs/one"))
    Path("runs/link").symlink_to("one")
    report("runs/one", "runs/link")
    assert [run.output_dir for run in seen] == [Path("runs/one")]


def test_a_terminal_that_lacks_letters_gets_escapes(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    import sys

    from mmeb_harness.cli.console import print_document

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sys.stdout.buffer, encoding="ascii"))
    print_document("─ 模\n")
    sys.stdout.flush()
    assert capsysbinary.readouterr().out == b"- \\u6a21\n"


def test_a_mark_before_a_letter_is_still_a_mark_in_latex() -> None:
    published = build((), ReportOptions(format="latex", published=True))
    printed = latex.render_boards(published, ReportOptions(format="latex"))
    assert re.search(r"\\dag\{\}[a-z]\}", printed), "a corrected score of a group"
    assert not re.search(r"\\dag[A-Za-z]", printed)
