"""A real browser, one for all tests, and small reports for it, made once.

The browser is the system's own (`chromium`, or what MMEB_HARNESS_BROWSER names); where there is
none, the tests are skipped and say so. A page must be silent: an error on its console, a request
for anything but its own file, or a dialog fails the test that opened it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from example_runs import Asked, draw, ranked, write_run
from mmeb_harness.item import Item
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.result import Run

NAMES = ("chromium", "chromium-browser", "google-chrome")
NAMED = os.environ.get("MMEB_HARNESS_BROWSER")  # each test's own environment is bare
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

HACK = '<script>window.__hacked=1</script><img src=x onerror="window.__hacked=1">'
HOSTILE = (
    f"{HACK}\"'><svg onload=window.__hacked=1>{{{{7*7}}}}</script></style>"
    "\u202egnp\u2066\x1b[31m\0 ünïcödé שלום " + "x" * 100_000
)
"""A text that tries everything."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's browser, started once."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
    path = NAMED or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    answer = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    if answer.returncode:
        pytest.skip(f"no browser: {path} does not start")  # as the stub of a package may not
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


KINDS = {
    "Photos": ("classification", "ind"),
    "Signs": ("classification", "ood"),
    "Asks": ("vqa", "ind"),
    "Pairs": ("retrieval", "ood"),
}


def _tasks(folder: Path, right: Callable[[int], bool]) -> dict[str, Any]:
    """Four tasks: 12 queries with pictures each, and in the last pictures as answers, too."""
    answers = [Item(text=f"answer {number}") for number in range(4)]
    tasks: dict[str, Any] = {}
    for place, name in enumerate(KINDS):
        candidates = [
            Item(image=draw(folder / f"c{number}.png", f"#8040{60 * number + 10:02x}"))
            for number in range(4)
        ]
        items = candidates if name == "Pairs" else list(answers)
        asked = []
        for number in range(12):
            image = draw(
                folder / f"{name}-{number}.png", f"#{10 + 20 * number:02x}{place * 60:02x}aa"
            )
            text = None if name == "Photos" else f"<|image_1|>\nLook: question {number}"
            items.append(Item(text=text, image=image, instruction=None))
            order = [0, 1, 2, 3] if right(number) else [2, 1, 0, 3]
            asked.append(ranked(4 + number, 0, order))
        tasks[name] = (items, asked)
    return tasks


@pytest.fixture(scope="session")
def runs(folder: Path) -> list[Run]:
    """Three runs of one suite: right on every second, on every third query, and never; and of the
    last one task is missing."""
    second = _tasks(folder, lambda number: number % 2 == 0)
    third = _tasks(folder, lambda number: number % 3 == 0)
    never = _tasks(folder, lambda number: False)
    del never["Signs"]
    made = (("alpha", second), ("beta", third), ("gamma", never))
    return [write_run(folder / name, name, tasks, kinds=KINDS) for name, tasks in made]


@pytest.fixture(scope="session")
def render(folder: Path) -> Callable[..., Path]:
    """Return `(name, runs, **options) -> path` of a report."""
    from mmeb_harness.reports.page.html import render as html

    def write(name: str, runs: list[Run], **options: Any) -> Path:
        path = folder / f"{name}.html"
        text = html(runs, ReportOptions(format="html", **options))
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def report(render: Callable[..., Path], runs: list[Run]) -> Path:
    """The report of the three runs."""
    return render("three", runs)


@pytest.fixture(scope="session")
def hostile_report(render: Callable[..., Path], folder: Path) -> Path:
    """A report of two runs whose every name and text tries to act."""
    image = draw(folder / "plain.png", "red")
    odd = draw(folder / "\"><img src=x onerror=window.__hacked=1>'.png", "blue")
    items = [
        Item(text=HOSTILE),
        Item(text="no " + HOSTILE),
        Item(text=HOSTILE + "?", instruction=HOSTILE[:80], image=odd),
        Item(image=folder / f"gone{HACK[:40].replace('/', '')}.png"),
        Item(image=image),
    ]
    asked = [
        ranked(2, 0, [1, 0]),
        ranked(3, 1, [1, 0]),
        Asked(query=4, gold=[0], scores={0: 1, 1: 1}),
    ]
    made = [
        write_run(
            folder / f"hostile{number}",
            f"{number} {HOSTILE}",
            {"Odd": (items, asked)},
            suite=f"suite {HACK}",
            overrides={HACK: HOSTILE},
            command=("mmeb-harness", HOSTILE),
            warnings=(HOSTILE,),
        )
        for number in range(2)
    ]
    return render("hostile", made)


class Visit:
    """A page that was opened, and what it did."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        own = path.as_uri()
        page.on("console", lambda message: self._console(message))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self._dialog(dialog))
        page.on("request", lambda request: self._request(request.url, own))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, url: str, own: str) -> None:
        if url.partition("#")[0] != own and not url.startswith("data:image/"):
            self.complaints.append(f"request: {url}")


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return `(path, fragment="", width=1280, **context) -> page`; silent, or the test fails."""
    opened: list[Visit] = []
    contexts = []

    def open_page(path: Path, fragment: str = "", *, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        seen = Visit(context.new_page(), path)
        opened.append(seen)
        seen.page.goto(path.as_uri() + fragment)
        return seen.page

    yield open_page
    complaints = [complaint for one in opened for complaint in one.complaints]
    for context in contexts:
        context.close()
    assert complaints == []
