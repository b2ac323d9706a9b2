"""Built-in suites: `mmeb`, the 36 published datasets, and `mini`, the embedded one."""

from __future__ import annotations

from collections.abc import Callable

from mmeb_harness.hookspecs import hookimpl
from mmeb_harness.task import Task


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    """Register the tasks of both suites, from one table."""
    from mmeb_harness.tasks.table import mini_tasks, mmeb_tasks

    for task in (*mmeb_tasks(), *mini_tasks()):
        register(task)
