"""The folder of a training: the newest model at its top, and what it takes to go on below.

    OUTPUT_DIR/                  the model of the newest checkpoint, as `-m` takes it
    OUTPUT_DIR/training/         record.json, log.jsonl, curve.svg, evaluations/
    OUTPUT_DIR/training/step-N/  a checkpoint: a model as well, and in state/ what else there was

A checkpoint is written aside, synced and renamed: one that is there is whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmeb_harness.card import CARD_FILE
from mmeb_harness.errors import EnvironmentFault, HarnessError, UsageError
from mmeb_harness.files import storage_fault
from mmeb_harness.trainers.halving import WEIGHTS, write_halved
from mmeb_harness.trainers.processes import Processes

TRAINING, STATE = "training", "state"


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training, of which the newest `keep` are kept.

    The model at the top is the newest one's, but after step `halved_at` its weights are bfloat16.
    """

    output_dir: Path
    keep: int
    processes: Processes
    halved_at: int | None = None

    @property
    def folder(self) -> Path:
        """Where everything but the newest model lies."""
        return self.output_dir / TRAINING

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.iterdir())
        return sorted(int(one[1]) for one in found if one)

    def at(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def write(
        self, step: int, save_model: Callable[[Path], None], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint, publish its model, and let go of the oldest.

        `save_model` is called in the first process with a folder; `state` is each process's own.

        Raises:
            EnvironmentFault: where it cannot be written; those before it are whole.
        """
        import torch

        aside, final = self.folder / f".step-{step:06d}", self.at(step)
        with self._whole(aside):
            if self.processes.is_main:
                shutil.rmtree(aside, ignore_errors=True)
                (aside / STATE).mkdir(parents=True)
            self.processes.wait()
            own = aside / STATE / f"process-{self.processes.rank}.pt"
            torch.save(dict(state), own)
            _sync(own)
            if self.processes.is_main:
                save_model(aside)
                for path in (*aside.iterdir(), aside / STATE, aside):
                    _sync(path)
            self.processes.wait()
            if self.processes.is_main:
                _remove(final)
                aside.rename(final)
                _sync(self.folder)
                self._publish(final)
                self._let_go()
        return final

    def read(self, step: int) -> dict[str, Any]:
        """Return what this process's state was, and the first one's where it left none itself."""
        names = dict.fromkeys((0, self.processes.rank))
        paths = [self.at(step) / STATE / f"process-{rank}.pt" for rank in names]
        state: dict[str, Any] = {}
        for path in (paths[0], *(path for path in paths[1:] if path.is_file())):
            state |= self._read(step, path)
        return state

    def _read(self, step: int, path: Path) -> dict[str, Any]:
        import torch

        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may raise anything
            why = str(error).partition("\n")[0]
            raise EnvironmentFault(
                f"{path} cannot be read ({why}): remove {self.at(step)} to go on from the one "
                "before, or start again with run.fresh=true"
            ) from error
        return state

    def tidy(self) -> None:
        """Remove what a kill left half done, and do what it left undone with the newest one.

        Raises:
            EnvironmentFault: where the folder cannot be written.
        """
        try:
            for path in self.folder.glob(".*"):
                _delete(path)
            if steps := self.steps():
                self._publish(self.at(steps[-1]))
                self._let_go()
        except OSError as error:
            raise storage_fault(error, self.output_dir / TRAINING) from error

    def clear(self, but: Collection[str]) -> None:
        """Remove a training, `but` for some files of it; the model that it left stays until there
        is another."""
        if self.processes.is_main and self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in but:
                    _delete(path)
        self.processes.wait()

    def _let_go(self) -> None:
        for old in self.steps()[: -self.keep]:
            _remove(self.at(old))

    def _publish(self, checkpoint: Path) -> None:
        """Put the checkpoint's model at the top, its card last; the files are the same files, but
        for weights that are halved."""
        files = [path for path in checkpoint.iterdir() if path.is_file()]
        halves = self.halved_at is not None and checkpoint == self.at(self.halved_at)
        if halves and not any(path.suffix == WEIGHTS for path in files):
            raise UsageError(
                "run.saved_precision: this model is not written as safetensors; leave it out"
            )
        for path in sorted(files, key=lambda path: (path.name == CARD_FILE, path.name)):
            aside, final = self.output_dir / f".{path.name}", self.output_dir / path.name
            aside.unlink(missing_ok=True)
            if halves and path.suffix == WEIGHTS:
                write_halved(path, aside)
                _sync(aside)
            elif final.is_file() and final.samefile(path):
                continue
            else:
                _link(path, aside)
            aside.replace(final)

    @contextlib.contextmanager
    def _whole(self, aside: Path) -> Iterator[None]:
        """Leave nothing half-written, and say in one sentence what went wrong on a disk."""
        try:
            yield
        except HarnessError:
            raise
        except Exception as error:  # each library has its own for a full disk
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise EnvironmentFault(
                f"the checkpoint {aside.name.removeprefix('.')} was not written ({why}); those "
                f"before it are whole: {[f'step-{step:06d}' for step in self.steps()]}. Is the "
                "disk full? The same command goes on from the last one"
            ) from error
        finally:
            if self.processes.is_main:  # others are through before it is renamed
                shutil.rmtree(aside, ignore_errors=True)


def _link(path: Path, aside: Path) -> None:
    try:
        os.link(path, aside)
    except OSError:
        shutil.copyfile(path, aside)


def _remove(checkpoint: Path) -> None:
    """Take a checkpoint away at once, and then file by file."""
    aside = checkpoint.with_name(f".{checkpoint.name}")
    if checkpoint.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's names."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
