"""How pictures look: grounds, colours' pairs, turning, blur. One style is trained on.

The one idea: a style names its traits. `PLAIN` is the style of every training part; the other
styles have traits that it has not, and are for the out-of-distribution tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from mmeb_harness.tasks.mini.pictures.words import HELD_OUT, SEEN, Colour, Thing


class Ground(StrEnum):
    WHITE = "white"
    GREY = "grey"
    CREAM = "cream"
    SKY = "sky"
    MINT = "mint"
    ROSE = "rose"
    FADING = "fading"
    PAPER = "paper"
    STRIPES = "stripes"
    CHECKS = "checks"
    DOTS = "dots"
    SPECKLE = "speckle"


PLAIN_GROUNDS = (
    Ground.WHITE,
    Ground.GREY,
    Ground.CREAM,
    Ground.SKY,
    Ground.MINT,
    Ground.ROSE,
    Ground.FADING,
    Ground.PAPER,
)
OTHER_GROUNDS = (Ground.STRIPES, Ground.CHECKS, Ground.DOTS, Ground.SPECKLE)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a picture is made.

    `tilt`: degrees by which things are turned, either way. `blur`: radius in pixels; `dim`: how
    much of the light is left. `pairs`: the pairs of colour and thing that are shown.
    """

    grounds: tuple[Ground, ...] = PLAIN_GROUNDS
    pairs: frozenset[tuple[Colour, Thing]] = SEEN
    tilt: int = 0
    blur: float = 0.0
    dim: float = 1.0

    @property
    def traits(self) -> frozenset[str]:
        """What is special about every picture of this style, its ground and pairs aside."""
        switched = {
            "tilted": self.tilt > 0,
            "blurred": self.blur > 0,
            "dim": self.dim < 1,
        }
        return frozenset(name for name, on in switched.items() if on)

    def ground(self, rng: Random) -> Ground:
        return rng.choice(self.grounds)

    def turn(self, rng: Random) -> int:
        """Return the degrees by which one thing is turned."""
        return rng.choice((-1, 1)) * rng.randint(self.tilt // 2, self.tilt) if self.tilt else 0


PLAIN = Style()
BUSY = Style(grounds=OTHER_GROUNDS)
HELD_OUT_PAIRS = Style(pairs=HELD_OUT)
BLURRED = Style(blur=1.2, dim=0.7)


def ground_trait(ground: Ground) -> str:
    return f"ground {ground}"


def pair_trait(colour: str, thing: str) -> str:
    return f"pair {colour} {thing}"


BUSY_TRAITS = frozenset(ground_trait(ground) for ground in OTHER_GROUNDS)
HELD_OUT_TRAITS = frozenset(pair_trait(*pair) for pair in HELD_OUT)
