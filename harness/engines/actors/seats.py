"""How many actors there are to be and what each gets: a GPU of its own, or a share of the cores.

The one idea: the encoder says where it runs. Its device decides the kind of actor, and what was
asked for decides the number; where the two do not fit together, nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.engine import EngineSettings
from mmeb_harness.errors import EnvironmentFault, UsageError


@dataclass(frozen=True, kw_only=True)
class Room:
    """What there is to be shared: this machine, or all of a cluster that was joined."""

    cores: int
    gpus: int
    nodes: int = 1
    joined: bool = False

    @property
    def called(self) -> str:
        """Its name in a message, with the GPUs it has."""
        place = "the cluster" if self.joined else "this machine"
        return f"{place} has {self.gpus or 'no'} GPU{'s' * (self.gpus != 1)}"


@dataclass(frozen=True, kw_only=True)
class Seats:
    """So many actors, each with so much: `share` is the part of a core that Ray sets aside."""

    actors: int
    on_gpu: bool
    threads: int
    share: float


def seats(settings: EngineSettings, device: str | None, room: Room) -> Seats:
    """Share the room out among the actors of an encoder.

    Raises:
        UsageError: for GPUs asked for an encoder that is not on one.
        EnvironmentFault: where there are fewer than asked for.
    """
    on_gpu = bool(device and device.startswith("cuda")) or (not device and bool(settings.gpus))
    actors = _on_gpus(settings, room) if on_gpu else _elsewhere(settings, device, room)
    sharers = room.gpus if on_gpu else actors
    return Seats(
        actors=actors,
        on_gpu=on_gpu,
        threads=max(1, room.cores // sharers),
        share=0.0 if on_gpu else min(1.0, int(10_000 * room.cores / actors) / 10_000),
    )


def stated_device(encoder: PlannedEncoder) -> str | None:
    """Return the device that an encoder says it is on."""
    device = getattr(encoder, "device", None)
    return None if device is None else str(device)


def _on_gpus(settings: EngineSettings, room: Room) -> int:
    wanted = settings.gpus or settings.actors or max(1, room.gpus)
    if wanted <= room.gpus:
        return wanted
    if settings.gpus:
        raise EnvironmentFault(f"--gpus {wanted}: {room.called}")
    raise EnvironmentFault(
        f"{wanted} actors on cuda need a GPU each, and {room.called} (--device cpu --actors N runs "
        "copies on the CPU)"
    )


def _elsewhere(settings: EngineSettings, device: str | None, room: Room) -> int:
    if settings.gpus:
        if settings.gpus > room.gpus:
            raise EnvironmentFault(f"--gpus {settings.gpus}: {room.called}")
        raise UsageError(f"--gpus {settings.gpus}: the encoder is on {device}, not on cuda")
    if settings.actors:
        return settings.actors
    if room.joined and room.gpus and device == "cpu":
        raise EnvironmentFault(
            f"{room.called}, but this machine has none, so that the encoder is on the CPU: start "
            "the run on a machine with a GPU, or give --actors N for N copies on the CPU"
        )
    return room.nodes if room.joined else 1
