"""News: the picture shows what the section is about, the caption says where: `north sport`.

The one idea: neither alone suffices. Every section goes with every region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from mmeb_harness.tasks.mini.makers.example import Example, Side, label
from mmeb_harness.tasks.mini.makers.labels import Words
from mmeb_harness.tasks.mini.makers.objects import portrait, seen_colour
from mmeb_harness.tasks.mini.pictures.drawing import picture
from mmeb_harness.tasks.mini.pictures.words import Thing

REGIONS = ("north", "south", "east", "west")

SECTIONS: Mapping[str, Sequence[Thing]] = {
    "sport": (Thing.CIRCLE, Thing.RING),
    "food": (Thing.CUP, Thing.FISH),
    "travel": (Thing.CAR, Thing.BOAT),
    "home": (Thing.HOUSE, Thing.LAMP),
    "nature": (Thing.TREE, Thing.FLOWER),
    "science": (Thing.MOON, Thing.STAR),
}

CAPTIONS = (
    "a report from the {region} .",
    "today in the {region} .",
    "news for people of the {region} .",
)

NAMES = Words(first=REGIONS, second=tuple(SECTIONS))


def which_news(rng: Random) -> Example:
    """Ask for the region and the section of a picture with its caption."""
    region, section = rng.choice(REGIONS), rng.choice(tuple(SECTIONS))
    thing = rng.choice(SECTIONS[section])
    shown = portrait(rng, seen_colour(rng, thing), thing)
    caption = rng.choice(CAPTIONS).format(region=region)
    return Example(
        query=Side(text=caption, picture=picture(shown)),
        target=label(f"{region} {section}"),
        rivals=NAMES.rivals(rng, region, section),
        traits=shown.traits,
    )
