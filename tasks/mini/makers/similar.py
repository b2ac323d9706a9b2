"""The same figures drawn again on another ground, to be found by a picture: `NIGHTS`.

The one idea: what is drawn and where decides, nothing else: ground and jitter differ always.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side
from mmeb_harness.tasks.mini.makers.rivals import recoloured, reshaped, shown, traits_of
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.scenes import CELLS, Scene, arrange, random_looks
from mmeb_harness.tasks.mini.pictures.words import THINGS


def find_similar(rng: Random) -> Example:
    """Make a picture of two things, the same anew, and three that differ in one respect each."""
    looks = random_looks(rng, 2, things=THINGS)
    cells = rng.sample(CELLS, 2)
    seen, scene = arrange(rng, looks, cells), arrange(rng, looks, cells)
    while scene.ground is seen.ground:
        scene = replace(scene, ground=scene.style.ground(rng))
    at = rng.randrange(2)
    look, beside = looks[at], looks[1 - at]
    kept, free = cells[1 - at], [cell for cell in CELLS if cell != cells[at]]
    moved = rng.choice(free)
    others = (
        ((recoloured(rng, look, [beside]), beside), (cells[at], kept)),
        ((reshaped(rng, look, [beside], things=THINGS), beside), (cells[at], kept)),
        ((look, beside), (moved, cells[at] if moved == kept else kept)),
    )
    wrong = [arrange(rng, *each) for each in others]
    wanted = _arrangement(seen)

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Scene) and _arrangement(meaning) == wanted

    return Example(
        query=Side(picture=picture(seen)),
        target=shown(scene),
        rivals=[shown(each) for each in wrong],
        fits=fits,
        traits=traits_of((seen, scene, *wrong)),
    )


def _arrangement(scene: Scene) -> frozenset[Hashable]:
    """Return what is where; sizes count for nothing."""
    return frozenset((figure.look.name, figure.cell) for figure in scene.figures)
