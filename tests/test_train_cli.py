"""`train`, `list trainers` and `show TRAINER`, with a trainer from a stranger's distribution."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import yaml
from mmeb_harness.cli import training_console
from mmeb_harness.cli.console import Console
from mmeb_harness.cli.main import _run
from mmeb_harness.cli.training_console import Pace, scores_line, training_progress
from mmeb_harness.trainconfig import checked_config, read_config
from mmeb_harness.trainers.config import ContrastiveConfig
from rich.console import Console as RichConsole

TOY = '''
import math, time

import mmeb_harness as mh
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.trainconfig import Section, TrainConfig
from pydantic import Field

@mh.hookimpl
def register_trainers(register):
    register(mh.Trainer(name="toy", config="toy_trainer:Config", factory="toy_trainer:train",
                        summary="Pretends to train."))

@mh.hookimpl
def register_encoders(register):
    register(mh.Card(name="toy-model", base="toy", factory="toy_trainer:Model"))

class Model(mh.TrainableEncoder):
    def __init__(self, card): self.card = card
    def render(self, item): raise NotImplementedError
    def size(self, rendered): raise NotImplementedError
    def prepare(self, rendered): raise NotImplementedError
    def forward(self, batch): raise NotImplementedError
    @property
    def module(self): raise NotImplementedError
    def save(self, folder, state=None): raise NotImplementedError

class Inner(Section):
    """A section within a section."""

    depth: int = 1

class ToySection(Section):
    """How long it pretends.

    And in which way.
    """

    steps: int = Field(3, ge=1, description="how many")
    seconds: float = Field(0.0, ge=0)
    fails: str | None = None
    callback: type | None = None
    inner: Inner = Inner(depth=7)

class Config(TrainConfig):
    toy: ToySection = ToySection(steps=4)

def train(config, data, progress):
    toy, folder = config.toy, config.run.output_dir
    print("a plugin that prints")
    if toy.fails == "disk":
        raise EnvironmentFault("the disk is full")
    if toy.fails == "numbers":
        raise mh.HarnessError("step 2: the loss is not finite")
    progress.started(toy.steps, 0, {"adapted_modules": 1960, "pairs": {"own": len(data[0].pairs)}})
    for step in range(1, toy.steps + 1):
        time.sleep(toy.seconds)
        progress.stepped(step, {"loss": 1 / step, "lr": 2e-5, "pairs": 64, "seconds": 0.5,
                                "skipped": 1})
    progress.saved(toy.steps, folder / "step-4")
    progress.warned("something [odd]")
    loss = math.nan if toy.fails == "nan" else 0.25
    return mh.Trained(output_dir=folder, steps=toy.steps, loss=loss,
                      scores={"overall": None, "ind": 0.5, "GQA": 0.25})
'''

CONFIG = """
trainer: toy
model: toy-model
data: pairs
run:
  output_dir: runs/my first
"""

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, install_plugin: Callable[..., Path]
) -> Iterator[Path]:
    """Return a folder on the import path with the toy's distribution, a configuration beside it."""
    folder = install_plugin("toy-trainer", TOY)
    monkeypatch.syspath_prepend(folder)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    (tmp_path / "pairs").mkdir()
    rows = [{"qry": f"question {row}", "pos_text": f"answer {row}"} for row in range(12)]
    (tmp_path / "pairs/own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield folder
    sys.modules.pop("toy_trainer", None)


@pytest.fixture
def command(site: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `(*arguments) -> (exit status, stdout, stderr)`, run in this process."""

    def run(*arguments: str) -> Outcome:
        status = _run([*arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


# -- what is printed ------------------------------------------------------------------------------


def test_a_training_tells_how_it_goes_what_came_of_it_and_how_to_score_it(
    command: Command,
) -> None:
    status, out, err = command("train", "mine.yaml")
    assert status == 0
    assert out.splitlines() == [
        "a plugin that prints",
        "steps     4",
        "loss      0.25",
        "scores    IND 50.0",
        "model     runs/my first",
        "score it  mmeb-harness run -m 'runs/my first'  (suite mmeb; or --suite mini)",
    ]
    assert err.splitlines() == [
        "loading data and model",
        "training for 4 steps; adapted modules 1,960; pairs own 12",
        "step 1 of 4  loss 1.000  lr 2e-05  128 pairs/s  1 skipped  2 s left",
        "step 4 of 4  loss 0.5208  lr 2e-05  128 pairs/s  4 skipped",
        "step 4  checkpoint runs/my first/step-4",
        "warning: something [odd]",
    ]


def test_words_behind_the_file_change_it(command: Command) -> None:
    _, out, err = command("train", "mine.yaml", "toy.steps=2", "run.output_dir=elsewhere")
    assert "steps     2" in out
    assert "mmeb-harness run -m elsewhere" in out
    assert "training for 2 steps" in err


def test_json_is_one_object_with_the_contracts_keys(command: Command) -> None:
    status, out, err = command("train", "mine.yaml", "--json")
    assert status == 0
    assert json.loads(out) == {
        "output_dir": "runs/my first",
        "steps": 4,
        "loss": 0.25,
        "scores": {"overall": None, "ind": 0.5, "GQA": 0.25},
    }
    assert err == "a plugin that prints\n"
    _, out, _ = command("train", "mine.yaml", "toy.fails=nan", "--json")
    assert json.loads(out)["loss"] is None
    assert "NaN" not in out


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["mine.yaml", "toy.stepps=2"], 2, "did you mean 'steps'"),
        (["mine.yaml", "toy.steps=0"], 2, "toy.steps: Input should be greater than"),
        (["mine.yaml", "toy"], 2, "section.key=value"),
        (["mine.yaml", "trainer=tooy"], 2, "did you mean 'toy'"),
        (["mine.yaml", "model=toy-modl"], 2, "did you mean 'toy-model'"),
        (["mine.yaml", "model=random"], 2, "cannot be trained"),
        (["mine.yml"], 2, "mine.yml cannot be read"),
        ([], 2, "CONFIG"),
        (["mine.yaml", "data=nowhere"], 3, "nowhere"),
        (["mine.yaml", "toy.fails=disk"], 3, "the disk is full"),
        (["mine.yaml", "toy.fails=numbers"], 1, "step 2: the loss is not finite"),
    ],
)
def test_what_goes_wrong_is_one_clear_line_and_trains_keys_in_json(
    command: Command, arguments: list[str], status: int, told: str
) -> None:
    found, out, err = command("train", *arguments, "--json")
    assert found == status
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in err
    error = lines[0].removeprefix("error: ")
    nothing = {"output_dir": None, "steps": None, "loss": None, "scores": {}}
    assert json.loads(out) == {**nothing, "error": error}


def test_the_keys_of_runs_object_are_as_they_were(command: Command) -> None:
    _, out, _ = command("run", "-m", "randm", "--json")
    keys = {"model", "suite", "overall", "ind", "ood", "output_dir", "meta_tasks", "tasks", "error"}
    assert json.loads(out).keys() == keys


# -- several processes, and an end from outside ---------------------------------------------------


def test_of_several_processes_the_first_one_speaks(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "1")
    for options in ([], ["--json"]):
        status, out, err = command("train", "mine.yaml", *options)
        assert (status, (out + err).replace("a plugin that prints\n", "")) == (0, "")
        status, out, err = command("train", "mine.yaml", "toy.stepps=2", *options)
        assert (status, out, err) == (2, "", "")  # which the first one says as well
        status, out, err = command("train", "mine.yaml", "toy.fails=disk", *options)
        assert status == 3
        assert "error: process 9: the disk is full" in err
        assert "{" not in out
    monkeypatch.setenv("LOCAL_RANK", "0")  # of another machine, which may lack the file
    assert command("train", "gone.yaml")[2].startswith("error: process 9: gone.yaml cannot be read")
    monkeypatch.setenv("RANK", "0")
    assert "score it" in command("train", "mine.yaml")[1]


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_that_the_same_command_goes_on(
    site: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ["train", "mine.yaml", "toy.seconds=0.05", "toy.steps=10000", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmeb_harness", *arguments[:-1]],
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # where pytest was started in the background, interrupts are ignored by inheritance
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1 of"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "error: stopped; the same command goes on from the newest checkpoint\n"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        (["torch.distributed.run", "--nproc-per-node", "2"], 2),
        (["accelerate.commands.launch", "--cpu", "--num_processes", "1"], 1),
    ],
)
def test_launched_it_prints_one_object(site: Path, launcher: list[str], processes: int) -> None:
    arguments = [*launcher, "-m", "mmeb_harness", "train", "mine.yaml", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4
    assert done.stderr.count("a plugin that prints") == processes


# -- progress -------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_averages_the_loss_and_foretells_the_end() -> None:
    clock = Clock()
    pace = Pace(1000, 400, clock)
    clock.now += 30  # the first step warms up
    pace.stepped(401, {"loss": 4.0, "lr": 1e-5, "pairs": 60, "seconds": 30.0})
    assert pace.left() == 599 * 30
    for step in range(402, 501):
        clock.now += 2  # an evaluation, say, takes the other second
        pace.stepped(step, {"loss": 2.0, "lr": 1e-5, "pairs": 60, "seconds": 1.0, "skipped": 2})
    assert pace.left() == pytest.approx(500 * 2)
    assert pace.loss == pytest.approx(2.0, abs=0.05)
    assert pace.words({"lr": 1.25e-5}).endswith("198 skipped  17 min left")
    before = pace.loss
    pace.stepped(501, {"loss": float("nan")})
    pace.stepped(502, {})
    assert pace.loss == before
    assert Pace(3, 0, clock).words({}) == "loss -  0 s left"


def on_paper(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """Return a console that writes into a string, wide enough for a bar."""
    paper, console = io.StringIO(), Console()
    console.errors = RichConsole(
        file=paper, force_terminal=terminal, width=110, soft_wrap=True, color_system=None
    )
    return console, paper


def pretend(progress: mh.TrainingProgress, run: mh.Run) -> None:
    progress.started(100, 10, {"trained": "4 of 2,209 parameters", "processes": 2})
    for step in (11, 12, 13):
        progress.stepped(step, {"loss": 3.0, "lr": 2e-5, "pairs": 8, "seconds": 0.5})
    progress.saved(13, Path("runs/mine/step-13"))
    progress.evaluated(13, run)
    progress.warned("[odd]")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> mh.Run:
    """Return a run of one of the embedded tasks, so that no average is known."""
    return mh.evaluate(
        "random", suite="mini", tasks="GQA", output_dir=tmp_path_factory.mktemp("run")
    )


def test_on_a_terminal_there_is_a_bar_and_lines_above_it(scored: mh.Run) -> None:
    console, paper = on_paper(terminal=True)
    with training_progress(console) as progress:
        pretend(progress, scored)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", paper.getvalue())
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown)]
    assert "training for 100 steps, going on after step 10" in lines
    assert "trained    4 of 2,209 parameters" in lines
    assert "processes  2" in lines
    assert "step 13  checkpoint runs/mine/step-13" in lines
    score = scored.tasks["GQA"].score
    assert score is not None
    assert f"step 13  evaluation  GQA {100 * score:.1f}" in lines
    assert "warning: [odd]" in lines
    bars = [line for line in lines if re.match(r"step \S+ +13/100 loss 3.000  lr 2e-05", line)]
    assert bars
    assert "16 pairs/s" in bars[-1]


def test_elsewhere_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, scored: mh.Run
) -> None:
    for seconds, steps in ((1000.0, [11]), (0.0, [11, 12, 13])):
        monkeypatch.setattr(training_console, "PLAIN_SECONDS", seconds)
        console, paper = on_paper(terminal=False)
        with training_progress(console) as progress:
            pretend(progress, scored)
        lines = paper.getvalue().splitlines()
        assert "\x1b" not in paper.getvalue()
        assert lines[0] == (
            "training for 100 steps, going on after step 10; trained 4 of 2,209 parameters; "
            "processes 2"
        )
        told = [line for line in lines if "loss" in line]
        assert [int(re.findall(r"step (\d+) of 100", line)[0]) for line in told] == steps
        assert len(lines) == 1 + len(steps) + 3


def test_scores_are_told_by_average_or_else_by_task() -> None:
    assert scores_line({"overall": 0.1234, "ood": None, "ind": 0.5, "GQA": 1.0}) == (
        "overall 12.3  IND 50.0"
    )
    tasks = {f"task{number}": number / 10 for number in range(8)}
    assert scores_line({"overall": None, **tasks}).startswith("task0 0.0  task1 10.0")
    assert scores_line(tasks).endswith("task5 50.0  and 2 more")
    assert scores_line({"overall": None}) == ""


# -- what can be learnt from the command line -----------------------------------------------------


def test_trainers_are_listed(command: Command) -> None:
    _, out, _ = command("list", "trainers")
    assert re.search(r"^contrastive +mmeb-harness +\S", out, re.MULTILINE)
    assert re.search(r"^toy +toy-trainer +Pretends to train\.", out, re.MULTILINE)
    _, out, _ = command("list", "trainers", "--json")
    assert {"trainer": "toy", "from": "toy-trainer", "summary": "Pretends to train."} in json.loads(
        out
    )["trainers"]


def needed(page: str) -> list[str]:
    return re.findall(r"^ *(\w+): +# needed", page, re.MULTILINE)


def test_show_prints_a_configuration_to_start_from(command: Command) -> None:
    status, page, _ = command("show", "contrastive")
    assert status == 0
    assert needed(page) == ["name", "output_dir"]
    shown = yaml.safe_load(page)
    for given in (shown, {"model": {}, "data": {}, "run": {}}):
        given["model"]["name"] = "clip:x"
        given["data"]["dir"] = "pairs"
        given["run"] |= {"output_dir": "out", "epochs": 1}
    plain = {"model": "clip:x", "data": "pairs", "run": {"output_dir": "out", "epochs": 1}}
    config = checked_config(ContrastiveConfig, shown)
    assert config.model_dump() == checked_config(ContrastiveConfig, plain).model_dump()
    # every key is there, and every section says what it is for
    assert shown.keys() == ContrastiveConfig.model_fields.keys() - {"evaluation"}
    for name in ContrastiveConfig.model_fields:
        section = type(getattr(config, name))
        if hasattr(section, "model_fields"):
            assert shown[name].keys() == section.model_fields.keys()
            assert (section.__doc__ or "").split("\n")[0] in page
    assert "# evaluation:\n#   every:" in page
    assert re.search(r"size: 64 +# a whole number, at least 1", page)
    assert re.search(r"composition: mixed +# mixed, homogeneous or round_robin", page)
    assert re.search(r"lr: 2.0e-05 +# a number, above 0", page)
    assert max(map(len, page.splitlines())) <= 100


def test_show_knows_the_trainer_of_a_stranger(command: Command) -> None:
    _, page, _ = command("show", "toy")
    assert page.startswith("# Trainer toy, from toy-trainer 1.5: Pretends to train.\n")
    shown = yaml.safe_load(page)
    assert shown["trainer"] == "toy"
    assert shown["toy"] == {
        "steps": 4, "seconds": 0.0, "fails": None, "callback": None, "inner": {"depth": 7},
    }  # fmt: skip
    assert "# How long it pretends.\n# And in which way.\ntoy:" in page
    assert "  # A section within a section.\n  inner:" in page
    assert re.search(r"steps: 4 +# a whole number, at least 1; how many", page)
    _, out, _ = command("show", "toy", "--json")
    facts = json.loads(out)
    assert facts["plugin"] == "toy-trainer 1.5"
    assert facts["config"]["properties"]["toy"]["default"]["steps"] == 4


def test_show_names_the_nearest_trainer(command: Command) -> None:
    status, _, err = command("show", "contrastve")
    assert status == 2
    assert "did you mean 'contrastive'" in err


def five_lines(text: str) -> str:
    found = re.search(r"( *model: .*\n *data: .*\n *run:\n *output_dir: .*\n *epochs: .*\n)", text)
    assert found is not None
    return found[1]


def test_the_shortest_configuration_of_help_and_documentation_is_one(
    command: Command, tmp_path: Path
) -> None:
    _, out, _ = command("train", "--help")
    page = (Path(__file__).parent.parent / "docs/commands.md").read_text()
    for text in (out, page):
        (tmp_path / "short.yaml").write_text(five_lines(text))
        config = checked_config(ContrastiveConfig, read_config(tmp_path / "short.yaml"))
        assert config.model.name == "qwen2-vl:Qwen/Qwen2-VL-2B-Instruct"
        assert config.data.dir == Path("my-pairs")
        for told in ("run -m", "show contrastive", "optimizer.lr=1e-4", "log", "curve"):
            assert told in " ".join(text.split())
        for launcher in ("accelerate launch -m mmeb_harness", "torchrun --nproc-per-node 8 -m"):
            assert launcher in text


@pytest.mark.parametrize(
    "arguments", [["train", "--help"], ["list", "trainers"], ["show", "contrastive"]]
)
def test_learning_about_trainers_does_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from mmeb_harness.cli.main import _run; "
        f"status = _run({arguments!r}); "
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'pyarrow', 'numpy', 'PIL'}; "
        "heavy &= set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_python_trains_as_the_command_does(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Any] = []

    class Ears(mh.TrainingProgress):
        def stepped(self, step: int, record: Any) -> None:
            heard.append(step)

    trained = mh.train("mine.yaml", ["toy.steps=2"], progress=Ears())
    assert trained.output_dir == Path("runs/my first")
    assert heard == [1, 2]
    assert mh.train(yaml.safe_load(CONFIG)).steps == 4
    assert "step" not in "".join(capsys.readouterr())
