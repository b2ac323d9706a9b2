"""What a dataset repository holds at one commit: its files, and what they are to us."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmeb_harness.errors import UsageError, unknown_name

ARCHIVES = ".archives"
README = "README.md"
_TABLE = re.compile(r"(?P<subset>[^/.][^/]*)/(?P<split>[^/.-]+)[^/]*\.parquet")
_SHARED = re.compile(r"[^/]*images[^/]*\.zip", re.IGNORECASE)


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
        return folder / ARCHIVES / f"{flat.stem}-{self.version[:12]}{flat.suffix}"

    def partial(self, folder: Path) -> Path:
        """Give the path where the file gathers until it is whole."""
        return folder / ARCHIVES / f"{self.aside(folder).name}.partial"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a repository at one commit, and what they are to us, who want one split."""

    repository: str
    commit: str
    files: Mapping[str, RemoteFile]
    split: str = "test"

    @property
    def subsets(self) -> set[str]:
        """The subsets there are: the folders that hold a table of the split."""
        return {subset for path in self.files if (subset := self.subset_of(path)) is not None}

    def subset_of(self, path: str) -> str | None:
        """Return the subset that a file is a table of, in this split; None: it is none."""
        match = _TABLE.fullmatch(path)
        return match["subset"] if match and match["split"] == self.split else None

    def choose(self, names: Sequence[str]) -> list[str]:
        """Check the names of subsets and drop repetitions."""
        known = self.subsets
        if not known and (splits := self._splits()):
            raise unknown_name("split", self.split, splits, f"(splits of {self.repository})")
        hint = f"(subsets of {self.repository}: {', '.join(sorted(known)) or 'none'})"
        for name in names:
            if name not in known:
                raise unknown_name("subset", name, known, hint)
        if not names:
            raise UsageError(f"name the subsets to fetch {hint}")
        return list(dict.fromkeys(names))

    def _splits(self) -> set[str]:
        return {match["split"] for path in self.files if (match := _TABLE.fullmatch(path))}

    def tables(self, subset: str) -> list[RemoteFile]:
        """List the parquet files of a subset."""
        return [file for path, file in self.files.items() if self.subset_of(path) == subset]

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
