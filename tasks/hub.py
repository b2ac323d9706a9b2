"""Fetching MMEB's evaluation data from the Hugging Face Hub into a folder `load_dataset` reads.

The one idea: every file is known by the digest the repository gives it, so any step can be cut
short and done again, and only what is missing travels.

    FOLDER/README.md  FOLDER/SUBSET/test-*.parquet     as in the repository
    FOLDER/images/SUBSET/...                           unpacked from the repository's zip archives
    FOLDER/.archives/                                  unfinished downloads, and each archive that
                                                       still holds subsets not yet asked for
    FOLDER/.mmeb-harness.json                          what was fetched, at which commit

huggingface_hub lists and connects (`HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are its to read).
Its `hf_hub_download` is not used: today it throws an unfinished file away when it fails or is
interrupted, passes bytes on in blocks of 10 MiB and compares no digest; the images are gigabytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mmeb_harness.errors import EnvironmentFault, UsageError, unknown_name
from mmeb_harness.tasks.unpack import ImageArchive, census, open_archive, require_room

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

RECORD = ".mmeb-harness.json"

_ARCHIVES = ".archives"
_LOCK = ".lock"
_README = "README.md"
_TABLE = re.compile(r"(?P<subset>[^/.][^/]*)/test[^/]*\.parquet")
_SHARED = re.compile(r"[^/]*images[^/]*\.zip", re.IGNORECASE)
_ATTEMPTS = 6
_LONGEST_WAIT = 600
_TRANSIENT = frozenset({"TimeoutException", "NetworkError", "RemoteProtocolError"})

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch did: files and bytes that came, pictures unpacked, and pictures in place."""

    revision: str
    files: int
    bytes_downloaded: int
    images_unpacked: int
    images_present: int


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


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of the repository; `version` changes when its content does."""

    path: str
    size: int
    version: str
    sha256: str | None = None

    def is_at(self, target: Path, recorded: str | None = None) -> bool:
        """Tell whether the file is in place: by the version recorded for it, else by digest."""
        if not target.is_file() or target.stat().st_size != self.size:
            return False
        return recorded == self.version or (self.sha256 is not None and self.matches(target))

    def matches(self, path: Path) -> bool:
        """Compare the whole content with the digest, where the repository gives one."""
        if self.sha256 is None:
            return True
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256

    def aside(self, folder: Path) -> Path:
        """Give the path under `.archives` that only this version of this file uses."""
        flat = Path(self.path.replace("/", "--"))
        return folder / _ARCHIVES / f"{flat.stem}-{self.version[:12]}{flat.suffix}"

    def partial(self, folder: Path) -> Path:
        """Give the path where the file gathers until it is whole."""
        return folder / _ARCHIVES / f"{self.aside(folder).name}.partial"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a repository at one commit, and what they are to us."""

    repository: str
    commit: str
    files: Mapping[str, RemoteFile]

    @property
    def subsets(self) -> set[str]:
        """The subsets there are: the folders that hold a test table."""
        matches = (_TABLE.fullmatch(path) for path in self.files)
        return {match["subset"] for match in matches if match}

    def choose(self, names: Sequence[str]) -> list[str]:
        """Check the names of subsets and drop repetitions."""
        known = self.subsets
        hint = f"(subsets of {self.repository}: {', '.join(sorted(known)) or 'none'})"
        for name in names:
            if name not in known:
                raise unknown_name("subset", name, known, hint)
        if not names:
            raise UsageError(f"name the subsets to fetch {hint}")
        return list(dict.fromkeys(names))

    def tables(self, subset: str) -> list[RemoteFile]:
        """List the parquet files of a subset."""
        found = ((_TABLE.fullmatch(path), file) for path, file in self.files.items())
        return [file for match, file in found if match and match["subset"] == subset]

    def archives(self, subset: str) -> list[RemoteFile]:
        """List the archives with a subset's pictures: its own, else those at the root for all."""
        names = (f"{subset}.zip", f"images/{subset}.zip", f"images_zip/{subset}.zip")
        own = [self.files[name] for name in names if name in self.files]
        return own[:1] or self.shared_archives()

    def archive_versions(self, subset: str) -> dict[str, str]:
        """Say which versions of which archives a subset's pictures come from."""
        return {file.path: file.version for file in self.archives(subset)}

    def shared_archives(self) -> list[RemoteFile]:
        """List the archives at the root that hold the pictures of several subsets."""
        own = {f"{subset}.zip" for subset in self.subsets}
        return [
            file for path, file in self.files.items() if _SHARED.fullmatch(path) and path not in own
        ]


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
        self.progress.waiting(_first_line(error), seconds)
        time.sleep(seconds)

    def _passes(self, error: Exception) -> bool:
        # By name: huggingface_hub 1 speaks httpx, 2 speaks httpx2, and both may be installed.
        names = {kind.__name__ for kind in type(error).__mro__}
        if not self.reached and "ConnectError" in names:
            return False
        return bool(names & _TRANSIENT) or _status(error) in (408, 429, 500, 502, 503, 504)


def _status(error: Exception) -> int | None:
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class _Hub:
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


@dataclass(frozen=True, kw_only=True)
class _SubsetRecord:
    """How one subset was left: the archives its pictures came from, and how much they are."""

    archives: dict[str, str]
    images: int
    image_bytes: int
    commit: str = ""


@dataclass(kw_only=True)
class _Record:
    """What `.mmeb-harness.json` says; losing it costs a check of digests, not the tables."""

    repository: str
    commit: str = ""
    files: dict[str, str] = field(default_factory=dict)
    subsets: dict[str, _SubsetRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, repository: str) -> _Record:
        try:
            found = cls(**json.loads((folder / RECORD).read_text("utf-8")))
            found.subsets = {name: _SubsetRecord(**of) for name, of in found.subsets.items()}  # type: ignore[arg-type]  # JSON
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return cls(repository=repository)
        if found.repository != repository:
            raise UsageError(
                f"{folder} holds the data of {found.repository}; give {repository} another folder"
            )
        return found

    def write(self, folder: Path) -> None:
        aside = folder / f"{RECORD}.partial"
        aside.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", "utf-8")
        aside.replace(folder / RECORD)


class _Job:
    """One fetch into one folder, which nobody else fetches into meanwhile."""

    def __init__(self, hub: _Hub, listing: Listing, folder: Path) -> None:
        self.hub = hub
        self.listing = listing
        self.folder = folder
        self.images = folder / "images"
        self.record = _Record.read(folder, listing.repository)

    def run(self, subsets: list[str]) -> Fetched:
        """Download, unpack, record, and only then throw away what is spent."""
        tables = [file for name in subsets for file in self.listing.tables(name)]
        tables += [file for path, file in self.listing.files.items() if path == _README]
        downloads = [(file, self.folder / file.path) for file in tables if not self._has(file)]
        bare = [name for name in subsets if not self._has_images(name)]
        archives = self._archives_for(bare)
        stored = [(file, file.aside(self.folder)) for file in archives]
        downloads += [(file, path) for file, path in stored if not path.exists()]
        self._download(downloads)
        unpacked = sum(self._unpack(file, of) for file, of in archives.items())
        self._drop_replaced_tables(subsets)
        self._note(tables, subsets, bare)
        self._drop_spent()
        return Fetched(
            revision=self.listing.commit,
            files=len(downloads),
            bytes_downloaded=self.hub.received,
            images_unpacked=unpacked,
            images_present=sum(self.record.subsets[name].images for name in subsets),
        )

    def _drop_replaced_tables(self, subsets: list[str]) -> None:
        """Remove tables of ours that the repository has renamed, or readers would take both."""
        for path in self.record.files.keys() - self.listing.files.keys():
            if (match := _TABLE.fullmatch(path)) and match["subset"] in subsets:
                (self.folder / path).unlink(missing_ok=True)
                del self.record.files[path]

    def _has(self, file: RemoteFile) -> bool:
        return file.is_at(self.folder / file.path, self.record.files.get(file.path))

    def _has_images(self, subset: str) -> bool:
        """Tell whether the subset's pictures came from these very archives and are still there."""
        left = self.record.subsets.get(subset)
        if left is None or left.archives != self.listing.archive_versions(subset):
            return False
        count, size = census(self.images / subset)
        return count >= left.images and size >= left.image_bytes

    def _archives_for(self, subsets: list[str]) -> dict[RemoteFile, list[str]]:
        wanted: dict[RemoteFile, list[str]] = {}
        for subset in subsets:
            for archive in self.listing.archives(subset):
                wanted.setdefault(archive, []).append(subset)
        return wanted

    def _download(self, downloads: list[tuple[RemoteFile, Path]]) -> None:
        partials = [file.partial(self.folder) for file, _ in downloads]
        here = sum(partial.stat().st_size for partial in partials if partial.exists())
        require_room(self.folder, sum(file.size for file, _ in downloads) - here)
        for (file, target), partial in zip(downloads, partials, strict=True):
            self.hub.download(file, self.listing.commit, partial, target)

    def _unpack(self, file: RemoteFile, subsets: list[str]) -> int:
        """Unpack the pictures of these subsets that are not there yet, and count them."""
        with self._opened(file, subsets[0]) as archive:
            missing = archive.missing(self.images, subsets)
            size = sum(member.info.file_size for member in missing)
            require_room(self.folder, size)
            name = f"images of {file.path}"
            self.hub.progress.started(name, size)
            for member in missing:
                archive.unpack(member, self.images)
                self.hub.progress.advanced(member.info.file_size)
            self.hub.progress.finished(name)
        return len(missing)

    def _opened(self, file: RemoteFile, subset: str) -> AbstractContextManager[ImageArchive]:
        only = None if file in self.listing.shared_archives() else subset
        return open_archive(file.aside(self.folder), self.listing.subsets, only)

    def _note(self, tables: list[RemoteFile], subsets: list[str], unpacked: list[str]) -> None:
        """Record what is in place at this commit, over what was recorded before."""
        record, commit = self.record, self.listing.commit
        record.commit = commit
        record.files |= {file.path: file.version for file in tables}
        for subset in subsets:
            if subset in unpacked:
                record.subsets[subset] = self._counted(subset)
            record.subsets[subset] = replace(record.subsets[subset], commit=commit)
        record.write(self.folder)

    def _counted(self, subset: str) -> _SubsetRecord:
        count, size = census(self.images / subset)
        archives = self.listing.archive_versions(subset)
        return _SubsetRecord(archives=archives, images=count, image_bytes=size)

    def _drop_spent(self) -> None:
        """Keep only the archives with pictures of subsets that nobody has asked for yet."""
        kept = {
            file.aside(self.folder) for file in self.listing.shared_archives() if self._owes(file)
        }
        for path in (self.folder / _ARCHIVES).iterdir():
            if path not in kept and path.name != _LOCK:
                path.unlink()

    def _owes(self, file: RemoteFile) -> bool:
        if not file.aside(self.folder).exists():
            return False
        with self._opened(file, "") as archive:
            return any(
                subset not in self.record.subsets
                or self.record.subsets[subset].archives.get(file.path) != file.version
                for subset in archive.subsets
            )


def fetch(
    repository: str,
    subsets: Sequence[str],
    folder: Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    progress: FetchProgress | None = None,
) -> Fetched:
    """Bring the tables and pictures of some subsets into a folder, as far as they are missing.

    Raises:
        UsageError: for a subset or revision the repository has not, or a folder of other data.
        EnvironmentFault: without network, access, room or a sound archive; what came is kept.
    """
    with _explained(repository, folder, endpoint):
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, not in __all__
            WeakFileLock,
        )

        hub = _Hub(repository, endpoint, progress or SilentProgress())
        listing = hub.listing(revision)
        chosen = listing.choose(subsets)
        (folder / _ARCHIVES).mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / _ARCHIVES / _LOCK):
            return _Job(hub, listing, folder).run(chosen)


@contextmanager
def _explained(repository: str, folder: Path, endpoint: str | None) -> Iterator[None]:
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
            f"{repository!r} is no name of a repository: {_first_line(error)}"
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
            f"{place} cannot be reached ({_first_line(error)}); check the network, the proxy and "
            "HF_ENDPOINT, then fetch again: it goes on where it stopped"
        ) from error
    except OSError as error:
        raise EnvironmentFault(_disk_trouble(folder, error)) from error


def _refusal(repository: str, place: str, error: HfHubHTTPError) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError

    status = _status(error)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"{place} has no dataset repository {repository}, or it is private: check the name, "
            "and set HF_TOKEN if it needs one"
        )
    if status in (401, 403):
        return f"{place} refuses access to {repository} (status {status}): set a valid HF_TOKEN"
    return (
        f"{place} answers with status {status} ({_first_line(error)}); fetch again later: it goes "
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
