"""The retrieval tasks of `mini`: every text is read again here, against what its picture shows.

The generators' own notion of truth (`fits`) is not trusted but compared: it may call nothing wrong
that the text, read plainly, makes right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from mmeb_harness.tasks.mini.evaluation import QUERIES, questions
from mmeb_harness.tasks.mini.makers.example import Example, Side
from mmeb_harness.tasks.mini.makers.garments import Garment, Kind
from mmeb_harness.tasks.mini.makers.places import LANDS, SKIES, Place
from mmeb_harness.tasks.mini.pictures.scenes import Scene
from mmeb_harness.tasks.mini.pictures.words import COLOURS, HELD_OUT, READ, THINGS, Size
from mmeb_harness.tasks.mini.recipe import MOST
from mmeb_harness.tasks.mini.recipes import RECIPES, RETRIEVAL
from mmeb_harness.tasks.table import dataset_facts

pytestmark = pytest.mark.thorough

NAMES = [recipe.name for recipe in RETRIEVAL if recipe.name != "Wiki-SS-NQ"]
TRAINED = [name for name in NAMES if dataset_facts()[name].split == "ind"]
NEW = [name for name in NAMES if name not in TRAINED]
COUNT = 150

CORNERS = {(0, 0): "top left", (0, 1): "top right", (1, 0): "bottom left", (1, 1): "bottom right"}
STEPS = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
PAIR = r"an? (\w+) (\w+)"
CAPTION = rf"An? (\w+) (\w+) ({'|'.join(STEPS)}) {PAIR}\."


def examples(name: str, count: int = COUNT) -> Iterator[Example]:
    return (RECIPES[name].make(Random(f"test/{name}/{number}")) for number in range(count))


def pictured(side: Side) -> Any:
    """Return the scene, place or garment that a side's picture is drawn of."""
    assert side.picture is not None
    (shown,) = side.picture.of
    return shown


def looks(scene: Scene) -> Counter[tuple[str, str, str]]:
    return Counter((str(look.size), str(look.colour), str(look.thing)) for look in scene.looks)


def cells(scene: Scene) -> dict[tuple[str, str], tuple[int, int]]:
    """Return where each colour and thing lies."""
    return {(str(f.look.colour), str(f.look.thing)): tuple(f.cell) for f in scene.figures}


def match(pattern: str, text: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, text)
    assert found, text
    return found.groups()


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_right_and_each_rival_is_wrong(name: str) -> None:
    for example in examples(name):
        assert example.answered_by(example.target.meaning)
        assert len(example.rivals) == 3
        assert not any(example.answered_by(rival.meaning) for rival in example.rivals)
        assert len({each.side for each in (example.target, *example.rivals)}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_whole_and_hold_the_rivals(name: str) -> None:
    asked = questions(RECIPES[name])
    assert len(asked) == QUERIES
    for each in asked:
        assert len({one.side for one in each.candidates}) == len(each.candidates) == MOST
        assert {rival.side for rival in each.example.rivals} <= {o.side for o in each.candidates}
        right = [each.example.answered_by(one.meaning) for one in each.candidates]
        assert right == [True] + [False] * (MOST - 1)


@pytest.mark.parametrize("name", NAMES)
def test_sides_have_the_modalities_of_the_dataset(name: str) -> None:
    facts = dataset_facts()[name]
    for example in examples(name, 10):
        for side, modality in (
            (example.query, facts.query_modality),
            *((one.side, facts.target_modality) for one in (example.target, *example.rivals)),
        ):
            assert ("image" in modality) == (side.picture is not None)
            assert ("text" in modality) == bool(side.text)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_make_the_same(name: str) -> None:
    for one, again in zip(examples(name, 20), examples(name, 20), strict=True):
        assert (one.query, one.target, one.rivals) == (again.query, again.target, again.rivals)
        for side in (one.query, one.target.side):
            if side.picture is not None:
                first, second = (np.asarray(side.picture()) for _ in range(2))
                assert first.shape == (56, 56, 3)
                assert (first == second).all()
    assert len({example.query for example in examples(name)}) > COUNT / 2


@pytest.mark.parametrize("name", NEW)
def test_each_new_example_has_something_new(name: str) -> None:
    assert RECIPES[name].novel
    assert all(example.traits & RECIPES[name].novel for example in examples(name))


@pytest.mark.parametrize("name", TRAINED)
def test_training_shows_nothing_new(name: str) -> None:
    new = frozenset().union(*(recipe.novel for recipe in RECIPES.values()))
    held_out = {f"{colour} {thing}" for colour, thing in HELD_OUT}
    for example in examples(name, 4 * COUNT):
        assert not example.traits & new
        for side in (example.query, *(one.side for one in (example.target, *example.rivals))):
            words = side.text.lower().rstrip(".?").split()
            assert held_out.isdisjoint(map(" ".join, pairwise(words)))
            if side.picture is not None and isinstance(scene := pictured(side), Scene):
                assert HELD_OUT.isdisjoint((look.colour, look.thing) for look in scene.looks)
                assert scene.traits <= example.traits


# -- captions --------------------------------------------------------------------------------------


def caption_is_true(text: str, scene: Scene, *, plainly: bool = False) -> bool:
    colour, thing, relation, other_colour, other_thing = match(CAPTION, text)
    where = cells(scene)
    if not {(colour, thing), (other_colour, other_thing)} <= set(where):
        return False
    here, there = where[colour, thing], where[other_colour, other_thing]
    row, column = STEPS[relation]
    offset = (here[0] - there[0], here[1] - there[1])
    if plainly:
        return offset == (row, column)
    return offset[0] * row + offset[1] * column > 0


def test_captions_are_plainly_true_of_the_picture_and_of_no_other() -> None:
    made = list(examples("MSCOCO_t2i"))
    scenes = [pictured(one.side) for each in made for one in (each.target, *each.rivals)]
    for example in made:
        assert caption_is_true(example.query.text, pictured(example.target.side), plainly=True)
        for scene in scenes:
            assert example.answered_by(scene) == caption_is_true(example.query.text, scene)


def test_one_caption_is_true_of_a_picture() -> None:
    made = list(examples("MSCOCO_i2t"))
    told = {one.side.text: one for each in made for one in (each.target, *each.rivals)}
    for example in made:
        scene = pictured(example.query)
        assert caption_is_true(example.target.side.text, scene, plainly=True)
        for text, target in told.items():
            assert example.answered_by(target.meaning) == caption_is_true(text, scene)


def test_a_bag_of_words_does_not_tell_captions_apart() -> None:
    for example in examples("MSCOCO_i2t"):
        gold = _parts(example.target.side.text)
        turned, exchanged, changed = (_parts(rival.side.text) for rival in example.rivals)
        assert (gold[:2], gold[3:]) == (turned[:2], turned[3:])
        assert [-step for step in STEPS[gold[2]]] == list(STEPS[turned[2]])
        assert Counter(gold) == Counter(exchanged)
        assert gold != exchanged
        assert sum(a != b for a, b in zip(gold, changed, strict=True)) == 1


def _parts(text: str) -> tuple[str, ...]:
    return match(CAPTION, text)


def test_relations_are_equally_frequent() -> None:
    seen = Counter(match(CAPTION, example.query.text)[2] for example in examples("MSCOCO_t2i", 800))
    assert set(seen) == set(STEPS)
    assert max(seen.values()) < 1.4 * min(seen.values())


# -- dialogues -------------------------------------------------------------------------------------

ROUND = re.compile(r"(What colour is the|Where is the|Is there an?) (\w+)\? ([a-z ]+)\.")


def rounds_are_true(text: str, scene: Scene) -> list[bool]:
    """Return, for each question with its answer, whether the scene bears it out."""
    by_thing = {str(figure.look.thing): figure for figure in scene.figures}
    told = []
    for question, thing, answer in ROUND.findall(text):
        figure = by_thing.get(thing)
        if question.startswith("Is there"):
            told.append(answer == ("no" if figure is None else "yes"))
        elif question.startswith("Where"):
            told.append(figure is not None and CORNERS[tuple(figure.cell)] == answer)
        else:
            told.append(figure is not None and figure.look.colour == answer)
    return told


def opening_is_true(text: str, scene: Scene) -> bool:
    named = match(r"An? (\w+) and an? (\w+)\..*", text)
    return set(named) <= {str(look.thing) for look in scene.looks}


def test_each_rival_makes_one_answer_of_the_dialogue_wrong() -> None:
    for example in examples("VisDial"):
        text = example.query.text
        assert rounds_are_true(text, pictured(example.target.side)) == [True] * 3
        assert opening_is_true(text, pictured(example.target.side))
        for number, rival in enumerate(example.rivals):
            assert opening_is_true(text, pictured(rival.side))
            assert not rounds_are_true(text, pictured(rival.side))[number]


def test_a_dialogue_fits_whatever_bears_it_out() -> None:
    made = list(examples("VisDial"))
    scenes = [pictured(example.target.side) for example in made]
    for example in made:
        for scene in scenes:
            text = example.query.text
            true = opening_is_true(text, scene) and all(rounds_are_true(text, scene))
            assert example.answered_by(scene) == true


def test_dialogues_ask_every_kind_and_are_answered_both_ways() -> None:
    text = " ".join(example.query.text for example in examples("VisDial"))
    answers = Counter(answer for _, _, answer in ROUND.findall(text))
    assert set(answers) == {"yes", "no", *CORNERS.values(), *COLOURS}
    assert 0.5 < answers["yes"] / answers["no"] < 2


# -- edits -----------------------------------------------------------------------------------------


def edited(text: str, scene: Scene) -> Counter[tuple[str, str, str]]:
    """Return the looks of a scene after an edit that is read from its text."""
    before = {str(look.thing): (str(look.size), str(look.colour)) for look in scene.looks}
    after = dict(before)
    if text.startswith("Make"):
        thing, new = match(r"Make the (\w+) (\w+)\.", text)
        size, colour = before[thing]
        after[thing] = (new, colour) if new in set(Size) else (size, new)
    elif text.startswith("Replace"):
        thing, new = match(r"Replace the (\w+) by an? (\w+)\.", text)
        after[new] = after.pop(thing)
    elif text.startswith("Remove"):
        del after[match(r"Remove the (\w+)\.", text)[0]]
    else:
        size, colour, thing = match(r"Add an? (\w+) (\w+) (\w+)\.", text)
        after[thing] = (size, colour)
    return Counter((size, colour, thing) for thing, (size, colour) in after.items())


def test_the_target_is_the_picture_after_the_edit_and_no_rival_is() -> None:
    for example in examples("CIRR"):
        scene = pictured(example.query)
        after = edited(example.query.text, scene)
        target, unedited, otherwise, elsewhere = (
            pictured(one.side) for one in (example.target, *example.rivals)
        )
        assert looks(target) == after != looks(scene)
        assert cells(unedited) == cells(scene)
        assert looks(unedited) == looks(scene)
        assert looks(otherwise) not in (after, looks(scene))
        changed = looks(elsewhere) - after, after - looks(elsewhere)
        assert [sum(each.values()) for each in changed] == [1, 1]
        assert {each.ground for each in (target, unedited, otherwise, elsewhere)} == {scene.ground}


def test_an_edit_moves_nothing() -> None:
    for example in examples("CIRR"):
        before, after = cells(pictured(example.query)), cells(pictured(example.target.side))
        assert all(after[name] == before[name] for name in before.keys() & after.keys())


def test_the_words_of_an_edit_alone_leave_two_pictures() -> None:
    """What an edit names is there after it in the target, and in a picture that is not."""
    for example in examples("CIRR"):
        before = edited(example.query.text, pictured(example.query))
        made = before - looks(pictured(example.query))
        elsewhere = looks(pictured(example.rivals[2].side))
        assert not made - elsewhere
        gone = re.match(r"(?:Remove|Replace) the (\w+)", example.query.text)
        assert not gone or gone[1] not in {thing for _, _, thing in elsewhere}


def test_all_kinds_of_edit_occur() -> None:
    kinds = Counter(
        text.split()[0] + str(text.split()[-1].rstrip(".") in set(Size))
        for text in (example.query.text for example in examples("CIRR", 500))
    )
    assert len(kinds) == 5
    assert min(kinds.values()) > 60


# -- similar pictures ------------------------------------------------------------------------------


def test_what_is_where_decides_and_the_ground_does_not() -> None:
    for example in examples("NIGHTS"):
        scene, target = pictured(example.query), pictured(example.target.side)
        assert cells(target) == cells(scene)
        assert target.ground != scene.ground
        for rival in example.rivals:
            assert cells(pictured(rival.side)) != cells(scene)
        colour, shape, moved = (pictured(rival.side) for rival in example.rivals)
        assert {thing for _, thing in cells(colour)} == {thing for _, thing in cells(scene)}
        assert Counter(c for c, _ in cells(shape)) == Counter(c for c, _ in cells(scene))
        assert set(cells(moved)) == set(cells(scene))


# -- news ------------------------------------------------------------------------------------------


def news_is_true(text: str, place: Place) -> bool:
    words = re.findall(r"\w+", text.lower())
    lands = [word for word in words if word in set(LANDS)]
    skies = [word for word in words if word in set(SKIES)]
    assert len(lands) == len(skies) == 1
    assert place.figure is not None
    look = place.figure.look
    shown = [str(look.colour), str(look.thing), str(place.land), str(place.sky)]
    return [*words[1:3], *lands, *skies] == shown


@pytest.mark.parametrize("name", ["VisualNews_t2i", "EDIS"])
def test_news_pictures_show_what_the_caption_says(name: str) -> None:
    made = list(examples(name))
    for example in made:
        headline = _headline(example.query.text) if name == "EDIS" else ""
        for target in (each.target for each in made):
            true = news_is_true(example.query.text, pictured(target.side))
            assert example.answered_by(target.meaning) == (true and target.side.text == headline)
        for rival in example.rivals:
            halves = (
                news_is_true(example.query.text, pictured(rival.side)),
                rival.side.text == headline,
            )
            assert halves != (True, True)
            assert name != "EDIS" or any(halves)


def _headline(text: str) -> str:
    return match(r".*, named (\w+)\.", text)[0]


def test_news_captions_are_true_of_the_picture() -> None:
    made = list(examples("VisualNews_i2t"))
    for example in made:
        place = pictured(example.query)
        assert news_is_true(example.target.side.text, place)
        for each in made:
            for one in (each.target, *each.rivals):
                true = news_is_true(one.side.text, place)
                assert example.answered_by(one.meaning) == true


def test_reports_are_of_pairs_held_out() -> None:
    for example in examples("EDIS"):
        look = pictured(example.target.side).figure.look
        assert (look.colour, look.thing) in HELD_OUT


def test_each_news_rival_is_wrong_in_one_word() -> None:
    for example in examples("VisualNews_t2i"):
        gold, *wrong = (pictured(one.side) for one in (example.target, *example.rivals))
        facts = [[p.figure.look.name, p.land, p.sky] for p in (gold, *wrong)]
        differing = [[a != b for a, b in zip(facts[0], each, strict=True)] for each in facts[1:]]
        assert differing == [[n == m for m in range(3)] for n in range(3)]


# -- entries ---------------------------------------------------------------------------------------


def only(scene: Scene) -> tuple[str, str]:
    (look,) = scene.looks
    return str(look.colour), str(look.thing)


def test_both_halves_of_an_entry_are_needed() -> None:
    made = list(examples("WebQA"))
    for example in made:
        title, *pair = match(rf"Which entry named (\w+) shows {PAIR}\?", example.query.text)
        assert title in READ
        for one in (*(each.target for each in made), example.target, *example.rivals):
            halves = (one.side.text == title, only(pictured(one.side)) == tuple(pair))
            assert example.answered_by(one.meaning) == all(halves)
        halves_right = [
            (rival.side.text == title, only(pictured(rival.side)) == tuple(pair))
            for rival in example.rivals
        ]
        assert sorted(halves_right) == [(False, True), (True, False), (True, False)]


def test_evidence_shows_the_thing_and_rivals_have_its_colour() -> None:
    made = list(examples("OVEN"))
    for example in made:
        colour, thing = only(pictured(example.query))
        for one in (*(each.target for each in made), *example.rivals):
            (named,) = match(r"An? (\w+)\.", one.side.text)
            assert only(pictured(one.side))[1] == named
            assert example.answered_by(one.meaning) == (named == thing)
        assert only(pictured(example.target.side))[0] != colour
        assert {only(pictured(rival.side))[0] for rival in example.rivals} == {colour}
    assert {only(pictured(example.query))[1] for example in made} == set(THINGS)


# -- garments --------------------------------------------------------------------------------------


def note_is_true(text: str, seen: Garment, garment: Garment) -> bool:
    size, colour = match(r"is (?:(\w+) and )?(\w+)", text)
    return (
        garment.kind == seen.kind
        and garment.colour == colour
        and (size is None or garment.size == size)
    )


def test_the_garment_is_as_the_note_has_it() -> None:
    made = list(examples("FashionIQ"))
    for example in made:
        seen = pictured(example.query)
        assert not note_is_true(example.query.text, seen, seen)
        for one in (*(each.target for each in made), *example.rivals):
            true = note_is_true(example.query.text, seen, pictured(one.side))
            assert example.answered_by(one.meaning) == true
        golds = pictured(example.target.side)
        assert (golds.striped, golds.ground, golds.cell) == (seen.striped, seen.ground, seen.cell)


def test_garments_are_told_apart_by_their_pixels() -> None:
    garment = pictured(next(examples("FashionIQ")).query)
    variants = [
        type(garment)(
            kind=kind,
            colour=colour,
            size=size,
            striped=striped,
            cell=garment.cell,
            ground=garment.ground,
        )
        for kind in Kind
        for colour in COLOURS
        for size in Size
        for striped in (False, True)
    ]
    assert len({np.asarray(each.picture()).tobytes() for each in variants}) == len(variants)
