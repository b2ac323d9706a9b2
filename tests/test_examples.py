"""The recipes in examples/, and what the page on training says of the configuration."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
import yaml
from mmeb_harness.loading import load_object
from mmeb_harness.models import resolve_model
from mmeb_harness.pairs import COLUMNS, PairTable
from mmeb_harness.plugins.decoder import Decoder
from mmeb_harness.registry import build_registry
from mmeb_harness.runfolder import read_run
from mmeb_harness.selection import suite_tasks
from mmeb_harness.summary import Interval, wilson
from mmeb_harness.tasks.mini.evaluation import questions
from mmeb_harness.tasks.mini.recipes import recipe_of
from mmeb_harness.trainconfig import checked_config, read_config
from mmeb_harness.trainers.config import ContrastiveConfig
from mmeb_harness.trainers.lora import choose_parameters
from mmeb_harness.trainingdata import load_training_data, training_tasks
from PIL import Image
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from training_parts import load

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml"))
PAPER = [name for name in RECIPES if name.startswith("paper/")]


def read(recipe: str) -> ContrastiveConfig:
    config = checked_config(ContrastiveConfig, read_config(EXAMPLES / recipe))
    assert isinstance(config, ContrastiveConfig)
    return config


# -- every recipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_a_configuration_of_a_known_model_and_known_data(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config, registry = read(recipe), build_registry()
    model = resolve_model(registry, config.model.name, config.model.overrides)
    assert model.card.family in registry.cards
    if config.data.suite is not None:
        tasks = training_tasks(suite_tasks(registry, config.data.suite), config.data.subsets)
        assert len(tasks) == 20
        assert set(config.data.weights) <= {task.name for task in tasks}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_commands_in_a_recipe_name_it(recipe: str) -> None:
    text = (EXAMPLES / recipe).read_text()
    commands = re.findall(r"^#.*(?:mmeb-harness|-m mmeb_harness) train (\S+)", text, re.MULTILINE)
    assert set(commands) <= {f"examples/{recipe}"}
    assert commands or recipe == "own-pairs/train.yaml"
    if recipe in PAPER:
        assert f"torchrun --nproc-per-node 8 -m mmeb_harness train examples/{recipe}" in text


def test_there_are_recipes_and_they_are_small() -> None:
    assert {"digits/train.yaml", "own-pairs/train.yaml"} < set(RECIPES)
    assert len(PAPER) == 6
    files = [path for path in EXAMPLES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 200_000


# -- pairs of one's own ----------------------------------------------------------------------------


def test_one_s_own_pairs_take_five_lines_and_show_every_column(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert len((EXAMPLES / "own-pairs/train.yaml").read_text().splitlines()) == 5
    config = read("own-pairs/train.yaml")
    found, named = load_training_data(config.data, build_registry(), tmp_path, seed=0)
    assert (found.name, named.name) == ("find", "name")
    assert isinstance(found.pairs, PairTable)
    for pair in (*found.pairs, *named.pairs):
        items = [pair.query, pair.positive, pair.negative]
        images = [str(item.image) for item in items if item is not None and item.image is not None]
        assert images
        assert all(Path(image).is_file() for image in images)
    first = found.pairs[0]
    assert first.query.text == "Find the picture that matches: a red circle"
    assert first.query.instruction == "Find the picture that matches:"
    assert first.negative is not None
    page = (EXAMPLES / "own-pairs/README.md").read_text()
    assert [name for name in COLUMNS if f"`{name}`" not in page] == []


# -- the paper's -----------------------------------------------------------------------------------

V1_LIST = [
    "qkv_proj",
    "o_proj",
    "gate_up_proj",
    "down_proj",
    "k_proj",
    "q_proj",
    "out_proj",
    "v_proj",
]
"""VLM2Vec's lora_target_modules, at v1 and at the release of V2."""


def as_peft_finds(module: torch.nn.Module, wanted: list[str]) -> set[str]:
    """Return the linear layers that a list of names means to peft, in the whole model."""
    names = [name for name, one in module.named_modules() if isinstance(one, torch.nn.Linear)]
    return {name for name in names if any(f".{name}".endswith(f".{one}") for one in wanted)}


@pytest.mark.parametrize("recipe", PAPER)
def test_a_recipe_of_the_paper_adapts_what_the_original_s_list_finds(recipe: str) -> None:
    config = read(recipe)
    encoder = load(config.model.name.partition(":")[0])
    wanted = as_peft_finds(encoder.module, V1_LIST)
    chosen = choose_parameters(encoder, config)
    assert set(chosen.adapted) == wanted
    assert config.lora is not None
    assert config.lora.dora
    ranks = {len(one) for name, one in chosen.parameters.items() if "lora_A" in name}
    assert ranks == {16 if "v2" in recipe else 8}
    on_tower = [name for name in wanted if "vision" in name or "visual" in name]
    assert bool(on_tower) == ("qwen" not in config.model.name)


# -- the digits ------------------------------------------------------------------------------------

STEPS = 60
HELD_OUT = "ImageNet-1K"
CHANCE = 0.02


@cache
def make() -> Mapping[str, Any]:
    """Return the names of the script that writes model and pairs."""
    return runpy.run_path(str(EXAMPLES / "digits/make.py"))


def shown(picture: Any) -> int:
    """Return the row of the digit that a picture of `mini` shows."""
    return int(picture.of[0].row)


def test_no_digit_is_both_trained_on_and_held_out() -> None:
    pairs = make()["PAIRS"]
    ours = {shown(pairs.recipe.training_example(number).query.picture) for number in pairs.numbers}
    asked = questions(recipe_of(HELD_OUT))
    held = {shown(one.example.query.picture) for one in asked}
    assert len(ours) > 1000
    assert len(held) > 30
    assert not ours & held


def test_pairs_show_digits_with_their_labels(tmp_path: Path) -> None:
    pairs, write_pairs = make()["PAIRS"], make()["write_pairs"]
    write_pairs.__globals__["PAIRS"] = pairs[:60]
    try:
        assert write_pairs(tmp_path) == 60
    finally:
        write_pairs.__globals__["PAIRS"] = pairs
    rows = [json.loads(line) for line in (tmp_path / "digits.jsonl").read_text().splitlines()]
    dealt = [json.loads(line) for line in (tmp_path / "shuffled.jsonl").read_text().splitlines()]
    for number, (row, other) in enumerate(zip(rows, dealt, strict=True)):
        example = pairs.recipe.training_example(number)
        assert row["pos_text"] == example.target.meaning
        assert {**row, "pos_text": other["pos_text"]} == other
        with Image.open(tmp_path / "images" / row["qry_image_path"]) as written:
            assert np.array_equal(np.asarray(written), np.asarray(example.query.picture()))
    assert rows != dealt


def test_labels_dealt_anew_tell_nothing_of_the_digit() -> None:
    labels = [number % 50 for number in range(3_000) for _ in range(1 + number % 2)]
    dealt = make()["dealt_anew"](labels)
    counts = np.zeros((50, 50), dtype=int)
    np.add.at(counts, (labels, dealt), 1)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert counts.min() > 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The model is too small for more, and threads that wait for a busy machine wait long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def score(folder: Path, step: int) -> tuple[float, Interval]:
    """Return the held-out score after a step, with its interval."""
    task = read_run(folder / f"training/evaluations/step-{step:06d}").tasks[HELD_OUT]
    assert task.score is not None
    return task.score, wilson(task.score, task.n_queries)


@pytest.mark.thorough
@pytest.mark.usefixtures("one_thread")
def test_the_recipe_learns_to_name_digits_and_nothing_from_shuffled_labels(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    make()["write_pairs"](folder)
    make()["write_model"](folder / "model")
    short = [f"run.steps={STEPS}", f"run.checkpoint_every={STEPS}", f"evaluation.every={STEPS}"]
    recipe = EXAMPLES / "digits/train.yaml"
    mh.train(recipe, short)
    control = ["data=digits/shuffled.jsonl", "run.output_dir=digits/control"]
    mh.train(recipe, [*short, *control])
    learnt, interval = score(folder / "trained", STEPS)
    not_learnt, control_interval = score(folder / "control", STEPS)
    assert interval.low > CHANCE + 0.2, learnt
    assert control_interval.low <= CHANCE, not_learnt
    assert control_interval.high < interval.low
    again = mh.evaluate("digits/trained", suite="mini", tasks=HELD_OUT, output_dir="again")
    assert again.tasks[HELD_OUT].score == learnt


# -- what the pages say of the configuration -------------------------------------------------------

PAGE = (ROOT / "docs/training.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]*)`|(needed)) \|", re.MULTILINE)


def documented() -> dict[str, dict[str, str]]:
    """Return the keys and defaults of each section, as the page has them."""
    whole = PAGE.partition("## Every key")[2].partition("\n## ")[0]
    sections = {}
    for part in whole.split("\n### ")[1:]:
        title = part.partition("\n")[0].strip("`")
        sections[title] = {key: given or needed for key, given, needed in ROW.findall(part)}
    return sections


def section(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a section and their defaults; `needed` where there is none."""
    return {
        name: "needed" if one.default is PydanticUndefined else one.default
        for name, one in kind.model_fields.items()
    }


def kind_of(name: str) -> type[BaseModel] | None:
    """Return the model of a section; None for a key that is no section."""
    annotation: Any = ContrastiveConfig.model_fields[name].annotation
    for one in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def test_the_page_has_every_key_with_its_default() -> None:
    found = documented()
    kinds = {name: kind_of(name) for name in ContrastiveConfig.model_fields}
    expected = {name: section(kind) for name, kind in kinds.items() if kind is not None}
    whole = section(ContrastiveConfig)
    expected["Beside the sections"] = {
        name: whole[name] for name, kind in kinds.items() if not kind
    }
    assert found.keys() == expected.keys()
    for name, keys in expected.items():
        assert list(found[name]) == list(keys) or name == "run", name
        assert found[name].keys() == keys.keys(), name
        for key, default in keys.items():
            if default == "needed":
                assert found[name][key] == "needed", f"{name}.{key}"
                continue
            default = list(default) if isinstance(default, tuple) else default
            assert yaml.safe_load(found[name][key]) == default, f"{name}.{key}"


@pytest.mark.parametrize("page", ["README.md", "docs/training.md", "docs/commands.md"])
def test_configurations_on_a_page_are_read(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    usual = {"model": "random", "data": "pairs", "run": {"output_dir": "out", "steps": 1}}
    for block in blocks:
        checked_config(ContrastiveConfig, {**usual, **yaml.safe_load(block)})


def test_the_page_names_every_family_with_what_is_trained() -> None:
    table = PAGE.partition("| families | default targets")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    told = {name: row[1:] for row in rows for name in re.findall(r"`([\w-]+)`", row[0])}
    for name, owned in build_registry().cards.items():
        if owned.thing.base is not None or owned.plugin.distribution != "mmeb-harness":
            continue
        if name == "blip-2-unprojected":  # blip-2 without its heads
            continue
        targets, shard = told.pop(name)
        kind = load_object(owned.thing.factory)
        if not issubclass(kind, mh.TrainableEncoder):
            assert targets == "cannot be trained", name
            continue
        assert ("lora: false" in targets) == (not kind.adapter_targets), name
        trunk = next(one for one in kind.__mro__ if "trunk" in vars(one))
        assert shard.startswith("yes") == (trunk is Decoder), name
    assert not told


def test_the_trainer_of_the_plugin_page_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, install_plugin: Callable[..., Path]
) -> None:
    page = (ROOT / "docs/plugins.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    source = next(one for one in snippets if "register_trainers" in one)
    monkeypatch.syspath_prepend(install_plugin("my-trainer", source))
    given = {
        "trainer": "mine",
        "model": f"clip:{ROOT}/tests/goldens/models/tiny-clip",
        "data": EXAMPLES / "own-pairs/pairs",
        "evaluation": {"every": 1, "tasks": HELD_OUT, "limit": 2},
        "run": {"output_dir": "mine", "device": "cpu"},
        "margin": 0.2,
    }
    assert mh.train(given).output_dir == Path("mine")
    assert read_run(Path("mine/scores")).tasks[HELD_OUT].score is not None
    assert mh.load_encoder("mine", device="cpu").card.family == "clip"
    with pytest.raises(mh.HarnessError, match="margin"):
        mh.train({**given, "margins": 0.2})
