"""Everything a plugin can do here, on one screen.

A plugin is a module with `@mmeb_harness.hookimpl` functions of these names, made known by an
entry point of the group `mmeb_harness`. `register` is handed in; call it once for each thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmeb_harness.card import Card
    from mmeb_harness.reporter import Reporter
    from mmeb_harness.result import RunRecord, TaskResult
    from mmeb_harness.task import Task
    from mmeb_harness.trainer import Trainer

GROUP = "mmeb_harness"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def register_encoders(register: Callable[[Card], None]) -> None:
    """Make encoders known: a card for each, a card without `base` for a family."""


@hookspec
def register_tasks(register: Callable[[Task], None]) -> None:
    """Make tasks known; a suite is the tasks that name it."""


@hookspec
def register_trainers(register: Callable[[Trainer], None]) -> None:
    """Make trainers known."""


@hookspec
def register_reporters(register: Callable[[Reporter], None]) -> None:
    """Make report formats known."""


@hookspec
def run_started(run: RunRecord) -> None:
    """Notice: a run begins, its settings resolved."""


@hookspec
def task_scored(run: RunRecord, task: TaskResult) -> None:
    """Notice: one task of a run is done, scored or failed, and written."""


@hookspec
def run_finished(run: RunRecord) -> None:
    """Notice: a run has ended, its averages known."""
