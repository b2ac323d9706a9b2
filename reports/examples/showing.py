"""One query as a report shows it: what was asked, what was right, and what each run took for it.

The one idea: an item is made ready once, whoever points at it: the published placeholder of a
picture taken out, the instruction apart from what is asked, the text cut, the picture a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mmeb_harness.reports.examples.thumbnails import Album
from mmeb_harness.reports.readable import readable
from mmeb_harness.rows import TaskItems, TaskRows
from numpy.typing import NDArray

TOP = 5
"""Answers shown of each run."""

QUERY_TEXT, CANDIDATE_TEXT = 600, 200
"""Characters shown of a query's text and of a candidate's."""

TOKENS = re.compile(r"<\|image_\d+\|>")

State = Literal["right", "tied", "wrong"]
Kind = Literal["flipped", "wrong", "right"]
STATES: tuple[State, ...] = ("wrong", "tied", "right")
KINDS: tuple[Kind, ...] = ("flipped", "wrong", "right")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An item as a page shows it; `picture` is the number of its thumbnail."""

    text: str
    instruction: str = ""
    picture: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A candidate at its place in the order of a run (1 is the best); its score, if kept."""

    place: int
    item: Shown
    score: float | None
    gold: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run made of one query.

    `rank` is the gold's, if it wins its ties; `ties` counts the other candidates tied with it.
    `margin` is None where it is not known. `answers` are the best, and the gold where it is lower.
    """

    state: State
    hit_at_1: float
    rank: int
    ties: int
    margin: float | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query (`number` is its row in the task's table) with an outcome for each run."""

    number: int
    kind: Kind
    item: Shown
    gold: tuple[Shown, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def states(self) -> str:
        """A digit for each run: 0 wrong, 1 tied, 2 right."""
        return "".join(str(STATES.index(outcome.state)) for outcome in self.outcomes)

    @property
    def tied(self) -> bool:
        """Whether some run has the gold tied with others."""
        return any(outcome.state == "tied" for outcome in self.outcomes)


class Showing:
    """Items of one task as they are shown, each made once."""

    def __init__(self, items: TaskItems, album: Album) -> None:
        self._items = items
        self._album = album
        self._made: dict[tuple[int, int], Shown] = {}

    def item(self, number: int, limit: int) -> Shown:
        """Return an item with its text cut after `limit` characters."""
        if (number, limit) not in self._made:
            self._made[number, limit] = self._make(number, limit)
        return self._made[number, limit]

    def _make(self, number: int, limit: int) -> Shown:
        items = self._items
        digest = items.image_digests[number]
        instruction = TOKENS.sub("", items.instructions[number] or "")
        text = TOKENS.sub("", items.texts[number] or "")
        if instruction:
            text = text.replace(instruction, "", 1)
        return Shown(
            text=readable(text, limit),
            instruction=readable(instruction, limit),
            picture=self._album.ask(digest, items.images[number]) if digest else None,
        )


def query_of(
    number: int,
    kind: Kind,
    runs: Sequence[TaskRows],
    margins: Sequence[NDArray[np.float64]],
    showing: Showing,
) -> Query:
    """Return one query of a task with what became of it in each of the runs (at least one)."""
    rows = runs[0]
    return Query(
        number=number,
        kind=kind,
        item=showing.item(int(rows.query_items[number]), QUERY_TEXT),
        gold=tuple(
            showing.item(int(item), CANDIDATE_TEXT) for item in rows.gold_items[number][:TOP]
        ),
        outcomes=tuple(
            _outcome(one, number, float(known[number]), showing)
            for one, known in zip(runs, margins, strict=True)
        ),
    )


def _outcome(rows: TaskRows, query: int, margin: float, showing: Showing) -> Outcome:
    hit = float(rows.hit_at_1[query])
    return Outcome(
        state=STATES[_state(hit)],
        hit_at_1=hit,
        rank=int(rows.better[query]) + 1,
        ties=int(rows.tied[query] - rows.tied_gold[query]),
        margin=None if math.isnan(margin) else margin,
        answers=tuple(_answers(rows, query, showing)),
    )


def _state(hit: float) -> int:
    return 2 if hit >= 1 else int(hit > 0)


def _answers(rows: TaskRows, query: int, showing: Showing) -> Iterable[Answer]:
    """Yield the best answers, and the best gold after them where it is not among them."""
    gold = set(rows.gold_items[query].tolist())
    top = rows.top_items[query].tolist()
    scores = rows.top_scores[query].tolist()
    places = list(range(min(TOP, len(top))))
    lower = next((place for place in range(len(top)) if top[place] in gold), None)
    if lower is not None and lower >= TOP:
        places.append(lower)
    for place in places:
        yield Answer(
            place=place + 1,
            item=showing.item(top[place], CANDIDATE_TEXT),
            score=scores[place],
            gold=top[place] in gold,
        )
    if lower is None:
        first = int(rows.gold_items[query][0])
        yield Answer(
            place=int(rows.better[query]) + 1,
            item=showing.item(first, CANDIDATE_TEXT),
            score=None,
            gold=True,
        )
