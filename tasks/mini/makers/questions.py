"""Questions about a scene, answered in a word: Visual7W, A-OKVQA, OK-VQA, and two that are new.

The one idea: a kind of question looks at a scene and asks only what has one answer there. Answers
of different kinds never overlap within a task, so that every other answer of a list is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from mmeb_harness.tasks.mini.makers.example import Example, Maker, Side, Target, label
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import (
    CORNERS,
    Scene,
    neighbours,
    random_looks,
    scatter,
)
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Style
from mmeb_harness.tasks.mini.pictures.words import (
    COLOURS,
    NUMBERS,
    OBJECTS,
    READ,
    SHAPES,
    Colour,
    Size,
    Thing,
)


class Asked(NamedTuple):
    """A question with its answer. `rivals` are answers to the like questions about the picture;
    `form` names how it is worded, `also` what else is not wrong."""

    question: str
    answer: str
    form: str
    rivals: Sequence[str] = ()
    also: frozenset[str] = frozenset()


Asking = Callable[[Random, Scene], Asked | None]
"""Asks something of a scene, or finds nothing to ask."""


@dataclass(frozen=True, kw_only=True)
class Quiz:
    """What is asked of what: kinds of question, how many figures, which things, in which style."""

    kinds: Sequence[Asking]
    figures: tuple[int, int]
    things: Sequence[Thing] = SHAPES
    style: Style = PLAIN


def asking(quiz: Quiz) -> Maker:
    """Return what makes a question of the quiz, its kinds equally often."""

    def make(rng: Random) -> Example:
        kind = rng.choice(quiz.kinds)
        while True:
            looks = random_looks(rng, rng.randint(*quiz.figures), quiz.style, quiz.things)
            scene = scatter(rng, looks, quiz.style)
            if asked := kind(rng, scene):
                break
        return Example(
            query=Side(text=asked.question, picture=picture(scene)),
            target=label(asked.answer),
            rivals=[
                label(word) for word in asked.rivals if word not in (asked.answer, *asked.also)
            ],
            fits=lambda meaning: meaning == asked.answer or meaning in asked.also,
            traits=scene.traits | {f"form {asked.form}"},
        )

    return make


def answers(*groups: Iterable[str]) -> list[Target]:
    """Return the answers of all kinds, then words that are never right."""
    return [label(word) for word in dict.fromkeys(str(word) for group in groups for word in group)]


def _colours(scene: Scene) -> list[Colour]:
    return [look.colour for look in scene.looks]


def _things(scene: Scene) -> list[Thing]:
    return [look.thing for look in scene.looks]


# -- what, where, how many -------------------------------------------------------------------------


def colour(rng: Random, scene: Scene) -> Asked:
    look = rng.choice(scene.looks)
    return Asked(f"What colour is the {look.thing}?", look.colour, "what-colour", _colours(scene))


def thing(rng: Random, scene: Scene) -> Asked:
    look = rng.choice(scene.looks)
    return Asked(f"What is {look.colour}?", look.thing, "what-is", _things(scene))


def corner(rng: Random, scene: Scene) -> Asked:
    figure = rng.choice(scene.figures)
    corners = [CORNERS[other.cell] for other in scene.figures]
    return Asked(f"Where is the {figure.look.thing}?", CORNERS[figure.cell], "where", corners)


def count(rng: Random, scene: Scene) -> Asked:
    number = NUMBERS[len(scene.figures) - 1]
    return Asked("How many figures are there?", number, "how-many", NUMBERS[:4])


WHAT_WHERE_HOW_MANY = (colour, thing, corner, count)

# -- figures compared ------------------------------------------------------------------------------


def neighbour(rng: Random, scene: Scene) -> Asked | None:
    """Ask for the one figure on one side of another."""
    pairs = neighbours(scene)
    if not pairs:
        return None
    relation, figure, landmark = rng.choice(pairs)
    question = f"What is {relation} the {landmark.look.thing}?"
    return Asked(question, figure.look.thing, "neighbour", _things(scene))


def odd_size(rng: Random, scene: Scene) -> Asked | None:
    """Ask for the colour of the one figure that is larger, or smaller, than the others."""
    for size in Size:
        alone = [look for look in scene.looks if look.size is size]
        if len(alone) == 1 and len(scene.looks) > 1:
            question = f"What colour is the {size} figure?"
            return Asked(question, alone[0].colour, "odd-size", _colours(scene))
    return None


def alike(rng: Random, scene: Scene) -> Asked:
    """Ask whether two figures are of one size."""
    first, second = rng.sample(scene.looks, 2)
    question = f"Are the {first.thing} and the {second.thing} of one size?"
    answer = "yes" if first.size is second.size else "no"
    return Asked(question, answer, "alike", ("yes", "no"))


COMPARED = (neighbour, odd_size, alike)

# -- what one has to know --------------------------------------------------------------------------

USES = {
    Thing.HOUSE: "living",
    Thing.TREE: "climbing",
    Thing.CUP: "drinking",
    Thing.FISH: "eating",
    Thing.CAR: "driving",
    Thing.BOAT: "sailing",
    Thing.KEY: "opening",
    Thing.LAMP: "reading",
    Thing.FLOWER: "smelling",
    Thing.BIRD: "singing",
}
FOUND = {
    Thing.HOUSE: "village",
    Thing.TREE: "forest",
    Thing.CUP: "kitchen",
    Thing.FISH: "sea",
    Thing.CAR: "street",
    Thing.BOAT: "harbour",
    Thing.KEY: "pocket",
    Thing.LAMP: "bedroom",
    Thing.FLOWER: "garden",
    Thing.BIRD: "nest",
}

ALSO_FOUND: Mapping[Thing, frozenset[str]] = {
    Thing.HOUSE: frozenset({"street", "garden"}),
    Thing.TREE: frozenset({"garden", "village", "street"}),
    Thing.CUP: frozenset({"bedroom", "garden"}),
    Thing.FISH: frozenset({"kitchen", "harbour"}),
    Thing.CAR: frozenset({"village", "harbour"}),
    Thing.BOAT: frozenset({"sea"}),
    Thing.KEY: frozenset({"kitchen", "bedroom"}),
    Thing.LAMP: frozenset({"kitchen", "street"}),
    Thing.FLOWER: frozenset({"forest", "kitchen", "village"}),
    Thing.BIRD: frozenset({"forest", "garden", "sea", "village", "harbour"}),
}
"""Where one may find a thing as well, beside with other things: not right, but not wrong."""

SOMEWHERE = ("box", "bus", "hat", "map", "rug", "sky", "van", "web")
NOWHERE = [word for word in READ if word not in SOMEWHERE]
"""Words that are read elsewhere, and that nothing is found in."""


def use(rng: Random, scene: Scene) -> Asked:
    look = rng.choice(scene.looks)
    uses = [USES[thing] for thing in _things(scene)]
    return Asked(f"What is the {look.colour} thing good for?", USES[look.thing], "use", uses)


def found(rng: Random, scene: Scene) -> Asked:
    look = rng.choice(scene.looks)
    question = f"Where does one find the {look.colour} thing?"
    places = [FOUND[thing] for thing in _things(scene)]
    also = ALSO_FOUND[look.thing] | set(OBJECTS)
    return Asked(question, FOUND[look.thing], "found", places, also)


KNOWN = (use, found)

# -- the same in other words -----------------------------------------------------------------------


def colour_turned(rng: Random, scene: Scene) -> Asked:
    look = rng.choice(scene.looks)
    return Asked(
        f"The {look.thing} is what colour?", look.colour, "is-what-colour", _colours(scene)
    )


def thing_turned(rng: Random, scene: Scene) -> Asked:
    look = rng.choice(scene.looks)
    return Asked(f"The {look.colour} figure is what?", look.thing, "is-what", _things(scene))


TURNED = (colour_turned, thing_turned)

CORNER_NAMES = tuple(CORNERS.values())
FIGURE_ANSWERS = answers(
    COLOURS, SHAPES, CORNER_NAMES, NUMBERS[:4], OBJECTS, NUMBERS[4:], USES.values()
)
COMPARED_ANSWERS = answers(
    COLOURS, SHAPES, ("yes", "no"), OBJECTS, NUMBERS, CORNER_NAMES, USES.values()
)
KNOWN_ANSWERS = answers(USES.values(), FOUND.values(), COLOURS, OBJECTS, SHAPES, NUMBERS, NOWHERE)
