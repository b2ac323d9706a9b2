"""The embedded suite: unchanged bytes, repeatable, without giveaways, and new where it says so.

What a query says is read again from its text in test_mini_{labels,pages,retrieval,scenes}.py; here
is what holds for all 36.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mmeb_harness.item import PLACEHOLDER, Item
from mmeb_harness.task import DataLocation
from mmeb_harness.tasks.mini.evaluation import QUERIES, Question, questions
from mmeb_harness.tasks.mini.generate import generate, training_digest
from mmeb_harness.tasks.mini.layout import PARQUET, digest
from mmeb_harness.tasks.mini.pictures.words import HELD_OUT
from mmeb_harness.tasks.mini.recipe import ONE_IN, kept_for_evaluation
from mmeb_harness.tasks.mini.recipes import RECIPES
from mmeb_harness.tasks.mini.training import PAIRS, SPLITS, GeneratedPairs
from mmeb_harness.tasks.mini.views import VIEWS
from mmeb_harness.tasks.table import dataset_facts, mini_tasks
from PIL import Image

FACTS = dataset_facts()
IND = [name for name, facts in FACTS.items() if facts.split == "ind"]
OOD = [name for name, facts in FACTS.items() if facts.split == "ood"]
CANDIDATES = {name: min(facts.candidates, 50) for name, facts in FACTS.items()}


@pytest.fixture(scope="session")
def data() -> Iterator[Path]:
    with as_file(files("mmeb_harness.tasks.mini") / "data") as folder:
        yield folder


@pytest.fixture(scope="session")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the generator has just written."""
    folder = tmp_path_factory.mktemp("mini")
    generate(folder)
    return folder


@cache
def read(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    return read(data / name / PARQUET)


@cache
def asked_of(name: str) -> list[Question]:
    """Return the queries of a task, as the generator makes them."""
    return questions(RECIPES[name])


def sides(row: dict[str, Any]) -> list[tuple[str, str]]:
    return list(zip(row["tgt_text"], row["tgt_img_path"], strict=True))


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> tuple[str, Any]:
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


# The bytes


def test_shipped_bytes_are_those_of_the_digest() -> None:
    package = files("mmeb_harness.tasks.mini")
    assert digest(package / "data") == (package / "digest.txt").read_text().strip()


@pytest.mark.thorough
def test_training_parts_are_those_of_their_digest() -> None:
    """What the shipped weights were trained on; drawn alike under the pinned versions only."""
    pins = (Path(__file__).parent.parent / "constraints.txt").read_text().split()
    if f"pillow=={version('pillow')}" not in pins:
        pytest.skip("another Pillow than that of constraints.txt may draw otherwise")
    told = files("mmeb_harness.tasks.mini") / "training_digest.txt"
    assert training_digest() == told.read_text().strip()


def test_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = digest(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    second = digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, digest(tmp_path)}) == 3


@pytest.mark.thorough
def test_suite_stays_small(data: Path) -> None:
    assert sum((data / name).stat().st_size for name in tree(data)) < 6_000_000


@pytest.mark.thorough
def test_generator_writes_the_same_files_and_rows(data: Path, again: Path) -> None:
    assert tree(again) == tree(data)
    for name in CANDIDATES:
        assert pq.read_table(again / name / PARQUET).equals(pq.read_table(data / name / PARQUET))


@pytest.mark.thorough
def test_generator_draws_the_same_pixels(data: Path, again: Path) -> None:
    for name in tree(data / "images"):
        (mode, old), (new_mode, new) = (pixels(one / "images" / name) for one in (data, again))
        assert mode == new_mode, name
        np.testing.assert_array_equal(old, new, err_msg=name)


# The layout


def test_tasks_are_those_of_mmeb(data: Path) -> None:
    assert list(RECIPES) == list(FACTS)
    assert [task.name for task in mini_tasks()] == list(FACTS)
    assert {path.name for path in data.iterdir()} == {*FACTS, "images"}
    assert (len(IND), len(OOD)) == (20, 16)


@pytest.mark.parametrize("name", CANDIDATES)
def test_rows_and_candidates(data: Path, name: str) -> None:
    table = pq.read_table(data / name / PARQUET)
    types = {field.name: str(field.type).split("<")[0] for field in table.schema}
    assert list(types) == ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
    assert list(types.values()) == ["string", "string", "list", "list"]
    assert table.num_rows == QUERIES >= 60
    for row in rows(data, name):
        assert len(sides(row)) == len(set(sides(row))) == CANDIDATES[name]
    assert len({(row["qry_text"], row["qry_img_path"]) for row in rows(data, name)}) == QUERIES


@pytest.mark.parametrize("name", CANDIDATES)
def test_modalities_are_those_of_the_dataset(data: Path, name: str) -> None:
    facts = FACTS[name]
    for row in rows(data, name):
        assert bool(row["qry_img_path"]) == ("image" in facts.query_modality)
        for text, path in sides(row):
            assert bool(path) == ("image" in facts.target_modality)
            bare = text.removeprefix(f"{PLACEHOLDER}\n").removeprefix(
                facts.target_instruction or ""
            )
            assert bool(bare.strip()) == ("text" in facts.target_modality), text


@pytest.mark.parametrize("name", CANDIDATES)
def test_texts_are_worded_as_published(data: Path, name: str) -> None:
    facts = FACTS[name]
    stray = name in ("WebQA", "EDIS")
    for row in rows(data, name):
        asked = row["qry_text"]
        before = f"{PLACEHOLDER}\n" if row["qry_img_path"] or stray else ""
        assert asked.startswith(before + facts.query_instruction)
        assert asked.count(PLACEHOLDER) == bool(before)
        assert re.search(r"[^\n]\n\n$" if name == "VisDial" else r"[^\n]\n$", asked)
        for text, path in sides(row):
            before = f"{PLACEHOLDER}\n{facts.target_instruction}" if path else ""
            assert text.startswith(before)
            assert PLACEHOLDER not in text.removeprefix(PLACEHOLDER)
            bare = facts.meta_task == "grounding" and text == before
            assert text.endswith("\n") == (bool(path) and not bare)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CANDIDATES)
def test_every_image_is_used_and_opens(data: Path, name: str) -> None:
    used = {
        path for row in rows(data, name) for path in (row["qry_img_path"], *row["tgt_img_path"])
    }
    used.discard("")
    for path in used:
        assert PurePosixPath(path).parts[0] == name
        assert re.fullmatch(r"[\w-]+/[qc]_\d{3}\.png", path)
        mode, decoded = pixels(data / "images" / path)
        assert mode == "RGB"
        height, width = decoded.shape[:2]
        assert 28 <= min(height, width) <= max(height, width) <= 112
        assert height % 28 == width % 28 == 0, "a picture is resized by the model"
    assert {f"{name}/{file}" for file in tree(data / "images" / name)} == used


@pytest.mark.thorough
@pytest.mark.parametrize("name", CANDIDATES)
def test_pictures_of_one_list_differ(data: Path, name: str) -> None:
    for row in rows(data, name):
        shown = [
            (text, pixels(data / "images" / path)[1].tobytes()) for text, path in sides(row) if path
        ]
        assert len(set(shown)) == len(shown)


# No giveaways: nothing but position 0 tells the gold


@pytest.mark.parametrize("name", [name for name in CANDIDATES if CANDIDATES[name] > 2])
def test_gold_is_not_told_by_its_name_or_place(data: Path, name: str) -> None:
    ranks = [sorted(sides(row)).index(sides(row)[0]) for row in rows(data, name)]
    golds = Counter(sides(row)[0] for row in rows(data, name))
    if len(golds) > QUERIES / 2:  # short lists of answers are not spread evenly over the alphabet
        assert 0.3 < np.mean(ranks) / (CANDIDATES[name] - 1) < 0.7
    seconds = Counter(sides(row)[1] for row in rows(data, name))
    assert seconds.most_common(1)[0][1] <= QUERIES / 6 + QUERIES / CANDIDATES[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", CANDIDATES)
def test_gold_is_not_told_by_how_often_it_is_listed(data: Path, name: str) -> None:
    """No way of counting finds the gold."""
    listed = Counter(side for row in rows(data, name) for side in sides(row))
    for sign in (1, -1):
        hits = 0.0
        for row in rows(data, name):
            scores = [sign * listed[side] for side in sides(row)]
            hits += (scores[0] == max(scores)) / scores.count(max(scores))
        chance = QUERIES / CANDIDATES[name]
        assert hits < chance + 5 * chance**0.5


@pytest.mark.parametrize(
    "name", [name for name in FACTS if FACTS[name].meta_task == "classification"]
)
def test_labels_are_right_equally_often(data: Path, name: str) -> None:
    golds = Counter(row["tgt_text"][0] for row in rows(data, name))
    labels = {frozenset(row["tgt_text"]) for row in rows(data, name)}
    assert len(labels) == 1
    assert max(golds.values()) - min(golds.values()) <= 1
    assert len(golds) == CANDIDATES[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", CANDIDATES)
def test_only_the_gold_answers(name: str) -> None:
    for asked in asked_of(name):
        gold, *wrong = asked.candidates
        assert gold == asked.example.target
        assert asked.example.answered_by(gold.meaning)
        assert not any(asked.example.answered_by(one.meaning) for one in wrong)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in CANDIDATES if CANDIDATES[name] > 2])
def test_rivals_stand_anywhere_in_the_list(name: str) -> None:
    asked = asked_of(name)
    places = [
        one.candidates.index(rival)
        for one in asked
        for rival in one.example.rivals
        if rival in one.candidates
    ]
    if len(places) >= QUERIES:
        assert 0.35 < np.mean(places) / (CANDIDATES[name] - 1) < 0.65
        assert 0 not in places


# New where it says so


@pytest.mark.thorough
@pytest.mark.parametrize("name", OOD)
def test_every_query_of_an_ood_task_has_something_new(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.novel
    for asked in asked_of(name):
        assert asked.example.traits & recipe.novel


@pytest.mark.thorough
@pytest.mark.parametrize("name", IND)
def test_no_training_part_has_what_is_new(name: str) -> None:
    novel = frozenset().union(*(RECIPES[other].novel for other in OOD))
    pairs = GeneratedPairs(RECIPES[name])
    seen: set[str] = set()
    for number in range(1500):
        traits = pairs.recipe.training_example(number * 7).traits
        assert traits
        seen |= traits
    assert not seen & novel
    assert not RECIPES[name].novel


@pytest.mark.thorough
def test_what_is_new_is_made_by_the_task_that_names_it() -> None:
    """A trait that no example has would hold of any training part."""
    for name in OOD:
        made = set().union(
            *(RECIPES[name].make(Random(f"{name}/{number}")).traits for number in range(600))
        )
        forms = {trait for trait in RECIPES[name].novel if not trait.startswith("pair ")}
        assert forms <= made, name


@pytest.mark.thorough
@pytest.mark.parametrize("name", IND)
def test_no_training_text_names_a_held_out_pair(name: str) -> None:
    named = re.compile("|".join(rf"\b{colour} {thing}" for colour, thing in sorted(HELD_OUT)))
    pairs = GeneratedPairs(RECIPES[name])
    for number in range(400):
        pair = pairs[number]
        for item in (pair.query, pair.positive, pair.negative):
            assert item is None or not named.search(str(item.text)), item


# The training parts


def content(item: Item | None) -> tuple[object, ...] | None:
    if item is None:
        return None
    image: Any = item.image
    seen = None if image is None else (image.size, image.tobytes())
    return item.text, seen, item.instruction, item.role


@pytest.mark.thorough
@pytest.mark.parametrize("name", IND)
def test_training_part_is_the_same_for_the_same_number(name: str) -> None:
    task = next(task for task in mini_tasks() if task.name == name)
    pairs = task.training("original", DataLocation())
    assert isinstance(pairs, GeneratedPairs)
    assert len(pairs) == PAIRS
    later = pairs[100:110]
    for number in range(10):
        first, second = later[number], pairs[100 + number]
        for side in ("query", "positive", "negative"):
            assert content(getattr(first, side)) == content(getattr(second, side))
    assert len({content(pairs[number].query) for number in range(50)}) > 25


@pytest.mark.parametrize("name", OOD)
def test_ood_tasks_have_no_training_part(name: str) -> None:
    task = next(task for task in mini_tasks() if task.name == name)
    assert task.training_loader is None


@pytest.mark.thorough
@pytest.mark.parametrize("name", CANDIDATES)
def test_training_part_has_no_query_of_the_evaluation(name: str) -> None:
    """Not as it is seen: a query's own digest says which of the two parts it belongs to."""
    asked = {one.example.query.seen() for one in asked_of(name)}
    assert len(asked) == QUERIES
    trained = {RECIPES[name].training_example(number).query.seen() for number in range(1200)}
    assert not asked & trained
    if RECIPES[name].make_evaluation is None:
        either = [RECIPES[name].make(Random(f"{name}/{number}")).query for number in range(600)]
        share = sum(map(kept_for_evaluation, either)) / len(either)
        assert 0.4 < share * ONE_IN < 2


@pytest.mark.thorough
@pytest.mark.parametrize("name", IND)
def test_negatives_answer_nothing(name: str) -> None:
    pairs = GeneratedPairs(RECIPES[name])
    for number in range(60):
        example = pairs.recipe.training_example(number)
        assert all(not example.answered_by(rival.meaning) for rival in example.rivals)


@pytest.mark.thorough
def test_shuffled_targets_are_of_other_pairs() -> None:
    recipe = RECIPES["VOC2007"]
    told, dealt = (GeneratedPairs(recipe, split)[:400] for split in ("original", "shuffled"))
    same = sum(content(a.positive) == content(b.positive) for a, b in zip(told, dealt, strict=True))
    assert 3 < same < 45, "20 labels: one in twenty by chance"
    for a, b in zip(told, dealt, strict=True):
        assert content(a.query) == content(b.query)
    assert Counter(str(pair.positive.text) for pair in dealt).most_common(1)[0][1] < 45


def test_views_take_away_what_stands_beside_something_else() -> None:
    image = Image.new("RGB", (28, 28), (9, 9, 9))
    both = Item(text=f"{PLACEHOLDER}\nFind it: b a\n", image=image, instruction="Find it:")
    seen = {name: view(both) for name, view in VIEWS.items()}
    blank: Any = seen["text-only"].image
    assert seen["text-only"].text == both.text
    assert len(blank.getcolors()) == 1
    assert (seen["image-only"].text, seen["image-only"].image) == (
        f"{PLACEHOLDER}\nFind it:\n",
        image,
    )
    assert seen["without-order"].text == f"{PLACEHOLDER}\nFind it: a b\n"
    picture = Item(text=f"{PLACEHOLDER}\nFind it:\n", image=image, instruction="Find it:")
    words = Item(text="red star above")
    for name in ("text-only", "image-only"):
        assert VIEWS[name](picture) == picture
        assert VIEWS[name](words) == words
    assert VIEWS["without-order"](picture) == picture
    assert VIEWS["without-order"](words).text == "above red star"
    assert set(SPLITS) == {"original", "shuffled", *VIEWS}


def test_splits_show_what_their_view_leaves() -> None:
    pair, less = (
        GeneratedPairs(RECIPES["Visual7W"], split)[3] for split in ("original", "image-only")
    )
    assert "?" in str(pair.query.text)
    assert "?" not in str(less.query.text)
    assert less.positive.text == pair.positive.text
    whole, grey = (
        content(one.query) for one in (pair, GeneratedPairs(RECIPES["Visual7W"], "text-only")[3])
    )
    assert whole is not None
    assert grey is not None
    assert whole[0] == grey[0]
    assert whole[1] != grey[1]


@pytest.mark.thorough
def test_every_other_pair_is_worded_as_the_published_training_part() -> None:
    for name in IND:
        facts, pairs = FACTS[name], GeneratedPairs(RECIPES[name])
        for number, instruction in ((6, facts.query_instruction), (7, facts.train_instruction)):
            text = str(pairs[number].query.text)
            assert str(instruction) in text
            assert pairs[number].query.instruction == instruction
    assert sum(FACTS[name].train_instruction != FACTS[name].query_instruction for name in IND) > 2
