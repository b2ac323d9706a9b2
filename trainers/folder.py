"""A training's own folder: what it is (record), how it went (log, curve), where it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmeb_harness import environment
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.files import check_writable, write_aside
from mmeb_harness.keys import digest_of
from mmeb_harness.trainer import Subset
from mmeb_harness.trainers.checkpoint import Checkpoints
from mmeb_harness.trainers.config import ContrastiveConfig, dotted
from mmeb_harness.trainers.log import TrainingLog, read_log
from mmeb_harness.trainers.plot import write_plot
from mmeb_harness.trainers.processes import Processes

RECORD, LOG, CURVE, EVALUATIONS = "record.json", "log.jsonl", "curve.svg", "evaluations"
LOCK = "lock"

ALTERS_NOTHING = {
    "run": (
        "checkpoint_every",
        "keep",
        "fresh",
        "workers",
        "trackers",
        "output_dir",
        "device",
        "saved_precision",
    ),
    "batch": ("chunk_tokens", "chunk_items"),
    "data": ("missing_images",),
}
"""Settings with which a training may go on that was begun with others."""


class TrainingFolder:
    """The files of one training. Only the first process writes, but for its part of a state."""

    def __init__(
        self, config: ContrastiveConfig, data: Sequence[Subset], processes: Processes, steps: int
    ) -> None:
        self.config, self.processes = config, processes
        self.checkpoints = Checkpoints(
            output_dir=config.run.output_dir,
            keep=config.run.keep,
            processes=processes,
            halved_at=steps if config.run.saved_precision == "bfloat16" else None,
        )
        self.path = self.checkpoints.folder
        self._lock: int | None = None
        self.subsets = {subset.name: len(subset.pairs) for subset in data}

    def begin(self) -> int:
        """Return after how many steps to go on: 0 for a new training.

        Raises:
            UsageError: where the folder holds another training, or something else.
        """
        identity = self._identity()
        self.processes.agree("the configuration", digest_of(identity))
        if not (self.path / RECORD).exists() and self._holds_anything():
            raise UsageError(
                f"{self.config.run.output_dir} holds files that are of no training: choose another "
                "run.output_dir"
            )
        if self.processes.is_main:
            check_writable(self.path)
            self._lock = locked(self.path)  # until `end`, or the end of the process
        if self.config.run.fresh:
            self.checkpoints.clear(but=(RECORD, LOCK))  # which say whose the folder is
        elif self.checkpoints.steps():
            _check_same(self._identity_before(), identity, self.config.run.output_dir)
        if self.processes.is_main:
            self.checkpoints.tidy()
        self.processes.wait()
        return max(self.checkpoints.steps(), default=0)

    def end(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def open_log(self, done: int) -> TrainingLog | None:
        """Return the log, kept up to where it goes on, in the process that writes it."""
        if not self.processes.is_main:
            return None
        return TrainingLog(self.path / LOG, done if done else None)

    def write_record(self, facts: Mapping[str, Any]) -> None:
        """Write down what this training is, once it has begun."""
        record = {
            "identity": self._identity(),
            "config": self.config.model_dump(mode="json"),
            **facts,
            "versions": environment.versions(),
            "command": environment.command_line(),
            "started": environment.now(),
        }
        if self.processes.is_main:
            with write_aside(self.path / RECORD) as aside:
                aside.write_text(json.dumps(record, indent=1, default=str))

    def draw(self) -> None:
        """Draw the log as it stands."""
        if self.processes.is_main:
            title = self.config.run.output_dir.absolute().name
            write_plot(self.path / LOG, self.path / CURVE, title=title)

    def evaluation(self, step: int) -> Path:
        """Return the folder of the scores after a step."""
        return self.path / EVALUATIONS / f"step-{step:06d}"

    def last(self, kind: str) -> dict[str, Any]:
        """Return the last line of a kind in the log; empty without one."""
        found = [line for line in read_log(self.path / LOG) if line.get("kind") == kind]
        return found[-1] if found else {}

    def _identity(self) -> dict[str, Any]:
        """Return the settings that decide how the training goes."""
        settings = self.config.model_dump(mode="json", exclude={"evaluation"})
        for section, names in ALTERS_NOTHING.items():
            settings[section] = {k: v for k, v in settings[section].items() if k not in names}
        return {**settings, "subsets": self.subsets}

    def _identity_before(self) -> dict[str, Any]:
        """Return the settings with which the checkpoints that are there were made."""
        try:
            found: dict[str, Any] = json.loads((self.path / RECORD).read_text())["identity"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{self.path / RECORD} cannot be read ({error}): run.fresh=true starts again"
            ) from None
        return found

    def _holds_anything(self) -> bool:
        top = self.config.run.output_dir
        return top.is_dir() and any(
            path.name != self.path.name and not path.name.startswith(".") for path in top.iterdir()
        )


def locked(folder: Path) -> int | None:
    """Keep a folder for this process until the descriptor that is returned is closed.

    Raises:
        EnvironmentFault: where another process has it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: two at once are then the user's to avoid
        return None
    file = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise EnvironmentFault(
            f"another process is training in {folder.parent}: wait for it, or choose another "
            "run.output_dir"
        ) from None
    except OSError:  # a file system without locks
        os.close(file)
        return None
    return file


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with other settings, naming the first that differ."""
    old, new = dotted(before), dotted(now)
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        told = [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in differing[:3]]
        raise UsageError(
            f"{folder} holds a training with other settings ({'; '.join(told)}): choose another "
            "run.output_dir, or start again with run.fresh=true"
        )
