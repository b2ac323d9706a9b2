"""A model reference, a folder or a Hub id, turned into a folder on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from mmeb_harness.errors import EnvironmentFault, UsageError

CONFIGURATION = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = (*CONFIGURATION, "*.safetensors", "*.safetensors.index.json")
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
"""Pickled tensors, as repositories held them before safetensors; read without running any code."""


PACKAGE = "package:"
"""How a reference to a folder inside an installed package begins: `package:NAME/FOLDER`."""


def local_folder(reference: str) -> Path | None:
    """Return the folder a reference names, or None where it is a Hub id.

    Raises:
        UsageError: for what can only be a path and does not exist.
        EnvironmentFault: for a folder of a package that is not there.
    """
    if reference.startswith(PACKAGE):
        return packaged_folder(reference)
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    looks_like_path = reference.startswith((".", "/", "~")) or reference.count("/") != 1
    if looks_like_path and not _bare_hub_id(reference):
        raise UsageError(
            f"there is no folder {reference!r}, and it is no Hub id (ORGANISATION/NAME)"
        )
    return None


def packaged_folder(reference: str) -> Path:
    """Return the folder inside an installed package that `package:NAME/FOLDER` names.

    Raises:
        EnvironmentFault: where the package or the folder is not there.
    """
    package, _, inside = reference.removeprefix(PACKAGE).partition("/")
    try:
        place = files(package).joinpath(inside)
    except (ImportError, ValueError):
        raise EnvironmentFault(f"{reference}: there is no package {package!r}") from None
    if not isinstance(place, Path) or not place.is_dir():
        raise EnvironmentFault(
            f"{reference}: the package {package} has no folder {inside!r} on this disk; was it "
            "installed whole, and not left in an archive?"
        )
    return place


def _bare_hub_id(reference: str) -> bool:
    return "/" not in reference and not reference.startswith((".", "~"))


def fetch_model(reference: str, revision: str | None, patterns: Sequence[str] = WEIGHTS) -> Path:
    """Return the folder of a model, downloading what matches `patterns` where it is not here.

    Raises:
        UsageError: where there is no such folder or repository.
        EnvironmentFault: without network, or where the repository is closed.
    """
    folder = local_folder(reference)
    if folder is not None:
        return folder
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub_errors

    try:
        found = snapshot_download(
            reference,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=constants.HF_HUB_OFFLINE,  # or 1.x asks for the files of a commit
        )
        return Path(found)
    except hub_errors.GatedRepoError as error:
        raise EnvironmentFault(
            f"{reference} is gated: accept its terms on the Hub and set HF_TOKEN"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise UsageError(f"{reference} has no revision {revision!r}") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise UsageError(f"the Hub has no model {reference!r} (or it is private)") from error
    except hub_errors.HFValidationError as error:
        raise UsageError(f"{reference!r} is neither a folder nor a Hub id: {error}") from error
    except Exception as error:  # network errors differ with huggingface_hub's HTTP library
        raise EnvironmentFault(
            f"{reference} is not on this machine and the Hub cannot be reached"
            f"{_offline_hint()}: {_first_line(error)}. Give a local folder, or connect once."
        ) from error


def fetch_weights(reference: str, revision: str | None) -> Path:
    """Return the folder of a model with its weights: safetensors, or older ones if it has none.

    Raises as `fetch_model` does.
    """
    folder = fetch_model(reference, revision)
    if any(folder.glob("*.safetensors")):
        return folder
    return fetch_model(reference, commit_of(folder) or revision, (*WEIGHTS, *OLD_WEIGHTS))


def _offline_hint() -> str:
    return " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]


def commit_of(folder: Path) -> str | None:
    """Return the commit of a folder in the Hub's cache (`models--NAME/snapshots/COMMIT`)."""
    from huggingface_hub import constants

    place = folder.absolute()
    ours = place.is_relative_to(Path(constants.HF_HUB_CACHE).absolute())
    repository = place.parent.parent.name.startswith("models--")
    return place.name if ours and repository and place.parent.name == "snapshots" else None
