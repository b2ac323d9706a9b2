"""Street signs and questions about them (TextVQA): words in fonts that no training part has.

The one idea: a sign is a plate on a pole, light with a coloured word, or coloured with a white one.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.makers.questions import Asked, answers
from mmeb_harness.tasks.mini.pictures.drawing import CELL, PIGMENTS, SIDE, Pixel, ground
from mmeb_harness.tasks.mini.pictures.lettering import (
    OTHER_FONTS,
    PLAIN_FONTS,
    Lettering,
    lettering,
    write,
)
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait
from mmeb_harness.tasks.mini.pictures.words import COLOURS, NUMBERS, READ, SHAPES, Colour
from PIL.Image import Image
from PIL.ImageDraw import Draw

DARK = (Colour.RED, Colour.GREEN, Colour.BLUE, Colour.PURPLE, Colour.BLACK)
"""Colours on which white letters can be read."""

LIGHT: Pixel = (255, 255, 255)
POLE: Pixel = (128, 128, 136)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A word on a plate of a colour (None: white). `grain` seeds the ground."""

    word: Lettering
    plate: Colour | None
    ground: Ground
    grain: int

    @property
    def traits(self) -> frozenset[str]:
        plate = "plate light" if self.plate is None else "plate dark"
        return frozenset({self.word.trait, plate, ground_trait(self.ground), "layout sign"})


def draw(sign: Sign) -> Image:
    """Return the picture of a sign."""
    image = ground((SIDE, SIDE), sign.ground, sign.grain)
    canvas = Draw(image)
    canvas.rectangle((SIDE // 2 - 3, CELL, SIDE // 2 + 2, SIDE), fill=POLE)
    plate = LIGHT if sign.plate is None else PIGMENTS[sign.plate]
    frame = POLE if sign.plate is None else LIGHT
    canvas.rectangle((0, 0, SIDE - 1, CELL), fill=plate, outline=frame)
    write(image, sign.word, (0, 0))
    return image


def question(rng: Random) -> Example:
    """Ask what the word of a sign is; of a light one, sometimes its colour."""
    sign = _sign(rng)
    asked = _asked(rng, sign)
    return Example(
        query=Side(text=asked.question, picture=Picture(draw, (sign,))),
        target=label(str(asked.answer)),
        traits=sign.traits | {f"form {asked.form}"},
    )


def _sign(rng: Random) -> Sign:
    plate = rng.choice(DARK) if rng.random() < 0.4 else None
    ink = rng.choice(COLOURS) if plate is None else None
    fonts = OTHER_FONTS if plate is None else (*PLAIN_FONTS, *OTHER_FONTS)
    return Sign(
        word=lettering(rng, rng.choice(READ), ink, fonts),
        plate=plate,
        ground=PLAIN.ground(rng),
        grain=rng.getrandbits(16),
    )


def _asked(rng: Random, sign: Sign) -> Asked:
    if sign.word.ink is not None and rng.random() < 0.4:
        return Asked("What colour is the word?", sign.word.ink, "colour-of-the-word")
    return Asked("What is the word?", sign.word.text, "the-word")


ANSWERS = answers(READ, COLOURS, SHAPES, NUMBERS)
"""Words and colours are asked for; nothing else is ever right."""

SIGN_TRAITS = frozenset({"plate light", "plate dark", *(f"font {font}" for font in OTHER_FONTS)})
