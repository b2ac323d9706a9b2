"""Brings single files from the Hub: waits out what passes, goes on where a file was cut.

huggingface_hub lists and connects (`HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are its to read).
Its `hf_hub_download` is not used: today it throws an unfinished file away when it fails or is
interrupted, passes bytes on in blocks of 10 MiB and compares no digest; the images are gigabytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.tasks.repository import Listing, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_ATTEMPTS = 6
_LONGEST_WAIT = 600
_TRANSIENT = frozenset({"TimeoutException", "NetworkError", "RemoteProtocolError"})

Result = TypeVar("Result")


class FetchProgress(Protocol):
    """Told what is going on; `advanced` is negative when a file has to start over."""

    def started(self, name: str, total_bytes: int) -> None: ...
    def advanced(self, n_bytes: int) -> None: ...
    def finished(self, name: str) -> None: ...
    def waiting(self, reason: str, seconds: float) -> None: ...


class SilentProgress:
    """Shows nothing."""

    def started(self, name: str, total_bytes: int) -> None: ...
    def advanced(self, n_bytes: int) -> None: ...
    def finished(self, name: str) -> None: ...
    def waiting(self, reason: str, seconds: float) -> None: ...


class _Patience:
    """Waits out what passes: cut connections, too many requests, a server's bad minute."""

    def __init__(self, progress: FetchProgress) -> None:
        self.progress = progress
        self.failures = 0
        self.reached = False

    def until_through(self, step: Callable[[], Result]) -> Result:
        """Take the step, again and again while waiting may help."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2

        while True:
            try:
                return step()
            except HTTPError as error:
                self._wait(error)

    def rewarded(self) -> None:
        """Something came through: count failures anew."""
        self.failures, self.reached = 0, True

    def _wait(self, error: Exception) -> None:
        """Sleep as long as the server asks, or longer each time; raise what waiting cannot mend."""
        self.failures += 1
        seconds = _seconds_asked(error) or float(2 ** (self.failures - 1))
        if self.failures >= _ATTEMPTS or seconds > _LONGEST_WAIT or not self._passes(error):
            raise error
        self.progress.waiting(first_line(error), seconds)
        time.sleep(seconds)

    def _passes(self, error: Exception) -> bool:
        # By name: huggingface_hub 1 speaks httpx, 2 speaks httpx2, and both may be installed.
        names = {kind.__name__ for kind in type(error).__mro__}
        if not self.reached and "ConnectError" in names:
            return False
        return bool(names & _TRANSIENT) or status_of(error) in (408, 429, 500, 502, 503, 504)


def status_of(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _seconds_asked(error: Exception) -> float | None:
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not in __all__
        parse_ratelimit_headers,
    )

    response = getattr(error, "response", None)
    if response is None:
        return None
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    asked = response.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdigit() else None


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class Hub:
    """One dataset repository at one endpoint."""

    def __init__(self, repository: str, endpoint: str | None, progress: FetchProgress) -> None:
        self.repository = repository
        self.endpoint = None if endpoint is None else endpoint.rstrip("/")
        self.progress = progress
        self.patience = _Patience(progress)
        self.received = 0

    def listing(self, revision: str | None) -> Listing:
        """Resolve the revision to a commit and list the files there."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(endpoint=self.endpoint)
        info = self.patience.until_through(
            lambda: api.dataset_info(self.repository, revision=revision)
        )
        self.patience.rewarded()
        commit = str(info.sha)  # list_repo_tree retries by itself, dataset_info does not
        entries = api.list_repo_tree(
            self.repository, recursive=True, revision=commit, repo_type="dataset"
        )
        files = {entry.path: _remote(entry) for entry in entries if isinstance(entry, RepoFile)}
        return Listing(repository=self.repository, commit=commit, files=files)

    def download(self, file: RemoteFile, commit: str, partial: Path, target: Path) -> None:
        """Bring one file, going on where an earlier attempt was cut; it appears whole or not."""
        self.progress.started(file.path, file.size)
        partial.touch()
        self.progress.advanced(partial.stat().st_size)
        if partial.stat().st_size < file.size:
            self.patience.until_through(lambda: self._stream(file, commit, partial))
        if partial.stat().st_size != file.size or not file.matches(partial):
            partial.unlink()
            raise EnvironmentFault(
                f"{file.path} of {self.repository} arrived with other bytes than the repository "
                "announces; fetch it again, and if that repeats, look at the proxy or HF_ENDPOINT"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
        self.progress.finished(file.path)

    def _stream(self, file: RemoteFile, commit: str, partial: Path) -> None:
        """Append what is still missing, in one request, writing bytes as they come."""
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, not in __all__
            build_hf_headers,
            hf_raise_for_status,
        )

        start = partial.stat().st_size
        url = hf_hub_url(
            self.repository,
            file.path,
            repo_type="dataset",
            revision=commit,
            endpoint=self.endpoint,
        )
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = get_session().stream(
            "GET",
            url,
            headers=headers,
            follow_redirects=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )
        with request as response:
            hf_raise_for_status(response)
            with partial.open("ab") as sink:
                if start and response.status_code != 206:
                    sink.truncate(0)
                    self.progress.advanced(-start)
                for block in response.iter_bytes():
                    sink.write(block)
                    self._received(len(block))

    def _received(self, n_bytes: int) -> None:
        self.patience.rewarded()
        self.received += n_bytes
        self.progress.advanced(n_bytes)


def _remote(entry: RepoFile) -> RemoteFile:
    if entry.lfs is None:
        return RemoteFile(path=entry.path, size=entry.size, version=entry.blob_id)
    sha256 = entry.lfs.sha256
    return RemoteFile(path=entry.path, size=entry.lfs.size, version=sha256, sha256=sha256)
