"""The embedded suite's bytes: unchanged, repeatable, without giveaways, and true.

What a query says is read again here, from its text, against the scenes: the generator's own notion
of truth is not trusted. The scenes in turn are held against the shipped pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mmeb_harness.tasks.mini import captions, crops, digits, questions
from mmeb_harness.tasks.mini.drawing import COLOURS, SIDE, centre, crop
from mmeb_harness.tasks.mini.generate import TASKS, generate
from mmeb_harness.tasks.mini.layout import PARQUET, digest
from mmeb_harness.tasks.mini.scenes import IND_GROUNDS, OOD_GROUNDS, Figure, Scene
from PIL import Image

pytestmark = pytest.mark.thorough

CANDIDATES = {"ImageNet-1K": 10, "GQA": 50, "MSCOCO_t2i": 50, "RefCOCO": 50}
QUERIES = 64

WORD = r"(\w+)"
SIDES = r"(to the left of|to the right of|above|below)"
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
CORNERS = {
    "in the top left corner": (0, 0),
    "in the top right corner": (0, 2),
    "in the bottom left corner": (2, 0),
    "in the bottom right corner": (2, 2),
    "in the centre": (1, 1),
}


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


def test_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = digest(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    second = digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, digest(tmp_path)}) == 3


def test_suite_stays_small(data: Path) -> None:
    assert sum((data / name).stat().st_size for name in tree(data)) < 1_000_000


def test_generator_writes_the_same_files(data: Path, again: Path) -> None:
    assert tree(again) == tree(data)


@pytest.mark.parametrize("name", CANDIDATES)
def test_generator_writes_the_same_rows(data: Path, again: Path, name: str) -> None:
    assert pq.read_table(again / name / PARQUET).equals(pq.read_table(data / name / PARQUET))


def test_generator_draws_the_same_pixels(data: Path, again: Path) -> None:
    for name in tree(data / "images"):
        (mode, old), (new_mode, new) = (
            pixels(data / "images" / name),
            pixels(again / "images" / name),
        )
        assert mode == new_mode, name
        np.testing.assert_array_equal(old, new, err_msg=name)


# The layout


def test_tasks_are_all_there(data: Path) -> None:
    assert sorted(task().name for task in TASKS) == sorted(CANDIDATES)
    assert sorted(path.name for path in data.iterdir()) == sorted([*CANDIDATES, "images"])


@pytest.mark.parametrize("name", CANDIDATES)
def test_rows_and_candidates(data: Path, name: str) -> None:
    table = pq.read_table(data / name / PARQUET)
    types = {field.name: str(field.type).split("<")[0] for field in table.schema}
    assert list(types) == ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
    assert list(types.values()) == ["string", "string", "list", "list"]
    assert table.num_rows == QUERIES
    for row in rows(data, name):
        assert len(sides(row)) == CANDIDATES[name]
        assert len(set(sides(row))) == CANDIDATES[name]


@pytest.mark.parametrize("name", CANDIDATES)
def test_queries_are_distinct(data: Path, name: str) -> None:
    assert len({(row["qry_text"], row["qry_img_path"]) for row in rows(data, name)}) == QUERIES


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
        assert mode in ("RGB", "L")
        assert decoded.size
    assert {f"{name}/{file}" for file in tree(data / "images" / name)} == used


@pytest.mark.parametrize("name", CANDIDATES)
def test_pictures_of_one_list_differ(data: Path, name: str) -> None:
    for row in rows(data, name):
        paths = [path for path in row["tgt_img_path"] if path]
        assert len({pixels(data / "images" / path)[1].tobytes() for path in paths}) == len(paths)


def test_texts_are_worded_as_published(data: Path) -> None:
    queries = {
        "ImageNet-1K": r"<\|image_1\|>\nRepresent the given image for classification\n",
        "GQA": r"<\|image_1\|>\nRepresent the given image with the following question: [^\n]+\?\n",
        "MSCOCO_t2i": r"Find me an everyday image that matches the given caption: [^\n]+\.\n",
        "RefCOCO": r"<\|image_1\|>\nSelect the portion of the image that follows the language "
        r'expressions\. "[^\n"]+"\n',
    }
    candidates = {
        "MSCOCO_t2i": {"<|image_1|>\nRepresent the given image.\n"},
        "RefCOCO": {"<|image_1|>\nRepresent the given cropped image of the object"},
    }
    for name, pattern in queries.items():
        for row in rows(data, name):
            assert re.fullmatch(pattern, row["qry_text"])
            assert bool(row["qry_img_path"]) == ("<|image_1|>" in row["qry_text"])
            assert set(row["tgt_text"]) == candidates.get(name, set(row["tgt_text"]))
            assert all(bool(path) == (name in candidates) for path in row["tgt_img_path"])


# No giveaways: nothing but position 0 tells the gold


@pytest.mark.parametrize("name", CANDIDATES)
def test_gold_is_not_told_by_its_name(data: Path, name: str) -> None:
    ranks = [sorted(sides(row)).index(sides(row)[0]) for row in rows(data, name)]
    assert 0.35 < np.mean(ranks) / (CANDIDATES[name] - 1) < 0.65
    assert Counter(ranks).most_common(1)[0][1] <= QUERIES / 4


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("sign", [1, -1])
def test_gold_is_not_told_by_how_often_it_is_listed(data: Path, name: str, sign: int) -> None:
    listed = Counter(side for row in rows(data, name) for side in sides(row))
    hits = 0.0
    for row in rows(data, name):
        scores = [sign * listed[side] for side in sides(row)]
        hits += (scores[0] == max(scores)) / scores.count(max(scores))
    chance = QUERIES / CANDIDATES[name]
    assert hits < chance + 4 * chance**0.5


def rivals(name: str, number: int) -> list[int]:
    """Return the positions of the candidates that were not drawn at random."""
    if name == "GQA":
        listed = questions.questions()[number].candidates
        return [i for i, c in enumerate(listed) if i and c.question == listed[0].question]
    if name == "RefCOCO":
        referral, pool = crops.album().referrals[number], crops.album().crops
        same = [pool[place].scene == referral.scene for place in referral.candidates]
        return [i for i, is_same in enumerate(same) if i and is_same]
    gold, *others = captions.pool().queries[number]
    family = next(family for family in captions.pool().families if gold in family)
    return [i for i, other in enumerate(others, 1) if other in family]


@pytest.mark.parametrize("name", ["GQA", "MSCOCO_t2i", "RefCOCO"])
def test_rivals_stand_anywhere_in_the_list(name: str) -> None:
    places = [place for number in range(QUERIES) for place in rivals(name, number)]
    assert len(places) >= 3 * QUERIES
    assert 22 < np.mean(places) < 28
    assert len(set(places)) > 45


@pytest.mark.parametrize("name", CANDIDATES)
def test_golds_vary(data: Path, name: str) -> None:
    golds = Counter(sides(row)[0] for row in rows(data, name))
    assert max(golds.values()) <= max(4, -(-QUERIES // CANDIDATES[name]))


# Truth, read again from the texts


def test_digits_are_labelled_as_in_their_source(data: Path) -> None:
    with np.load(str(files("mmeb_harness.tasks.mini") / "digits.npz")) as stored:
        labels, images, source_rows = (stored[key] for key in ("labels", "images", "source_rows"))
    assert len(set(source_rows.tolist())) == QUERIES
    for row, label, image in zip(rows(data, digits.NAME), labels, images, strict=True):
        assert row["tgt_text"][0] == digits.LABELS[label]
        assert sorted(row["tgt_text"]) == sorted(digits.LABELS)
        mode, shipped = pixels(data / "images" / row["qry_img_path"])
        assert (mode, shipped.shape) == ("L", (56, 56))
        blocks = shipped.reshape(8, 7, 8, 7).mean(axis=(1, 3)).ravel()
        assert np.corrcoef(blocks, -image.astype(float).ravel())[0, 1] > 0.95


def beside(figure: Figure, side: str, landmark: Figure) -> bool:
    """Whether a figure lies so, on a lenient reading."""
    down = figure.cell.row - landmark.cell.row
    right = figure.cell.column - landmark.cell.column
    lies = {"left": right < 0, "right": right > 0, "above": down < 0, "below": down > 0}
    return next(is_so for word, is_so in lies.items() if word in side)


def singular(plural: str) -> str:
    return plural.removesuffix("es" if plural == "crosses" else "s")


def is_true(sentence: str, scene: Scene) -> bool:
    """Whether someone could call an answer true of a scene."""
    figures = scene.figures
    if found := re.fullmatch(rf"There (?:is|are) {WORD} {WORD}\.", sentence):
        shape = found[2] if found[1] == "one" else singular(found[2])
        return sum(figure.look.shape == shape for figure in figures) == NUMBERS[found[1]]
    if found := re.fullmatch(rf"The {WORD} object is a {WORD}\.", sentence):
        return any(figure.look[1:] == found.groups() for figure in figures)
    if found := re.fullmatch(rf"The {WORD} is {WORD}\.", sentence):
        return any(figure.look[1:] == (found[2], found[1]) for figure in figures)
    if found := re.fullmatch(rf"The {WORD} is {SIDES} the {WORD}\.", sentence):
        pairs = [(a, b) for a, b in product(figures, figures)]
        named = [(a, b) for a, b in pairs if (a.look.shape, b.look.shape) == (found[1], found[3])]
        return any(beside(a, found[2], b) for a, b in named)
    found = re.fullmatch(rf"The {WORD} is (in the [\w ]+)\.", sentence)
    assert found, sentence
    return any((f.look.shape, f.cell) == (found[1], CORNERS[found[2]]) for f in figures)


def test_one_answer_is_true(data: Path) -> None:
    for row, question in zip(rows(data, "GQA"), questions.questions(), strict=True):
        true = [is_true(sentence, question.scene) for sentence in row["tgt_text"]]
        assert true == [True] + [False] * 49, row["qry_text"]


def test_questions_are_well_put(data: Path) -> None:
    """A question names one figure, and the gold is an answer to it."""
    shapes = rf"(?:What colour is|Where is|What is {SIDES}) the {WORD}\?"
    for row, question in zip(rows(data, "GQA"), questions.questions(), strict=True):
        asked, gold = row["qry_text"].split("question: ")[1].strip(), row["tgt_text"][0]
        figures = question.scene.figures
        if found := re.fullmatch(shapes, asked):
            named = [figure for figure in figures if figure.look.shape == found[2]]
            subject = f"{found[1]} the {found[2]}." if found[1] else f"The {found[2]} is"
            if found[1]:
                assert sum(beside(figure, found[1], named[0]) for figure in figures) == 1
        elif found := re.fullmatch(rf"What shape is the {WORD} object\?", asked):
            named = [figure for figure in figures if figure.look.colour == found[1]]
            subject = f"The {found[1]} object is a"
        else:
            found = re.fullmatch(rf"How many {WORD} are there\?", asked)
            assert found, asked
            named, subject = [figures[0]], singular(found[1])
        assert len(named) == 1, asked
        assert subject in gold, asked


def caption_fits(text: str, scene: Scene) -> bool:
    found = re.fullmatch(rf"A {WORD} {WORD} {WORD} {SIDES} a {WORD} {WORD} {WORD}\.", text)
    assert found, text
    first, side, second = found.groups()[:3], found[4], found.groups()[4:]
    pairs = product(scene.figures, scene.figures)
    named = [(a, b) for a, b in pairs if (tuple(a.look), tuple(b.look)) == (first, second)]
    return any(beside(a, side, b) for a, b in named)


def test_one_picture_fits_each_caption(data: Path) -> None:
    scenes = captions.pool().scenes
    for row in rows(data, "MSCOCO_t2i"):
        text = row["qry_text"].split("caption: ")[1].strip()
        listed = [int(path[-7:-4]) for path in row["tgt_img_path"]]
        assert [caption_fits(text, scenes[i]) for i in listed] == [True] + [False] * 49, text


def test_caption_lists_hold_the_whole_family() -> None:
    for number in range(QUERIES):
        assert len(rivals("MSCOCO_t2i", number)) == 5


def referents(text: str, scene: Scene) -> list[Figure]:
    """Return the figures that someone could take an expression for."""
    if found := re.fullmatch(rf"the {WORD} {SIDES} the {WORD} {WORD}", text):
        landmarks = [f for f in scene.figures if f.look[1:] == (found[3], found[4])]
        alike = [f for f in scene.figures if f.look.shape == found[1]]
        return [f for f in alike if any(beside(f, found[2], other) for other in landmarks)]
    _, word, shape = text.split()
    alike = [f for f in scene.figures if f.look.shape == shape]
    assert len(alike) > 1, "an expression must tell its figure from another of the shape"
    keys = {"leftmost": (1, 1), "rightmost": (1, -1), "highest": (0, 1), "lowest": (0, -1)}
    if word in keys:
        axis, sign = keys[word]
        nearest = min(sign * f.cell[axis] for f in alike)
        return [f for f in alike if sign * f.cell[axis] == nearest]
    return [f for f in alike if word in f.look[:2]]


def test_each_expression_means_one_candidate(data: Path) -> None:
    album = crops.album()
    for row, referral in zip(rows(data, "RefCOCO"), album.referrals, strict=True):
        text = row["qry_text"].split('"')[1]
        listed = [album.crops[int(path[-7:-4])] for path in row["tgt_img_path"]]
        same = [each.figure for each in listed if each.scene == referral.scene]
        assert sorted(same, key=repr) == sorted(referral.scene.figures, key=repr)
        assert listed[0].scene == referral.scene
        assert referents(text, referral.scene) == [listed[0].figure], text
        for other in listed[1:]:
            assert not {f"the {word} {other.figure.look.shape}" for word in other.figure.look} & {
                text
            }


# The scenes are what the pictures show


def shown(data: Path) -> Iterator[tuple[str, Scene]]:
    """Yield every whole picture's path with its scene."""
    for row, question in zip(rows(data, "GQA"), questions.questions(), strict=True):
        yield row["qry_img_path"], question.scene
    for number, scene in enumerate(captions.pool().scenes):
        yield f"MSCOCO_t2i/c_{number:03}.png", scene
    for row, referral in zip(rows(data, "RefCOCO"), crops.album().referrals, strict=True):
        yield row["qry_img_path"], referral.scene


def test_figures_lie_where_the_scene_says(data: Path) -> None:
    for path, scene in shown(data):
        mode, picture = pixels(data / "images" / path)
        assert (mode, picture.shape) == ("RGB", (SIDE, SIDE, 3))
        assert len({figure.cell for figure in scene.figures}) == len(scene.figures)
        for figure in scene.figures:
            x, y = centre(figure)
            assert tuple(picture[y, x]) == COLOURS[figure.look.colour], path


def test_crops_are_cut_from_their_pictures(data: Path) -> None:
    album = crops.album()
    paths = {referral.scene: row["qry_img_path"] for row, referral in zip(
        rows(data, "RefCOCO"), album.referrals, strict=True
    )}  # fmt: skip
    for number, each in enumerate(album.crops):
        _, shipped = pixels(data / f"images/RefCOCO/c_{number:03}.png")
        with Image.open(data / "images" / paths[each.scene]) as picture:
            np.testing.assert_array_equal(shipped, np.asarray(crop(picture, each.figure.cell)))


def test_out_of_distribution_tasks_show_other_grounds(data: Path) -> None:
    for path, scene in shown(data):
        grounds = IND_GROUNDS if path.startswith("MSCOCO") else OOD_GROUNDS
        assert scene.ground in grounds
