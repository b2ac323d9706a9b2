"""An encoder on its way to another process, and the proof that what arrives is what was sent.

The one idea: vectors are kept under what the encoder is here. A copy elsewhere that would load
other weights (changed in memory here, or another folder of that name there) or compute with other
libraries would file its vectors under a wrong name, so it is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import reason
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.hub import commit_of
from mmeb_harness.keys import installed_version, numeric_stack

Identity = Sequence[Any]
"""An encoder's fingerprint, and what its folders hold."""


HERE = "run it in this process (without --actors, --gpus and --engine ray)"


def seal(encoder: PlannedEncoder) -> bytes:
    """Pickle an encoder; one of a class in a script or notebook, with the class.

    Raises:
        EnvironmentFault: where it does not pickle, or would not arrive as what it is here.
    """
    import ray.cloudpickle

    pickler: Any = ray.cloudpickle  # untyped
    try:
        sealed: bytes = pickler.dumps(encoder)
        copy = pickle.loads(sealed)
    except Exception as error:
        raise EnvironmentFault(
            f"the encoder cannot be sent to other processes ({reason(error)}): {HERE}, "
            "or give it a __getstate__ that leaves out what cannot be pickled"
        ) from error
    if identity_of(copy) != identity_of(encoder):
        raise EnvironmentFault(
            "the encoder was changed in memory, and its copies in other processes would have the "
            f"weights on disk: save it and name the folder, or {HERE}"
        )
    return sealed


def unseal(sealed: bytes, *, on_gpu: bool) -> PlannedEncoder:
    """Open an encoder; on a GPU, which is the only one that its process sees, it is number 0."""
    encoder: PlannedEncoder = pickle.loads(sealed)
    moved: Any = encoder
    device: Any = getattr(encoder, "device", None)
    if on_gpu and str(device).startswith("cuda:"):
        moved.device = type(device)("cuda")  # text, or torch's own
    return encoder


def identity_of(encoder: PlannedEncoder) -> Identity:
    """Tell an encoder from others of its class, without reading its weights."""
    return [encoder.fingerprint(), *(_contents(folder) for folder in encoder.weight_folders())]


def _contents(folder: Path) -> str | list[tuple[str, int]]:
    """Tell a folder, or a file, by its commit on the Hub or the sizes of its files."""
    commit = commit_of(folder)
    if commit is not None:
        return commit
    paths = [folder] if folder.is_file() else sorted(folder.iterdir())
    return [(path.name, path.stat().st_size) for path in paths if path.is_file()]


def libraries() -> Mapping[str, str | None]:
    """Return the versions that must be the same wherever vectors of one run are computed."""
    return {"mmeb-harness": installed_version("mmeb-harness"), **numeric_stack()}


def check_arrived(there: tuple[Identity, Mapping[str, str | None]], identity: Identity) -> None:
    """Refuse a place whose libraries, or weights, are not those of this one.

    Raises:
        EnvironmentFault: saying what differs.
    """
    for name, version in libraries().items():
        if there[1].get(name) != version:
            raise EnvironmentFault(f"{name} is {there[1].get(name)} there and {version} here")
    if there[0] != identity:
        raise EnvironmentFault("the files of the weights there are not those that are here")
