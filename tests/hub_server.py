"""A small Hub on the loopback: what a real huggingface_hub client asks is really answered.

The one idea: faults are asked for by name before a fetch, and every byte sent is counted, so a test
can say how much travelled and not only what arrived.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 4
"""Entries a page of a tree listing: small, so that every listing needs a second page."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
REPOSITORY_PATH = re.compile("^/(api/)?(datasets|cdn)/")
RUDELY = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST."""


@dataclass
class Repository:
    """A dataset repository at its newest commit."""

    name: str
    files: dict[str, bytes]

    @property
    def commit(self) -> str:
        """A commit that changes with the content, as git's does."""
        digest = hashlib.sha1(self.name.encode())
        for path in sorted(self.files):
            digest.update(path.encode() + self.files[path])
        return digest.hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """Describe a file as the tree endpoint does: README in git, the others in LFS."""
        content = self.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if path != "README.md":
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return entry

    def tree(self) -> list[dict[str, Any]]:
        """List files and the folders above them."""
        folders = {path.rpartition("/")[0] for path in self.files} - {""}
        listed = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        return listed + [self.entry(path) for path in sorted(self.files)]


def blob_id(content: bytes) -> str:
    """Return git's name for a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """The server's state: its repositories, the faults it is asked to show, and what it counted."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    endpoint: str = ""
    redirects: bool = False
    ignores_ranges: bool = False
    refuses: dict[str, tuple[int, Mapping[str, str]]] = field(default_factory=dict)
    busy: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    resets: bool = False
    claims: dict[str, int] = field(default_factory=dict)
    corrupts: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)
    ranges: dict[str, list[str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, name: str, files: Mapping[str, bytes]) -> Repository:
        """Make a repository, or a new commit of it."""
        self.repositories[name] = Repository(name, dict(files))
        return self.repositories[name]

    def forget(self) -> None:
        """Count anew from here."""
        self.sent.clear()
        self.requests.clear()
        self.ranges.clear()


class _Answer(BaseHTTPRequestHandler):
    """One connection to the Hub."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for the client's acknowledgement
    timeout = 10
    hub: Hub

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the counts say more."""

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            if REPOSITORY_PATH.search(path):
                self.hub.tokens.add(self.headers.get("Authorization", ""))
            busy = self.hub.busy.pop(0) if self.hub.busy else None
        if busy is not None:
            self._say(busy[0], b"", busy[1])
        elif match := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path
        ):
            self._api(match[1], match[2], match[3] or "main", parse_qs(parts.query))
        elif match := re.fullmatch(r"/(cdn|datasets)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], match[4])
        else:
            self._say(404, b"")

    def _repository(self, name: str, revision: str) -> Repository | None:
        """Find a repository at a revision, or answer as the Hub does where there is none."""
        repository = self.hub.repositories.get(name)
        if name in self.hub.refuses:
            status, headers = self.hub.refuses[name]
            self._say(status, b"", headers)
        elif repository is None:
            self._say(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", repository.commit):
            self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _api(self, name: str, kind: str | None, revision: str, query: dict[str, list[str]]) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        if kind != "tree":
            files = [{"rfilename": path} for path in sorted(repository.files)]
            facts = {"id": name, "sha": repository.commit, "siblings": files, "tags": []}
            self._say_json(facts)
            return
        start = int(query.get("cursor", ["0"])[0])
        entries = repository.tree()
        for entry in entries:
            self._claim(entry)
        link = f"{self.hub.endpoint}/api/datasets/{name}/tree/{revision}?recursive=true"
        more = {"Link": f'<{link}&cursor={start + PAGE}>; rel="next"'}
        self._say_json(entries[start : start + PAGE], more if start + PAGE < len(entries) else {})

    def _claim(self, entry: dict[str, Any]) -> None:
        """Announce another size where a test wants it."""
        if (size := self.hub.claims.get(entry["path"])) is not None:
            entry["size"] = size
            if "lfs" in entry:
                entry["lfs"]["size"] = size

    def _file(self, area: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        if path not in repository.files:
            self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = repository.files[path]
        headers = {
            "ETag": f'"{repository.entry(path).get("lfs", {}).get("oid") or blob_id(content)}"',
            "X-Repo-Commit": repository.commit,
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        if area == "datasets" and self.hub.redirects:
            self._say(302, b"", headers | {"Location": self.path.replace("/datasets/", "/cdn/", 1)})
            return
        if path in self.hub.corrupts:
            content = bytes(len(content))
        self._content(path, content, headers)

    def _content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        """Send a file or the range asked for, counting, and cutting the line where a test wants."""
        asked = self.headers.get("Range")
        status, body = 200, content
        if asked and not self.hub.ignores_ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self._say(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, body = 206, content[start:]
            headers = headers | {
                "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"
            }
        sending = body
        with self.hub.lock:  # counted before it is sent: afterwards the test may look already
            if self.command == "GET":
                cuts = self.hub.cuts.get(path)
                sending = body[: cuts.pop(0)] if cuts else body
                self.hub.ranges.setdefault(path, []).append(asked or "")
                self.hub.sent[path] += len(sending)
        self._say(status, sending, headers, announced=len(body))
        if len(sending) < len(body):
            self._hang_up()

    def _hang_up(self) -> None:
        """Break the connection off: politely (FIN), or rudely (RST)."""
        self.close_connection = True
        if self.hub.resets:
            time.sleep(0.1)  # what was sent arrives first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RUDELY)
            os.close(self.connection.detach())

    def _say_json(self, answer: object, headers: Mapping[str, str] = NO_HEADERS) -> None:
        kind = {"Content-Type": "application/json"}
        self._say(200, json.dumps(answer).encode(), {**kind, **headers})

    def _say(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        announced: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve on a free port of the loopback until the block ends."""
    hub = Hub()
    handler = type("Answer", (_Answer,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
