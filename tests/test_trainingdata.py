"""The section `data` becomes subsets: chosen, cut down, weighted; what is missing is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
from mmeb_harness.errors import DataMissing, TaskError, UsageError
from mmeb_harness.pairs import PairTable
from mmeb_harness.registry import Plugin, Registry, build_registry
from mmeb_harness.trainconfig import DataSection
from mmeb_harness.trainingdata import load_training_data

GOLDEN = ("ImageNet-1K", "MSCOCO_t2i", "CIRR")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return build_registry({})


@pytest.fixture
def golden(goldens: Path) -> dict[str, Any]:
    """Return the section for the golden training data."""
    return {
        "suite": "mmeb",
        "dir": goldens / "data/train",
        "image_dir": goldens / "data/train_images",
        "subsets": GOLDEN,
    }


def load(registry: Registry, section: dict[str, Any], seed: int = 42) -> list[mh.Subset]:
    return load_training_data(DataSection(**section), registry, Path("cache"), seed)


def own(folder: Path, **subsets: int) -> dict[str, Any]:
    """Write subsets of so many pairs, and return their section."""
    folder.mkdir(exist_ok=True)
    for name, count in subsets.items():
        rows = [{"qry": f"{name} q{n}", "pos_text": f"p{n}"} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {"dir": folder}


def queries(pairs: Sequence[mh.Pair]) -> list[str]:
    return [str(pair.query.text) for pair in pairs]


# -- a suite ---------------------------------------------------------------------------------------


def test_the_golden_tables_are_read_with_images_instructions_and_negatives(
    registry: Registry, golden: dict[str, Any]
) -> None:
    subsets = load(registry, golden)
    assert [(subset.name, len(subset.pairs)) for subset in subsets] == [(n, 16) for n in GOLDEN]
    assert all(isinstance(subset.pairs, PairTable) for subset in subsets)
    assert {subset.weight for subset in subsets} == {None}
    for pair in (pair for subset in subsets for pair in subset.pairs):
        for item in (pair.query, pair.positive, pair.negative):
            assert item is None or item.image is None or Path(str(item.image)).is_file()
    [first, *_] = subsets[2].pairs
    assert first.query == mh.Item(
        text="<|image_1|>\nGiven an image, find a similar everyday image with the described "
        "changes: now a blue square\n",
        image=f"{golden['image_dir']}/images/CIRR/t_000_0.png",
        instruction="Given an image, find a similar everyday image with the described changes:",
        role="query",
        modality="text",
    )
    assert first.negative is not None
    assert first.negative.instruction == first.positive.instruction == "Represent the given image."
    assert {pair.negative for pair in subsets[0].pairs} == {None}
    assert {pair.query.instruction for pair in subsets[0].pairs} == {
        "Represent the given image for classification"
    }


def test_subsets_stand_in_the_order_in_which_they_are_named(
    registry: Registry, golden: dict[str, Any]
) -> None:
    for wanted in (["CIRR", "ImageNet-1K"], "CIRR, ImageNet-1K,CIRR"):
        assert [s.name for s in load(registry, golden | {"subsets": wanted})] == [
            "CIRR", "ImageNet-1K",
        ]  # fmt: skip


def test_all_and_ind_are_the_twenty_that_have_a_training_part(
    registry: Registry, golden: dict[str, Any]
) -> None:
    for wanted in ("all", "ind"):
        with pytest.raises(DataMissing) as missing:
            load(registry, golden | {"subsets": wanted})
        told = str(missing.value)
        names = told.partition(" -t ")[2].partition(" ")[0].split(",")
        assert len(names) == 17
        assert not set(names) & {*GOLDEN, "GQA"}
        assert "(and 16 more are missing)" in told


@pytest.mark.parametrize("wanted", ["GQA", "ood", "CIRR,GQA"])
def test_a_task_without_a_training_part_names_those_that_have_one(
    registry: Registry, golden: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(
        UsageError, match=r"(GQA|ood): without.*these have one: ImageNet-1K, .*CIRR"
    ):
        load(registry, golden | {"subsets": wanted})


def test_unknown_names_name_the_nearest(registry: Registry, golden: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="did you mean 'ImageNet-1K'"):
        load(registry, golden | {"subsets": "ImageNet_1K"})
    with pytest.raises(UsageError, match="unknown suite 'mmbe'; did you mean 'mmeb'"):
        load(registry, golden | {"suite": "mmbe"})


def test_what_is_missing_names_what_is_there_and_the_command(
    registry: Registry, golden: dict[str, Any], tmp_path: Path
) -> None:
    folder = golden["dir"]
    with pytest.raises(DataMissing, match=r"no training data of NIGHTS .*it has CIRR, .*_1K, MSC"):
        load(registry, golden | {"subsets": "NIGHTS"})
    with pytest.raises(DataMissing, match=r"CIRR has no split 'train'; it has original; ") as split:
        load(registry, golden | {"subsets": "CIRR", "split": "train"})
    command = f"`mmeb-harness data fetch --training -t CIRR --split train --data-dir {folder}`"
    assert str(split.value).endswith(f"fetch it with {command}")
    with pytest.raises(DataMissing) as nothing:
        load(registry, {"suite": "mmeb", "subsets": "CIRR,NIGHTS"})
    told = str(nothing.value)
    assert told.startswith(f"{Path('cache/training/mmeb')} has no training data of CIRR (TIGER-Lab")
    assert told.endswith("fetch it with `mmeb-harness data fetch --training -t CIRR,NIGHTS`")
    assert nothing.value.exit_status == 3


def test_part_of_a_subset_is_refused(
    registry: Registry, golden: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "CIRR").mkdir()
    [table] = (golden["dir"] / "CIRR").iterdir()
    (tmp_path / "CIRR/original-00001-of-00002.parquet").write_bytes(table.read_bytes())
    with pytest.raises(TaskError, match="1 of 2 files of original"):
        load(registry, golden | {"subsets": "CIRR", "dir": tmp_path})


def test_images_are_looked_for_where_the_tables_are(
    registry: Registry, golden: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(golden["dir"], tmp_path / "train")
    section = golden | {"dir": tmp_path / "train", "image_dir": None}
    with pytest.raises(DataMissing, match=r"no image of ImageNet-1K is in .*train .*images/Image"):
        load(registry, section)
    shutil.copytree(golden["image_dir"] / "images", tmp_path / "train/images")
    [first, *_] = load(registry, section)
    assert first.pairs[0].query.image == f"{tmp_path}/train/images/ImageNet_1K/t_000.png"


def test_one_image_that_is_there_is_enough_to_begin(
    registry: Registry, golden: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "images/CIRR").mkdir(parents=True)
    section = golden | {"subsets": "CIRR", "image_dir": tmp_path}
    with pytest.raises(DataMissing, match=r"data\.image_dir"):
        load(registry, section)
    (tmp_path / "images/CIRR/t_015_0.png").touch()
    assert len(load(registry, section)) == 1


# -- one's own -------------------------------------------------------------------------------------


def test_a_folder_of_ones_own_needs_only_its_name(registry: Registry, tmp_path: Path) -> None:
    section = own(tmp_path / "mine", shop=3, news=2)
    subsets = load(registry, section)
    assert {subset.name: len(subset.pairs) for subset in subsets} == {"news": 2, "shop": 3}
    [chosen] = load(registry, section | {"subsets": "shop"})
    assert queries(chosen.pairs) == ["shop q0", "shop q1", "shop q2"]
    with pytest.raises(UsageError, match="unknown subset 'shp'; did you mean 'shop'"):
        load(registry, section | {"subsets": ["shp"]})


def test_a_split_that_is_asked_for_must_be_there(registry: Registry, tmp_path: Path) -> None:
    section = own(tmp_path / "mine", shop=1)
    with pytest.raises(UsageError, match="no files named 'diverse_instruction'"):
        load(registry, section | {"split": "diverse_instruction"})


def test_unusable_rows_are_seen_before_training(registry: Registry, tmp_path: Path) -> None:
    section = own(tmp_path, shop=3)
    with (tmp_path / "shop.jsonl").open("a") as file:
        file.write('{"qry": "q", "pos_text": ""}\n')
    with pytest.raises(TaskError, match=r"shop.jsonl, row 3 "):
        load(registry, section)
    assert len(load(registry, section | {"cap": 3})[0].pairs) == 3
    [skipping] = load(registry, section | {"missing_images": "skip"})
    assert skipping.pairs[3].positive == mh.Item(role="candidate")


# -- caps and weights ------------------------------------------------------------------------------


def test_the_first_rows_are_taken_unless_a_sample_is_asked_for(
    registry: Registry, tmp_path: Path
) -> None:
    section = own(tmp_path, a=300, b=300, c=20)
    first = load(registry, section | {"cap": 50})
    assert [len(subset.pairs) for subset in first] == [50, 50, 20]
    assert queries(first[0].pairs) == [f"a q{n}" for n in range(50)]
    drawn = [
        [int(query.rpartition("q")[2]) for query in queries(subset.pairs)]
        for subset in load(registry, section | {"cap": 50, "sample": "random"})
    ]
    assert [len(rows) for rows in drawn] == [50, 50, 20]
    assert drawn[0] == sorted(set(drawn[0])) and drawn[0] != drawn[1]
    assert 100 < sum(drawn[0]) / 50 < 200, "from all over the table"


def test_a_sample_depends_on_the_seed_and_on_nothing_else(
    registry: Registry, tmp_path: Path
) -> None:
    section = own(tmp_path, a=300, b=300) | {"cap": 10, "sample": "random"}

    def drawn(seed: int, **changes: Any) -> list[str]:
        return queries(load(registry, section | changes, seed)[0].pairs)

    assert drawn(1) == drawn(1) == drawn(1, subsets="a") == drawn(1, weights={"b": 5})
    assert drawn(1) != drawn(2)
    assert drawn(1) == [f"a q{n}" for n in (27, 40, 70, 79, 86, 101, 122, 140, 211, 214)], (
        "another numpy must draw the same"
    )


def test_weights_are_by_name_and_the_others_have_one(registry: Registry, tmp_path: Path) -> None:
    section = own(tmp_path, a=2, b=2, c=2)
    subsets = load(registry, section | {"weights": {"b": 2.5, "c": 0}})
    assert [(subset.name, subset.weight) for subset in subsets] == [("a", 1.0), ("b", 2.5)]


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"sop": 1}, "unknown subset in data.weights 'sop'; did you mean 'shop'"),
        ({"shop": -1}, "shop has weight -1"),
        ({"shop": 0, "news": 0}, "at least one must be above 0"),
    ],
)
def test_unusable_weights_are_an_error(
    registry: Registry, tmp_path: Path, weights: dict[str, float], told: str
) -> None:
    section = own(tmp_path, shop=2, news=2)
    with pytest.raises(UsageError, match=told):
        load(registry, section | {"weights": weights})


# -- a stranger's tasks ----------------------------------------------------------------------------

STRANGER = """
import mmeb_harness as mh

@mh.hookimpl
def register_tasks(register):
    facts = dict(suite="strange", meta_task="vqa", split="ind", loader="stranger_tasks:none")
    for name in ("endless", "some", "none", "wrong", "missing"):
        register(mh.Task(name=name, training_loader=f"stranger_tasks:{name}", **facts))
    register(mh.Task(name="untrained", **facts))

def pair(n):
    return mh.Pair(query=mh.Item(text=f"q{n}"), positive=mh.Item(text=f"p{n}"))

def endless(task, split, location):
    n = 0
    while True:
        yield pair(n)
        n += 1

def some(task, split, location):
    return (pair(n) for n in range(7))

def none(task, split, location):
    return []

def wrong(task, split, location):
    return ["a pair"]

def missing(task, split, location):
    from mmeb_harness.errors import DataMissing
    raise DataMissing(f"no {split} of {task.name} in {location.data_dir}")
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return a registry with a stranger's suite; a task for each way to give pairs."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/stranger_tasks.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry = build_registry({})
    registry.manager.register(import_module("stranger_tasks"), name="stranger")
    plugin = Plugin(name="stranger", distribution="stranger", version="1")
    registry.plugins["stranger"] = plugin
    return registry


def test_a_task_may_give_any_iterable_of_pairs(strange: Registry) -> None:
    section = {"suite": "strange", "subsets": "some,endless"}
    some, endless = load(strange, section | {"cap": 5})
    assert queries(some.pairs) == queries(endless.pairs) == [f"q{n}" for n in range(5)]
    [drawn] = load(strange, {"suite": "strange", "subsets": "some", "cap": 3, "sample": "random"})
    assert len(set(queries(drawn.pairs))) == 3
    [whole] = load(strange, {"suite": "strange", "subsets": "some"})
    assert queries(whole.pairs) == [f"q{n}" for n in range(7)]


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("none", TaskError, "none has no pairs"),
        ("wrong", TaskError, "wrong gives 'a pair', which is no Pair"),
        ("missing", DataMissing, "no original of missing in .*training/strange$"),
        ("untrained", UsageError, "these have one: endless, some, none, wrong, missing"),
    ],
)
def test_what_a_strangers_task_fails_in_is_told(
    strange: Registry, name: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        load(strange, {"suite": "strange", "subsets": name})


def test_the_embedded_suite_has_training_parts(registry: Registry) -> None:
    subsets = load(registry, {"suite": "mini", "subsets": "ind", "cap": 3})
    assert len(subsets) == 20
    assert all(len(subset.pairs) == 3 for subset in subsets)
    with pytest.raises(UsageError, match=r"GQA: without a training part in suite 'mini'"):
        load(registry, {"suite": "mini", "subsets": "GQA"})
    with pytest.raises(DataMissing, match=r"mini has no split 'diverse'; it has original, shuff"):
        load(registry, {"suite": "mini", "split": "diverse"})
