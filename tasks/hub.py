"""Fetching MMEB's data from the Hugging Face Hub into a folder that `load_dataset` reads.

The one idea: every file is known by the digest the repository gives it, so any step can be cut
short and done again, and only what is missing travels.

    FOLDER/README.md  FOLDER/SUBSET/SPLIT-*.parquet    as in the repository
    FOLDER/images/SUBSET/...                           unpacked from the repository's zip archives
    FOLDER/.archives/                                  unfinished downloads, and each archive that
                                                       still holds subsets not yet asked for
    FOLDER/.mmeb-harness.json                          what was fetched, at which commit
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mmeb_harness.errors import UsageError
from mmeb_harness.tasks.download import FetchProgress, Hub, SilentProgress
from mmeb_harness.tasks.hub_errors import explained
from mmeb_harness.tasks.repository import ARCHIVES, README, Listing, RemoteFile
from mmeb_harness.tasks.unpack import ImageArchive, census, open_archive, require_room

RECORD = ".mmeb-harness.json"

_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch did: files and bytes that came, pictures unpacked, and pictures in place."""

    revision: str
    files: int
    bytes_downloaded: int
    images_unpacked: int
    images_present: int


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

    def __init__(self, hub: Hub, listing: Listing, folder: Path) -> None:
        self.hub = hub
        self.listing = listing
        self.folder = folder
        self.images = folder / "images"
        self.record = _Record.read(folder, listing.repository)

    def run(self, subsets: list[str]) -> Fetched:
        """Download, unpack, record, and only then throw away what is spent."""
        tables = [file for name in subsets for file in self.listing.tables(name)]
        tables += [file for path, file in self.listing.files.items() if path == README]
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
            if self.listing.subset_of(path) in subsets:
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
        for path in (self.folder / ARCHIVES).iterdir():
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
    split: str = "test",
    revision: str | None = None,
    endpoint: str | None = None,
    progress: FetchProgress | None = None,
) -> Fetched:
    """Bring one split's tables and the pictures of some subsets into a folder, as far as missing.

    Raises:
        UsageError: for a subset, split or revision that is not there, or a folder of other data.
        EnvironmentFault: without network, access, room or a sound archive; what came is kept.
    """
    with explained(repository, folder, endpoint):
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, not in __all__
            WeakFileLock,
        )

        hub = Hub(repository, endpoint, progress or SilentProgress())
        listing = replace(hub.listing(revision), split=split)
        chosen = listing.choose(subsets)
        (folder / ARCHIVES).mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / ARCHIVES / _LOCK):
            return _Job(hub, listing, folder).run(chosen)
