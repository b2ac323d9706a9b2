"""Forms of two lines and questions about them (DocVQA): a line is a mark and a word in one colour.

The one idea: a line is found by its place, its colour or its mark, and only reading it answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.makers.questions import Asked, answers
from mmeb_harness.tasks.mini.pictures.drawing import CELL, ground, set_down
from mmeb_harness.tasks.mini.pictures.lettering import ROOM, Lettering, lettering, write
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Cell, Figure, place, random_looks
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait, pair_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, NUMBERS, READ, SHAPES
from PIL.Image import Image

ORDER = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A mark in the first column, and the word beside it."""

    mark: Figure
    word: Lettering


@dataclass(frozen=True, kw_only=True)
class Form:
    """The lines from top to bottom. `grain` seeds what is random about the ground."""

    lines: tuple[Line, ...]
    ground: Ground
    grain: int

    @property
    def traits(self) -> frozenset[str]:
        fonts = frozenset(line.word.trait for line in self.lines)
        looks = [line.mark.look for line in self.lines]
        pairs = {pair_trait(look.colour, look.thing) for look in looks}
        return fonts | pairs | {ground_trait(self.ground), "layout form"}


def draw(form: Form) -> Image:
    """Return the picture of a form."""
    image = ground((CELL + ROOM, len(form.lines) * CELL), form.ground, form.grain)
    for row, line in enumerate(form.lines):
        across, down = line.mark.shift
        set_down(image, line.mark, (CELL // 2 + across, row * CELL + CELL // 2 + down))
        write(image, line.word, (CELL, row * CELL))
    return image


def question(rng: Random) -> Example:
    """Ask for a word of a form, or for its colour."""
    form = _form(rng)
    at = rng.randrange(len(form.lines))
    asked = _asked(rng, form.lines[at], ORDER[at])
    other = form.lines[1 - at]
    wrong = other.word.ink if asked.form == "colour-of-word" else other.word.text
    return Example(
        query=Side(text=asked.question, picture=Picture(draw, (form,))),
        target=label(str(asked.answer)),
        rivals=[label(str(wrong))],
        traits=form.traits | {f"form {asked.form}"},
    )


def _form(rng: Random) -> Form:
    looks = random_looks(rng, len(ORDER))
    words = rng.sample(READ, len(ORDER))
    lines = tuple(
        Line(mark=place(rng, look, Cell(row, 0)), word=lettering(rng, word, look.colour))
        for row, (look, word) in enumerate(zip(looks, words, strict=True))
    )
    return Form(lines=lines, ground=PLAIN.ground(rng), grain=rng.getrandbits(16))


def _asked(rng: Random, line: Line, which: str) -> Asked:
    kind = rng.choices(("place", "colour", "mark", "ink"), (8, 4, 3, 5))[0]
    word, look = line.word.text, line.mark.look
    if kind == "place":
        return Asked(f"What is the {which} word?", word, "word-by-place")
    if kind == "colour":
        return Asked(f"Which word is {look.colour}?", word, "word-by-colour")
    if kind == "mark":
        return Asked(f"Which word has the {look.thing}?", word, "word-by-mark")
    return Asked(f"What colour is the {which} word?", look.colour, "colour-of-word")


ANSWERS = answers(READ, COLOURS, SHAPES, NUMBERS)
"""Words and colours are asked for; nothing else is ever right."""
