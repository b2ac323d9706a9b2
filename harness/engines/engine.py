"""What an engine is: it takes batches and gives each back encoded, in whatever order they are done.

The one idea: where a batch is run changes when its vectors come, and nothing else; so whoever
plans, stores and scores does not know the place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import Encoded
from mmeb_harness.item import Rendered

EngineName = Literal["local", "ray"]

Batches = Sequence[Sequence[Rendered]]


class Engine(ABC):
    """Runs batches through an encoder: `actors` copies of it, each with `workers` processes that
    prepare what its device runs."""

    name: EngineName
    actors: int = 1
    workers: int = 0

    @abstractmethod
    def run(self, batches: Batches) -> Generator[tuple[int, Encoded], None, None]:
        """Yield each batch once, by its number, as it is done.

        Raises:
            EnvironmentFault: where the place itself fails (weights, workers, cluster).
            EncoderFailed: where the encoder does not keep its contract.
        """


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What a user says of the place; None is left to the engine.

    `gpus` and `actors` are for Ray: so many devices of this machine, or copies of the encoder.
    """

    name: EngineName | None = None
    gpus: int | None = None
    actors: int | None = None
    workers: int | None = None

    @property
    def wants_ray(self) -> bool:
        """Whether Ray is asked for, by name or by what only it has."""
        return self.name == "ray" or self.gpus is not None or self.actors is not None


def check_engine(settings: EngineSettings, encoder: PlannedEncoder) -> None:
    """Find what can be known to be wrong with a place before any work.

    Raises:
        UsageError: for GPUs asked for an encoder that is not on one.
        EnvironmentFault: where Ray is not installed, its cluster not there, or a GPU too few.
    """
    if settings.wants_ray:
        from mmeb_harness.engines.actors.ray_cluster import check_place

        check_place(settings, encoder)


def open_engine(settings: EngineSettings, encoder: PlannedEncoder, batches: int) -> Engine:
    """Return the engine for so many batches.

    Raises:
        EnvironmentFault: where Ray is asked for and cannot be had, or the encoder not sent there.
    """
    if settings.wants_ray:
        from mmeb_harness.engines.actors.ray import RayEngine

        return RayEngine(encoder, settings, batches)
    from mmeb_harness.engines.local import LocalEngine

    return LocalEngine(encoder, settings.workers, batches)
