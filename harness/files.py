"""Files land whole; and what a file holds is known without reading it twice.

A file is written aside and renamed. Its digest is kept by path, inode, size and times, so that an
unchanged file is read once ever.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmeb_harness.errors import EnvironmentFault

SETTLED_NS = 20_000_000
"""A file younger than this may change again within one tick of its clock: not remembered."""

NAMES_AT_ONCE = 500
"""Paths in one question to the database."""


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it there at the end, or remove it on failure."""
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise storage_fault(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def check_writable(folder: Path) -> None:
    """Make a folder and a file in it, and remove the file. Raises EnvironmentFault."""
    probe = folder / f".{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise storage_fault(error, probe) from error


def storage_fault(error: OSError, path: Path) -> EnvironmentFault:
    """Say in one sentence why `path` could not be written."""
    if error.errno == errno.ENOSPC:
        return EnvironmentFault(f"the disk is full: {path} was not written; what was is kept")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
        return EnvironmentFault(
            f"{path.parent} cannot be written ({error.strerror}): choose another folder"
        )
    return EnvironmentFault(f"{path} could not be written: {error}")


def cache_root(given: Path | None = None) -> Path:
    """Return the folder for vectors, data and the file index.

    `given` (`--cache-dir`) wins, then MMEB_HARNESS_CACHE_DIR, then the user's cache folder.
    """
    if given is not None:
        return given
    from platformdirs import user_cache_path

    named = os.environ.get("MMEB_HARNESS_CACHE_DIR")
    return Path(named) if named else user_cache_path("mmeb-harness")


def is_tidy(path: str) -> bool:
    """Tell at once of most paths that they are absolute and in their shortest form."""
    return path.startswith("/") and not ("//" in path or "/." in path or path.endswith("/"))


def _full(path: str) -> str:
    return path if is_tidy(path) else os.path.abspath(path)


class FileIndex:
    """Digests of files, remembered in a small database under the cache.

    What is learnt is gathered and written in one short transaction, so that several processes can
    use the same index; where it cannot be written, files are only read again.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "files.sqlite"
        self._learnt: dict[str, tuple[str, str]] = {}
        self._recalled: dict[str, tuple[str, str]] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._rows = sqlite3.connect(self.path, timeout=30)
            with self._rows:
                self._rows.execute(
                    "CREATE TABLE IF NOT EXISTS files"
                    " (path TEXT PRIMARY KEY, state TEXT, digest TEXT)"
                )
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault(
                f"the cache {root} cannot be used ({error}): choose --cache-dir"
            ) from None

    def recall(self, paths: Iterable[str]) -> None:
        """Look up files whose digests will be asked for, all at once, until the next `flush`."""
        names = [_full(path) for path in paths]
        for start in range(0, len(names), NAMES_AT_ONCE):
            chosen = names[start : start + NAMES_AT_ONCE]
            marks = ", ".join("?" * len(chosen))
            found = self._rows.execute(
                f"SELECT path, state, digest FROM files WHERE path IN ({marks})", chosen
            )
            self._recalled.update((path, (state, digest)) for path, state, digest in found)

    def digest(self, path: str | os.PathLike[str]) -> str:
        """Return the SHA-256 of a file, reading it only if it is new or has changed."""
        name, status = _full(os.fspath(path)), os.stat(path)
        state = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        known = self._known(name)
        if known is not None and known[0] == state:
            return known[1]
        started = time.time_ns()
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if started - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
            self._learnt[name] = (state, digest)
        return digest

    def folder_digest(self, folder: Path, *, ignore: tuple[str, ...] = ()) -> str:
        """Digest the files directly in a folder, or a single file, by name and content."""
        digest = hashlib.sha256()
        for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
            if path.is_file() and path.name not in ignore and not path.name.startswith("."):
                digest.update(f"{path.name} {self.digest(path)}\n".encode())
        return digest.hexdigest()

    def _known(self, name: str) -> tuple[str, str] | None:
        known = self._learnt.get(name) or self._recalled.get(name)
        if known is not None:
            return known
        row: tuple[str, str] | None = self._rows.execute(
            "SELECT state, digest FROM files WHERE path = ?", (name,)
        ).fetchone()
        return row

    def flush(self) -> None:
        """Write what was learnt since the last time."""
        self._recalled.clear()
        rows = [(name, *fact) for name, fact in self._learnt.items()]
        with contextlib.suppress(sqlite3.OperationalError), self._rows:
            self._rows.executemany("REPLACE INTO files VALUES (?, ?, ?)", rows)
            self._learnt.clear()

    def close(self) -> None:
        """Write what was learnt, and let go of the database."""
        self.flush()
        self._rows.close()
