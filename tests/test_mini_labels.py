"""The classification tasks of `mini` with labels of one or two words: what they show is so."""

from __future__ import annotations

from collections import Counter
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
from mmeb_harness.tasks.mini.evaluation import QUERIES, questions
from mmeb_harness.tasks.mini.makers import digits, flags, places
from mmeb_harness.tasks.mini.makers.example import Example
from mmeb_harness.tasks.mini.makers.news import REGIONS, SECTIONS
from mmeb_harness.tasks.mini.pictures.drawing import CELL, PIGMENTS
from mmeb_harness.tasks.mini.pictures.scenes import Look
from mmeb_harness.tasks.mini.pictures.style import Ground
from mmeb_harness.tasks.mini.pictures.words import COLOURS, HELD_OUT, THINGS, Colour, Size, Thing
from mmeb_harness.tasks.mini.recipes import CLASSIFICATION, recipe_of
from mmeb_harness.tasks.mini.training import GeneratedPairs
from mmeb_harness.tasks.table import dataset_facts

pytestmark = pytest.mark.thorough

TASKS = [recipe.name for recipe in CLASSIFICATION if recipe.name != "HatefulMemes"]
OOD = [name for name in TASKS if recipe_of(name).novel]
IND = [name for name in TASKS if name not in OOD]
DIGITS = ["ImageNet-1K", "ImageNet-A", "ImageNet-R"]
PLACES = ["SUN397", "Place365"]


@cache
def evaluated(name: str) -> list[Example]:
    """Return the examples of a task's evaluation part."""
    return [one.example for one in questions(recipe_of(name))]


@cache
def trained(name: str, count: int = 400) -> list[Example]:
    """Return the first examples of a task's training part."""
    pairs = GeneratedPairs(recipe_of(name))
    return [pairs.recipe.training_example(number) for number in range(count)]


def shown(example: Example) -> Any:
    """Return what the query's picture is drawn of."""
    assert example.query.picture is not None
    return example.query.picture.of[0]


def pixels(example: Example) -> np.ndarray:
    assert example.query.picture is not None
    return np.asarray(example.query.picture(), dtype=int)


def inks(array: np.ndarray) -> Counter[Colour]:
    """Return how many pixels have exactly each colour's pigment."""
    return Counter(
        {colour: int((array == PIGMENTS[colour]).all(axis=-1).sum()) for colour in COLOURS}
    )


def most_ink(array: np.ndarray) -> Colour:
    return inks(array).most_common(1)[0][0]


# -- every task ------------------------------------------------------------------------------------


def test_the_tasks_are_those_of_mmeb() -> None:
    facts = dataset_facts()
    assert len(IND) == 4
    assert len(OOD) == 5
    assert all((facts[name].split == "ood") == (name in OOD) for name in TASKS)
    assert all(facts[name].meta_task == "classification" for name in TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_all_labels_are_candidates_and_each_is_right_as_often_as_any_other(name: str) -> None:
    asked, listed = questions(recipe_of(name)), recipe_of(name).listed
    labels = sorted(target.side.text for target in listed)
    assert len(set(labels)) == len(labels) == min(dataset_facts()[name].candidates, 50)
    assert {type(text) for text in labels} == {str}
    for one in asked:
        assert one.candidates[0] == one.example.target
        assert sorted(target.side.text for target in one.candidates) == labels
    golds = Counter(one.example.target.meaning for one in asked)
    assert len(asked) == QUERIES
    assert len(golds) == len(labels)
    assert max(golds.values()) - min(golds.values()) <= 1


@pytest.mark.parametrize("name", TASKS)
def test_training_draws_every_label(name: str) -> None:
    golds = Counter(example.target.meaning for example in trained(name, 2_000))
    listed = {target.meaning for target in recipe_of(name).listed}
    assert set(golds) == listed
    assert max(golds.values()) < 2.5 * 2_000 / len(listed)


@pytest.mark.parametrize("name", TASKS)
def test_a_rival_is_another_label_that_differs_in_one_word(name: str) -> None:
    listed = {target.meaning for target in recipe_of(name).listed}
    for example in trained(name):
        assert example.rivals
        for rival in example.rivals:
            assert rival.meaning in listed
            assert not example.answered_by(rival.meaning)
            theirs, ours = str(rival.meaning).split(), str(example.target.meaning).split()
            changed = sum(a != b for a, b in zip(theirs, ours, strict=True))
            assert changed == 1 or sorted(theirs) == sorted(ours)


@pytest.mark.parametrize("name", TASKS)
def test_the_same_number_is_the_same_picture(name: str) -> None:
    pairs = GeneratedPairs(recipe_of(name))
    for number in range(5):
        assert (
            pairs.recipe.training_example(number).query
            == pairs.recipe.training_example(number).query
        )
        first, second = (pixels(pairs.recipe.training_example(number)) for _ in range(2))
        assert (first == second).all()
        assert first.shape == (56, 56, 3)


@pytest.mark.parametrize("name", OOD)
def test_what_is_out_of_distribution_is_in_no_training_part(name: str) -> None:
    novel = recipe_of(name).novel
    assert all(example.traits & novel for example in evaluated(name) + trained(name))
    for other in IND:
        assert not any(example.traits & novel for example in trained(other, 2_000))


@pytest.mark.parametrize("name", TASKS)
def test_the_evaluation_part_shows_no_picture_of_the_training_part(name: str) -> None:
    assert not {each.query for each in evaluated(name)} & {
        each.query for each in trained(name, 2_000)
    }


# -- digits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIGITS)
def test_a_label_says_ink_and_number(name: str) -> None:
    labels = digits.stored().labels
    for example in evaluated(name) + trained(name):
        colour, numeral = str(example.target.meaning).split()
        assert digits.NUMERALS[labels[shown(example).row]] == numeral
        assert most_ink(pixels(example)) == colour


def test_no_digit_is_in_two_parts() -> None:
    rows = {name: {shown(example).row for example in evaluated(name)} for name in DIGITS}
    taught = {shown(example).row for name in DIGITS for example in trained(name, 2_000)}
    assert len(taught) > 1_200
    assert min(len(each) for each in rows.values()) > 30
    sets = [taught, *rows.values()]
    assert sum(len(each) for each in sets) == len(set().union(*sets))


def test_stored_digits_are_all_different_and_dealt_evenly() -> None:
    stored = digits.stored()
    assert len({image.tobytes() for image in stored.images}) == 1797
    counts = np.zeros((4, 10), dtype=int)
    np.add.at(counts, (stored.part, stored.labels), 1)
    assert (counts[1:] == 10).all()
    assert counts[0].min() > 140


@pytest.mark.parametrize(
    ("rendition", "likeness"),
    [
        (digits.Rendition.INK, 0.95),
        (digits.Rendition.DISCS, 0.85),
        (digits.Rendition.HATCHING, 0.85),
        (digits.Rendition.CONTOUR, 0.45),
    ],
)
def test_a_drawn_digit_looks_like_the_stored_one(
    rendition: digits.Rendition, likeness: float
) -> None:
    values = []
    for row in range(100):
        picture = digits.Digit(
            row=row, colour=Colour.BLACK, ground=Ground.WHITE, rendition=rendition
        )
        drawn = 255 - np.asarray(digits.draw_digit(picture).convert("L"), dtype=float)
        blocks = drawn[4:52, 4:52].reshape(8, 6, 8, 6).mean(axis=(1, 3)).ravel()
        values.append(np.corrcoef(blocks, digits.stored().images[row].ravel())[0, 1])
    assert np.mean(values) > likeness


def test_a_tilted_digit_is_tilted_by_what_it_says() -> None:
    turned = [shown(example).turn for example in evaluated("ImageNet-A")]
    assert {abs(turn) for turn in turned} <= set(range(12, 25))
    assert 16 < sum(turn > 0 for turn in turned) < 48
    assert not any(
        shown(example).turn for name in ("ImageNet-1K", "ImageNet-R") for example in evaluated(name)
    )


# -- things, news, flags ---------------------------------------------------------------------------


def thing_in(example: Example) -> Thing:
    """Return the one thing of a picture."""
    (look,) = shown(example).looks
    return look.thing


def test_the_thing_shown_is_named() -> None:
    for example in trained("VOC2007"):
        assert thing_in(example) == example.target.meaning
        assert (most_ink(pixels(example)), thing_in(example)) not in HELD_OUT
    for example in evaluated("ObjectNet"):
        colour, thing = str(example.target.meaning).split()
        assert (thing_in(example), most_ink(pixels(example))) == (thing, colour)
        assert (colour, thing) in HELD_OUT


def test_news_need_picture_and_caption() -> None:
    sections = {thing: section for section, things in SECTIONS.items() for thing in things}
    assert len(sections) == sum(map(len, SECTIONS.values()))
    seen = set()
    for example in evaluated("N24News") + trained("N24News"):
        (region,) = set(example.query.text.split()) & set(REGIONS)
        assert example.target.meaning == f"{region} {sections[thing_in(example)]}"
        assert not set(example.query.text.split()) & {*SECTIONS, *THINGS}
        seen.add((region, thing_in(example)))
    assert len(seen) == len(REGIONS) * len(sections)


def test_a_flag_is_named_as_its_bands_lie() -> None:
    middle, off = 28, 10
    for example in evaluated("Country211"):
        array = pixels(example)
        above, below = array[middle - off, middle - off], array[middle + off, middle - off]
        right = array[middle - off, middle + off]
        named = {tuple(pigment): colour for colour, pigment in PIGMENTS.items()}
        first, lower, other = (named[tuple(pixel)] for pixel in (above, below, right))
        read = f"{first} above {lower}" if first == other else f"{first} to the left of {other}"
        assert example.target.meaning == read


def test_every_flag_has_its_twin_and_both_kinds_of_bands_occur() -> None:
    names = {flag.name for flag in flags.FLAGS}
    assert {flag.twin.name for flag in flags.FLAGS} == names
    assert len(names) == 50
    assert Counter(flag.relation.value for flag in flags.FLAGS) == {
        "above": 26,
        "to the left of": 24,
    }


# -- places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_a_place_is_named_after_its_sky_and_land(name: str) -> None:
    for example in evaluated(name):
        place = shown(example)
        assert example.target.meaning == f"{place.sky.value} {place.land.value}"


@pytest.mark.parametrize("land", places.LANDS)
def test_pictures_of_one_label_differ(land: places.Land) -> None:
    rng = Random(0)
    for sky in places.SKIES:
        drawn = [places.random_place(rng, land=land, sky=sky) for _ in range(12)]
        arrays = [np.asarray(places.draw_place(place), dtype=int) for place in drawn]
        differences = [np.abs(one - arrays[0]).mean() for one in arrays[1:]]
        assert min(differences) > 0
        assert np.median(differences) > 1.5
        assert len({place.horizon for place in drawn}) > 3


def tones(example: Example) -> np.ndarray:
    """Return a picture's mean colours in 4x4 blocks."""
    blocks = pixels(example).reshape(4, 14, 4, 14, 3)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel())


@pytest.mark.parametrize(("name", "least"), [("SUN397", 0.9), ("Place365", 0.2)])
def test_a_label_can_be_seen(name: str, least: float) -> None:
    """The nearest mean painting, in 4x4 blocks, finds labels without any learning."""
    by_label: dict[Any, list[np.ndarray]] = {}
    for example in trained("SUN397", 2_000):
        by_label.setdefault(example.target.meaning, []).append(tones(example))
    means = {meaning: np.mean(each, axis=0) for meaning, each in by_label.items()}
    right = 0
    for example in evaluated(name):
        distances = {
            meaning: np.abs(tones(example) - mean).sum() for meaning, mean in means.items()
        }
        right += min(distances, key=distances.__getitem__) == example.target.meaning
    assert right > least * QUERIES


def test_a_thing_in_front_of_a_place_is_seen_whatever_the_place() -> None:
    rng = Random(0)
    for number in range(100):
        bare = places.random_place(rng)
        look = Look(Size.SMALL, COLOURS[number % 8], THINGS[number % 20])
        place = places.with_thing(rng, bare, look)
        assert place.figure is not None
        assert place.traits - bare.traits == {f"pair {look.colour} {look.thing}"}
        before, after = (np.asarray(places.draw_place(each)) for each in (bare, place))
        assert place.figure.cell.row == 1
        left = place.figure.cell.column * CELL
        changed = (before != after).any(axis=-1)
        cell = np.zeros_like(changed)
        cell[CELL:, left : left + CELL] = True
        assert not (changed & ~cell).any()
        assert inks(after)[look.colour] - inks(before)[look.colour] > 20
        rim = (after == places.HALO).all(axis=-1) & changed
        assert rim.sum() > 20


def test_an_empty_place_holds_nothing_that_is_named() -> None:
    words = {*places.LANDS, *places.SKIES}
    assert not words & {thing.value for thing in Thing}
    assert not words & {colour.value for colour in Colour}
