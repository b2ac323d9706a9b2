"""What a training writes down: a log that survives a kill, and a plot that shows what it says."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import numpy as np
import pytest
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.trainers.curves import MOST, Point, smoothed, thinned
from mmeb_harness.trainers.log import TrainingLog, read_log
from mmeb_harness.trainers.plot import write_plot

SVG = "{http://www.w3.org/2000/svg}"


def step_line(step: int, loss: float | None, lr: float = 1e-5) -> dict[str, Any]:
    return {"kind": "step", "step": step, "loss": loss, "lr": lr, "pairs": 8}


def evaluation_line(step: int, **scores: float | None) -> dict[str, Any]:
    return {"kind": "evaluation", "step": step, "scores": scores}


def write_log(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# -- the log --------------------------------------------------------------------------------------


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "deep/log.jsonl", None)
    written = [
        {"kind": "start", "steps": 3, "output_dir": tmp_path, "facts": {"names": ("a", "ü\n")}},
        {"kind": "step", "step": 1, "loss": 0.1 + 0.2, "grad_norm": np.float32(1.5), "pairs": 8},
        {"kind": "step", "step": 2, "loss": np.float64(1e-9), "items": np.int64(4), "last": True},
    ]
    for record in written:
        log.write(record)
    assert read_log(log.path) == [
        {**written[0], "output_dir": str(tmp_path), "facts": {"names": ["a", "ü\n"]}},
        {**written[1], "grad_norm": 1.5},
        {**written[2], "loss": 1e-9, "items": 4},
    ]
    assert read_log(tmp_path / "nothing.jsonl") == []


def test_a_number_that_is_not_finite_is_still_json(tmp_path: Path) -> None:
    def no_constant(word: str) -> NoReturn:
        raise AssertionError(f"{word} is no JSON")

    log = TrainingLog(tmp_path / "log.jsonl", None)
    log.write({"kind": "step", "step": 1, "loss": math.nan, "norms": [np.float32("inf"), 1.0]})
    lines = log.path.read_text().splitlines()
    assert [json.loads(line, parse_constant=no_constant) for line in lines] == [
        {"kind": "step", "step": 1, "loss": None, "norms": [None, 1.0]}
    ]


def test_going_on_drops_what_stood_behind_the_step(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, None)
    log.write({"kind": "start", "steps": 4})
    for step in (1, 2, 3):
        log.write(step_line(step, 1 / step))
        log.write({"kind": "checkpoint", "step": step})
    log.write({"kind": "warning", "message": "of step 3"})
    kept = read_log(path)[:5]  # up to the checkpoint of step 2

    log = TrainingLog(path, 2)
    assert read_log(path) == kept
    log.write({"kind": "start", "steps": 4, "done": 2})
    for step in (3, 4):
        log.write(step_line(step, 9.0))
    steps = [record["step"] for record in read_log(path) if record["kind"] == "step"]
    assert steps == [1, 2, 3, 4]
    assert [record["kind"] for record in read_log(path)].count("start") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]

    TrainingLog(path, 10)
    assert len(read_log(path)) == 8
    TrainingLog(path, 0)
    assert read_log(path) == kept[:1]
    TrainingLog(path, None)
    assert read_log(path) == []


def test_a_line_torn_by_a_kill_is_dropped_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from mmeb_harness.trainers.log import TrainingLog\n"
        "log = TrainingLog(Path(sys.argv[1]), None)\n"
        "for step in range(1, 6): log.write({'kind': 'step', 'step': step, 'loss': 1.0})\n"
        'open(sys.argv[1], \'a\').write(\'{"kind": "step", "st\')\n'
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4, 5]

    TrainingLog(path, 5).write(step_line(6, 1.0))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, 7))

    whole = path.read_text()
    path.write_text(whole.rstrip("\n"))  # all of the last line but its end
    TrainingLog(path, 6).write(step_line(7, 1.0))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, 8))

    path.write_bytes(whole.encode() + b"\0" * 50 + b"\xff\n")  # as a crash of the machine leaves it
    assert len(read_log(path)) == 6


def test_a_full_disk_is_named_and_leaves_no_half_line(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.jsonl", None)
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        log.write(step_line(1, 1.0))

    path = tmp_path / "limited.jsonl"
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from mmeb_harness.errors import EnvironmentFault\n"
        "from mmeb_harness.trainers.log import TrainingLog\n"
        "log = TrainingLog(Path(sys.argv[1]), None)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "log.write({'kind': 'step', 'step': 1, 'words': 'x' * 20})\n"
        "try: log.write({'kind': 'step', 'step': 2, 'words': 'x' * 50})\n"
        "except EnvironmentFault as error: sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True
    )
    assert f"{path} could not be written" in done.stderr
    assert path.read_text() == json.dumps({"kind": "step", "step": 1, "words": "x" * 20}) + "\n"


def test_a_log_that_cannot_be_written_or_read_is_a_fault_of_the_surroundings(
    tmp_path: Path,
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(EnvironmentFault):
        TrainingLog(blocked / "log.jsonl", None)
    with pytest.raises(EnvironmentFault):
        write_plot(write_log(tmp_path / "log.jsonl", []), blocked / "plot.svg")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        read_log(tmp_path)


# -- the plot, scaled back to values by its own ticks ---------------------------------------------


class Plotted:
    """An SVG read as a reader reads it: places become values by the ticks beside them."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text()
        self.root = ElementTree.fromstring(self.source)
        self.groups = {group.get("id"): group for group in self.root.iter(f"{SVG}g")}
        texts = self.groups["steps"].iter(f"{SVG}text")
        self.steps = [(float(one.get("x", "")), number(one)) for one in texts if tick(one)]

    def ticks(self, panel: str) -> list[tuple[float, float]]:
        texts = self.groups[panel].iter(f"{SVG}text")
        return [(float(one.get("y", "")), number(one)) for one in texts if tick(one)]

    def curves(self, panel: str) -> list[list[tuple[float, float]]]:
        """Return (step, value) of every curve's points."""
        paths = [one.get("d", "") for one in self.groups[panel].iter(f"{SVG}path")
                 if "gone" not in one.get("class", "")]  # fmt: skip
        places = [re.findall(r"([\d.]+),([\d.]+)", path) for path in paths]
        return [[self.value(panel, float(x), float(y)) for x, y in one] for one in places]

    def dots(self, panel: str) -> list[tuple[float, float]]:
        circles = self.groups[panel].iter(f"{SVG}circle")
        return [
            self.value(panel, float(one.get("cx", "")), float(one.get("cy", ""))) for one in circles
        ]

    def value(self, panel: str, x: float, y: float) -> tuple[float, float]:
        across, up = self.steps, self.ticks(panel)
        if self.logarithmic(panel):
            return between(across, x), math.exp(between([(y, math.log(v)) for y, v in up], y))
        return between(across, x), between(up, y)

    def logarithmic(self, panel: str) -> bool:
        head = self.groups[panel].find(f"{SVG}text")
        return head is not None and "logarithmic" in (head.text or "")

    def legend(self, panel: str) -> str:
        return " ".join(" ".join(self.groups[panel].itertext()).split())


def tick(text: ElementTree.Element) -> bool:
    return "tick" in text.get("class", "")


def number(text: ElementTree.Element) -> float:
    return float((text.text or "").replace(",", ""))


def between(ticks: Sequence[tuple[float, float]], place: float) -> float:
    (first, low), (last, high) = ticks[0], ticks[-1]
    return low + (place - first) / (last - first) * (high - low)


def plotted(folder: Path, records: Sequence[dict[str, Any]]) -> Plotted:
    log = write_log(folder / "log.jsonl", records)
    write_plot(log, folder / "plot.svg")
    return Plotted(folder / "plot.svg")


def test_the_plot_shows_what_the_log_says(tmp_path: Path) -> None:
    losses = [3 - 0.02 * step + 0.3 * math.sin(step) for step in range(1, 101)]
    records = [step_line(step, loss, 2e-5 * step) for step, loss in enumerate(losses, 1)]
    records += [evaluation_line(step, overall=None, ind=step / 200, ood=0.1) for step in (50, 100)]
    plot = plotted(tmp_path / "my training", records)

    each, line = plot.curves("loss")
    assert [round(step) for step, _ in each] == list(range(1, 101))
    assert [loss for _, loss in each] == pytest.approx(losses, abs=1e-3)
    assert len(line) == 100
    assert f"smoothed {line[-1][1]:.2f}" in plot.legend("loss")

    ind, ood = plot.curves("scores")
    assert ind == [pytest.approx((50, 25), abs=0.1), pytest.approx((100, 50), abs=0.1)]
    assert ood == [pytest.approx((50, 10), abs=0.1), pytest.approx((100, 10), abs=0.1)]
    assert plot.dots("scores") == [*ind, *ood]
    assert "IND 50.0" in plot.legend("scores")
    assert "overall" not in plot.legend("scores")

    (rate,) = plot.curves("rate")
    assert rate[-1] == pytest.approx((100, 2e-3), abs=1e-5)
    assert plot.root.findtext(f"{SVG}text[@id='title']") == "my training"
    assert plot.root.findtext(f"{SVG}text[@id='note']") == "100 steps"


def test_a_loss_over_decades_is_shown_logarithmically_and_nothing_else_is(tmp_path: Path) -> None:
    losses = [5 * math.exp(-step / 10) for step in range(1, 61)]
    records = [step_line(step, loss, loss) for step, loss in enumerate(losses, 1)]
    records += [evaluation_line(10, ind=0.001), evaluation_line(60, ind=0.9)]
    plot = plotted(tmp_path, records)
    assert [plot.logarithmic(panel) for panel in ("loss", "scores", "rate")] == [True, False, False]
    each, _ = plot.curves("loss")
    assert [loss for _, loss in each] == pytest.approx(losses, rel=1e-3)
    assert [score for _, score in plot.dots("scores")] == pytest.approx([0.1, 90], abs=0.1)
    (rate,) = plot.curves("rate")
    assert [value for _, value in rate] == pytest.approx(losses, abs=0.01)


@pytest.mark.thorough
def test_a_long_training_is_a_small_file_that_hides_no_spike(tmp_path: Path) -> None:
    source = random.Random(0)
    losses = [2 + source.random() for _ in range(100_000)]
    losses[0], losses[56_789], losses[-1] = 2.25, 9.5, 2.75
    records = [step_line(step, loss) for step, loss in enumerate(losses, 1)]
    records += [evaluation_line(step, ind=step / 1e5) for step in range(50, 100_001, 50)]
    plot = plotted(tmp_path, records)
    assert len(plot.source) < 100_000
    for panel in ("loss", "scores", "rate"):
        for curve in plot.curves(panel):
            assert 300 < len(curve) <= MOST
            assert curve[0][0] == pytest.approx(1 if panel != "scores" else 50, abs=2)
            assert round(curve[-1][0]) == 100_000
    each, line = plot.curves("loss")
    assert (each[0][1], each[-1][1]) == pytest.approx((2.25, 2.75), abs=1e-2)
    assert max(each, key=lambda place: place[1]) == pytest.approx((56_790, 9.5), rel=1e-3)
    assert min(loss for _, loss in each) == pytest.approx(min(losses), abs=1e-2)
    assert all(loss == pytest.approx(2.5, abs=0.1) for _, loss in line)
    assert plot.curves("scores")[0][-1] == pytest.approx((100_000, 100), abs=0.1)


def test_a_loss_that_is_not_finite_is_a_gap_and_a_cross(tmp_path: Path) -> None:
    losses = [1.0, 2.0, None, 2.0, 1.0, None]
    plot = plotted(tmp_path, [step_line(step, loss) for step, loss in enumerate(losses, 1)])
    each, _ = plot.curves("loss")
    assert [round(step) for step, _ in each] == [1, 2, 4, 5]
    drawn = next(plot.groups["loss"].iter(f"{SVG}path")).get("d", "")
    assert drawn.count("M") == 2
    crosses = [one.findtext(f"{SVG}title") for one in plot.groups["loss"].iter(f"{SVG}path")]
    assert [text for text in crosses if text] == [
        "step 3: not a finite number", "step 6: not a finite number",
    ]  # fmt: skip


EDGES: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "only a start": [{"kind": "start", "steps": 10}],
    "one step": [step_line(1, 4.15), evaluation_line(1, overall=0.5)],
    "constant": [step_line(step, 4.15) for step in range(1, 9)],
    "nearly constant": [step_line(step, 4.15 + step * 1e-15) for step in range(1, 9)],
    "zero": [step_line(step, 0.0, 0.0) for step in range(1, 9)],
    "to zero": [step_line(step, max(0.0, 3.0 - step)) for step in range(1, 9)],
    "negative": [step_line(step, -2.0 - step) for step in range(1, 9)],
    "about zero": [step_line(step, (-1) ** step * 1e-3) for step in range(1, 9)],
    "huge": [step_line(step, 1e38 if step == 4 else 1e-38) for step in range(1, 9)],
    "never finite": [step_line(step, None) for step in range(1, 9)],
    "no rate": [{"kind": "step", "step": 1, "loss": 1}, {"kind": "step", "step": 2}],
    "only evaluations": [evaluation_line(step, overall=0.3) for step in (10, 20)],
    "single tasks": [evaluation_line(5, overall=None, **{f"<{n}>&": n / 9 for n in range(9)})],
    "failed tasks": [evaluation_line(5, overall=None, ind=None), evaluation_line(6, overall=None)],
    "lines of another kind": [{"kind": "step"}, {"kind": "evaluation", "step": 3, "scores": None}],
}


@pytest.mark.parametrize("name", EDGES)
def test_every_log_has_a_plot_within_its_frame(tmp_path: Path, name: str) -> None:
    plot = plotted(tmp_path / f'a <{name}> & "more" \x07', EDGES[name])
    assert name in (plot.root.findtext(f"{SVG}text[@id='title']") or "")
    assert not re.search(r"\b(nan|inf|None)\b", plot.source)
    width, height = (float(plot.root.get(side, "")) for side in ("width", "height"))
    for place in plot.root.iter():
        for key in ("x", "x1", "x2", "cx"):
            assert 0 <= float((place.get(key) or "0").rstrip("%")) <= width
        for key in ("y", "y1", "y2", "cy"):
            assert 0 <= float((place.get(key) or "0").rstrip("%")) <= height
    known = {record["step"] for record in EDGES[name] if record.get("step")}
    for panel in plot.groups.keys() - {"steps"}:
        low, high = (plot.ticks(panel)[end][0] for end in (0, -1))
        for curve in plot.groups[panel].iter(f"{SVG}path"):
            if "gone" not in curve.get("class", ""):
                for _, y in re.findall(r"([\d.]+),([\d.]+)", curve.get("d", "")):
                    assert high - 30 <= float(y) <= low + 30
        assert {round(step) for one in plot.curves(panel) for step, _ in one} <= known


def test_a_single_step_is_a_dot(tmp_path: Path) -> None:
    plot = plotted(tmp_path, EDGES["one step"])
    assert plot.dots("loss") == [pytest.approx((1, 4.15), abs=1e-2)]


def test_where_no_average_was_formed_tasks_are_shown(tmp_path: Path) -> None:
    tasks = {f"<{n}>&": n / 9 for n in range(9)}
    evaluation = {**evaluation_line(5, overall=None, ind=None), "tasks": tasks}
    plot = plotted(tmp_path, [evaluation])
    assert "<1>& 11.1" in plot.legend("scores")
    assert "<6>&" not in plot.legend("scores")  # six of them


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.013, 4.7), (2.9, 3.1), (-3, 5), (1e-6, 3e-5), (0.001, 90), (1, 1e9)],
)
def test_ticks_are_round_and_few_and_hold_the_values(
    tmp_path: Path, low: float, high: float
) -> None:
    plot = plotted(tmp_path, [step_line(1, low), step_line(4_321, high)])
    losses, steps = ([value for _, value in places] for places in (plot.ticks("loss"), plot.steps))
    for values in (losses, steps):
        assert 3 <= len(values) <= 10
        assert values == sorted(values)
    for value in [*np.diff(steps), *(losses if plot.logarithmic("loss") else np.diff(losses))]:
        assert f"{value:.3e}"[:5] in ("1.000", "2.000", "5.000")
    if not plot.logarithmic("loss"):
        assert losses[0] <= low <= high <= losses[-1]
    each, _ = plot.curves("loss")
    assert [loss for _, loss in each] == pytest.approx([low, high], rel=1e-2, abs=high * 1e-4)


def test_the_plot_needs_nothing_else_and_knows_dark_paper(tmp_path: Path) -> None:
    source = plotted(tmp_path, EDGES["one step"]).source
    assert "prefers-color-scheme: dark" in source
    for word in ("<script", "href", "url(", "@import", "<image", "<foreignObject"):
        assert word not in source
    assert re.findall(r"https?://[^\"\s]*", source) == ["http://www.w3.org/2000/svg"]


# -- smoothing and thinning -----------------------------------------------------------------------


def test_smoothing_lags_behind_nothing_and_calms_noise() -> None:
    ramp = [Point(step, 5.0 - step / 1000) for step in range(1, 1001)]
    for (_, given), (_, line) in list(zip(ramp, smoothed(ramp)))[200:-200]:
        assert line == pytest.approx(given, abs=1e-4)
    source = random.Random(1)
    noise = [Point(step, source.gauss(3, 1)) for step in range(1, 2001)]
    assert np.std([value for _, value in smoothed(noise)]) < 0.25
    assert smoothed([Point(1, 2.0), Point(2, None)]) == [Point(1, 2.0), Point(2, None)]
    assert smoothed([]) == []


@pytest.mark.parametrize("count", [0, 1, MOST, MOST + 1, 2 * MOST + 7, 12_345])
def test_thinning_keeps_order_ends_and_extremes(count: int) -> None:
    source = random.Random(2)
    points = [Point(step, source.random()) for step in range(1, count + 1)]
    kept = thinned(points)
    assert len(kept) == count if count <= MOST else MOST // 2 <= len(kept) <= MOST
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        for pick in (min, max):
            assert pick(points, key=lambda point: point.value) in kept
