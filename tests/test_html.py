"""The HTML page: one file that loads nothing, shows all as text, and is the same each time."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import ALL, made_run
from mmeb_harness.axis import logarithmic_axis
from mmeb_harness.card import Card
from mmeb_harness.comparison import Comparison, Difference
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score
from mmeb_harness.reports.numbers import amount, points
from mmeb_harness.reports.page.html import render, render_boards
from mmeb_harness.reports.page.table import groups_of, table_of
from mmeb_harness.reports.plots.bars import bars_of
from mmeb_harness.reports.plots.curve import curve_of
from mmeb_harness.reports.plots.forest import forest_of
from mmeb_harness.reports.plots.marks import Frame, labels_for
from mmeb_harness.reports.plots.profile import profile_of
from mmeb_harness.reports.plots.scatter import by_parameters, ind_against_ood
from mmeb_harness.reports.readable import cut, cut_inside, is_link, redacted
from mmeb_harness.result import Run
from mmeb_harness.summary import Interval
from mmeb_harness.sweep import Sweep, SweepPoint

VOID = {"meta", "wbr", "col", "img", "input", "br", "hr", "link", "base", "area", "embed", "source"}
PLAIN = ReportOptions(format="html", images=0)

HOSTILE = (
    "</script></style></title><script>hacked()</script><img src=x onerror=hacked()>"
    "\"' onmouseover=hacked() x='{{7*7}}{%if%} <!-- \u202egnp\u2066\x00\x1b[31m\x85\ud800 שלום ☃"
)


# -- reading a page --------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements of a page in order: name and attributes; and whether its tags are balanced."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        self.wrong += [f"{tag} is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.wrong.append(f"{tag} says {names} twice")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.wrong.append(f"/{tag} inside {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def blocks(source: str, tag: str) -> list[str]:
    """The contents of inline scripts or styles, as a browser reads them."""
    return re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)


def digest(block: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"


def table_rows(source: str) -> list[list[tuple[str, dict[str, str]]]]:
    """The rows of the first leaderboard: the text and the attributes of each cell."""
    body = source.split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    found = []
    for row in body.split("<tr")[1:]:
        cells = re.findall(r"<(?:td|th)([^>]*)>(.*?)</(?:td|th)>", row, re.DOTALL)
        found.append(
            [
                (
                    re.sub("<[^>]*>", "", text),
                    {**dict.fromkeys(re.findall(r" ([\w-]+)(?= |$)", given), ""),
                     **dict(re.findall(r'([\w-]+)="([^"]*)"', given))},
                )
                for given, text in cells
            ]
        )  # fmt: skip
    return found


# -- boards made by hand ---------------------------------------------------------------------------

AVERAGES = ("overall", "ind", "ood", "classification", "vqa", "retrieval", "grounding")


def columns_of() -> tuple[Column, ...]:
    tasks = published.tasks()
    sets = {
        key: tuple(task.name for task in tasks if key in ("overall", task.split, task.meta_task))
        for key in AVERAGES
    }
    averages = [
        Column(key=key, title=key.title(), tasks=names, kind="average")
        for key, names in sets.items()
    ]
    return (
        *averages,
        *(
            Column(key=task.name, title=task.name, tasks=(task.name,), kind="task",
                   meta_task=task.meta_task, split=task.split)
            for task in tasks
        ),
    )  # fmt: skip


def made_entry(place: int, values: dict[str, float], **facts: Any) -> Entry:
    scores = {
        key: Score(value=value, interval=Interval(max(0, value - 0.02), min(1, value + 0.02)))
        for key, value in values.items()
    }
    given: dict[str, Any] = {
        "key": f"model-{place}",
        "name": f"model {place}",
        "kind": "authors",
        "scores": scores,
        "rank": place,
        "group": place,
        "parameters": 2.0 + place,
        "training": (),
    }
    return Entry(**{**given, **facts})


def made_board(entries: Sequence[Entry]) -> Board:
    return Board(suite="mmeb", tasks=published.tasks(), columns=columns_of(), entries=entries)


def many(models: int) -> Board:
    """A board of models with everything, scores drawn by lot."""
    lot = random.Random(5)
    keys = [*AVERAGES, *ALL]
    rows = [{key: lot.random() for key in keys} for _ in range(models)]
    rows.sort(key=lambda row: -row["overall"])
    kinds = itertools.cycle(("measured", "imported", "paper", "authors", "third-party"))
    return made_board(
        [
            made_entry(place, row, kind=kind, source="a paper, table 3", remarks=("a remark",),
                       parameters=lot.lognormvariate(1, 1.5), training=ALL[:20], group=place // 3)
            for place, (row, kind) in enumerate(zip(rows, kinds, strict=False), start=1)
        ]
    )  # fmt: skip


def level(value: float) -> dict[str, float]:
    return dict.fromkeys([*AVERAGES, *ALL], value)


def page_of(*entries: Entry) -> str:
    return render_boards([made_board(entries)], [], PLAIN)


@pytest.fixture(scope="module")
def published_page() -> str:
    return render([], ReportOptions(format="html", published=True))


@pytest.fixture(scope="module")
def published_elements(published_page: str) -> Page:
    return Page(published_page)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """A whole run, one of 3 tasks of which one failed, and one with --limit."""
    some = {**dict.fromkeys(ALL[:2], 0.5), ALL[2]: None}
    return [
        made_run(tmp_path / "a", dict.fromkeys(ALL, 0.75), model="whole", rows=False),
        made_run(tmp_path / "b", some, model="part"),
        made_run(tmp_path / "c", dict.fromkeys(ALL, 0.9), model="limited", limit=10),
    ]


# -- the file --------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_its_ids_are_its_own(
    published_page: str, runs: list[Run]
) -> None:
    for source in (published_page, render(runs, PLAIN)):
        page = Page(source)
        assert page.wrong == []
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(set(ids)) == len(ids)
        for _, attributes in page.elements:
            for name in ("aria-labelledby", "aria-controls", "data-for", "for"):
                assert set(attributes.get(name, "").split()) <= set(ids)
            link = attributes.get("href", "")
            if link.startswith("#") and "=" not in link:
                assert link[1:] in ids


def test_the_policy_allows_the_pages_own_blocks_and_nothing_else(
    published_page: str, published_elements: Page
) -> None:
    (policy,) = [
        meta["content"]
        for meta in published_elements.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert set(rules) == {
        "default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"
    }  # fmt: skip
    for tag in ("script", "style"):
        found = blocks(published_page, tag)
        assert found
        assert rules[f"{tag}-src"].split() == [digest(block) for block in found]
    assert published_page.index("Content-Security-Policy") < published_page.index("<script>")


def test_nothing_is_loaded_and_nothing_acts_but_the_two_scripts(
    published_page: str, runs: list[Run]
) -> None:
    for source in (published_page, render(runs, PLAIN)):
        page = Page(source)
        for tag, attributes in page.elements:
            assert tag not in ("link", "iframe", "object", "embed", "base", "form") or (
                tag == "form" and "ex-filter" in attributes["class"]
            )
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert "srcset" not in attributes
            assert attributes.get("src", "data:").startswith("data:")
            link = attributes.get("href", "#")
            assert link.startswith(("#", "https://"))
            if link.startswith("https://"):
                assert attributes["rel"] == "noopener noreferrer"
        for block in blocks(source, "style"):
            assert not re.search(r"url\(|@import|@font-face", block)
        for block in blocks(source, "script"):
            assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|\beval\(|innerHTML", block)


def test_the_same_input_gives_the_same_bytes(runs: list[Run]) -> None:
    once = render(runs, PLAIN)
    assert render(list(reversed(runs)), PLAIN) == once
    assert "1 January 2026" in once
    dated = ReportOptions(format="html", images=0, extra={"date": "some day"})
    assert "some day" in render(runs, dated)


@pytest.mark.thorough
def test_two_hundred_models_make_a_small_page() -> None:
    source = render_boards([many(200)], [], PLAIN)
    assert len(source.encode()) < 3_000_000
    page = Page(source)
    assert page.wrong == []
    assert len(page.elements) < 60_000
    assert len(table_rows(source)) == 200


# -- hostile input ---------------------------------------------------------------------------------


def hostile_runs(folder: Path) -> list[Run]:
    tasks = ({"name": f"task {HOSTILE}", "meta_task": "vqa", "split": "ind"},)
    card = Card(
        name="x", factory="toy:Toy", summary=HOSTILE, licence=HOSTILE,
        sources=(f"https://{HOSTILE}", "javascript:hacked()"), training_datasets=(HOSTILE,),
    )  # fmt: skip
    return [
        made_run(
            folder / str(number), {f"task {HOSTILE}": score}, model=f"{number} {HOSTILE}",
            card=card, suite=f"suite {HOSTILE}", suite_tasks=tasks, warnings=(HOSTILE,),
            command=("mmeb-harness", HOSTILE), overrides={HOSTILE: HOSTILE}, device_name=HOSTILE,
            versions={HOSTILE: HOSTILE}, task={"warnings": (HOSTILE,)},
        )
        for number, score in enumerate((0.5, None))
    ]  # fmt: skip


def plain_runs(folder: Path) -> list[Run]:
    tasks = ({"name": "task", "meta_task": "vqa", "split": "ind"},)
    card = Card(
        name="x", factory="toy:Toy", summary="a", licence="b", sources=("c", "d"),
        training_datasets=("e",),
    )  # fmt: skip
    return [
        made_run(
            folder / str(number), {"task": score}, model=f"{number} f", card=card, suite="suite",
            suite_tasks=tasks, warnings=("g",), command=("mmeb-harness", "h"),
            overrides={"i": "j"}, device_name="k", versions={"l": "m"}, task={"warnings": ("n",)},
        )
        for number, score in enumerate((0.5, None))
    ]  # fmt: skip


def test_hostile_text_makes_no_element_and_is_shown(tmp_path: Path) -> None:
    hostile = Page(render(hostile_runs(tmp_path), PLAIN))
    plain = Page(render(plain_runs(tmp_path), PLAIN))

    def shape(page: Page) -> list[str]:
        return [tag for tag, _ in page.elements if tag not in ("p", "pre", "small", "wbr")]

    assert hostile.wrong == []
    assert shape(hostile) == shape(plain)
    allowed = {name for _, attributes in plain.elements for name in attributes}
    assert {name for _, attributes in hostile.elements for name in attributes} <= allowed | {
        "value"
    }
    assert "<img src=x onerror=hacked()>" in hostile.text
    assert "{{7*7}}" in hostile.text
    assert "⟨U+202E⟩gnp⟨U+2066⟩⟨U+0000⟩⟨U+001B⟩[31m" in hostile.text
    assert "שלום" in hostile.text


def test_no_hidden_character_gets_into_the_page(tmp_path: Path) -> None:
    source = render(hostile_runs(tmp_path), PLAIN)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800]", source)
    source.encode("utf-8")


def test_long_text_is_cut_and_told() -> None:
    long = "x" * 100_000
    short = len(page_of(made_entry(1, level(0.5))))
    entry = made_entry(
        1, level(0.5), name=long, variant=long, source=long, remarks=(long,), training=(long,),
        failed={ALL[0]: long},
    )  # fmt: skip
    source = page_of(entry)
    assert len(source) < short + 20_000
    assert "x" * 60 + "x…" in source
    assert "whole name" in source


def test_a_task_that_is_missing_everywhere_is_still_named() -> None:
    values = {key: value for key, value in level(0.5).items() if key != "OVEN"}
    assert "OVEN" in Page(page_of(made_entry(1, values, rank=None, missing=("OVEN",)))).text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("see /home/ada/runs/x", "see ~/runs/x"),
        ("/Users/ada/data", "~/data"),
        (r"C:\Users\ada\data", r"~\data"),
        (f"/{'root'}/.cache", "~/.cache"),
        ("/rooted/tree", "/rooted/tree"),
        ("token hf_abcdefghijKLM done", "token [secret] done"),
        ("--key=sk-0123456789abc", "--key=[secret]"),
        ("a task-1 and hf_no", "a task-1 and hf_no"),
    ],
)
def test_homes_and_tokens_are_taken_out(text: str, left: str) -> None:
    assert redacted(text) == left


def test_a_commands_home_and_token_are_not_in_the_page(tmp_path: Path) -> None:
    run = made_run(
        tmp_path,
        dict.fromkeys(ALL, 0.5),
        command=("mmeb-harness", "run", "-o", "/home/ada/out", "--token", "hf_abcdefghijKLM"),
        data_dir="/home/ada/data",
    )
    source = render([run], PLAIN)
    assert "~/out" in source
    assert "ada" not in source.replace("metadata", "")
    assert "hf_abc" not in source


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://arxiv.org/abs/2410.05160", True),
        ("https://huggingface.co/a/b?x=1&y=%20#z", True),
        ("http://arxiv.org", False),
        ("javascript:alert(1)", False),
        ("https://x.org/\"onclick='", False),
        ("https://x.org/ and more", False),
        ("see https://x.org", False),
        ("https://x.org/\n", False),
    ],
)
def test_only_whole_https_addresses_are_links(text: str, safe: bool) -> None:
    assert is_link(text) is safe


# -- what is read ----------------------------------------------------------------------------------


def test_without_a_script_every_score_stands_in_the_table(runs: list[Run]) -> None:
    source = render(runs, PLAIN)
    (board,) = build(runs, PLAIN)
    groups = groups_of(board)
    keys = [head.key for group in groups for head in group.heads]
    before = 3
    assert set(ALL) <= set(keys)
    for entry, row in zip(board.entries, table_rows(source), strict=True):
        assert entry.name in row[1][0]
        assert len(row) == before + len(keys)
        for key, (text, attributes) in zip(keys, row[before:], strict=True):
            score = entry.scores.get(key)
            if score is None:
                assert text == ("failed" if key in entry.failed else "–")
                assert "data-v" not in attributes
            else:
                assert text == f"{100 * score.value:.1f}"
                assert float(attributes["data-v"]) == pytest.approx(score.value, abs=1e-6)
                assert score.interval is not None
                low, high = attributes["data-i"].split("–")
                assert float(low) == pytest.approx(100 * score.interval.low, abs=0.051)
                assert float(high) == pytest.approx(100 * score.interval.high, abs=0.051)
    assert 'class="js' not in source
    assert source.count("<table") >= len(ALL)


def test_limited_and_incomplete_runs_are_announced_and_have_no_rank(runs: list[Run]) -> None:
    source = render(runs, PLAIN)
    alerts = re.findall(r'class="alert"[^>]*>([^<]*)<', source)
    assert [alert.split(" ")[:2] for alert in alerts] == [["1", "run"], ["1", "run"]]
    assert "--limit" in alerts[0]
    assert "without all 36 tasks" in alerts[1]
    rows = {row[1][0]: row for row in table_rows(source)}
    ranks = {name: row[0][1].get("data-v") for name, row in rows.items()}
    assert sorted(filter(None, ranks.values())) == ["1"]
    (limited,) = [name for name in rows if name.startswith("limited")]
    assert "first 10 queries only" in limited
    (whole,) = [name for name in rows if name.startswith("whole")]
    assert "b" in rows[whole][3][1]["class"].split()  # the limited run's are higher, and no best
    assert not [cell for cell in rows[limited] if "b" in cell[1].get("class", "").split()]
    assert "alert" not in re.findall(r"<main>.*?<table", render(runs[:1], PLAIN), re.DOTALL)[0]


def test_the_fragment_of_a_failure_says_why(runs: list[Run]) -> None:
    source = render(runs, PLAIN)
    failed = [cell for row in table_rows(source) for cell in row if cell[0] == "failed"]
    assert [attributes["title"] for _, attributes in failed] == ["an image is missing"]


def classes(row: Sequence[tuple[str, dict[str, str]]], place: int) -> set[str]:
    return set(row[place][1].get("class", "").split())


def test_marks_tell_best_seen_and_printed_apart() -> None:
    value = {**level(0.5), "ood": 0.4}
    seen = made_entry(1, {**level(0.6), "ood": 0.3})
    scores = {**seen.scores, "OVEN": Score(value=0.9, seen=True), "GQA": Score(value=0.1)}
    scores["vqa"] = Score(value=0.6, printed=0.61)
    scores["CIRR"] = Score(value=0.5, seen=False)
    source = page_of(made_entry(1, {}, scores=scores), made_entry(2, value))
    board = made_board([made_entry(1, {}, scores=scores), made_entry(2, value)])
    groups = groups_of(board)
    keys = [head.key for group in groups for head in group.heads]
    place = {key: 3 + number for number, key in enumerate(keys)}
    first, second = table_rows(source)
    assert {"b", "s"} <= classes(first, place["OVEN"])
    assert "s" not in classes(first, place["GQA"])
    assert "b" not in classes(first, place["GQA"])
    assert "s" not in classes(first, place["CIRR"])
    assert {"p", "b"} <= classes(first, place["vqa"])
    assert "s" not in classes(first, place["overall"])
    assert first[place["vqa"]][1]["title"] == "the source prints 61.0"
    assert "b" in classes(second, place["ood"])
    assert "seen in training" in Page(source).text
    assert "its source prints" in Page(source).text


def test_a_model_of_unknown_training_is_marked_once() -> None:
    known = page_of(made_entry(1, level(0.5), training=()))
    unknown = page_of(made_entry(1, level(0.5), training=None), made_entry(2, level(0.4)))
    assert "training data not known" not in known
    first, second = unknown.split("<tbody>")[1].split("</tr>")[:2]
    assert 'title="training data not known"' in first
    assert "not known" not in second
    assert "Not declared" in Page(unknown).text


def test_shades_follow_the_values_of_a_column() -> None:
    values = [0.9, 0.7, 0.5, 0.3, 0.1]
    board = made_board([made_entry(n, level(value)) for n, value in enumerate(values, start=1)])
    shades = [int(re.findall(r"h(\d)", row.cells[0].classes)[0]) for row in table_of(board).rows]
    assert shades == sorted(shades, reverse=True)
    assert len(set(shades)) == len(values)
    assert (shades[0], shades[-1]) == (8, 0)
    same = made_board([made_entry(n, level(0.5)) for n in (1, 2)])
    assert not any("h" in cell.classes for row in table_of(same).rows for cell in row.cells)


def test_leak_free_means_declared_and_no_task_out_of_distribution() -> None:
    seen = {"OVEN": Score(value=0.5, seen=True), "CIRR": Score(value=0.5, seen=True)}
    leaking = made_entry(1, {}, scores=seen, training=("OVEN", "CIRR"))
    usual = made_entry(2, {}, scores={"CIRR": seen["CIRR"]}, training=("CIRR",))
    silent = made_entry(3, level(0.5), training=None)
    assert [row.clean for row in table_of(made_board([leaking, usual, silent])).rows] == [
        False, True, False]  # fmt: skip


def test_ties_have_letters_only_where_there_are_two() -> None:
    groups = {1: 1, 2: 1, 3: 2, 4: 3, 5: 3}
    board = made_board([made_entry(n, level(0.9 - n / 10), group=groups[n]) for n in groups])
    assert [row.tie for row in table_of(board).rows] == ["a", "a", "", "b", "b"]


def test_folding_hides_a_groups_columns_but_its_first(published_page: str) -> None:
    heads = re.findall(r'data-group="(\w+)" data-number="(\d)">([^<]+)<', published_page)
    assert [head[2] for head in heads] == [
        "Averages", "Classification", "VQA", "Retrieval", "Grounding"]  # fmt: skip
    titles = re.findall(r'<tr class="titles">(.*?)</tr>', published_page, re.DOTALL)[0]
    columns = re.findall(r'class="([^"]*)" data-key="([^"]+)"', titles)
    style = blocks(published_page, "style")[0]
    for group, number, _ in heads:
        assert f".js .folded-{number} .f{number}" in style
        hidden = {key for given, key in columns if f"f{number}" in given.split()}
        if group == "averages":
            assert hidden == {"ind", "ood", "seen", "unseen"}
        else:
            assert hidden == {t.name for t in published.tasks() if t.meta_task == group}
    folded = [re.findall(r"\bf\d", given) for given, _ in columns]
    for row in table_rows(published_page):
        cells = [re.findall(r"\bf\d", attributes.get("class", "")) for _, attributes in row]
        assert cells == folded
    table = re.findall(r'<table class="ranks ([^"]*)"', published_page)[0].split()
    assert table == ["by-rank", "folded-1", "folded-2", "folded-3", "folded-4"]


def test_every_model_and_every_task_has_its_section(published_elements: Page) -> None:
    page = published_elements
    ids = {
        attributes["id"]
        for tag, attributes in page.elements
        if tag == "details" and "id" in attributes
    }
    (board,) = build([], ReportOptions(published=True))
    assert {f"m-{entry.key}" for entry in board.entries} <= ids
    assert {f"s1-t{place}" for place in range(36)} <= ids
    assert "arXiv 2410.05160" in page.text


def test_a_models_section_tells_its_run(tmp_path: Path) -> None:
    card = Card(
        name="x", factory="toy:Toy", base="some/base", pooling="last", licence="mit",
        training_datasets=("OVEN", "elsewhere"), sources=("https://arxiv.org/abs/1",),
    )  # fmt: skip
    run = made_run(
        tmp_path, dict.fromkeys(ALL, 0.5), card=card, command=("mmeb-harness", "run", "-m", "a b"),
        versions={"torch": "2.99"}, overrides={"pooling": "last"}, warnings=("a warning",),
    )  # fmt: skip
    source = render([run], PLAIN)
    text = Page(source).text
    for words in ("some/base", "mit", "torch 2.99", "-M pooling", "a warning",
                  "mmeb-harness run -m 'a b'", "1 of 36 tasks were seen in training: OVEN",
                  "Out of distribution, and yet seen: OVEN", "Other data: elsewhere"):  # fmt: skip
        assert words in text
    assert '<a href="https://arxiv.org/abs/1" rel="noopener noreferrer">' in source


def test_a_reproduction_is_set_beside_the_published_scores(tmp_path: Path) -> None:
    row = next(row for row in published.rows() if row.scores and row.training)
    hits = dict(row.scores)
    hits["CIRR"] = hits["CIRR"] + 0.2
    card = Card(name="x", factory="toy:Toy", published_as=row.name)
    source = render([made_run(tmp_path, hits, card=card)], PLAIN)
    part = source.split("Against the published scores")[1].split("</table>")[0]
    assert part.count("<tr>") == 1 + 36 + len(row.averages)
    (line,) = [line for line in part.split("<tr>") if '"row">CIRR<' in line]
    assert "+20.0" in line


def test_suites_stand_apart(tmp_path: Path) -> None:
    tasks = ({"name": "cats", "meta_task": "vqa", "split": "ind"},)
    runs = [
        made_run(tmp_path / "a", {"cats": 0.5}, suite="toy", suite_tasks=tasks, model="a"),
        made_run(tmp_path / "b", dict.fromkeys(ALL, 0.5), model="b"),
    ]
    source = render(runs, PLAIN)
    assert re.findall(r'<section class="board" id="(\w+)"', source) == ["s1", "s2"]
    assert re.findall(r'id="(s\d-tab)"', source) == ["s1-tab", "s2-tab"]
    first, second = source.split('id="s2"')
    assert "m-b" in first
    assert "m-b" not in second.split("</main>")[0]


# -- looks -----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def palettes(source: str) -> Iterator[dict[str, str]]:
    for block in re.findall(r":root[^{]*\{([^}]*)\}", blocks(source, "style")[0]):
        if found := dict(re.findall(r"--([\w-]+): (#\w{6})", block)):
            yield found


def test_text_can_be_read_on_every_ground_light_and_dark(published_page: str) -> None:
    found = list(palettes(published_page))
    assert len(found) == 3  # light, dark by the system, dark by choice
    assert found[1] == found[2] != found[0]
    for palette in found:
        for shade in range(9):
            assert contrast(palette["ink"], palette[f"h{shade}"]) >= 4.5
            assert contrast(palette["soft"], palette[f"h{shade}"]) >= 4.5
        for ground in ("paper", "card", "raised"):
            for text in ("ink", "soft", "faint", "accent"):
                assert contrast(palette[text], palette[ground]) >= 4.5
        assert contrast(palette["alert"], palette["alert-paper"]) >= 4.5
        assert contrast(palette["mark"], palette["card"]) >= 4.5
        steps = [luminance(palette[f"h{shade}"]) for shade in range(9)]
        assert steps == sorted(steps, reverse=steps[0] > steps[-1])  # told apart without colour
        for colour in ("a", "b", "c", "d"):
            assert contrast(palette[colour], palette["paper"]) >= 3


def test_every_plot_is_told_in_words(published_page: str) -> None:
    drawings = re.findall(r'<svg [^>]*role="img"[^>]*>(.{0,2000})', published_page, re.DOTALL)
    assert len(drawings) >= 9
    for drawing in drawings:
        title, described = re.match(
            r"<title id=[^>]*>([^<]+)</title><desc id=[^>]*>([^<]+)</desc>", drawing
        ).groups()  # type: ignore[union-attr]
        assert title
        assert re.search(r"\d", described)


# -- plots -----------------------------------------------------------------------------------------


def test_bars_are_the_best_of_each_average_with_their_intervals() -> None:
    board = many(40)
    panels = bars_of(board)
    assert [panel.title for panel in panels] == [key.title() for key in AVERAGES]
    for panel, key in zip(panels, AVERAGES, strict=True):
        best = sorted((100 * e.scores[key].value for e in board.entries), reverse=True)[:12]
        assert [bar.value for bar in panel.bars] == [f"{value:.1f}" for value in best]
        assert panel.more == 28
        for bar in panel.bars:
            assert bar.low is not None
            assert bar.high is not None
            assert panel.frame.left <= bar.low <= bar.x <= bar.high <= panel.frame.right


def test_one_model_alone_has_a_bar_for_each_average_and_task() -> None:
    values = {**level(0.5), "OVEN": 0.9, "EDIS": 0.7, "CIRR": 0.1, "WebQA": 0.2}
    averages, *metas = profile_of(made_board([made_entry(1, values)]))
    assert [bar.name for bar in averages.bars] == [key.title() for key in AVERAGES]
    assert [panel.title for panel in metas] == ["Classification", "VQA", "Retrieval", "Grounding"]
    assert sorted(bar.name for panel in metas for bar in panel.bars) == sorted(ALL)
    retrieval = metas[2].bars
    assert [bar.tone for bar in retrieval] == ["own"] * 8 + ["out"] * 4
    assert [retrieval[place].name for place in (6, 7, 8, 9)] == ["WebQA", "CIRR", "OVEN", "EDIS"]
    frame = averages.frame
    for panel in (averages, *metas):
        assert [tick.label for tick in panel.ticks] == ["0", "20", "40", "60", "80", "100"]
        for bar in panel.bars:
            share = (bar.x - frame.left) / (frame.right - frame.left)
            assert share == pytest.approx(float(bar.value) / 100, abs=1e-3)
            assert bar.low is not None
            assert bar.high is not None
            assert bar.low < bar.x < bar.high
    assert profile_of(made_board([made_entry(1, values, limit=5)])) == []


def test_a_page_of_one_run_says_nothing_of_what_is_not_there(tmp_path: Path) -> None:
    easy = {"chance": 0.1}
    one = made_run(tmp_path / "a", dict.fromkeys(ALL, 0.75), model="one", rows=False, task=easy)
    two = made_run(tmp_path / "b", dict.fromkeys(ALL, 0.5), model="two", rows=False, task=easy)
    alone, both = Page(render([one], PLAIN)), Page(render([one, two], PLAIN))
    for words in ("best of its column", "lowest to highest", "Ranks are by", "best 75.0"):
        assert words in both.text
        assert words not in alone.text
    for words in ("Published scores are taken", "not separable from", "against parameters"):
        assert words not in alone.text
    assert "what chance gives" in alone.text
    assert "what chance gives" not in both.text
    assert "one on mmeb" in alone.text
    assert re.search(r"75\.0 \([\d.]+–[\d.]+\)", alone.text)
    assert len([one for one in alone.all("svg") if one.get("role") == "img"]) == 5


def test_a_limited_run_is_in_no_plot() -> None:
    board = made_board([made_entry(1, level(0.9), limit=5), made_entry(2, level(0.5))])
    assert [bar.name for bar in bars_of(board)[0].bars] == ["model 2"]
    for plot in (by_parameters(board), ind_against_ood(board)):
        assert plot is not None
        assert len(plot.dots) == 1


def test_points_lie_where_their_values_are() -> None:
    entries = [
        made_entry(1, {**level(0.2), "ind": 0.2, "ood": 0.6}, parameters=1.0),
        made_entry(2, {**level(0.6), "ind": 0.6, "ood": 0.2}, parameters=10.0),
        made_entry(3, level(0.4), parameters=None),
    ]
    sizes, splits = by_parameters(made_board(entries)), ind_against_ood(made_board(entries))
    assert sizes is not None
    assert splits is not None
    small, large = sizes.dots
    assert small.x < large.x
    assert small.y > large.y  # down is less
    assert sizes.left_out == 1
    assert [tick.label for tick in sizes.across_ticks] == ["1 B", "2 B", "5 B", "10 B"]
    places = [tick.at for tick in sizes.across_ticks]
    assert places[1] - places[0] == pytest.approx(places[3] - places[2], abs=0.2)  # logarithmic
    above, below, on = splits.dots
    assert splits.diagonal is not None
    left, bottom, right, top = splits.diagonal

    def over(x: float, y: float) -> float:
        return bottom - (x - left) * (bottom - top) / (right - left) - y

    assert over(above.x, above.y) > 5
    assert over(below.x, below.y) < -5
    assert over(on.x, on.y) == pytest.approx(0, abs=0.2)


def test_two_runs_of_one_model_are_told_apart_wherever_they_are_named() -> None:
    board = made_board(
        [made_entry(n, level(n / 4), name="same", variant=f"pooling={n}") for n in (1, 2)]
    )
    assert {bar.name for bar in bars_of(board)[0].bars} == {"same pooling=1", "same pooling=2"}
    text = Page(render_boards([board], [], PLAIN)).text
    assert text.count("same pooling=2") >= 36


def test_no_sizes_no_plot() -> None:
    assert by_parameters(made_board([made_entry(1, level(0.5), parameters=None)])) is None
    assert ind_against_ood(made_board([made_entry(1, {"overall": 0.5})])) is None


def test_names_in_a_plot_do_not_overlap() -> None:
    lot = random.Random(3)
    frame = Frame(width=560, height=420, left=52, right=540, top=14, bottom=366)
    points = [(lot.uniform(52, 540), lot.uniform(14, 366)) for _ in range(200)]
    labels = labels_for(((x, y, "a model's name") for x, y in points), points, frame)
    assert 3 <= len(labels) < 60
    boxes = []
    for label in labels:
        width = 6 * len(label.text)
        left = {"start": label.x, "middle": label.x - width / 2, "end": label.x - width}
        boxes.append((left[label.anchor], left[label.anchor] + width, label.y - 9, label.y))
    for (a, b, c, d), (e, f, g, h) in itertools.combinations(boxes, 2):
        assert b <= e or f <= a or d <= g or h <= c
    assert all(box[0] >= 0 and box[1] <= 560 for box in boxes)


@pytest.mark.parametrize("values", [[2.2], [1.0], [2.2, 8.3], [0.2, 8.3], [1e-3, 1e3]])
def test_a_logarithmic_axis_holds_its_values(values: list[float]) -> None:
    axis = logarithmic_axis(values)
    assert axis.logarithmic
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert 2 <= len(axis.ticks) <= 9


def difference(
    key: str, value: float, half: float, p: float, corrected: float | None
) -> Difference:
    facts = {
        "key": key, "a": 0.5 + value / 2, "b": 0.5 - value / 2, "difference": value,
        "interval": Interval(value - half, value + half), "p_value": p, "corrected": corrected,
        "queries": 100,
    }  # fmt: skip
    return Difference(**{name: facts[name] for name in facts})  # type: ignore[arg-type]


def test_a_forest_is_sorted_by_effect_and_says_what_is_sure(tmp_path: Path) -> None:
    run = made_run(tmp_path, dict.fromkeys(ALL, 0.5))
    tasks = [
        difference("OVEN", 0.01, 0.05, 0.01, 0.5),  # sure alone, not among many
        difference("CIRR", -0.2, 0.05, 0.0001, 0.0004),
        difference("GQA", 0.3, 0.05, 0.0001, 0.0004),
    ]
    comparison = Comparison(
        a=run, b=run, tasks=tasks, averages=[difference("overall", 0.04, 0.02, 0.001, None)],
        left_out={"EDIS": "not the same data"},
    )  # fmt: skip
    forest = forest_of(comparison, "this", "that")
    assert [effect.name for effect in forest.effects] == ["Overall", "GQA", "OVEN", "CIRR"]
    assert [effect.side for effect in forest.effects] == ["a", "a", "", "b"]
    assert [effect.average for effect in forest.effects] == [True, False, False, False]
    assert [effect.difference for effect in forest.effects] == ["+4.0", "+30.0", "+1.0", "−20.0"]
    for effect in forest.effects:
        assert forest.frame.left <= effect.low < effect.x < effect.high <= forest.frame.right
    assert forest.effects[1].x > forest.zero > forest.effects[3].x
    assert forest.left_out == [("EDIS", "not the same data")]


def point(dimension: int, precision: Any, overall: float | None) -> SweepPoint:
    return SweepPoint(
        dimension=dimension, precision=precision, bytes_per_million=dimension * 4_000_000,
        tasks={}, overall=overall, ind=None, ood=None,
        intervals={} if overall is None else {"overall": Interval(overall - 0.01, overall + 0.01)},
    )  # fmt: skip


def test_a_curve_has_a_line_for_each_precision() -> None:
    points = [point(d, p, d / 200) for p in ("fp32", "binary") for d in (64, 16, 128)]
    curve = curve_of(Sweep(encoder="e", full=128, points=points), "model")
    assert curve is not None
    assert [line.name for line in curve.lines] == ["fp32", "binary"]
    for line in curve.lines:
        xs = [place.x for place in line.places]
        assert xs == sorted(xs)
        assert [place.y for place in line.places] == sorted(
            (place.y for place in line.places), reverse=True
        )
    names = [line.name_y for line in curve.lines]
    assert abs(names[0] - names[1]) >= 14  # the lines lie on each other, their names do not
    assert curve.settings[0].size == "256.0 MB"
    one = curve_of(Sweep(encoder="e", full=64, points=[point(64, "fp32", 0.5)]), "model")
    assert one is not None
    assert curve_of(Sweep(encoder="e", full=64, points=[point(64, "fp32", None)]), "m") is None


# -- words -----------------------------------------------------------------------------------------


def test_numbers_and_names_are_written_as_they_are_read() -> None:
    assert [amount(value) for value in (0.00256, 0.428, 8.29, 72.0, 405.0, None)] == [
        "2.56 M", "428 M", "8.29 B", "72 B", "405 B", "–"]  # fmt: skip
    assert [points(value) for value in (0.031, -0.004, 0.0, -0.0001)] == [
        "+3.1", "−0.4", "0.0", "0.0"]  # fmt: skip
    assert cut("a\n b\tc", 10) == "a b c"
    assert cut("x" * 11, 10) == "x" * 9 + "…"
    assert cut("\x07", 10) == "⟨U+0007⟩"
    assert cut_inside("short", 10) == "short"
    assert cut_inside("begin and then the end", 11) == "begin…e end"
    assert len(cut_inside("x" * 100, 20)) == 20
