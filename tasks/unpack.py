"""Image archives: which member is whose picture, and how it lands on disk.

The one idea: where a member goes is decided, and refused if unsafe, before a single byte is
written; a picture that is there with its size and checksum is never written again.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmeb_harness.errors import EnvironmentFault

WRAPPERS = frozenset({"images", "eval_images", "MMEB-eval", "MMEB"})
"""Folders that archives of MMEB are known to wrap around the subsets' own folders."""

_LITTER = frozenset({".DS_Store", "Thumbs.db"})
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Member:
    """One picture of an archive: its place below the image folder, and the subset it belongs to."""

    info: zipfile.ZipInfo
    place: str
    subset: str | None

    def is_in(self, images: Path) -> bool:
        """Tell whether the picture is already there, by its size and checksum."""
        try:
            if (images / self.place).stat().st_size != self.info.file_size:
                return False
            return _checksum(images / self.place) == self.info.CRC
        except (FileNotFoundError, NotADirectoryError):
            return False


@dataclass(frozen=True, kw_only=True)
class ImageArchive:
    """An opened archive whose members are all known to be safe to unpack."""

    path: Path
    zipped: zipfile.ZipFile
    members: tuple[Member, ...]

    @property
    def subsets(self) -> set[str]:
        """The subsets this archive has pictures of."""
        return {member.subset for member in self.members if member.subset is not None}

    def missing(self, images: Path, subsets: Collection[str]) -> list[Member]:
        """List what is yet to unpack for these subsets; a folder that is no subset's is all's."""
        wanted = (each for each in self.members if each.subset is None or each.subset in subsets)
        return [member for member in wanted if not member.is_in(images)]

    def unpack(self, member: Member, images: Path) -> None:
        """Write one picture aside and rename it into its place."""
        place, aside = images / member.place, images / ".unpacking"
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.zipped.open(member.info) as source, aside.open("wb") as sink:
                shutil.copyfileobj(source, sink, _BLOCK)
            aside.replace(place)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            RuntimeError,
        ) as error:
            raise _unusable(
                self.path, f"{member.info.filename!r} cannot be read ({error})"
            ) from None
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def open_archive(path: Path, known: Collection[str], only: str | None) -> Iterator[ImageArchive]:
    """Open an archive with pictures of the known subsets, or of the `only` one; check it whole."""
    try:
        zipped = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _unusable(path, f"it is not a zip archive ({error})") from None
    with zipped:
        infos = [info for info in zipped.infolist() if not info.is_dir() and not _is_litter(info)]
        for info in infos:
            _require_safe(path, info)
        members = _members(infos, known if only is None else {only}, only)
        yield ImageArchive(path=path, zipped=zipped, members=members)


def census(folder: Path) -> tuple[int, int]:
    """Count the files below a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def require_room(folder: Path, n_bytes: int) -> None:
    """Refuse to begin what the disk cannot take."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise EnvironmentFault(
            f"{folder} has {free / 1e9:.1f} GB free and {n_bytes / 1e9:.1f} GB are still to come; "
            "make room, or name another --data-dir. What is there already is kept"
        )


def _members(
    infos: list[zipfile.ZipInfo], known: Collection[str], only: str | None
) -> tuple[Member, ...]:
    """Give each member its place; an archive of one subset need not repeat the subset's folder."""
    names = [PurePosixPath(info.filename).parts for info in infos]
    names = [parts[_wrapping(names, known) :] for parts in names]
    placed = []
    for info, parts in zip(infos, names, strict=True):
        if only is not None and (len(parts) == 1 or parts[0] != only):
            parts = (only, *parts)
        subset = parts[0] if len(parts) > 1 and parts[0] in known else None
        placed.append(Member(info=info, place="/".join(parts), subset=subset))
    return tuple(placed)


def _wrapping(names: list[tuple[str, ...]], known: Collection[str]) -> int:
    """Count the leading folders to strip: one that every member has and that is no subset's."""
    heads = {parts[0] for parts in names}
    if len(heads) != 1 or heads & set(known) or min(map(len, names)) < 2:
        return 0
    return int(bool(heads & WRAPPERS) or any(parts[1] in known for parts in names))


def _is_litter(info: zipfile.ZipInfo) -> bool:
    parts = info.filename.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in _LITTER


def _require_safe(archive: Path, info: zipfile.ZipInfo) -> None:
    """Refuse a member that would land outside the image folder, or that is not a plain file."""
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        raise _unusable(archive, f"its member {name!r} is an absolute path")
    if ".." in re.split(r"[\\/]", name) or not PurePosixPath(name).parts:
        raise _unusable(archive, f"its member {name!r} climbs out of the folder")
    if kind not in (0, stat.S_IFREG):
        raise _unusable(archive, f"its member {name!r} is a link or a special file")


def _unusable(archive: Path, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"cannot unpack {archive}: {reason}; nothing outside the image folder was touched. If the "
        "file was damaged on this machine, delete it and fetch again; if not, tell its publisher"
    )


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
