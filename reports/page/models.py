"""A model's section: its card, the settings and surroundings of its run, and what must be said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmeb_harness.card import Card
from mmeb_harness.reports.board.leaderboard import Board, Entry
from mmeb_harness.reports.numbers import amount, counted, percent, span
from mmeb_harness.reports.page.table import KINDS, flags_of
from mmeb_harness.reports.readable import MESSAGE, NAME, cut, is_link, redacted
from mmeb_harness.result import RunRecord

CARD = (
    ("summary", "what it is"), ("family", "family"), ("base", "base"), ("revision", "revision"),
    ("adapter", "adapter"), ("adapter_revision", "adapter revision"),
    ("random_weights", "random weights, seed"), ("prompt", "prompt"), ("template", "template"),
    ("positions", "positions"), ("pooling", "pooling"), ("normalize", "normalised"),
    ("similarity", "similarity"), ("fusion", "fusion"), ("image_resolution", "image resolution"),
    ("min_pixels", "least pixels"), ("max_pixels", "most pixels"), ("num_crops", "crops"),
    ("max_length", "most tokens"), ("licence", "licence"), ("verified", "verified by"),
    ("published_as", "published as"),
)  # fmt: skip
"""Fields of a card that a reader asks for, in words; those without a value are left out."""

VERIFIED = {
    "goldens": "vectors of the original code",
    "library": "the library called by hand",
    "published": "published numbers",
    "no": "nothing yet",
}

FACT = 600
"""Characters of one fact."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of a list of facts; `link` says that the value is an address to point at."""

    name: str
    value: str
    link: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the page tells of one entry; `whole_name` only where the name had to be cut."""

    key: str
    name: str
    variant: str
    whole_name: str
    kind: str
    overall: str
    interval: str
    rank: int | None
    flags: Sequence[str]
    remarks: Sequence[str]
    failed: Sequence[tuple[str, str]]
    missing: Sequence[str]
    facts: Sequence[tuple[str, Sequence[Fact]]]
    training: str
    command: str


def models_of(board: Board) -> list[Model]:
    """Describe every entry of a board."""
    return [_model(entry, board) for entry in board.entries]


def _model(entry: Entry, board: Board) -> Model:
    overall = entry.scores.get("overall")
    record = entry.run.record if entry.run else None
    return Model(
        key=entry.key,
        name=cut(entry.name),
        variant=cut(entry.variant),
        whole_name=entry.name[:MESSAGE] if len(entry.name) > NAME else "",
        kind=KINDS.get(entry.kind, entry.kind),
        overall=percent(overall.value) if overall else "–",
        interval=span(overall.interval) if overall else "",
        rank=entry.rank,
        flags=flags_of(entry, len(board.tasks)),
        remarks=[_message(remark) for remark in entry.remarks],
        failed=[(task, _message(reason)) for task, reason in entry.failed.items()],
        missing=[task for task in entry.missing if task not in entry.failed],
        facts=[(title, facts) for title, facts in _facts(entry, record) if facts],
        training=_training(entry, board),
        command=_message(shlex.join(record.command)) if record and record.command else "",
    )


def _training(entry: Entry, board: Board) -> str:
    """Say which tasks of the suite the model was trained on, as it is declared."""
    if entry.training is None:
        return "Not declared: whether a task was seen in training is not known."
    here = [task for task in board.tasks if task.name in entry.training]
    ood = [task.name for task in here if task.split == "ood"]
    others = sorted(set(entry.training) - {task.name for task in here})
    if not here:
        words = "None of these tasks is declared as training data"
    else:
        names = ", ".join(task.name for task in here)
        words = f"{len(here)} of {len(board.tasks)} tasks were seen in training: {names}"
    out = f" Out of distribution, and yet seen: {', '.join(ood)}." if ood else ""
    more = f" Other data: {', '.join(others)}." if others else ""
    return cut(f"{words}.{out}{more}", MESSAGE)


def _message(text: str) -> str:
    return cut(redacted(text[: 2 * MESSAGE]), MESSAGE)


def _facts(entry: Entry, record: RunRecord | None) -> Iterable[tuple[str, list[Fact]]]:
    card = _of_card(record.card) if record and record.card else ()
    yield "Model", list(_known([*_of_entry(entry), *card]))
    if record is None:
        return
    yield "Run", list(_known(_of_settings(record)))
    yield "Environment", list(_known(_of_environment(record)))


def _known(facts: Iterable[tuple[str, Any]]) -> Iterable[Fact]:
    for name, value in facts:
        if value is None or value in ("", (), [], {}):
            continue
        text = redacted(_written(value)[: 4 * FACT])
        yield Fact(name=name, value=cut(text, FACT), link=len(text) <= FACT and is_link(text))


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_written(one)}" for key, one in value.items() if one is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _of_entry(entry: Entry) -> Iterable[tuple[str, Any]]:
    yield "scores", KINDS.get(entry.kind, entry.kind)
    yield "source", entry.source
    yield "setting", entry.variant
    yield "parameters", None if entry.parameters is None else amount(entry.parameters)
    yield "dimension", entry.dimension


def _of_card(card: Card) -> Iterable[tuple[str, Any]]:
    for key, name in CARD:
        value = getattr(card, key)
        yield name, VERIFIED.get(value, value) if key == "verified" else value
    for source in card.sources:
        yield "see", source


def _of_settings(record: RunRecord) -> Iterable[tuple[str, Any]]:
    for key, value in record.overrides.items():
        yield f"-M {cut(key)}", value
    yield "scoring", record.scoring
    yield "similarity", record.similarity
    yield (
        "limit",
        None if record.limit is None else f"first {counted(record.limit, 'query', 'queries')}",
    )
    yield "number type", record.dtype
    yield "attention", record.attention
    yield "engine", record.engine
    yield "tokens a batch", record.batch_tokens
    yield "seed", record.seed
    yield "vectors computed", record.computed
    yield "vectors reused", sum(record.reused.values()) or None


def _of_environment(record: RunRecord) -> Iterable[tuple[str, Any]]:
    yield "started", record.started
    yield "finished", record.finished
    yield "device", record.device_name or record.device
    yield "data", record.data_dir
    yield "pictures", record.image_dir
    yield "plugin", {key: record.plugin.get(key) for key in ("distribution", "version", "source")}
    yield "weights", [revision for revision in record.revisions.values() if revision]
    yield "versions", record.versions
    yield "encoder", record.encoder[:16]
