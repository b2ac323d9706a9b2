"""The table of the 36 datasets, read once and checked, and the tasks made of its rows."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from mmeb_harness.item import Modality, Role
from mmeb_harness.task import MetaTask, Split, Task
from pydantic import BaseModel, ConfigDict

LOADER = "mmeb_harness.tasks.mmeb:load"
FETCHER = "mmeb_harness.tasks.fetching:fetch_tasks"
MINI_LOADER = "mmeb_harness.tasks.mmeb:load_mini"
MINI_TRAINING_LOADER = "mmeb_harness.tasks.mini.training:load_training"
TRAINING_LOADER = "mmeb_harness.tasks.training:load_training"
TRAINING_FETCHER = "mmeb_harness.tasks.fetching:fetch_training"

Parser = Literal["image_cls", "image_qa", "image_i2t", "image_t2i", "image_i2i_vg"]


class DatasetFacts(BaseModel):
    """One row of the table; an instruction is None where that side is bare text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    meta_task: MetaTask
    split: Split
    query_modality: str
    target_modality: str
    query_instruction: str
    target_instruction: str | None = None
    train_name: str | None = None
    train_instruction: str | None = None
    parser: Parser
    unimodal: Literal["t2i", "i2t"] | None = None
    candidates: int

    @property
    def as_trained(self) -> DatasetFacts:
        """The same with the instruction that queries have in the published training part."""
        instruction = self.train_instruction or self.query_instruction
        return self.model_copy(update={"query_instruction": instruction})

    def modality(self, role: Role) -> Modality | None:
        """Return what the original's unimodal baselines take of a side; None: both."""
        if self.unimodal is None:
            return None
        return "text" if (self.unimodal == "t2i") == (role == "query") else "image"


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads((files(__package__) / "mmeb.toml").read_text())


@cache
def dataset_facts() -> Mapping[str, DatasetFacts]:
    """Return the rows by dataset name, in the order of the public leaderboard."""
    rows = [DatasetFacts(**row) for row in _table()["task"]]
    return {row.name: row for row in rows}


def suite_facts() -> Mapping[str, str]:
    """Return the repositories of the suite and the size of its download."""
    facts: Mapping[str, str] = _table()["suite"]
    return facts


def mmeb_tasks() -> list[Task]:
    """Return the 36 tasks."""
    return [_task("mmeb", facts) for facts in dataset_facts().values()]


def mini_tasks() -> list[Task]:
    """Return the embedded tasks: the same 36, small; their data ships or is generated."""
    return [_task("mini", facts) for facts in dataset_facts().values()]


def _task(suite: str, facts: DatasetFacts) -> Task:
    mini, trained = suite == "mini", facts.train_name is not None
    training_loader = MINI_TRAINING_LOADER if mini else TRAINING_LOADER
    return Task(
        name=facts.name,
        suite=suite,
        meta_task=facts.meta_task,
        split=facts.split,
        loader=MINI_LOADER if mini else LOADER,
        training_loader=training_loader if trained else None,
        fetcher=None if mini else FETCHER,
        training_fetcher=TRAINING_FETCHER if trained and not mini else None,
        summary=f"{facts.query_modality} to {facts.target_modality}",
        facts=facts.model_dump(),
    )
