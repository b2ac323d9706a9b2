"""Questions about drawn scenes, and their crops: read again here, against scenes and pixels.

What the generators take for right is not asked: cells, sizes, relations, what things are for, which
crop is meant are decided here from the text, and what a scene says of itself is looked for in its
pixels.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
from mmeb_harness.tasks.mini.evaluation import QUERIES, SHIPPED, Question, questions
from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Figure, Look, Scene
from mmeb_harness.tasks.mini.pictures.style import PLAIN
from mmeb_harness.tasks.mini.pictures.words import COLOURS, NUMBERS, READ, THINGS, Size
from mmeb_harness.tasks.mini.recipe import MOST
from mmeb_harness.tasks.mini.recipes import RECIPES
from mmeb_harness.tasks.table import dataset_facts

pytestmark = pytest.mark.thorough

ASKED = ("OK-VQA", "A-OKVQA", "Visual7W", "VizWiz", "GQA")
POINTED = ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing")
SHARP = [name for name in (*ASKED, *POINTED) if name != "VizWiz"]
TRAINING = 40

STEPS = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Rows and columns from the one to the other; row 0 is the upper one."""

Kind = TypeVar("Kind")


class Listed(NamedTuple):
    """An example, and what its answer is chosen from, the gold first."""

    example: Example
    candidates: list[Target]

    @property
    def text(self) -> str:
        return self.example.query.text

    @property
    def scene(self) -> Scene:
        assert self.example.query.picture is not None
        (scene,) = self.example.query.picture.of
        assert isinstance(scene, Scene)
        return scene


@cache
def evaluated(name: str) -> list[Question]:
    return questions(RECIPES[name])


@cache
def lists(name: str) -> list[Listed]:
    """Return the evaluation part, then training examples with nothing but their rivals."""
    made = [RECIPES[name].training_example(number) for number in range(TRAINING)]
    return [
        *(Listed(each.example, list(each.candidates)) for each in evaluated(name)),
        *(Listed(each, [each.target, *each.rivals]) for each in made),
    ]


def only(found: Iterable[Kind]) -> Kind:
    one, *more = found
    assert not more, (one, *more)
    return one


@cache
def pixels(drawn: Picture) -> Any:
    return np.asarray(drawn(), dtype=int)


def pixels_of(side: Side) -> Any:
    assert side.picture is not None
    return pixels(side.picture)


def seen(target: Target) -> tuple[str, bytes]:
    """Return what tells candidates apart: text and pixels."""
    picture = target.side.picture
    return target.side.text, b"" if picture is None else pixels(picture).tobytes()


def where(figure: Figure) -> str:
    return f"{('top', 'bottom')[figure.cell.row]} {('left', 'right')[figure.cell.column]}"


def with_thing(scene: Scene, thing: str) -> Figure:
    return only(figure for figure in scene.figures if str(figure.look.thing) == thing)


def with_colour(scene: Scene, colour: str) -> Figure:
    return only(figure for figure in scene.figures if str(figure.look.colour) == colour)


def beside(scene: Scene, relation: str, thing: str) -> Figure:
    """Return the figure on one side of a thing: it alone is on that side, and straight so."""
    landmark, (down, right) = with_thing(scene, thing), STEPS[relation]
    apart = {
        figure: (figure.cell.row - landmark.cell.row, figure.cell.column - landmark.cell.column)
        for figure in scene.figures
    }
    figure = only(f for f, (rows, columns) in apart.items() if rows * down + columns * right > 0)
    assert apart[figure] == (down, right)
    return figure


# -- questions -------------------------------------------------------------------------------------

GOOD_FOR = {
    "house": "living",
    "tree": "climbing",
    "cup": "drinking",
    "fish": "eating",
    "car": "driving",
    "boat": "sailing",
    "key": "opening",
    "lamp": "reading",
    "flower": "smelling",
    "bird": "singing",
}
IS_FOUND = {
    "house": "village",
    "tree": "forest",
    "cup": "kitchen",
    "fish": "sea",
    "car": "street",
    "boat": "harbour",
    "key": "pocket",
    "lamp": "bedroom",
    "flower": "garden",
    "bird": "nest",
}
MAY_BE_FOUND = {
    "house": {"street", "garden"},
    "tree": {"garden", "village", "street"},
    "cup": {"bedroom", "garden"},
    "fish": {"kitchen", "harbour"},
    "car": {"village", "harbour"},
    "boat": {"sea"},
    "key": {"kitchen", "bedroom"},
    "lamp": {"kitchen", "street"},
    "flower": {"forest", "village", "kitchen"},
    "bird": {"forest", "garden", "sea", "village", "harbour"},
}
"""Other places that nobody would call wrong; that things are in a `house` is not looked at."""


class Reading(NamedTuple):
    """The right answer, the answers that the picture suggests, and what is not wrong either."""

    right: str
    suggested: Iterable[object]
    arguable: frozenset[str] = frozenset()


def read_colour(scene: Scene, thing: str) -> Reading:
    return Reading(str(with_thing(scene, thing).look.colour), (k.colour for k in scene.looks))


def read_thing(scene: Scene, colour: str) -> Reading:
    return Reading(str(with_colour(scene, colour).look.thing), (k.thing for k in scene.looks))


def read_corner(scene: Scene, thing: str) -> Reading:
    return Reading(where(with_thing(scene, thing)), map(where, scene.figures))


def read_count(scene: Scene) -> Reading:
    numbers = {1: "one", 2: "two", 3: "three", 4: "four"}
    assert len({figure.cell for figure in scene.figures}) == len(scene.figures)
    return Reading(numbers[len(scene.figures)], numbers.values())


def read_neighbour(scene: Scene, relation: str, thing: str) -> Reading:
    figure = beside(scene, relation, thing)
    return Reading(str(figure.look.thing), (look.thing for look in scene.looks))


def read_odd_size(scene: Scene, size: str) -> Reading:
    assert len(scene.figures) > 1
    look = only(look for look in scene.looks if str(look.size) == size)
    return Reading(str(look.colour), (other.colour for other in scene.looks))


def read_alike(scene: Scene, thing: str, other: str) -> Reading:
    assert thing != other
    sizes = {str(with_thing(scene, named).look.size) for named in (thing, other)}
    return Reading("yes" if len(sizes) == 1 else "no", ("yes", "no"))


def read_use(scene: Scene, colour: str) -> Reading:
    thing = str(with_colour(scene, colour).look.thing)
    return Reading(GOOD_FOR[thing], (GOOD_FOR[str(look.thing)] for look in scene.looks))


def read_found(scene: Scene, colour: str) -> Reading:
    thing = str(with_colour(scene, colour).look.thing)
    suggested = (IS_FOUND[str(look.thing)] for look in scene.looks)
    return Reading(IS_FOUND[thing], suggested, frozenset(MAY_BE_FOUND[thing]))


READINGS: Mapping[str, Callable[..., Reading]] = {
    r"What colour is the (\w+)\?": read_colour,
    r"The (\w+) is what colour\?": read_colour,
    r"What is (\w+)\?": read_thing,
    r"The (\w+) figure is what\?": read_thing,
    r"Where is the (\w+)\?": read_corner,
    r"How many figures are there\?": read_count,
    rf"What is ({'|'.join(STEPS)}) the (\w+)\?": read_neighbour,
    r"What colour is the (small|large) figure\?": read_odd_size,
    r"Are the (\w+) and the (\w+) of one size\?": read_alike,
    r"What is the (\w+) thing good for\?": read_use,
    r"Where does one find the (\w+) thing\?": read_found,
}


def read(listed: Listed) -> Reading:
    matches = [(re.fullmatch(pattern, listed.text), reader) for pattern, reader in READINGS.items()]
    words, reader = only((words, reader) for words, reader in matches if words)
    return reader(listed.scene, *words.groups())


@pytest.mark.parametrize("name", ASKED)
def test_the_gold_alone_answers_the_question(name: str) -> None:
    for listed in lists(name):
        answers, reading = [one.side.text for one in listed.candidates], read(listed)
        right = [answer == reading.right for answer in answers]
        assert right == [True] + [False] * (len(answers) - 1), (listed.text, answers[0])
        assert reading.arguable.isdisjoint(answers), (listed.text, answers[0])


@pytest.mark.parametrize("name", ASKED)
def test_what_else_the_picture_suggests_is_listed(name: str) -> None:
    """A question whose other answers are elsewhere is answered by a look at the picture alone."""
    for listed in lists(name):
        reading = read(listed)
        wrong = {str(word) for word in reading.suggested} - {reading.right} - reading.arguable
        assert {rival.side.text for rival in listed.example.rivals} == wrong
        assert wrong < {one.side.text for one in listed.candidates}


def test_what_is_asked_is_answered_every_way() -> None:
    golds: dict[str, set[str]] = defaultdict(set)
    for name in ASKED:
        for listed in lists(name):
            kind = only(kind for kind in READINGS if re.fullmatch(kind, listed.text))
            golds[READINGS[kind].__name__].add(listed.candidates[0].side.text)
    assert golds["read_colour"] == set(HUES)
    assert golds["read_corner"] == {"top left", "top right", "bottom left", "bottom right"}
    assert golds["read_count"] == {"two", "three", "four"}
    assert golds["read_alike"] == {"yes", "no"}
    assert golds["read_use"] == set(GOOD_FOR.values())
    assert golds["read_found"] == set(IS_FOUND.values())
    texts = " ".join(listed.text for name in ASKED for listed in lists(name))
    assert all(f"What is {relation} the" in texts for relation in STEPS)


@pytest.mark.parametrize("name", [*ASKED, *POINTED])
def test_evaluation_lists_are_whole(name: str) -> None:
    asked = lists(name)[:QUERIES]
    assert len(evaluated(name)) == QUERIES
    for listed in asked:
        sides = set(map(seen, listed.candidates))
        assert len(sides) == len(listed.candidates) == MOST
        assert set(map(seen, listed.example.rivals)) < sides


# -- crops -----------------------------------------------------------------------------------------

A_COLOUR = rf"(?P<colour>{'|'.join(COLOURS)})"
A_THING = rf"(?P<thing>{'|'.join(THINGS)})"
A_CORNER = "(?P<where>(?:top|bottom) (?:left|right))"
EXPRESSIONS = (
    rf'"{A_COLOUR} {A_THING}"',
    rf'"{A_THING}"',
    rf'"{A_THING} in the {A_CORNER}"',
    rf'"{A_CORNER} figure"',
    rf"Which figure is {A_COLOUR}\?",
    rf"Which figure is (?P<relation>{'|'.join(STEPS)}) the (?P<landmark>\w+)\?",
)
EXPRESSIONS_OF = {
    "MSCOCO": {0, 1},
    "RefCOCO": {0, 2, 3},
    "RefCOCO-Matching": {0, 2},
    "Visual7W-Pointing": {4, 5},
}

ELSE_GROUND = 10
"""How far apart, of 255 in one channel, two crops without their figures are on two grounds."""


def expressed(text: str) -> tuple[int, dict[str, str]]:
    """Return which kind of expression a text is, and its words by what they say."""
    matches = [re.fullmatch(pattern, text) for pattern in EXPRESSIONS]
    return only((kind, found.groupdict()) for kind, found in enumerate(matches) if found)


def looks_so(look: Look, said: Mapping[str, str]) -> bool:
    return said.get("colour", look.colour) == look.colour and (
        said.get("thing", look.thing) == look.thing
    )


def meant(listed: Listed) -> Figure:
    """Return the one figure that an expression is true of."""
    _, said = expressed(listed.text)
    if "relation" in said:
        return beside(listed.scene, said["relation"], said["landmark"])
    return only(
        figure
        for figure in listed.scene.figures
        if looks_so(figure.look, said) and said.get("where", where(figure)) == where(figure)
    )


def cut_from(target: Target) -> tuple[Scene, Figure]:
    """Return the picture that a candidate is cut out of, and the figure it shows."""
    assert target.side.picture is not None
    scene, cell = target.side.picture.of
    assert isinstance(scene, Scene)
    return scene, only(figure for figure in scene.figures if figure.cell == cell)


@cache
def ground_seen(crop: Picture) -> Any:
    """Return the mean colour of a crop as it would be without its figure."""
    scene, cell = crop.of
    assert isinstance(scene, Scene)
    return pixels(Picture(crop.draw, (replace(scene, figures=()), cell))).mean(axis=(0, 1))


def grounds_apart(one: Target, other: Target) -> float:
    """Return by how much the grounds of two crops differ, of 255 in one channel."""
    assert one.side.picture is not None
    assert other.side.picture is not None
    difference = ground_seen(one.side.picture) - ground_seen(other.side.picture)
    return float(np.abs(difference).max())


def part_at(drawn: Any, row: int, column: int) -> Any:
    return drawn[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]


@pytest.mark.parametrize("name", POINTED)
def test_the_gold_is_what_the_picture_shows_where_the_figure_is(name: str) -> None:
    for listed in lists(name):
        figure, drawn = meant(listed), pixels_of(listed.example.query)
        gold = pixels_of(listed.candidates[0].side)
        assert gold.shape == (28, 28, 3)
        assert (gold == part_at(drawn, figure.cell.row, figure.cell.column)).all(), listed.text


@pytest.mark.parametrize("name", POINTED)
def test_no_other_candidate_could_be_taken_for_the_gold(name: str) -> None:
    for listed in lists(name):
        gold, *wrong = listed.candidates
        for one in wrong:
            if cut_from(one)[1].look == meant(listed).look:
                assert grounds_apart(one, gold) > ELSE_GROUND, listed.text
            assert seen(one) != seen(gold)


@pytest.mark.parametrize("name", POINTED)
def test_rivals_are_the_other_figures_two_impostors_and_a_twin(name: str) -> None:
    for listed in lists(name):
        (_, said), scene, figure = expressed(listed.text), listed.scene, meant(listed)
        others, impostors, twins = [], [], []
        for rival in listed.example.rivals:
            theirs, shown = cut_from(rival)
            if theirs == scene:
                others.append(shown)
            elif shown.look == figure.look:
                twins.append(rival)
            else:
                impostors.append((theirs, shown, rival))
        assert {figure, *others} == set(scene.figures)
        assert (len(others), len(impostors), len(twins)) == (len(scene.figures) - 1, 2, 1)
        assert grounds_apart(only(twins), listed.candidates[0]) > ELSE_GROUND
        drawn = pixels_of(listed.example.query)
        for theirs, shown, rival in impostors:
            assert looks_so(shown.look, said)
            assert shown.look not in scene.looks
            assert (theirs.ground, theirs.style) == (scene.ground, scene.style)
            crop = pixels_of(rival.side)
            parts = [part_at(drawn, row, column) for row in range(2) for column in range(2)]
            assert all((crop != part).any() for part in parts)


@pytest.mark.parametrize("name", POINTED)
def test_crops_show_the_look_they_are_listed_for(name: str) -> None:
    for target in {one for listed in lists(name) for one in listed.candidates}:
        look = cut_from(target)[1].look
        shown = inks(ink(pixels_of(target.side)))
        assert set(shown) == {str(look.colour)}
        worded = f'"the {look.thing}"' if name == "RefCOCO-Matching" else ""
        assert target.side.text == worded


@pytest.mark.parametrize("name", POINTED)
def test_every_kind_of_expression_occurs(name: str) -> None:
    for part in (lists(name)[:QUERIES], lists(name)[QUERIES:]):
        assert {expressed(listed.text)[0] for listed in part} == EXPRESSIONS_OF[name]


# -- pixels ----------------------------------------------------------------------------------------

HUES = {
    "red": (215, 30, 40),
    "orange": (255, 135, 0),
    "yellow": (245, 215, 0),
    "green": (30, 150, 60),
    "blue": (30, 85, 220),
    "purple": (130, 40, 170),
    "pink": (255, 130, 190),
    "black": (20, 20, 20),
}
"""What everybody calls red, orange, and so on."""

DIM = {"VizWiz": 0.7}
"""How much of the light is left; all of it in the other tasks."""

HOLLOW = {"ring", "moon", "flower", "key", "boat", "lamp"}
"""Things that have a hole, or next to nothing, in their middle."""

LOW = {"triangle": 1, "house": 1, "boat": 1, "heart": -1}
"""Whether the weight of a thing that stands upright is in its lower half, or in its upper."""

LARGE = 17
"""Pixels between the extents of the largest small thing and of the smallest large one."""


def ink(drawn: Any, light: float = 1.0) -> Any:
    """Return the name of every pixel's hue, `""` where it has none."""
    named = np.full(drawn.shape[:-1], "", dtype="<U6")
    for name, hue in HUES.items():
        red, green, blue = (np.abs(drawn[..., c] - light * hue[c]) < 12 for c in range(3))
        named[red & green & blue] = name
    return named


def inks(inked: Any) -> Counter[str]:
    """Return the hues of which there is more than the odd pixel on a rim."""
    counts = Counter(inked[inked != ""].tolist())
    return Counter({name: count for name, count in counts.items() if count > 3})


@cache
def scenes(name: str) -> list[tuple[Scene, Any, Any]]:
    """Return the scenes of a task, their pixels, and the names of the pixels' hues."""
    drawn = ((listed.scene, pixels_of(listed.example.query)) for listed in lists(name))
    return [(scene, shown, ink(shown, DIM.get(name, 1.0))) for scene, shown in drawn]


def inked_part(figure: Figure, inked: Any) -> Any:
    """Return where a cell has the ink of its figure."""
    return part_at(inked, figure.cell.row, figure.cell.column) == str(figure.look.colour)


@pytest.mark.parametrize("name", [*ASKED, *POINTED])
def test_the_middle_of_a_filled_thing_has_its_colour(name: str) -> None:
    for scene, _, inked in scenes(name):
        for figure in scene.figures:
            if str(figure.look.thing) not in HOLLOW:
                x = 28 * figure.cell.column + 14 + figure.shift[0]
                y = 28 * figure.cell.row + 14 + figure.shift[1]
                assert inked[y, x] == str(figure.look.colour), figure


@pytest.mark.parametrize("name", SHARP)
def test_each_cell_has_the_ink_of_its_figure_and_no_other(name: str) -> None:
    for scene, _, inked in scenes(name):
        expected = {(f.cell.row, f.cell.column): {str(f.look.colour)} for f in scene.figures}
        for row in range(2):
            for column in range(2):
                shown = inks(part_at(inked, row, column))
                assert set(shown) == expected.get((row, column), set())
                assert all(count > 30 for count in shown.values())


@pytest.mark.parametrize("name", [*ASKED, *POINTED])
def test_empty_cells_are_ground(name: str) -> None:
    """Grounds are pale; only the specks and bands of a busy one are less so."""
    for scene, drawn, _ in scenes(name):
        filled = {(figure.cell.row, figure.cell.column) for figure in scene.figures}
        for row, column in {(0, 0), (0, 1), (1, 0), (1, 1)} - filled:
            part = part_at(drawn, row, column)[2:-2, 2:-2]  # blur reaches over the edge
            assert part.min() >= 145 * DIM.get(name, 1.0)
            assert (part.max(axis=-1) - part.min(axis=-1)).max() < 50


@pytest.mark.parametrize("name", SHARP)
def test_large_things_are_larger_than_small_ones(name: str) -> None:
    for scene, _, inked in scenes(name):
        for figure in scene.figures:
            rows, columns = np.nonzero(inked_part(figure, inked))
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            assert (extent > LARGE) == (str(figure.look.size) == "large"), (figure, extent)


def test_things_stand_upright() -> None:
    upright = Counter[str]()
    for name in SHARP:
        for scene, _, inked in scenes(name):
            for figure in scene.figures:
                if low := LOW.get(thing := str(figure.look.thing), 0):
                    rows, _ = np.nonzero(inked_part(figure, inked))
                    assert low * (rows.mean() - (rows.min() + rows.max()) / 2) > 0.3, figure
                    upright[thing] += 1
    assert min(upright[thing] for thing in LOW) > 20


def test_vizwiz_is_dim_and_without_edges() -> None:
    for scene, drawn, _ in scenes("VizWiz"):
        sharp = pixels(picture(replace(scene, style=PLAIN)))
        edges = [np.abs(np.diff(each, axis=1)).max() for each in (drawn / 0.7, sharp)]
        assert drawn.max() <= round(0.7 * 255)
        assert edges[0] < 0.75 * edges[1]


# -- the wording of forms --------------------------------------------------------------------------

FACTS = dataset_facts()
FORMLESS = {"N24News", "VisualNews_t2i", "EDIS"}
"""News: queries that are no sentences of a form."""

CONTENT = {
    **{f"an? {thing}|{thing}s?|{thing}es": "<thing>" for thing in map(str, THINGS)},
    **{f"an? {colour}|{colour}": "<colour>" for colour in map(str, COLOURS)},
    **{f"an? {size}|{size}": "<size>" for size in map(str, Size)},
    **dict.fromkeys(NUMBERS, "<number>"),
    **dict.fromkeys(READ, "<word>"),
    "(?:top|bottom) (?:left|right)": "<corner>",
}
MASK = re.compile(r"\b(?:" + "|".join(f"({words})" for words in CONTENT) + r")\b")


def templates(text: str) -> set[str]:
    """Return a text with its words of content masked: each sentence, or round of a dialogue."""
    masks = list(CONTENT.values())
    masked = MASK.sub(lambda found: masks[(found.lastindex or 0) - 1], text.lower())
    return set(re.split(r"(?<=\.) ", masked))


def forms(example: Example) -> list[str]:
    return sorted(trait for trait in example.traits if trait.startswith("form "))


@cache
def worded() -> dict[str, list[Example]]:
    """Return examples of each task whose queries have a text; of OOD tasks, before any choice."""
    return {
        name: [recipe.training_example(number) for number in range(200)]
        if FACTS[name].split == "ind"
        else list(islice(recipe.evaluation_examples(SHIPPED), 150))
        for name, recipe in RECIPES.items()
        if recipe.training_example(0).query.text
    }


def wordings() -> dict[str, set[str]]:
    """Return the templates of each form."""
    told: dict[str, set[str]] = defaultdict(set)
    for name, made in worded().items():
        for example in made if name not in FORMLESS else ():
            told[only(forms(example))] |= templates(example.query.text)
    return told


def test_masking_leaves_the_form() -> None:
    assert templates("A red star is above the crosses, small two.") == {
        "<colour> <thing> is above the <thing>, <size> <number>."
    }
    assert templates("An orange arrow. Where is the fox? top left.") == {
        "<colour> <thing>.",
        "where is the <word>? <corner>.",
    }


def test_every_query_with_words_names_its_form() -> None:
    for name, made in worded().items():
        assert {len(forms(example)) for example in made} == {name not in FORMLESS}, name


def test_a_form_is_a_wording() -> None:
    """It has few, and shares none: a wording by another name would be nothing new."""
    told = wordings()
    assert len(told) > 30
    assert max(map(len, told.values())) <= 6
    named = Counter(template for each in told.values() for template in each)
    assert set(named.values()) == {1}


def test_a_form_that_is_new_is_worded_as_nothing_in_training() -> None:
    trained = {
        template
        for name, made in worded().items()
        if FACTS[name].split == "ind"
        for example in made
        for template in templates(example.query.text)
    }
    told, checked = wordings(), set()
    for name, recipe in RECIPES.items():
        if FACTS[name].split == "ood":
            for form in {trait for trait in recipe.novel if trait.startswith("form ")}:
                assert told[form]
                assert told[form].isdisjoint(trained), (name, form)
                checked.add(form)
    assert {"form which-colour", "form which-neighbour"} <= checked
