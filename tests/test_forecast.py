"""What a dry run says is what a run would do: counts exactly, times by the test's own clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmeb_harness import forecast as module
from mmeb_harness.cli.console import BarProgress, forecast_lines
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.actors import ray_cluster
from mmeb_harness.engines.actors.seats import Room
from mmeb_harness.engines.engine import EngineSettings
from mmeb_harness.forecast import Forecast, Place, _shares, expected_place, forecast
from mmeb_harness.gather import Work
from mmeb_harness.item import Item, Rendered
from mmeb_harness.plan import Plan, make_plan
from rich.progress import Progress as RichProgress
from small_encoder import Small


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Working(PlannedEncoder):
    """Takes 1 s to prepare and 2 s to run a token of an image, and a tenth of it for one of a text;
    and 50 s to load."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_loaded = False
        self.runs: list[int] = []

    def render(self, item: Item) -> Rendered:
        return Rendered(text=item.text)

    def size(self, rendered: Rendered) -> int:
        return int((rendered.text or "").split()[1])

    def _cost(self, batch: Sequence[Rendered]) -> float:
        return sum(
            self.size(one) * (1.0 if (one.text or "").startswith("image") else 0.1) for one in batch
        )

    def prepare(self, rendered: Sequence[Rendered]) -> Sequence[Rendered]:
        self.clock.now += self._cost(rendered)
        if any("broken" in (one.text or "") for one in rendered):
            raise ValueError("it is broken")
        return rendered

    def forward(self, batch: Sequence[Rendered]) -> np.ndarray:
        self.clock.now += 2 * self._cost(batch) + (0 if self.is_loaded else 50)
        self.is_loaded = True
        self.runs.append(len(batch))
        return np.ones((len(batch), 8), dtype=np.float32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "perf_counter", found)
    monkeypatch.setattr(module, "PATIENCE", 1e9)
    return found


def planned(encoder: Working, texts: Sequence[str], budget: int = 100) -> tuple[Plan, Work]:
    work = Work(missing={n.to_bytes(16): Rendered(text=text) for n, text in enumerate(texts)})
    sizes = work.measure(encoder)
    return make_plan(list(work.missing), sizes, budget=budget, identity="", name="n"), work


def foretold(encoder: Working, texts: Sequence[str], place: Place | None = None) -> Forecast:
    plan, work = planned(encoder, texts)
    keys_of = {"all": list(work.missing), "first": [*list(work.missing)[:3], b"stored".ljust(16)]}
    return forecast(encoder, plan, work, keys_of, {}, place or Place())


IMAGES, TEXTS = ["image 100"] * 40, ["text 20"] * 200
SECONDS = 40 * 100 * 3 + 200 * 20 * 0.3
"""What the work takes in all, prepared and run one after the other."""


def test_images_and_texts_are_timed_apart(clock: Clock) -> None:
    found = foretold(Working(clock), [*IMAGES, *TEXTS])
    assert found.seconds == pytest.approx(SECONDS)


def test_workers_and_copies_share_the_time(clock: Clock) -> None:
    found = foretold(Working(clock), [*IMAGES, *TEXTS], Place(copies=4, workers=1))
    assert found.seconds == pytest.approx(
        SECONDS * 2 / 3 / 4
    )  # running takes longer than preparing


def test_a_device_that_waits_for_its_workers_counts_their_time(clock: Clock) -> None:
    encoder = Working(clock)
    encoder._cost = lambda batch: 1.0  # type: ignore[method-assign]
    encoder.prepare = lambda given: setattr(clock, "now", clock.now + 9.0) or given  # type: ignore[method-assign]
    found = foretold(encoder, IMAGES, Place(workers=3))
    assert found.seconds == pytest.approx(40 * 3.0)


def test_counts_are_exact(clock: Clock) -> None:
    found = foretold(Working(clock), [*IMAGES, *TEXTS])
    assert (found.items, found.tokens, found.batches) == (240, 8000, 80)
    assert [(task.items, task.to_encode, task.tokens) for task in found.tasks] == [
        (240, 240, 8000),
        (4, 3, 300),
    ]
    assert found.store_bytes == 240 * 8 * 4
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1e6


def test_the_largest_batch_is_tried(clock: Clock) -> None:
    encoder = Working(clock)
    foretold(encoder, ["text 1000", *TEXTS])
    assert encoder.runs[:2] == [5, 1]  # the last one loads the weights, then the largest


def test_no_more_is_timed_than_patience_allows(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 250.0)
    encoder = Working(clock)
    found = foretold(encoder, IMAGES)
    assert len(encoder.runs) == 3
    assert found.seconds == pytest.approx(40 * 100 * 3)


def test_an_item_that_fails_is_told(clock: Clock) -> None:
    found = foretold(Working(clock), ["broken 500", *TEXTS])
    assert found.fault == "ValueError: it is broken"
    assert any("it is broken" in line for line in forecast_lines(found))


def test_nothing_to_encode_loads_nothing(clock: Clock) -> None:
    encoder = Working(clock)
    found = forecast(encoder, *planned(encoder, []), {"all": []}, {"GQA": "no data"}, Place())
    assert encoder.runs == []
    assert found.seconds is found.memory_bytes is found.store_bytes is None
    assert list(forecast_lines(found))[-1] == "missing     GQA: no data"


@pytest.mark.parametrize("tokens", [[5], [1, 1], [100, 1, 1], [9] * 4, [3, 2, 1] * 50, [1] * 1000])
def test_shares_hold_every_batch_once(tokens: list[int]) -> None:
    shares = _shares(tokens)
    assert sum(share.tokens for share in shares) == sum(tokens)
    assert 1 <= len(shares) <= module.SHARES
    assert all(0 <= share.middle < len(tokens) for share in shares)
    assert len({share.middle for share in shares}) == len(shares)
    if len(tokens) > 100:
        assert max(share.tokens for share in shares) <= sum(tokens) / module.SHARES + max(tokens)


def test_sizing_decodes_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmeb_harness.api import Request, prepare_job
    from PIL import ImageFile

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    request = Request(tasks="GQA,RefCOCO", limit=3, output_dir=tmp_path, cache_dir=tmp_path / "c")
    job = prepare_job(request)
    monkeypatch.setattr(module, "_timed", lambda counted, *_: counted)
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    found = job.forecast()
    assert found.items > 6
    assert found.tokens > 20 * 6


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        ({}, "cpu", 1),
        ({"actors": 16}, "cpu", 4),
        ({"actors": 2}, "cpu", 2),
        ({"name": "ray"}, "cpu", 1),
        ({"name": "ray"}, "cuda", 8),
        ({"gpus": 3}, "cuda", 3),
    ],
    ids=str,
)
def test_copies_share_the_cores_and_gpus_are_counted(
    settings: dict[str, Any], device: str, expected: int, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "this_machine", lambda: Room(cores=8, gpus=8))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    encoder = Working(clock)
    encoder.device = device  # type: ignore[attr-defined]
    assert expected_place(EngineSettings(**settings), encoder, 3).copies == expected


# -- what a terminal is told meanwhile -------------------------------------------------------------


def test_the_bar_says_what_is_being_done() -> None:
    bars = RichProgress(disable=True)
    progress = BarProgress(bars)

    def told() -> list[str]:
        return [task.description for task in bars.tasks]

    progress.gathering("GQA", 10)
    assert told() == ["reading GQA"]
    progress.planning(1500)
    assert told() == ["counting tokens of 1,500 items"]
    progress.planned(1500, 20_000, 7)
    assert told() == ["encoding (7 reused)"]
    progress.loading("mini-vlm, in copies that Ray starts")
    assert told() == ["loading mini-vlm, in copies that Ray starts"]
    progress.encoded(500, 6_000)
    assert told() == ["encoding (7 reused)"]
    assert bars.tasks[0].completed == 500


@pytest.mark.parametrize("by_ray", [True, False])
def test_the_start_of_ray_is_told_beside_the_time(by_ray: bool) -> None:
    counted = Forecast(
        items=1, tokens=8, batches=1, reused=0, missing={}, tasks=[], seconds=7.0, by_ray=by_ray
    )
    (time,) = [line for line in forecast_lines(replace(counted, items=0)) if "time" in line]
    assert "about 7 s on this device" in time
    assert ("start Ray" in time) == by_ray


@pytest.mark.parametrize(("actors", "by_ray"), [(2, True), (None, False)])
def test_a_place_says_whether_ray_starts_it(actors: int | None, by_ray: bool) -> None:
    place = expected_place(EngineSettings(actors=actors), Small(), 4)
    assert place.by_ray == by_ray
