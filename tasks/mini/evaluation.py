"""The evaluation part of one task: its queries, and candidates that are surely wrong.

The one idea: a list is the gold, the rivals, what is listed for every query, then targets of other
queries, drawn at random; whatever could be called right is left out, whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from mmeb_harness.tasks.mini.layout import EvaluationPart, Row, StoredSide
from mmeb_harness.tasks.mini.makers.example import Example, Side, Target
from mmeb_harness.tasks.mini.pictures.picture import Picture
from mmeb_harness.tasks.mini.recipe import MOST, Recipe, kept_for_evaluation
from mmeb_harness.tasks.mini.texts import candidate_text, query_text
from mmeb_harness.tasks.table import DatasetFacts, dataset_facts

QUERIES = 64
SHIPPED = "evaluation"
"""The seed of what ships; any other makes another evaluation part, to choose a recipe by."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """An example with its candidates, the gold first."""

    example: Example
    candidates: Sequence[Target]


def questions(recipe: Recipe, seed: str = SHIPPED) -> list[Question]:
    """Return the queries of a task, each once, with as many candidates as the task has.

    The labels of a classification are right in turn, so that each is as often as any other.
    """
    facts = dataset_facts()[recipe.name]
    most = min(facts.candidates, MOST)
    examples = _examples(recipe, seed, turns=facts.meta_task == "classification")
    pool = list(dict.fromkeys(example.target for example in examples))
    rng = Random(f"mini/{recipe.name}/{seed}/candidates")
    return [
        Question(example=each, candidates=_candidates(rng, each, recipe.listed, pool, most))
        for each in examples
    ]


def evaluation_part(recipe: Recipe, seed: str = SHIPPED) -> EvaluationPart:
    """Return a task with its pictures, as it is written."""
    facts = dataset_facts()[recipe.name]
    asked = questions(recipe, seed)
    queries = _paths(facts, "q", (each.example.query for each in asked))
    shown = list(dict.fromkeys(target.side for each in asked for target in each.candidates))
    Random(f"mini/{recipe.name}/paths").shuffle(shown)  # a number tells nothing
    candidates = _paths(facts, "c", shown)
    rows = [
        Row(
            query=_stored(query_text(facts, each.example.query), each.example.query, queries),
            candidates=[
                _stored(candidate_text(facts, one.side), one.side, candidates)
                for one in each.candidates
            ],
        )
        for each in asked
    ]
    images = {path: picture() for paths in (queries, candidates) for picture, path in paths.items()}
    return EvaluationPart(name=recipe.name, rows=rows, images=images)


def _examples(recipe: Recipe, seed: str, *, turns: bool) -> list[Example]:
    """Return examples with different queries."""
    found: dict[tuple[str, bytes], Example] = {}
    golds = [target.meaning for target in recipe.listed] if turns else []
    for example in recipe.evaluation_examples(seed):
        wanted = golds[len(found) % len(golds)] if turns else example.target.meaning
        if example.target.meaning == wanted and kept_for_evaluation(example.query):
            found.setdefault(example.query.seen(), example)
        if len(found) == QUERIES:
            break
    examples = list(found.values())
    Random(f"mini/{recipe.name}/{seed}/order").shuffle(examples)
    return examples


def _candidates(
    rng: Random, example: Example, listed: Sequence[Target], pool: Sequence[Target], most: int
) -> list[Target]:
    """Return the gold, then the others in an order that tells nothing."""
    others = rng.sample(pool, len(pool))
    chosen = {_seen(example.target.side): example.target}
    for target in (*example.rivals, *listed, *others):
        if len(chosen) < most and not example.answered_by(target.meaning):
            chosen.setdefault(_seen(target.side), target)
    gold, *wrong = chosen.values()
    if len(chosen) < most:
        raise ValueError(f"only {len(chosen)} of {most} candidates for {example.query}")
    rng.shuffle(wrong)
    return [gold, *wrong]


@cache
def _seen(side: Side) -> tuple[str, bytes]:
    return side.seen()


def _paths(facts: DatasetFacts, prefix: str, sides: Iterable[Side]) -> dict[Picture, str]:
    pictures = dict.fromkeys(side.picture for side in sides if side.picture is not None)
    return {
        picture: f"{facts.name}/{prefix}_{number:03}.png" for number, picture in enumerate(pictures)
    }


def _stored(text: str, side: Side, paths: dict[Picture, str]) -> StoredSide:
    return StoredSide(text, "" if side.picture is None else paths[side.picture])
