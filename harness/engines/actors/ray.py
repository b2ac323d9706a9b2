"""Many devices: one encoder actor a device takes leases; this process alone writes the store."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.actors.actor import make_post
from mmeb_harness.engines.actors.crew import deal
from mmeb_harness.engines.actors.ray_cluster import Cluster, check_place
from mmeb_harness.engines.actors.ray_crew import RayCrew
from mmeb_harness.engines.actors.seats import Seats, seats, stated_device
from mmeb_harness.engines.actors.sending import identity_of, seal
from mmeb_harness.engines.batch import Encoded
from mmeb_harness.engines.engine import Batches, Engine, EngineSettings
from mmeb_harness.engines.local import BATCHES_WORTH_A_WORKER, WORKERS_AT_MOST


class RayEngine(Engine):
    """Actors on the devices of one machine or of a cluster; nothing is started for no batches."""

    name = "ray"

    def __init__(self, encoder: PlannedEncoder, settings: EngineSettings, batches: int) -> None:
        check_place(settings, encoder)
        self.encoder = encoder
        self.actors = settings.gpus or settings.actors or 1
        self._cluster: Cluster | None = None
        if batches:
            self._sealed = seal(encoder)
            self._cluster = Cluster()
            try:
                self._seats = seats(settings, stated_device(encoder), self._cluster.room)
            except BaseException:
                self._cluster.close()
                raise
            self.actors = self._seats.actors
            self.workers = _workers(encoder, settings.workers, self._seats, batches)

    def run(self, batches: Batches) -> Generator[tuple[int, Encoded], None, None]:
        """Encode batches on all devices, in whatever order they are done."""
        if self._cluster is None:
            return
        try:
            yield from self._run(batches, self._cluster)
        finally:
            self._cluster.close()

    def _run(self, batches: Batches, cluster: Cluster) -> Iterator[tuple[int, Encoded]]:
        post = make_post(
            self._sealed,
            on_gpu=self._seats.on_gpu,
            threads=self._seats.threads,
            workers=self.workers,
        )
        crew = RayCrew(post, self._seats, identity_of(self.encoder), cluster)
        try:
            for number, encoded in deal(batches, crew):
                # a copy, since Ray's own array would hold its shared memory until it is stored
                yield number, replace(encoded, vectors=encoded.vectors.copy())
        finally:
            crew.dismiss()


def _workers(encoder: PlannedEncoder, wanted: int | None, place: Seats, batches: int) -> int:
    """Choose the preparing processes of an actor, as for one device of this machine: what is
    wanted, and by default none on the CPU."""
    if not encoder.prepares or (wanted is None and not place.on_gpu):
        return 0
    if wanted is not None:
        return wanted
    if batches < BATCHES_WORTH_A_WORKER * place.actors:
        return 0
    return max(0, min(WORKERS_AT_MOST, place.threads - 1))
