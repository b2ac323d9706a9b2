"""How long a page of many models takes to make, and to sort: 36 tasks, 1,000 queries each.

    python benchmarks/report_size.py [--models 200] [--rounds 3]

Run folders are made up, with every query's outcome; what is asked is one text, so that no time goes
into thumbnails. Both sides are timed in one process, in turn: half as many models,
and all; the ratio says how the cost grows. With Chromium and playwright at hand, a click on a
column's title is timed in the page as well, all tasks unfolded.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
from measuring import described
from mmeb_harness.card import Card
from mmeb_harness.hits import write_hits
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board import published
from mmeb_harness.reports.page import html
from mmeb_harness.result import RunRecord, TaskName, TaskResult
from mmeb_harness.rows import Hits, TaskItems, TaskRows, clusters_of
from mmeb_harness.runfolder import read_run, write_record, write_task
from mmeb_harness.statistics import task_interval

QUERIES = 1000

SORT = """() => {
  const title = [...document.querySelectorAll('.ranks thead [data-key="ood"]')][0];
  const button = title.querySelector("button") ?? title;
  const before = performance.now();
  button.click();
  document.body.offsetHeight;
  return performance.now() - before;
}"""


class Spent(NamedTuple):
    """Seconds of one page."""

    wall: float
    processor: float
    characters: int


def make_runs(folder: Path, count: int) -> list[Path]:
    """Write run folders of models whose true rates lie evenly between 20 and 80 %."""
    generator = np.random.default_rng(0)
    folders = []
    for number in range(count):
        rate = 0.2 + 0.6 * number / count
        place = folder / f"model-{number:03}"
        record = RunRecord(
            model=f"model-{number:03}",
            card=Card(name=f"model-{number:03}", factory="none:none", parameters=10**9 + number),
            encoder=f"{number:064x}",
            suite="mmeb",
            suite_tasks=published.tasks(),
            tasks=tuple(task.name for task in published.tasks()),
            scoring="expected",
            similarity="cosine",
            batch_tokens=1,
            workers=0,
            started="2026-01-01T00:00:00Z",
        )
        write_record(place, record)
        for task in published.tasks():
            hits = (generator.random(QUERIES) < rate).astype(np.float64)
            write_task(place, _result(task, record, hits), (_rows(hits), _items()))
        write_hits(read_run(place))
        folders.append(place)
    return folders


def _result(task: TaskName, record: RunRecord, hits: np.ndarray) -> TaskResult:
    clusters = clusters_of(Hits(hits, np.arange(QUERIES, dtype=np.int32)))
    score = float(hits.mean())
    shared = record.model_dump(include={"suite", "encoder", "scoring", "similarity", "limit"})
    return TaskResult(
        **task.model_dump(),
        **shared,
        metric="hit_at_1",
        status="ok",
        score=score,
        hit_at_1=score,
        ci=tuple(task_interval(clusters)),
        n_queries=QUERIES,
        clusters=clusters,
        data_digest=task.name,
    )


def _rows(hits: np.ndarray) -> TaskRows:
    ones = np.ones(QUERIES, dtype=np.int32)
    lists = [np.zeros(1, dtype=np.int32)] * QUERIES
    return TaskRows(
        better=(1 - hits).astype(np.int32),
        tied=ones,
        tied_gold=ones,
        hit_at_1=hits,
        top_candidates=lists,
        top_scores=[np.zeros(1, dtype=np.float32)] * QUERIES,
        query_items=ones - 1,
        gold_items=lists,
        top_items=lists,
        clusters=np.arange(QUERIES, dtype=np.int32),
    )


def _items() -> TaskItems:
    none = [None]
    return TaskItems(
        keys=[bytes(16)], texts=["a text"], instructions=none, images=none, image_digests=none
    )


def make_page(folders: Sequence[Path], page: Path) -> Spent:
    """Read the runs and write their page, as `report --images none` does."""
    wall, processor = perf_counter(), process_time()
    runs = [read_run(folder) for folder in folders]
    document = html.render(runs, ReportOptions(format="html", images=0))
    page.write_text(document)
    return Spent(perf_counter() - wall, process_time() - processor, len(document))


def sort_times(page: Path, rounds: int) -> list[float] | None:
    """Return the milliseconds of clicks on a title, None without a browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if browser is None:
        return None
    with sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu"]
        launched = started.chromium.launch(executable_path=browser, args=flags)
        view = launched.new_page(viewport={"width": 1280, "height": 900})
        view.goto(page.as_uri())
        view.locator('[data-tool="tasks"]').first.check()
        times = [float(view.evaluate(SORT)) for _ in range(2 * rounds)]
        launched.close()
    return times


def main() -> None:
    """Print medians and the ratio."""
    parser = described(__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = make_runs(Path(name) / "runs", given.models)
        page = Path(name) / "page.html"
        sides: dict[int, list[Spent]] = {given.models // 2: [], given.models: []}
        for _ in range(given.rounds):
            for count, spent in sides.items():
                spent.append(make_page(folders[:count], page))
        for count, spent in sides.items():
            wall = statistics.median(one.wall for one in spent)
            processor = statistics.median(one.processor for one in spent)
            size = spent[-1].characters / 1e6
            print(f"{count} models: {wall:.2f} s, {processor:.2f} s of a core, {size:.2f} MB")
        half, whole = sides.values()
        ratios = [two.processor / one.processor for one, two in zip(half, whole, strict=True)]
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        times = sort_times(page, given.rounds)
        if times is None:
            print("sort: no browser, or no playwright")
        else:
            print(f"sort: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms")


if __name__ == "__main__":
    main()
