"""What a training is told: every wrong word is one clear line before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
import yaml
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import DataMissing, EnvironmentFault, HarnessError, UsageError
from mmeb_harness.trainconfig import checked_config, read_config, with_changes
from mmeb_harness.trainers.config import ContrastiveConfig
from toy_training import PLUGIN, Toy

RUN = {"output_dir": "out", "steps": 1, "device": "cpu"}


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install_plugin: Callable[..., Path]
) -> Callable[..., str]:
    """Return `(config, changes) -> message` of a training that does not begin."""
    monkeypatch.syspath_prepend(install_plugin("toy-encoder", PLUGIN))
    (tmp_path / "pairs").mkdir()
    rows = [{"qry": f"question {row}", "pos_text": f"answer {row}"} for row in range(9)]
    (tmp_path / "pairs/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def no_weights(_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(Toy, "module", property(no_weights))

    def train(given: Any, changes: Any = (), error: type[HarnessError] = UsageError) -> str:
        with pytest.raises(HarnessError) as told:
            mh.train(given, changes)
        assert isinstance(told.value, error), repr(told.value)
        message = str(told.value)
        assert "\n" not in message
        assert "Input should be a valid dictionary" not in message
        assert not (tmp_path / "out").exists()
        return message

    return train


def given(**sections: Any) -> dict[str, Any]:
    usual = {"model": "toy:new", "data": "pairs", "batch": {"size": 3}, "lora": False, "run": RUN}
    return {**usual, **sections}


WRONG: list[tuple[Mapping[str, Any], str]] = [
    ({"optimiser": {"lr": 1}}, "unknown section 'optimiser'; did you mean 'optimizer'?"),
    ({"optimizer": {"learning_rate": 1, "lrr": 1}}, "unknown key in section optimizer"),
    ({"optimizer": {"lrr": 1}}, "unknown key in section optimizer 'lrr'; did you mean 'lr'?"),
    ({"batch": {"size": 4, "chunk_token": 1}}, "'chunk_token'; did you mean 'chunk_tokens'?"),
    ({"lora": {"targts": []}}, "unknown key in section lora 'targts'; did you mean 'targets'?"),
    ({"run": {**RUN, "output": 1}}, "unknown key in section run 'output'; did you mean 'output_di"),
    ({"evaluation": {"evry": 1}}, "unknown key in section evaluation 'evry'; did you mean 'every'"),
    ({"optimizer": {"lr": "fast"}}, "optimizer.lr: Input should be a valid number"),
    ({"optimizer": {"lr": [1]}}, "optimizer.lr: Input should be a valid number"),
    ({"optimizer": {"lr": float("inf")}}, "optimizer.lr: Input should be a finite number"),
    ({"optimizer": {"lr": 0}}, "optimizer.lr: Input should be greater than 0"),
    ({"optimizer": {"betas": [0.9]}}, "optimizer.betas"),
    ({"optimizer": {"betas": [0.9, 1.5]}}, "optimizer.betas.1: Input should be less than 1"),
    ({"optimizer": {"momentum": 0.9}}, "optimizer: momentum is for name: sgd"),
    ({"optimizer": {"name": "adam"}}, "optimizer.name: Input should be 'adamw' or 'sgd'"),
    ({"batch": {"size": 3.5}}, "batch.size: Input should be a valid integer"),
    ({"batch": {"size": 1}}, "batch.size: a batch of one pair has no negatives"),
    ({"batch": {"size": 10}}, "batch.size 10 is more than the 9 pairs there are"),
    ({"batch": {"size": 4, "sub_batch": 2}}, "batch: sub_batch is for composition homogeneous or"),
    (
        {"batch": {"size": 4, "sub_batch": 8, "composition": "homogeneous"}},
        "batch: sub_batch 8 exceeds size 4",
    ),
    (
        {"batch": {"size": 4, "composition": "random"}},
        "batch.composition: Input should be 'mixed', 'homogeneous' or 'round_robin'",
    ),
    ({"batch": {"chunk_items": 1, "chunk_tokens": 5}}, "batch: give chunk_tokens or chunk_items"),
    ({"batch": "big"}, "batch: it is a section: give its keys"),
    ({"batch": [1, 2]}, "batch: it is a section: give its keys"),
    ({"loss": {"temperature": 0}}, "loss.temperature: Input should be greater than 0"),
    ({"loss": {"dimensions": [8, 0]}}, "loss.dimensions.1: Input should be greater than 0"),
    ({"lora": {"targets": 3}}, "lora.targets: give a list"),
    ({"lora": {}, "freeze": ["hidden"]}, "train and freeze choose weights, where lora: false"),
    ({"optimizer": {"warmup": 99}}, "optimizer.warmup 99 is longer than run.steps"),
    ({"run": {**RUN, "steps": None}}, "run: give steps or epochs, one of them (null takes"),
    ({"lora": {"go_on": True, "rank": 3}}, "lora: go_on trains the adapter as it is; rank cannot"),
    ({"lora": {"dropout": 1.0}}, "lora.dropout: Input should be less than 1"),
    ({"run": {"steps": 1}}, "the configuration lacks run.output_dir"),
    ({"run": {"output_dir": "out"}}, "run: give steps or epochs, one of them"),
    ({"run": {**RUN, "epochs": 2}}, "run: give steps or epochs, one of them"),
    (
        {"run": {"output_dir": "out", "epochs": float("inf")}},
        "run.epochs: Input should be a finite",
    ),
    ({"run": {**RUN, "output_dir": None}}, "run.output_dir: give a path"),
    (
        {"run": {**RUN, "precision": "fp16"}},
        "run.precision: Input should be 'float32' or 'bfloat16",
    ),
    ({"run": {**RUN, "trackers": 3}}, "run.trackers: give a list"),
    (
        {"run": {**RUN, "trackers": ["wandbb"]}},
        "unknown run.trackers 'wandbb'; did you mean 'wandb'",
    ),
    ({"run": None}, "run: it is a section: give its keys"),
    ({"train": 3}, "train: give a list"),
    ({"model": 7}, "model: it is a section: give its keys"),
    ({"model": None}, "model: it is a section: give its keys"),
    ({"model": {"max_length": 5}}, "the configuration lacks model.name"),
    ({"model": "tooy:new"}, "unknown model 'tooy:new'"),
    ({"model": "toy:"}, "toy: needs a reference"),
    ({"model": {"name": "toy:new", "max_lenth": 5}}, "'max_lenth'; did you mean 'max_length'?"),
    ({"model": {"name": "toy:new", "max_length": "long"}}, "max_length=long: Input should be a va"),
    ({"model": "random"}, "random cannot be trained: its encoder has no module and save (level 3"),
    ({"model": "./pairs"}, "is a folder without a card; name its family"),
    ({"data": ["pairs"]}, "data: it is a section: give its keys"),
    ({"data": {"cap": 3}}, "data: name a folder of pairs (dir) or a suite"),
    ({"data": {"dir": "pairs", "cap": 0}}, "data.cap: Input should be greater than or equal to 1"),
    ({"data": {"dir": "pairs", "subsets": 5}}, "data.subsets: Input should be a valid string"),
    ({"data": {"dir": "pairs", "subsets": ["b"]}}, "unknown subset 'b'; known: a"),
    (
        {"data": {"dir": "pairs", "weights": {"a": "x"}}},
        "data.weights.a: Input should be a valid nu",
    ),
    ({"data": {"suite": "mmebb"}}, "unknown suite 'mmebb'; did you mean 'mmeb'?"),
    (
        {"data": {"dir": "pairs", "missing_images": "ignore"}},
        "data.missing_images: Input should be ",
    ),
    ({"evaluation": {"suite": "mini"}}, "the configuration lacks evaluation.every"),
    ({"evaluation": {"every": 0}}, "evaluation.every: Input should be greater than or equal to 1"),
    ({"evaluation": {"every": 1, "tasks": "GQAA"}}, "unknown task 'GQAA'; did you mean 'GQA'?"),
    ({"evaluation": {"every": 1, "suite": "minni"}}, "unknown suite 'minni'; did you mean 'mini'?"),
    ({"trainer": "contrastiv"}, "unknown trainer 'contrastiv'; did you mean 'contrastive'?"),
    ({"trainer": ["contrastive"]}, "unknown trainer"),
    ({1: 2}, "1: Keys should be strings"),  # type: ignore[dict-item]
]


@pytest.mark.parametrize(("sections", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_is_wrong_is_named(
    refused: Callable[..., str], sections: Mapping[Any, Any], told: str
) -> None:
    assert told in refused({**given(), **sections})


@pytest.mark.parametrize("section", ["model", "data", "run"])
def test_what_is_missing_is_named(refused: Callable[..., str], section: str) -> None:
    lacking = {name: one for name, one in given().items() if name != section}
    assert refused(lacking) == f"the configuration lacks {section}"


ABSENT: list[tuple[Mapping[str, Any], type[HarnessError], str]] = [
    ({"data": "nowhere"}, DataMissing, "there is no file or folder nowhere with pairs (data.dir)"),
    (
        {"data": {"suite": "mmeb", "subsets": ["OK-VQA"]}},
        DataMissing,
        "data fetch --training -t OK",
    ),
    ({"evaluation": {"every": 1, "suite": "mmeb"}}, DataMissing, "mmeb-harness data fetch"),
    ({"model": "clip:nobody/nothing"}, EnvironmentFault, "the Hub cannot be reached"),
    ({"model": "openai:http://127.0.0.1:1"}, EnvironmentFault, "127.0.0.1:1"),
]


@pytest.mark.parametrize(("sections", "error", "told"), ABSENT, ids=[told for *_, told in ABSENT])
def test_what_is_not_there_is_a_fault_of_the_surroundings(
    refused: Callable[..., str],
    sections: Mapping[str, Any],
    error: type[HarnessError],
    told: str,
) -> None:
    assert told in refused(given(**sections), error=error)
    assert error.exit_status == 3


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"lora": {"targets": ["nothing_like_it"]}},
            "lora.targets: 'nothing_like_it' matches noth",
        ),
        ({"lora": {"targets": ["q_(proj"]}}, "lora.targets: 'q_(proj' is no regular expression"),
        ({"lora": {"exclude": ["nothing"]}}, "lora.exclude: 'nothing' matches nothing"),
        ({"lora": {"targets": ["q_proj"], "exclude": ["q_proj"]}}, "leave no module to adapt"),
        ({"lora": {"go_on": True}}, "lora.go_on: the model has no adapter to go on with"),
        ({"lora": False, "train": ["nothing"]}, "train: 'nothing' matches nothing; names end in: "),
        ({"lora": False, "freeze": [".*"]}, "train and freeze leave no weight to be trained"),
        ({"loss": {"dimensions": [33]}}, "loss.dimensions: the model's vectors have 32 numbers"),
    ],
)
def test_what_does_not_fit_the_model_is_named(
    tmp_path: Path, goldens: Path, sections: dict[str, Any], told: str
) -> None:
    (tmp_path / "a.csv").write_text("qry,pos_text\na,b\nc,d\n")
    with pytest.raises(UsageError) as error:
        mh.train({"model": f"clip:{goldens}/models/tiny-clip", "data": "a.csv",
                  "batch": {"size": 2}, "run": RUN, **sections})  # fmt: skip
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# -- YAML ------------------------------------------------------------------------------------------

NO_YAML: list[tuple[bytes, str]] = [
    (b"", "mine.yaml holds no sections; it needs at least model and data"),
    (b"# nothing\n", "mine.yaml holds no sections"),
    (b"- model\n- data\n", "mine.yaml holds no sections"),
    (b"model\n", "mine.yaml holds no sections"),
    (b"model: x\n\tdata: y\n", "mine.yaml, line 2 is no YAML: found character '\\t'"),
    (b"model: [x\n", "mine.yaml, line 2 is no YAML: expected ',' or ']'"),
    (b"model: clip: x\n", "mine.yaml, line 1 is no YAML: mapping values are not allowed here"),
    (b"model: x\n---\nmodel: y\n", "mine.yaml, line 2 is no YAML: but found another document"),
    (b"model: caf\xe9\n", "mine.yaml is no YAML: 'utf-8' codec can't decode"),
    (b"\0\0\0", "mine.yaml is no YAML: unacceptable character"),
    (b"run:\n  steps: 2020-13-45\n", "mine.yaml is no YAML: month must be in 1..12"),
    (b"model: !!python/object:os.system x\n", "line 1 is no YAML: could not determine a construct"),
    (b"[model]: x\n", "mine.yaml, line 1 is no YAML: found unhashable key"),
    (b"model: &a {name: *a}\n", "mine.yaml is no YAML: maximum recursion depth"),
    (b"model: x\ndata: y\nmodel: z\n", "mine.yaml, line 3: key 'model' is there twice"),
    (b"run:\n  steps: 1\n  seed: 2\n  steps: 3\n", "mine.yaml, line 4: key 'steps' is there twice"),
    (b"data:\n  weights: {a: 1, b: 1, a: 2}\n", "mine.yaml, line 2: key 'a' is there twice"),
]


@pytest.mark.parametrize(("text", "told"), NO_YAML, ids=[told for _, told in NO_YAML])
def test_a_file_that_is_no_configuration_is_told_with_its_line(
    tmp_path: Path, refused: Callable[..., str], text: bytes, told: str
) -> None:
    (tmp_path / "mine.yaml").write_bytes(text)
    assert told in refused("mine.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused("nothing.yaml") == "nothing.yaml cannot be read: No such file or directory"
    assert refused(tmp_path) == f"{tmp_path} cannot be read: Is a directory"


def test_files_are_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "mine.yaml").write_bytes(mark + "model: café\ndata: ü\n".encode())
        assert read_config(tmp_path / "mine.yaml") == {"model": "café", "data": "ü"}


def test_a_key_may_stand_in_several_sections_and_be_referred_to(tmp_path: Path) -> None:
    text = "a: &all {seed: 1, steps: 2}\nb: {seed: 3}\nc: [*all, *all]\nd: {<<: *all, seed: 4}\n"
    (tmp_path / "mine.yaml").write_text(text)
    both = {"seed": 1, "steps": 2}
    expected = {"a": both, "b": {"seed": 3}, "c": [both, both], "d": {"seed": 4, "steps": 2}}
    assert read_config(tmp_path / "mine.yaml") == expected


def test_the_command_gives_the_same_lines_and_statuses(
    tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given()))
    for changes, status in (
        (["optimizer.lrr=1"], 2),
        (["model=random"], 2),
        (["optimizer.lr"], 2),
        (["data=nowhere"], 3),
        (["batch.size=1"], 2),
    ):
        error = refused("mine.yaml", changes, HarnessError)
        assert _run(["train", "mine.yaml", *changes, "--json"]) == status
        told = capsys.readouterr()
        assert json.loads(told.out)["error"] == error
        assert f"error: {error}\n" in told.err


# -- what may be written ---------------------------------------------------------------------------


def config(*changes: str, **sections: Any) -> ContrastiveConfig:
    checked = checked_config(ContrastiveConfig, with_changes(given(**sections), changes))
    assert isinstance(checked, ContrastiveConfig)
    return checked


def test_sections_in_one_word_and_blank_ones_have_their_defaults(tmp_path: Path) -> None:
    text = (
        "model: toy:new\ndata: pairs\nbatch:\nloss:\nlora:\noptimizer:\nrun:\n  output_dir: out\n"
    )
    (tmp_path / "mine.yaml").write_text(f"{text}  epochs: 1\n")
    found = checked_config(ContrastiveConfig, read_config(tmp_path / "mine.yaml"))
    assert isinstance(found, ContrastiveConfig)
    short = {"model": "toy:new", "data": "pairs", "run": {"output_dir": "out", "epochs": 1}}
    assert found == checked_config(ContrastiveConfig, short)
    assert found.model.name == "toy:new"
    assert found.data.dir == Path("pairs")
    assert found.lora is not None
    assert found.lora.rank == 16
    assert found.batch.size == 64
    assert found.trainer == "contrastive"
    assert found.evaluation is None


@pytest.mark.parametrize(("word", "rank"), [(True, 16), (None, 16), ({}, 16), (False, None)])
def test_the_adapter_can_be_switched(word: Any, rank: int | None) -> None:
    found = config(lora=word).lora
    assert (None if found is None else found.rank) == rank


def test_changes_are_yaml_at_any_depth() -> None:
    found = config(
        "optimizer.lr=1e-4",
        "optimizer.betas=[0.8, 0.95]",
        "optimizer.clip=null",
        "lora=true",
        "lora.rank=4",
        "lora.targets=[q_proj, 'v_.*']",
        "data.cap=100",
        "data.weights.a=2",
        "data.subsets=[a, b]",
        "model.max_length=7",
        "evaluation.every=3",
        "run.output_dir=a=b",
        "batch.size=5  # as a comment",
        "lora.exclude=vision",
    )
    assert found.optimizer.lr == 1e-4
    assert found.optimizer.betas == (0.8, 0.95)
    assert found.optimizer.clip is None
    assert found.lora is not None
    assert (found.lora.rank, found.lora.targets) == (4, ("q_proj", "v_.*"))
    assert (found.data.dir, found.data.cap) == (Path("pairs"), 100)
    assert (found.data.weights, found.data.subsets) == ({"a": 2.0}, ("a", "b"))
    assert (found.model.name, found.model.overrides) == ("toy:new", {"max_length": 7})
    assert found.evaluation is not None
    assert found.evaluation.suite == "mini"
    assert found.run.output_dir == Path("a=b")
    assert (found.batch.size, found.lora.exclude) == (5, ("vision",))


def test_changes_leave_what_they_were_made_from_alone() -> None:
    before = given(data={"dir": "pairs", "weights": {"a": 1}})
    with_changes(before, ["data.weights.a=2", "batch.size=9", "run.seed=1"])
    assert before == given(data={"dir": "pairs", "weights": {"a": 1}})
    assert RUN == {"output_dir": "out", "steps": 1, "device": "cpu"}


def test_the_last_change_counts() -> None:
    assert config("batch.size=4", "batch={size: 5}", "batch.accumulate=2").batch.size == 5
    assert config("lora.rank=4", "lora=false", lora={}).lora is None


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("optimizer.lr", "'optimizer.lr': write a change as section.key=value"),
        ("optimizer..lr=1", "write a change as section.key=value"),
        ("=1", "write a change as section.key=value"),
        ("optimizer.lr=[1", "'[1' is no YAML value"),
        ("run.steps=2020-13-45", "'2020-13-45' is no YAML value"),
        ("model.name.x=3", "name is 'toy:new', which has no keys"),
        ("lora.rank=3", "lora is False, which has no keys"),
        ("lr=1", "lr is a key of section optimizer: optimizer.lr"),
        ("batch.size=null", "batch.size: Input should be a valid integer"),
        ("run.output_dir=", "run.output_dir: give a path"),
    ],
)
def test_a_change_that_is_none_is_named(word: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        config(word)
    assert told in str(error.value)


def test_the_user_s_folder_is_meant_by_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = config("run.output_dir=~/out", "data.dir=~/pairs", "data.image_dir=~/images")
    assert found.run.output_dir == tmp_path / "out"
    assert (found.data.dir, found.data.image_dir) == (tmp_path / "pairs", tmp_path / "images")
    (tmp_path / "mine.yaml").write_text("model: x\n")
    assert read_config(Path("~/mine.yaml")) == {"model": "x"}
