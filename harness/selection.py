"""From `-t ind,OK-VQA` to tasks of a suite."""

from __future__ import annotations

from collections.abc import Sequence

from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.registry import Registry
from mmeb_harness.task import META_TASKS, SPLITS, Task


def suite_tasks(registry: Registry, suite: str) -> list[Task]:
    """Return the tasks of a suite. Raises UsageError for an unknown one."""
    suites = registry.suites()
    if suite not in suites:
        raise unknown_name("suite", suite, suites)
    return suites[suite]


def select_tasks(tasks: Sequence[Task], wanted: str | Sequence[str] | None) -> list[Task]:
    """Choose by names, `all`, a split or a meta-task, comma-separated; in the suite's order.

    Raises:
        UsageError: for a name that is none of these.
    """
    words = wanted.split(",") if isinstance(wanted, str) else list(wanted or ["all"])
    chosen: set[str] = set()
    for word in (word.strip() for word in words):
        found = {
            task.name for task in tasks if word in ("all", task.name, task.split, task.meta_task)
        }
        if not found and word not in (*SPLITS, *META_TASKS):
            known = [task.name for task in tasks] + ["all", *SPLITS, *META_TASKS]
            raise unknown_name("task", word, known, "`mmeb-harness list tasks` shows all")
        if not found:
            raise UsageError(f"suite {tasks[0].suite!r} has no task that is {word}")
        chosen |= found
    return [task for task in tasks if task.name in chosen]
