"""Turns what huggingface_hub and the system raise into errors that say what to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.tasks.download import first_line, status_of

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


@contextmanager
def explained(repository: str, folder: Path, endpoint: str | None) -> Iterator[None]:
    """Turn what huggingface_hub and the system raise into errors that say what to do."""
    from huggingface_hub import constants, errors

    place = endpoint or constants.ENDPOINT
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise EnvironmentFault(
            f"{repository} cannot be fetched while HF_HUB_OFFLINE is set; unset it, or fetch on a "
            f"connected machine and copy {folder} here"
        ) from None
    except errors.GatedRepoError as error:
        raise EnvironmentFault(
            f"{repository} is gated: accept its terms at {place}/datasets/{repository} and set "
            "HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{repository} has no revision of that name") from error
    except errors.HFValidationError as error:
        raise UsageError(
            f"{repository!r} is no name of a repository: {first_line(error)}"
        ) from error
    except json.JSONDecodeError as error:
        raise EnvironmentFault(
            f"{place} does not answer as a Hub does; check HF_ENDPOINT, and whether the network "
            "asks for a login"
        ) from error
    except errors.HfHubHTTPError as error:
        raise EnvironmentFault(_refusal(repository, place, error)) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of httpx or httpx2
        raise EnvironmentFault(
            f"{place} cannot be reached ({first_line(error)}); check the network, the proxy and "
            "HF_ENDPOINT, then fetch again: it goes on where it stopped"
        ) from error
    except OSError as error:
        raise EnvironmentFault(_disk_trouble(folder, error)) from error


def _refusal(repository: str, place: str, error: HfHubHTTPError) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError

    status = status_of(error)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"{place} has no dataset repository {repository}, or it is private: check the name, "
            "and set HF_TOKEN if it needs one"
        )
    if status in (401, 403):
        return f"{place} refuses access to {repository} (status {status}): set a valid HF_TOKEN"
    return (
        f"{place} answers with status {status} ({first_line(error)}); fetch again later: it goes "
        "on where it stopped"
    )


def _disk_trouble(folder: Path, error: OSError) -> str:
    where = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of {folder} is full; what came is kept: make room and fetch again, or name "
            "another --data-dir"
        )
    return f"{where} cannot be written or read ({error.strerror or error}); check its permissions"
