"""The training parts of `mini`: pairs made when they are asked for, the same for the same number.

The one idea: nothing is stored. A part is as long as anyone trains, and its pairs are as many
random draws, none of which the evaluation part uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import overload

from mmeb_harness.errors import DataMissing
from mmeb_harness.item import Item, Role, mark_instruction
from mmeb_harness.task import DataLocation, Pair, Task
from mmeb_harness.tasks.mini.makers.example import Side
from mmeb_harness.tasks.mini.recipe import Recipe
from mmeb_harness.tasks.mini.recipes import recipe_of
from mmeb_harness.tasks.mini.texts import candidate_text, query_text
from mmeb_harness.tasks.mini.views import VIEWS
from mmeb_harness.tasks.table import DatasetFacts, dataset_facts

PAIRS = 100_000
"""Pairs of a task's training part."""

SHUFFLED = "shuffled"
SPLITS = ("original", SHUFFLED, *VIEWS)


@dataclass(frozen=True)
class GeneratedPairs(Sequence[Pair]):
    """Pairs of a recipe in one split, by number.

    Every other pair has the instruction of MMEB's training part, where that is another than the
    evaluation's. `shuffled` gives every query the target of another pair: nothing can be learnt
    from it. The other splits show less than all of every item (`views`).
    """

    recipe: Recipe
    split: str = "original"
    numbers: range = field(default_factory=lambda: range(PAIRS))

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Pair: ...
    @overload
    def __getitem__(self, at: slice) -> GeneratedPairs: ...
    def __getitem__(self, at: int | slice) -> Pair | GeneratedPairs:
        if isinstance(at, slice):
            return replace(self, numbers=self.numbers[at])
        return self._pair(self.numbers[at])

    def _pair(self, number: int) -> Pair:
        facts = dataset_facts()[self.recipe.name]
        asked = self.recipe.training_example(number)
        shuffled = self.split == SHUFFLED
        answered = self.recipe.training_example(number + PAIRS) if shuffled else asked
        rivals = [one for one in answered.rivals if not asked.answered_by(one.meaning)]
        rng = Random(f"mini/{self.recipe.name}/rival/{number}")
        worded = facts.as_trained if number % 2 else facts
        pair = Pair(
            query=_item(worded, asked.query, "query"),
            positive=_item(worded, answered.target.side, "candidate"),
            negative=_item(worded, rng.choice(rivals).side, "candidate") if rivals else None,
        )
        return _seen(pair, self.split)


def load_training(task: Task, split: str, location: DataLocation) -> GeneratedPairs:
    """Return the training part of a task of `mini`; `location` is not needed.

    Raises:
        DataMissing: for a split that there is not.
    """
    del location
    if split not in SPLITS:
        raise DataMissing(f"mini has no split {split!r}; it has {', '.join(SPLITS)}")
    return GeneratedPairs(recipe_of(task.name), split)


def _item(facts: DatasetFacts, side: Side, role: Role) -> Item:
    query = role == "query"
    text = query_text(facts, side) if query else candidate_text(facts, side)
    instruction = facts.query_instruction if query else facts.target_instruction
    return Item(
        text=text,
        image=None if side.picture is None else side.picture(),
        instruction=mark_instruction(text, instruction),
        role=role,
        modality=facts.modality(role),
    )


def _seen(pair: Pair, split: str) -> Pair:
    view = VIEWS.get(split)
    if view is None:
        return pair
    negative = None if pair.negative is None else view(pair.negative)
    return Pair(query=view(pair.query), positive=view(pair.positive), negative=negative)
