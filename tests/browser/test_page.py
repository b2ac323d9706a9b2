"""The HTML report in a real browser: sort, find, fold, drill down, dark, print, keys, hostile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mmeb_harness.result import Run

pytestmark = [pytest.mark.browser, pytest.mark.thorough]

WIDTHS = (1280, 390)


def fits(page: Any) -> bool:
    """Whether the page itself does not scroll sideways."""
    found: bool = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return found


def open_all(page: Any) -> None:
    """Open every section and every query."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")


def names(page: Any) -> list[str]:
    """The models shown, from top to bottom."""
    found: list[str] = page.locator(".ranks tbody tr:visible .model a").all_inner_texts()
    return found


def column(page: Any, key: str) -> list[float | None]:
    """The values of one column, from top to bottom."""
    values: list[float | None] = page.evaluate(
        """(key) => {
          const table = document.querySelector(".ranks");
          const titles = [...table.querySelectorAll(".titles > th")];
          const place = titles.findIndex((one) => one.dataset.key === key);
          return [...table.tBodies[0].rows].map((row) => {
            const value = row.cells[place].dataset.v;
            return value === undefined ? null : Number(value);
          });
        }""",
        key,
    )
    return values


def address(page: Any) -> str:
    """The view as it stands in the address."""
    found: str = page.evaluate("location.hash")
    return found


def title(page: Any, key: str) -> Any:
    return page.locator(f'.ranks .titles th[data-key="{key}"]')


# --- the whole page


@pytest.mark.parametrize("width", [*WIDTHS, 360])
def test_it_opens_silently_and_never_scrolls_sideways(
    visit: Callable[..., Any], report: Path, width: int
) -> None:
    page = visit(report, width=width)
    assert names(page) == ["alpha", "beta", "gamma"]
    assert fits(page)
    open_all(page)
    page.wait_for_function(
        "[...document.querySelectorAll('.ex-query img')].every((one) => one.src)"
    )
    assert fits(page)
    assert page.evaluate(
        "[...document.images].every((one) => one.complete && one.naturalWidth > 0 && one.alt)"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_scrolls_with_its_head_and_first_column_in_sight(
    visit: Callable[..., Any], report: Path, width: int
) -> None:
    page = visit(report, width=width)
    page.locator('[data-tool="tasks"]').check()
    scroller = page.locator(".scroll").first
    before = page.locator(".ranks tbody tr .model").first.bounding_box()["x"]
    scroller.evaluate("(one) => { one.scrollLeft = 10_000 }")
    moved = scroller.evaluate("(one) => one.scrollLeft")
    after = page.locator(".ranks tbody tr .model").first.bounding_box()["x"]
    assert after > before - max(1, moved)
    assert after >= scroller.bounding_box()["x"] - 1
    assert fits(page)


@pytest.mark.parametrize("width", WIDTHS)
def test_without_a_script_everything_is_readable(
    visit: Callable[..., Any], report: Path, width: int
) -> None:
    page = visit(report, width=width, java_script_enabled=False)
    assert names(page) == ["alpha", "beta", "gamma"]
    assert not page.locator(".tools").first.is_visible()
    assert not page.locator("#theme").is_visible()
    assert not page.locator(".ex-filter").first.is_visible()
    assert page.locator('.ranks th[data-key="Signs"]').is_visible()  # nothing is folded away
    task = page.locator("details.more", has=page.locator('[data-task="Asks"]'))
    task.locator("> summary").click()
    query = task.locator('.ex-query[data-q="2"]')
    query.locator("summary").click()
    assert query.locator(".ex-side").first.inner_text().endswith("Look: question 2")
    assert "answer 0" in query.locator(".ex-gold").first.inner_text()


# --- the leaderboard


def test_a_click_sorts_and_what_is_missing_stays_last(
    visit: Callable[..., Any], report: Path
) -> None:
    page = visit(report)
    button = title(page, "classification").locator("button")
    button.click()
    assert title(page, "classification").get_attribute("aria-sort") == "descending"
    down = column(page, "classification")
    assert down[2] is None
    assert down[0] is not None
    assert down[1] is not None
    assert down[0] > down[1]
    button.click()
    assert title(page, "classification").get_attribute("aria-sort") == "ascending"
    assert column(page, "classification") == [down[1], down[0], None]
    title(page, "model").locator("button").click()
    assert names(page) == ["alpha", "beta", "gamma"]
    title(page, "model").locator("button").click()
    assert names(page) == ["gamma", "beta", "alpha"]
    assert title(page, "classification").get_attribute("aria-sort") == "none"


def test_a_view_can_be_passed_on_by_its_address(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report)
    title(page, "model").locator("button").click()
    title(page, "model").locator("button").click()
    page.locator('[data-tool="find"]').fill("a")
    other = visit(report, address(page))
    assert names(other) == names(page) == ["gamma", "beta", "alpha"]
    assert other.locator('[data-tool="find"]').input_value() == "a"


def test_find_and_filters_leave_what_fits(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report)
    status = page.locator('[data-tool="status"]').first
    page.keyboard.press("/")
    page.keyboard.type("BET")
    assert names(page) == ["beta"]
    assert status.inner_text() == "1 of 3"
    page.locator('[data-tool="find"]').fill("nobody")
    assert names(page) == []
    page.locator('[data-tool="reset"]').click()
    assert names(page) == ["alpha", "beta", "gamma"]
    page.locator('[data-tool="complete"]').check()
    assert names(page) == ["alpha", "beta"]


def test_column_groups_fold(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report)
    assert not title(page, "Photos").is_visible()
    group = page.get_by_role("button", name=re.compile("^Classification")).first
    assert group.get_attribute("aria-expanded") == "false"
    group.click()
    assert group.get_attribute("aria-expanded") == "true"
    assert title(page, "Photos").is_visible()
    assert not title(page, "Asks").is_visible()
    group.click()
    assert not title(page, "Photos").is_visible()
    page.locator('[data-tool="tasks"]').check()
    assert title(page, "Asks").is_visible()
    assert title(page, "Pairs").is_visible()


def test_the_table_can_be_saved(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report)
    page.locator(".menu summary").first.click()
    for form, start in (("csv", "Rank,Model"), ("markdown", "| Rank"), ("latex", "%")):
        with page.expect_download() as download:
            page.locator(f'[data-save="{form}"]').first.click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert text.startswith(start)
        assert text.index("alpha") < text.index("beta") < text.index("gamma")


# --- the drill-down


def test_a_query_opens_with_its_pictures_and_its_address(
    visit: Callable[..., Any], report: Path
) -> None:
    page = visit(report)
    task = page.locator("details.more", has=page.locator('[data-task="Pairs"]'))
    assert page.locator("img[src]").count() == 0  # nothing is drawn that is not seen
    task.locator("> summary").click()
    query = task.locator('.ex-query[data-q="6"]')
    assert query.get_attribute("data-states") == "220"
    query.locator("summary").click()
    image = query.locator(".ex-side img").first
    image.wait_for()
    assert image.evaluate("(one) => one.decode().then(() => one.naturalWidth)") == 40
    assert "Look: question 6" in query.inner_text()
    assert [text.split(":")[0] for text in query.locator(".ex-facts").all_inner_texts()] == [
        "right", "right", "wrong"]  # fmt: skip
    golds = (
        query.locator(".ex-model")
        .nth(2)
        .locator("li")
        .evaluate_all("(all) => all.map((one) => one.className === 'ex-gold')")
    )
    assert golds == [False, False, True, False]
    page.wait_for_function("location.hash.includes('task=Pairs&q=6')")
    again = visit(report, "#task=Pairs&q=6")
    assert again.locator('[data-task="Pairs"] .ex-query[open]').get_attribute("data-q") == "6"
    assert again.locator('[data-task="Pairs"] .ex-query[open] summary').is_visible()


def test_an_address_of_a_query_that_is_not_listed_says_so(
    visit: Callable[..., Any], report: Path
) -> None:
    page = visit(report, "#task=Asks&q=4000")
    assert "4000 is not among" in page.locator('[data-task="Asks"] output').inner_text()
    visit(report, "#task=%22%5D&q=x&suite=nothing")  # and nonsense is nothing


def test_queries_are_filtered_by_what_became_of_them(
    visit: Callable[..., Any], report: Path
) -> None:
    page = visit(report, "#task=Asks&q=0")
    task = page.locator('[data-task="Asks"]')

    def shown(state: str, first: str = "", second: str = "") -> list[int]:
        task.locator(".ex-state").select_option(state)
        if state:
            task.locator(".ex-first").select_option(first)
        if state == "flipped":
            task.locator(".ex-second").select_option(second)
        found = task.locator(".ex-query:visible").evaluate_all(
            "(all) => all.map((one) => Number(one.dataset.q)).sort((a, b) => a - b)"
        )
        assert task.locator("output").inner_text() == f"{len(found)} of 12"
        return list(found)

    second, third = set(range(0, 12, 2)), set(range(0, 12, 3))  # right in alpha, in beta
    every = set(range(12))
    assert shown("") == sorted(every)
    assert shown("wrong") == sorted(every - second - third)
    assert shown("wrong", "0") == sorted(every - second)
    assert shown("right", "1") == sorted(third)
    assert shown("right") == []
    assert shown("flipped", "0", "1") == sorted(second - third)
    assert shown("flipped", "1", "0") == sorted(third - second)
    assert shown("flipped") == sorted(second | third)
    assert shown("flipped", "2") == []


def test_keys_go_from_query_to_query(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report, "#task=Asks&q=0")
    task = page.locator('[data-task="Asks"]')
    order = task.locator(".ex-query").evaluate_all("(all) => all.map((one) => one.dataset.q)")

    def opened() -> list[str]:
        return list(
            task.locator(".ex-query[open]").evaluate_all("(all) => all.map((one) => one.dataset.q)")
        )

    at = order.index("0")
    assert opened() == ["0"]
    page.keyboard.press("j")
    assert opened() == [order[at + 1]]
    page.keyboard.press("ArrowDown")
    assert opened() == [order[at + 2]]
    page.keyboard.press("k")
    assert opened() == [order[at + 1]]
    page.keyboard.press("Enter")
    assert opened() == []
    page.keyboard.press("j")
    assert opened() == []
    focus = "document.activeElement.parentElement.dataset.q"
    assert page.evaluate(focus) == order[at + 2]
    for _ in range(20):
        page.keyboard.press("j")
    assert page.evaluate(focus) == order[-1]


def test_the_page_can_be_used_by_keys_alone(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    button = title(page, "model").locator("button")
    button.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names(page) == ["gamma", "beta", "alpha"]
    summary = page.locator("details.more > summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.more").first.get_attribute("open") is not None


# --- light, dark, paper


def test_dark_is_as_the_system_has_it_until_somebody_chooses(
    visit: Callable[..., Any], report: Path
) -> None:
    def paper(page: Any) -> int:
        text = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return sum(map(int, re.findall(r"\d+", text)[:3]))

    light = visit(report, color_scheme="light")
    dark = visit(report, color_scheme="dark")
    assert paper(light) > 600
    assert paper(dark) < 150
    light.locator("#theme").click()
    assert paper(light) < 150
    assert light.locator("#theme").get_attribute("aria-pressed") == "true"
    light.reload()
    assert paper(light) < 150
    dark.locator("#theme").click()
    assert paper(dark) > 600


def test_on_paper_there_are_tables_and_no_controls(visit: Callable[..., Any], report: Path) -> None:
    page = visit(report, "#task=Asks&q=0", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator(".ranks").is_visible()
    for part in (".tools", ".bar", ".ex-filter"):
        assert page.locator(f"{part}:visible").count() == 0
    assert page.locator(".ex-query[open] .ex-answers").is_visible()
    assert page.locator(".ex-query:visible").count() == 1
    text = page.evaluate("getComputedStyle(document.body).color")
    assert sum(map(int, re.findall(r"\d+", text)[:3])) < 250  # dark on white, whatever the screen
    assert page.pdf().startswith(b"%PDF")


# --- hostile input


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("script", [True, False])
def test_hostile_names_and_texts_are_shown_and_do_nothing(
    visit: Callable[..., Any], hostile_report: Path, width: int, script: bool
) -> None:
    page = visit(hostile_report, width=width, java_script_enabled=script)
    for summary in page.locator("details.more > summary").all():
        summary.click()
    for summary in page.locator(".ex-query > summary").all():
        summary.click()
    page.wait_for_timeout(200)
    assert page.evaluate("window.__hacked") is None
    assert fits(page)
    text = page.inner_text("body")
    assert "<script>window.__hacked=1</script>" in text
    assert "⟨U+202E⟩" in text
    assert "{{7*7}}" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    allowed = page.locator("script").count()
    assert allowed == 3  # two of the page's own, and the pictures
    assert page.locator("img:not([data-picture]), iframe, object, [onerror], [onload]").count() == 0


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", asked
        serving.shutdown()
        thread.join()


INTRUDER = """(address) => {
  const part = document.createElement("div");
  part.innerHTML = `<img src="data:," onerror="window.__hacked=1" style="color:red">
    <img src="${address}/image"><iframe src="${address}/frame"></iframe>
    <link rel="stylesheet" href="${address}/style"><object data="${address}/object"></object>`;
  document.body.append(part);
  const script = document.createElement("script");
  script.textContent = "window.__hacked = 2";
  const far = document.createElement("script");
  far.src = `${address}/script`;
  document.body.append(script, far);
  window.__colour = getComputedStyle(part.firstChild).color;
  navigator.sendBeacon(`${address}/beacon`, "x");
  return fetch(`${address}/fetch`).catch(() => null);
}"""


def test_what_got_through_would_be_stopped(
    browser: Any, report: Path, server: tuple[str, list[str]]
) -> None:
    """The page's policy: no script, no handler, no style, no picture and no call of another's."""
    address, asked = server
    page = browser.new_page()
    page.goto(report.as_uri())
    page.evaluate(INTRUDER, address)
    page.wait_for_timeout(300)
    assert page.evaluate("window.__hacked") is None
    assert page.evaluate("window.__colour") != "rgb(255, 0, 0)"
    assert asked == []
    bare = report.with_name("bare.html")
    bare.write_text("<!DOCTYPE html><title>no policy</title><body>")
    page.goto(bare.as_uri())
    page.evaluate(INTRUDER, address)
    page.wait_for_timeout(300)
    assert page.evaluate("window.__hacked") in (1, 2)  # without the policy it is not
    assert page.evaluate("window.__colour") == "rgb(255, 0, 0)"
    assert {"/image", "/frame", "/style", "/script", "/fetch"} <= set(asked)
    page.close()


# --- many models


@pytest.fixture(scope="session")
def many(folder: Path) -> Path:
    """A page of 200 models on 36 tasks, with gaps."""
    from mmeb_harness.reporter import ReportOptions
    from mmeb_harness.reports.board.leaderboard import Board, Column, Entry, Score
    from mmeb_harness.reports.page.html import render_boards
    from mmeb_harness.result import TaskName

    tasks = tuple(TaskName(name=f"task {n}", meta_task="vqa", split="ind") for n in range(36))
    every = tuple(task.name for task in tasks)
    columns = [
        Column(key=key, title=key.title(), tasks=every, kind="average")
        for key in ("overall", "vqa")
    ]
    columns += [
        Column(key=name, title=name, tasks=(name,), kind="task", meta_task="vqa", split="ind")
        for name in every
    ]
    keys = [column.key for column in columns]
    entries = [
        Entry(
            key=f"model-{n}",
            name=f"model {n}",
            kind="authors",
            scores={
                key: Score(value=(n * 7919 + place * 104729) % 1000 / 1000)
                for place, key in enumerate(keys)
                if (n + place) % 11 or not place
            },
            rank=n + 1,
        )
        for n in range(200)
    ]
    board = Board(suite="many", tasks=tasks, columns=tuple(columns), entries=entries)
    path = folder / "many.html"
    path.write_text(render_boards([board], [], ReportOptions(format="html")), encoding="utf-8")
    return path


def settled(page: Any) -> None:
    """Wait until every row is drawn."""
    page.locator(".ranks .far").first.wait_for(state="detached")


def hold(page: Any) -> None:
    """Keep rows from following: the page stays as it is right after a change."""
    page.evaluate("window.requestAnimationFrame = () => 0")


DRAWN = "[...document.querySelector('.ranks').tBodies[0].rows].filter((row) => row.offsetHeight)"


def drawn(page: Any) -> int:
    """How many rows of the leaderboard are laid out."""
    count: int = page.evaluate(f"{DRAWN}.length")
    return count


def in_view(page: Any) -> bool:
    """Whether rows fill the table's window from its head to its foot."""
    filled: bool = page.evaluate(
        f"""(() => {{
          const window = document.querySelector(".scroll").getBoundingClientRect();
          const head = document.querySelector(".ranks thead").getBoundingClientRect();
          const rows = {DRAWN}.map((row) => row.getBoundingClientRect());
          return rows[0].top <= head.bottom + 1 && rows.at(-1).bottom >= window.bottom - 2;
        }})()"""
    )
    return filled


def height(page: Any) -> int:
    """How far the table scrolls."""
    found: int = page.evaluate("document.querySelector('.scroll').scrollHeight")
    return found


def sorted_down(values: list[float | None]) -> bool:
    known = [value for value in values if value is not None]
    return values == sorted(known, reverse=True) + [None] * (len(values) - len(known))


def test_two_hundred_models_sort_right(visit: Callable[..., Any], many: Path) -> None:
    page = visit(many)
    page.locator('[data-tool="tasks"]').check()
    for key in ("overall", "task 3"):
        start = time.perf_counter()
        title(page, key).locator("button").click()
        page.evaluate("document.querySelector('.ranks').offsetHeight")
        print(f"sorted by {key} in {time.perf_counter() - start:.3f} s")  # pytest -rP shows it
        values = column(page, key)
        known = [value for value in values if value is not None]
        assert values == sorted(known, reverse=True) + [None] * (200 - len(known))
        assert len(known) == (200 if key == "overall" else 182)
        settled(page)
        assert drawn(page) == 200
        assert column(page, key) == values


def test_a_sorted_table_is_whole_before_all_of_it_is_drawn(
    visit: Callable[..., Any], many: Path
) -> None:
    page = visit(many)
    page.locator('[data-tool="tasks"]').check()
    settled(page)
    whole = height(page)
    hold(page)
    title(page, "task 5").locator("button").click()
    assert 15 < drawn(page) < 80
    assert in_view(page)
    values = column(page, "task 5")
    assert len(values) == 200
    assert sorted_down(values)
    assert abs(height(page) - whole) < 5  # room is kept for the rest
    assert page.locator(".ranks tbody tr").first.is_visible()
    assert title(page, "task 5").get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("place", [0, 3000, 100_000])
def test_what_is_looked_at_is_drawn_first_and_the_rest_follows(
    visit: Callable[..., Any], many: Path, place: int
) -> None:
    held, free = visit(many), visit(many)
    hold(held)
    for page in (held, free):
        scroller = page.locator(".scroll")
        scroller.evaluate("(one, place) => { one.scrollTop = place }", place)
        before = scroller.evaluate("(one) => one.scrollTop")
        page.locator('[data-tool="tasks"]').check()
        assert abs(scroller.evaluate("(one) => one.scrollTop") - before) < 5
        assert in_view(page)
    assert drawn(held) < 80
    settled(free)
    assert drawn(free) == 200
    assert abs(free.locator(".scroll").evaluate("(one) => one.scrollTop") - before) < 5
    assert not free.locator(".ranks").evaluate("(one) => one.style.margin")


def test_filters_and_copies_hold_while_rows_follow(visit: Callable[..., Any], many: Path) -> None:
    page = visit(many)
    hold(page)
    title(page, "overall").locator("button").click()
    page.locator('[data-tool="find"]').fill("model 19")
    assert drawn(page) == 12  # 19, 119, and 190 to 199: all of them fit into the view
    assert len(names(page)) == 12
    page.locator('[data-tool="find"]').fill("")
    assert 15 < drawn(page) < 80
    assert page.locator('[data-tool="status"]').first.inner_text() == "200 models"
    assert sorted_down(column(page, "overall"))
    page.locator(".menu summary").first.click()
    with page.expect_download() as download:
        page.locator('[data-save="csv"]').first.click()
    assert Path(download.value.path()).read_text(encoding="utf-8").count("\n") == 201


def test_paper_has_every_row_even_while_rows_follow(visit: Callable[..., Any], many: Path) -> None:
    page = visit(many)
    hold(page)
    title(page, "overall").locator("button").click()
    assert drawn(page) < 80
    page.emulate_media(media="print")
    assert drawn(page) == 200
    assert page.locator(".ranks").evaluate("(one) => getComputedStyle(one).marginBottom") == "0px"


def test_two_hundred_models_without_a_script(visit: Callable[..., Any], many: Path) -> None:
    assert drawn(visit(many, java_script_enabled=False)) == 200


# --- one model


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_of_one_run_is_its_profile(
    visit: Callable[..., Any], render: Callable[..., Path], runs: list[Run], width: int
) -> None:
    page = visit(render("one", runs[:1]), width=width)
    assert fits(page)
    assert page.locator("h1").inner_text().startswith("alpha on ")
    for tool in ("find", "complete", "clean", "heat"):  # there is nothing to choose from
        assert not page.locator(f'[data-tool="{tool}"]').first.is_visible()
    page.locator('[data-tool="tasks"]').check()
    assert title(page, "Photos").is_visible()
    shown = page.locator("figure:visible figcaption").all_inner_texts()
    assert [words.split("\n")[0] for words in shown] == [
        "Averages", "Classification", "VQA", "Retrieval"]  # fmt: skip
