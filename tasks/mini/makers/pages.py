"""Pages of an encyclopaedia, found by what they are about (Wiki-SS-NQ): a title, a picture, lines.

The one idea: it is the question of `entries`, but the name of the entry is in the pixels now. Of
pages that are alike in name or in picture, the other decides; the name does so more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.makers.rivals import recoloured, reshaped
from mmeb_harness.tasks.mini.pictures.drawing import CELL, SIDE, Pixel, ground, set_down
from mmeb_harness.tasks.mini.pictures.lettering import Lettering, lettering, write
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Cell, Figure, Look, place, random_looks
from mmeb_harness.tasks.mini.pictures.style import PLAIN, Ground, ground_trait, pair_trait
from mmeb_harness.tasks.mini.pictures.words import READ, Colour, with_article
from PIL.Image import Image
from PIL.ImageDraw import Draw

LINE: Pixel = (150, 150, 150)
LINES, PITCH = 5, 5
"""How many lines of text are hinted at, and the pixels from one to the next."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A title, the picture below it, and the ends of the lines beside that, in pixels."""

    title: Lettering
    figure: Figure
    ends: tuple[int, ...]
    ground: Ground
    grain: int

    @property
    def meaning(self) -> tuple[str, str]:
        """What the page is about: its title, and the name of what is shown."""
        return self.title.text, self.figure.look.name

    @property
    def traits(self) -> frozenset[str]:
        look = self.figure.look
        pair = pair_trait(look.colour, look.thing)
        return frozenset({self.title.trait, pair, ground_trait(self.ground), "layout page"})


def draw(page: Page) -> Image:
    """Return the picture of a page: the title over its full width, the figure at the lower left."""
    image = ground((SIDE, SIDE), page.ground, page.grain)
    canvas = Draw(image)
    for line, end in enumerate(page.ends):
        y = CELL + 3 + line * PITCH
        canvas.rectangle((CELL + 2, y, end, y + 1), fill=LINE)
    x, y = (CELL // 2 + shift for shift in page.figure.shift)
    set_down(image, page.figure, (x, y + CELL))
    write(image, page.title, (0, 0))
    return image


def about(rng: Random) -> Example:
    """Ask for the page with a title and a picture; the rivals have the one or the other."""
    word, (look,) = rng.choice(READ), random_looks(rng, 1)
    page = _page(rng, word, look)
    titles = rng.sample([other for other in READ if other != word], 2)
    wrong = rng.choice((recoloured, reshaped))(rng, look)
    rivals = [*((title, look) for title in titles), (word, wrong)]
    return Example(
        query=Side(text=f"Which entry named {word} shows {with_article(look.name)}?"),
        target=_target(page),
        rivals=[_target(_page(rng, *rival)) for rival in rivals],
        traits=page.traits | {"form which-entry"},
    )


def _page(rng: Random, title: str, look: Look) -> Page:
    return Page(
        title=lettering(rng, title, Colour.BLACK),
        figure=place(rng, look, Cell(1, 0)),
        ends=tuple(rng.randint(SIDE - 16, SIDE - 3) for _ in range(LINES)),
        ground=PLAIN.ground(rng),
        grain=rng.getrandbits(16),
    )


def _target(page: Page) -> Target:
    return Target(side=Side(picture=Picture(draw, (page,))), meaning=page.meaning)


PAGE_TRAITS = frozenset({"layout page"})
