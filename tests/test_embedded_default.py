"""What ships as the default, `mini-vlm` on `mini`: a stock checkpoint, small, with its story."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
from importlib.resources import as_file, files
from pathlib import Path
from statistics import fmean
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from mmeb_harness.api import Request, prepare_job
from mmeb_harness.cli.main import _run
from mmeb_harness.item import PLACEHOLDER
from mmeb_harness.registry import build_registry
from mmeb_harness.runfolder import read_run
from mmeb_harness.task import DataLocation
from mmeb_harness.tasks.table import dataset_facts, mini_tasks
from PIL import Image

DECIDES_NOTHING = ("chunk_tokens", "checkpoint_every", "output_dir", "saved_precision")
"""Keys of the recipe that change no number of what is trained."""

EXAMPLES = Path(__file__).parent.parent / "examples"


README = Path(__file__).parent.parent / "README.md"
NUMBER = re.compile(r"\d+\.\d+")
TWO_QUERIES = 100 * 2 / 64


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[mh.Run, str]:
    """What a bare run comes to and prints, with every way to another machine barred."""
    folder, reached, printed = tmp_path_factory.mktemp("default"), [], io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):

        def refused(*wanted: Any, **_: Any) -> None:
            reached.append(wanted)
            raise OSError("no network here")

        patched.setattr(socket.socket, "connect", refused)
        patched.setattr(socket, "getaddrinfo", refused)
        patched.setenv("MMEB_HARNESS_CACHE_DIR", str(folder / "cache"))
        patched.setenv("HF_HOME", str(folder / "huggingface"))
        patched.chdir(folder)
        assert _run(["run"]) == 0
    assert not reached
    return read_run(folder / "runs/mini-vlm"), printed.getvalue()


def record() -> dict[str, Any]:
    """Return the settings that the shipped weights were trained with."""
    told = (files("mmeb_harness.plugins") / "mini_vlm" / "record.json").read_text()
    settings: dict[str, Any] = json.loads(told)["identity"]
    return settings


def corrected(task: Any) -> float:
    return float((task.hit_at_1 - task.chance) / (1 - task.chance))


def test_the_package_holds_weights_card_log_and_recipe() -> None:
    folder = files("mmeb_harness.plugins") / "mini_vlm"
    assert len((folder / "model.safetensors").read_bytes()) < 10_000_000
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2_vl"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == record()["run"]["steps"]
    assert np.mean([step["loss"] for step in steps[-50:]]) < steps[0]["loss"] / 4
    card = build_registry().cards["mini-vlm"].thing
    assert set(card.training_datasets) == {
        f"mini/{name}" for name, facts in dataset_facts().items() if facts.split == "ind"
    }


def test_the_log_is_of_the_recipe_that_is_there() -> None:
    from mmeb_harness.trainconfig import read_config

    recipe = read_config(EXAMPLES / "mini-vlm.yaml")
    trained = record()
    for section in ("model", "data", "batch", "loss", "optimizer", "run"):
        told = recipe[section]
        decides = {key: told[key] for key in told if key not in DECIDES_NOTHING}
        assert decides == {key: trained[section].get(key) for key in decides}
        assert decides
    assert recipe["run"]["saved_precision"] == "bfloat16"


def test_its_weights_are_bfloat16_and_as_many_as_its_card_says() -> None:
    from safetensors import safe_open

    with (
        as_file(files("mmeb_harness.plugins") / "mini_vlm") as folder,
        safe_open(folder / "model.safetensors", framework="pt") as stored,
    ):
        names = stored.keys()
        shapes = {name: stored.get_slice(name).get_shape() for name in names}
        kinds = {stored.get_slice(name).get_dtype() for name in names}
    assert kinds == {"BF16"}
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    assert numbers == build_registry().cards["mini-vlm"].thing.parameters
    assert 2_500_000 <= numbers <= 5_000_000


@pytest.mark.thorough
def test_it_is_a_stock_checkpoint() -> None:
    """The library, called by hand, one item at a time, gives the same vectors."""
    import torch
    from mmeb_harness.plugins.vision_ops import mend_torchvision

    mend_torchvision()  # before transformers asks for torchvision
    from transformers import AutoModel, AutoTokenizer, Qwen2VLImageProcessorPil

    task = next(task for task in mini_tasks() if task.name == "CIRR")
    data = task.load(DataLocation())
    items = [data.items[place] for place in range(0, len(data.items), 40)]
    items += [
        mh.Item(text="red star"),
        mh.Item(text=f"{PLACEHOLDER}\nRepresent the given image.\n"),
    ]
    items[-1] = mh.Item(text=items[-1].text, image=Image.new("RGB", (84, 56), (9, 99, 200)))
    with as_file(files("mmeb_harness.plugins") / "mini_vlm") as folder:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    expected = []
    for item in items:
        seen: dict[str, Any] = {}
        text = str(item.text)
        if item.image is not None:
            image = item.image if isinstance(item.image, Image.Image) else Image.open(item.image)
            seen = dict(processor(images=[image.convert("RGB")], return_tensors="pt"))
            tokens = int(seen["image_grid_thw"].prod()) // 4
            text = text.replace(PLACEHOLDER, "<|image_pad|>" * tokens)
        ids = tokenizer(text, return_tensors="pt").input_ids
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        with torch.no_grad():
            hidden = model(input_ids=ids, position_ids=positions, **seen).last_hidden_state
        expected.append(torch.nn.functional.normalize(hidden[0, -1], dim=0).numpy())
    found = mh.load_encoder("mini-vlm", device="cpu").encode(items)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.thorough
def test_a_bare_run_scores_all_tasks_well_above_chance(bare: tuple[mh.Run, str]) -> None:
    run, _ = bare
    assert len(run.tasks) == 36
    assert {task.status for task in run.tasks.values()} == {"ok"}
    split = {name: facts.split for name, facts in dataset_facts().items()}
    ind = [corrected(task) for name, task in run.tasks.items() if split[name] == "ind"]
    ood = [corrected(task) for name, task in run.tasks.items() if split[name] == "ood"]
    assert fmean(ind) >= 0.65
    assert fmean(ood) >= 0.30
    assert run.ood < run.ind
    above = [
        name
        for name, task in run.tasks.items()
        if split[name] == "ood" and task.ci[0] > task.chance
    ]
    assert len(above) >= 12


@pytest.mark.thorough
def test_the_screenful_of_the_readme_is_what_a_bare_run_prints(bare: tuple[mh.Run, str]) -> None:
    """Line for line, where the README leaves none out; scores may differ by two queries between
    machines, intervals with them."""
    shown = re.search(r"```\n\$ mmeb-harness run\n(.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    printed = iter([line.rstrip() for line in bare[1].splitlines()])
    for line in shown[1].splitlines():
        if line == "...":
            continue
        named = NUMBER.split(line)[0].split()
        found = next((one for one in printed if NUMBER.split(one)[0].split() == named), None)
        assert found is not None, f"{line!r} is not printed, or not there"
        for told, scored in zip(NUMBER.findall(line), NUMBER.findall(found), strict=True):
            assert abs(float(told) - float(scored)) <= TWO_QUERIES + 0.1, line


def test_where_the_cache_lies_is_no_setting_of_a_run(tmp_path: Path) -> None:
    one, other = (
        prepare_job(Request(model="random", suite="mini", cache_dir=tmp_path / name))
        for name in ("one", "other")
    )
    assert one.record.settings == other.record.settings
