"""Trackers that accelerate knows by name (tensorboard, wandb, ...), given each line of the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmeb_harness.errors import EnvironmentFault, unknown_name
from mmeb_harness.trainers.config import ContrastiveConfig, dotted
from mmeb_harness.trainers.processes import Processes, make_accelerator, started


class Trackers:
    """The trackers that a configuration names, in the first process; none is nothing to do.

    Raises:
        UsageError: for a name that accelerate does not know.
        EnvironmentFault: for one that is not installed.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config
        self.accelerator: Any = None
        names = config.run.trackers
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in names:
            if name not in LOGGER_TYPE_TO_CLASS:
                raise unknown_name("run.trackers", name, LOGGER_TYPE_TO_CLASS)
        self.accelerator = make_accelerator(
            config.run.device,
            log_with=list(names),
            project_dir=str(config.run.output_dir / "training"),
        )
        kept = [getattr(one, "value", one) for one in self.accelerator.log_with]
        if missing := sorted(set(names) - set(kept)):  # accelerate leaves out what is not there
            raise EnvironmentFault(
                f"run.trackers: {', '.join(missing)} is not installed: pip install {missing[0]}"
            )

    @property
    def processes(self) -> Processes | None:
        """The processes, where making trackers has joined them already."""
        several = self.accelerator is not None and started() > 1
        return Processes.of(self.accelerator) if several else None

    def begin(self) -> None:
        """Tell every tracker what is trained."""
        if self.accelerator is not None:
            settings = {
                key: value if isinstance(value, int | float | str) else str(value)
                for key, value in dotted(self.config.model_dump(mode="json")).items()
            }
            with _named():
                self.accelerator.init_trackers("mmeb-harness", config=settings)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Give the numbers among some values to every tracker."""
        if self.accelerator is not None:
            numbers = {name: value for name, value in values.items() if _is_number(value)}
            with _named():
                self.accelerator.log(numbers, step=step)

    def end(self) -> None:
        """Let the trackers finish."""
        if self.accelerator is not None:
            with _named():
                self.accelerator.end_training()


@contextmanager
def _named() -> Iterator[None]:
    """Have whatever a tracker raises say that it was a tracker."""
    try:
        yield
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise EnvironmentFault(
            f"run.trackers: {type(error).__name__}: {why} (the same command goes on without them)"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
