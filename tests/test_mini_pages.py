"""Pictures with words, numbers and charts: what is asked of them is true, and nothing tells it.

What a query says is read again here from its text against what is drawn, and what is drawn against
the pixels: the generators' own answers are not trusted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
from mmeb_harness.tasks.mini.evaluation import questions
from mmeb_harness.tasks.mini.makers import charts, forms, infographics, memes, pages, signs
from mmeb_harness.tasks.mini.makers.example import Example
from mmeb_harness.tasks.mini.pictures import lettering
from mmeb_harness.tasks.mini.pictures.drawing import CELL, PIGMENTS
from mmeb_harness.tasks.mini.pictures.words import COLOURS, NUMBERS, READ
from mmeb_harness.tasks.mini.recipes import RECIPES, recipe_of
from mmeb_harness.tasks.mini.training import GeneratedPairs
from mmeb_harness.tasks.table import dataset_facts

pytestmark = pytest.mark.thorough

IND = ("HatefulMemes", "DocVQA", "InfographicsVQA", "ChartQA")
OOD = ("ScienceQA", "TextVQA", "Wiki-SS-NQ")
ASKED = (*IND[1:], *OOD[:2])
DRAWS = 600
WHITE = (255, 255, 255)


@cache
def made(name: str, count: int = DRAWS) -> Sequence[Example]:
    return [recipe_of(name).make(Random(f"test/{name}/{number}")) for number in range(count)]


def drawn(example: Example) -> Any:
    """Return the data that a query's picture is drawn from."""
    assert example.query.picture is not None
    return example.query.picture.of[0]


def pixels(example: Example) -> np.ndarray:
    assert example.query.picture is not None
    return np.asarray(example.query.picture()).astype(int)


def counted(image: np.ndarray, colour: str) -> int:
    """Return how many pixels have a colour, exactly."""
    return int((image == PIGMENTS[colour]).all(-1).sum())  # type: ignore[index]


# -- what is said is true --------------------------------------------------------------------------


def form_answer(form: forms.Form, question: str) -> str:
    lines = [(line.word.text, line.mark.look.colour, line.mark.look.thing) for line in form.lines]
    if found := re.fullmatch(r"What is the (first|second) word\?", question):
        return lines[found[1] == "second"][0]
    if found := re.fullmatch(r"What colour is the (first|second) word\?", question):
        return lines[found[1] == "second"][1]
    found = re.fullmatch(r"Which word (?:is|has the) (\w+)\?", question)
    assert found, question
    (answer,) = [word for word, *look in lines if found[1] in look]
    return answer


def infographic_answer(graphic: infographics.Infographic, question: str) -> str:
    shown = {row.figure.look.thing: int(row.digit.text) for row in graphic.rows}
    if found := re.fullmatch(r"How many for the (\w+)\?", question):
        return NUMBERS[shown[found[1]] - 1]  # type: ignore[index]
    found = re.fullmatch(r"Which has (?:the )?(\w+)\?", question)
    assert found, question
    ends = {"most": max(shown.values()), "fewest": min(shown.values())}
    wanted = ends[found[1]] if found[1] in ends else NUMBERS.index(found[1]) + 1
    (answer,) = [thing for thing, number in shown.items() if number == wanted]
    return answer


def chart_answer(chart: charts.Chart, question: str) -> str:
    heights = {str(colour): height for colour, height in chart.columns}
    ranked = sorted(heights, key=heights.__getitem__)
    if found := re.fullmatch(r"What colour (?:is|has) the ([\w ]+?)(?: bar)?\?", question):
        places = {"tallest": -1, "most": -1, "second tallest": -2, "shortest": 0, "fewest": 0}
        return ranked[places[found[1]]]
    if found := re.fullmatch(r"Which (?:is taller|has the most), (\w+) or (\w+)\?", question):
        return max(found[1], found[2], key=heights.__getitem__)
    found = re.fullmatch(r"How (?:tall is the|many has) (\w+)(?: bar)?\?", question)
    assert found, question
    return NUMBERS[heights[found[1]] - 1]


def sign_answer(sign: signs.Sign, question: str) -> str:
    if question == "What is the word?":
        return sign.word.text
    assert question == "What colour is the word?" and sign.word.ink is not None
    return sign.word.ink


TRUTH: dict[str, Callable[[Any, str], str]] = {
    "DocVQA": form_answer,
    "InfographicsVQA": infographic_answer,
    "ChartQA": chart_answer,
    "ScienceQA": chart_answer,
    "TextVQA": sign_answer,
}


@pytest.mark.parametrize("name", ASKED)
def test_answers_are_right_and_rivals_are_wrong(name: str) -> None:
    for example in made(name):
        right = TRUTH[name](drawn(example), example.query.text)
        assert example.target.side.text == example.target.meaning == right
        assert right not in [rival.meaning for rival in example.rivals]


@pytest.mark.parametrize("name", ASKED)
def test_every_kind_of_question_is_asked_and_its_answers_are_equally_often_right(name: str) -> None:
    answers = defaultdict(list)
    for example in made(name, 2400):
        (form,) = [trait for trait in example.traits if trait.startswith("form ")]
        answers[form].append(example.target.side.text)
    assert len(answers) >= 2
    listed = {target.meaning for target in recipe_of(name).listed}
    for form, given in answers.items():
        assert len(given) > 100, form
        often = Counter(given)
        assert listed.issuperset(often)
        assert max(often.values()) < 3 * len(given) / len(often), (form, often)


def test_a_meme_is_hateful_where_an_unkind_word_stands_over_a_face() -> None:
    answers = Counter()
    for example in made("HatefulMemes", 2000):
        meme = drawn(example)
        unkind, face = meme.word.text in memes.UNKIND, isinstance(meme.below, memes.Face)
        answers[unkind, face, example.target.meaning] += 1
        (rival,) = example.rivals
        assert {rival.meaning, example.target.meaning} == {"yes", "no"}
    assert set(answers) == {(True, True, "yes"), (True, False, "no"), (False, True, "no")}
    assert answers[True, True, "yes"] == pytest.approx(1000, abs=100)
    for half in ((True, False, "no"), (False, True, "no")):
        assert answers[half] == pytest.approx(500, abs=80)


def test_neither_the_place_nor_a_colour_tells_a_hateful_meme() -> None:
    telling: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for example in made("HatefulMemes", 4000):
        meme = drawn(example)
        face = isinstance(meme.below, memes.Face)
        colour = meme.below.colour if face else meme.below.look.colour
        answer = str(example.target.meaning)
        telling["cell"][str(meme.below.cell), answer] += 1
        telling["colour"][colour, answer] += 1
        telling["ink"][meme.word.ink, answer] += 1
        telling["font"][meme.word.font, answer] += 1
    for often in telling.values():
        for value in {value for value, _ in often}:
            both = often[value, "yes"] + often[value, "no"]
            assert abs(often[value, "yes"] / both - 0.5) < 0.1, value


def test_a_page_is_found_by_its_title_and_its_picture() -> None:
    for example in made("Wiki-SS-NQ", 200):
        found = re.fullmatch(r"Which entry named (\w+) shows an? (\w+ \w+)\?", example.query.text)
        assert found
        for target, right in ((example.target, True), *((each, False) for each in example.rivals)):
            assert target.side.picture is not None
            (page,) = target.side.picture.of
            assert isinstance(page, pages.Page)
            shown = (page.title.text, page.figure.look.name)
            assert (shown == (found[1], found[2])) is right
            assert example.answered_by(target.meaning) is right
            if not right:
                named, pictured = (a == b for a, b in zip(shown, found.groups(), strict=True))
                assert named != pictured


# -- what is drawn is what is said -----------------------------------------------------------------


def test_bars_are_as_tall_as_they_are_said_to_be() -> None:
    for example in (*made("ChartQA")[:100], *made("ScienceQA")[:100]):
        chart, image = drawn(example), pixels(example)
        tall = [counted(image, colour) for colour, _ in chart.columns]
        assert np.argsort(tall).tolist() == np.argsort([h for _, h in chart.columns]).tolist()


def test_dots_are_as_many_as_they_are_said_to_be() -> None:
    for number in range(1, 10):
        mask = np.asarray(infographics.dots(number)) > 128
        covered = mask.sum() / (np.asarray(infographics.dots(1)) > 128).sum()
        assert covered == pytest.approx(number, abs=0.01)


def test_the_rows_of_an_infographic_are_drawn_in_order() -> None:
    for example in made("InfographicsVQA")[:100]:
        graphic, image = drawn(example), pixels(example)
        for at, row in enumerate(graphic.rows):
            band = image[at * CELL : (at + 1) * CELL]
            for half in (band[:, :CELL], band[:, CELL:]):
                assert counted(half, row.digit.ink) > 5


def test_the_lines_of_a_form_are_drawn_in_order() -> None:
    for example in made("DocVQA")[:100]:
        form, image = drawn(example), pixels(example)
        assert image.shape == (56, 84, 3)
        for at, line in enumerate(form.lines):
            band = image[at * CELL : (at + 1) * CELL]
            assert counted(band[:, :CELL], line.mark.look.colour) > 10
            assert counted(band[:, CELL:], line.word.ink) > 10
            assert line.word.ink == line.mark.look.colour


def test_a_sign_shows_its_plate_and_its_ink() -> None:
    for example in made("TextVQA")[:100]:
        sign, image = drawn(example), pixels(example)
        plate, pole = image[2 : CELL - 2, 2:-2], image[CELL + 2 :]
        assert (pole[:, 28] == signs.POLE).all()
        if sign.plate is None:
            assert counted(plate, sign.word.ink) > 10
        else:
            assert counted(plate, sign.plate) > 400
        assert (plate == WHITE).all(-1).sum() > (10 if sign.plate else 400)


def test_a_face_is_not_a_circle() -> None:
    mask = np.asarray(memes.face_mask(12))
    assert mask[12, 12] == 255
    assert mask[8, 7] == mask[8, 16] == 0  # eyes
    assert mask[17, 12] == 0  # mouth


# -- letters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("font", lettering.Font)
def test_no_letter_is_cut_wherever_a_word_is_shifted(font: lettering.Font) -> None:
    for text in READ:
        word = lettering.Lettering(text=text, ink=COLOURS[0], font=font)
        box = lettering.mask(word).point(lambda value: 255 * (value > 127)).getbbox()
        assert box is not None
        across, down = lettering.FURTHEST_SHIFT
        assert box[0] >= across and box[2] <= lettering.ROOM - across, text
        assert box[1] >= down and box[3] <= CELL - down, text


@pytest.mark.parametrize("font", lettering.Font)
def test_every_word_looks_different(font: lettering.Font) -> None:
    masks = []
    for text in READ:
        word = lettering.Lettering(text=text, ink=COLOURS[0], font=font)
        masks.append(np.asarray(lettering.mask(word)).ravel() / 255)
    flat = np.array(masks)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1) + 1e9 * np.eye(len(READ))
    assert apart.min() > 0.3 * np.linalg.norm(flat, axis=1).mean()


def test_letters_are_large_and_crisp() -> None:
    word = lettering.Lettering(text="oxo", ink=COLOURS[0], font=lettering.Font.AILERON)
    mask = np.asarray(lettering.mask(word))
    assert mask.max() == 255
    height = np.flatnonzero(mask.max(axis=1) > 127)
    width = np.flatnonzero(mask.max(axis=0) > 127)
    assert height[-1] - height[0] + 1 >= 12
    assert (width[-1] - width[0] + 1) / 3 >= 11


def test_fonts_look_different() -> None:
    shapes = set()
    for font in lettering.Font:
        word = lettering.Lettering(text="dog", ink=None, font=font)
        shapes.add(lettering.mask(word).tobytes())
    assert len(shapes) == len(lettering.Font)


# -- lists, splits, repeatability ------------------------------------------------------------------


@pytest.mark.parametrize("name", (*IND, *OOD))
def test_an_evaluation_part_has_its_candidates_and_one_right_one(name: str) -> None:
    asked = questions(recipe_of(name))
    for question in asked:
        gold, *wrong = question.candidates
        assert len(wrong) + 1 == min(dataset_facts()[name].candidates, 50)
        assert question.example.answered_by(gold.meaning)
        assert not any(question.example.answered_by(each.meaning) for each in wrong)
        if name in ASKED:
            kinds = {example.target.meaning for example in made(name)}
            assert {target.meaning for target in question.candidates} >= kinds
    if name == "HatefulMemes":
        golds = Counter(question.example.target.meaning for question in asked)
        assert golds["yes"] == golds["no"]


@pytest.mark.parametrize("name", OOD)
def test_each_out_of_distribution_example_has_something_new(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.novel
    known = {trait for other in IND for example in made(other, 2400) for trait in example.traits}
    assert not known & recipe.novel
    assert all(recipe.novel & example.traits for example in made(name))


def test_a_coloured_word_on_a_sign_is_in_a_font_that_is_not_trained() -> None:
    fonts = Counter(drawn(one).word.font for one in made("TextVQA") if drawn(one).plate is None)
    assert set(fonts) == set(lettering.OTHER_FONTS)
    assert min(fonts.values()) > 100


def test_training_parts_show_the_trained_fonts_only() -> None:
    for name in IND:
        fonts = {each for one in made(name, 2400) for each in one.traits if each.startswith("font")}
        assert fonts <= {f"font {font}" for font in lettering.PLAIN_FONTS}


@pytest.mark.parametrize("name", (*IND, *OOD))
def test_a_number_makes_the_same_example_again(name: str) -> None:
    first, again = (recipe_of(name).make(Random("same")) for _ in range(2))
    assert (first.query, first.target, first.rivals) == (again.query, again.target, again.rivals)
    for side in (first.query, first.target.side):
        assert side.picture is None or side.picture().tobytes() == side.picture().tobytes()


@pytest.mark.parametrize("name", IND)
def test_training_pairs_have_a_hard_negative(name: str) -> None:
    for pair in GeneratedPairs(RECIPES[name])[:20]:
        assert pair.negative is not None
        assert pair.negative.text != pair.positive.text
        assert pair.query.image is not None
        assert not any(side % CELL for side in pair.query.image.size)
