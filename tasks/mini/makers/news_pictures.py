"""Pictures of a thing in a land under a sky, with their captions: `VisualNews`, `EDIS`.

The one idea: a caption says three things, and each rival is wrong in one: what, where, or when.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.makers.places import (
    LANDS,
    SKIES,
    Place,
    Sky,
    draw_place,
    random_place,
    with_thing,
)
from mmeb_harness.tasks.mini.makers.rivals import Pairs, recoloured, reshaped
from mmeb_harness.tasks.mini.pictures.lands import Land
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.pictures.scenes import Look, random_looks
from mmeb_harness.tasks.mini.pictures.style import HELD_OUT_PAIRS, PLAIN, Style, pair_trait
from mmeb_harness.tasks.mini.pictures.words import READ, THINGS, with_article

WHERE: Mapping[Land, str] = {
    Land.SEA: "by the sea",
    Land.DESERT: "in a desert",
    Land.FOREST: "in a forest",
    Land.CITY: "in a city",
    Land.FIELD: "in a field",
    Land.MOUNTAIN: "on a mountain",
    Land.ROAD: "on a road",
    Land.SNOW: "in the snow",
    Land.LAKE: "by a lake",
    Land.GARDEN: "in a garden",
}
WHEN: Mapping[Sky, str] = {
    Sky.DAY: "by day",
    Sky.NIGHT: "at night",
    Sky.DUSK: "at dusk",
    Sky.FOG: "in fog",
    Sky.RAIN: "in rain",
}


class News(NamedTuple):
    """What happened: a thing in a colour, a land, a sky."""

    look: Look
    land: Land
    sky: Sky

    def __str__(self) -> str:
        return f"{with_article(self.look.name)} {WHERE[self.land]} {WHEN[self.sky]}".capitalize()

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({pair_trait(self.look.colour, self.look.thing)})

    def same(self, other: News) -> bool:
        """Whether a caption of one would do for the other; nothing is said of sizes."""
        return (self.look.name, *self[1:]) == (other.look.name, *other[1:])


class Report(NamedTuple):
    """A picture of some news, and its headline."""

    headline: str
    news: News
    place: Place

    @property
    def target(self) -> Target:
        return Target(side=Side(text=self.headline, picture=_picture(self.place)), meaning=self)


def find_photo(rng: Random) -> Example:
    """Make a caption and the picture of its news."""
    news = _random_news(rng, PLAIN)
    report, *wrong = [_report(rng, each) for each in (news, *_news_like(rng, news, PLAIN.pairs))]

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, Report) and meaning.news.same(news)

    return Example(
        query=Side(text=f"{news}."),
        target=report.target,
        rivals=[each.target for each in wrong],
        fits=fits,
        traits=_traits(report, *wrong),
    )


def find_news(rng: Random) -> Example:
    """Make a picture and the caption of its news."""
    news = _random_news(rng, PLAIN)
    report = _report(rng, news)
    wrong = _news_like(rng, news, PLAIN.pairs)

    def fits(meaning: Hashable) -> bool:
        return isinstance(meaning, News) and meaning.same(news)

    return Example(
        query=Side(picture=_picture(report.place)),
        target=_told(news),
        rivals=[_told(each) for each in wrong],
        fits=fits,
        traits=_traits(report).union(*(each.traits for each in wrong)),
    )


def find_report(rng: Random) -> Example:
    """Make a caption with a headline, of things in colours that no training part shows."""
    news = _random_news(rng, HELD_OUT_PAIRS)
    headline, another = rng.sample(READ, 2)
    what, where, when = _news_like(rng, news, HELD_OUT_PAIRS.pairs)
    report, *wrong = [
        _report(rng, *each)
        for each in (
            (news, headline),
            (what, headline),
            (rng.choice((where, when)), headline),
            (news, another),
        )
    ]

    def fits(meaning: Hashable) -> bool:
        return (
            isinstance(meaning, Report) and meaning.headline == headline and meaning.news.same(news)
        )

    return Example(
        query=Side(text=f"{news}, named {headline}."),
        target=report.target,
        rivals=[each.target for each in wrong],
        fits=fits,
        traits=_traits(report),  # the gold itself must be new
    )


def _random_news(rng: Random, style: Style) -> News:
    (look,) = random_looks(rng, 1, style, THINGS)
    return News(look, rng.choice(LANDS), rng.choice(SKIES))


def _news_like(rng: Random, news: News, pairs: Pairs) -> Sequence[News]:
    """Return three that differ in one word: what, where, when."""
    look = (
        recoloured(rng, news.look, pairs=pairs)
        if rng.randrange(2)
        else reshaped(rng, news.look, pairs=pairs, things=THINGS)
    )
    return (
        news._replace(look=look),
        news._replace(land=rng.choice([land for land in LANDS if land is not news.land])),
        news._replace(sky=rng.choice([sky for sky in SKIES if sky is not news.sky])),
    )


def _report(rng: Random, news: News, headline: str = "") -> Report:
    place = random_place(rng, land=news.land, sky=news.sky)
    return Report(headline, news, with_thing(rng, place, news.look))


def _told(news: News) -> Target:
    return Target(side=Side(text=f"{news}."), meaning=news)


def _picture(place: Place) -> Picture:
    return Picture(draw_place, (place,))


def _traits(*reports: Report) -> frozenset[str]:
    return frozenset(trait for report in reports for trait in report.place.traits)
