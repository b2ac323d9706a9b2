"""A small embeddings server on the loopback, well-behaved or as unwell as a test asks.

The one idea: a vector is drawn from what an item holds, words and pixels, so any mix-up shows; and
the server counts by content what it has answered in full, so that "once each" can be proven.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

DIMENSION = 24
MODEL = "tiny/served"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
RUDELY = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST."""

Content = tuple[str, ...]
"""What one item holds, in order: its words, and for an image a digest of its pixels."""


def pixels_of(image: Image.Image) -> str:
    """Name an image by what a model would see of it."""
    plain = image.convert("RGB")
    return hashlib.sha256(f"{plain.size}".encode() + plain.tobytes()).hexdigest()


def vector_of(content: Content, dimension: int = DIMENSION) -> Any:
    """Draw the vector (D,) of a content: equal content, equal vector."""
    seed = hashlib.sha256(json.dumps(content).encode()).digest()
    drawn = np.random.default_rng(list(seed)).standard_normal(dimension)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to fail. `status` answers with an error; the other kinds are names:

    `drop` and `reset` close the connection before answering, `cut` in the middle of the answer;
    `half` announces half an answer as the whole; `page` is no JSON; `hang` never answers;
    `short`, `twice`, `extra`, `empty`, `text` are answers with embeddings lost, doubled, added,
    empty or not numbers; `nan` and `narrow` are whole answers with bad vectors.
    """

    kind: str = "status"
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "unwell"


@dataclass
class EmbeddingsServer:
    """The server's state: what it serves, how it is unwell, and what it counted.

    `faults` meet the next requests, one each (None: it is answered well); `sick` meets any request
    with such a word in it; after `dies_after` answers it drops every connection. With `together`
    no request is answered before so many are there.
    """

    url: str = ""
    models: Sequence[str] | None = (MODEL,)
    key: str | None = None
    seconds: float = 0.0
    shuffles: bool = False
    base64: bool = False
    texts_a_request: int = 32
    faults: deque[Fault | None] = field(default_factory=deque)
    sick: dict[str, Fault] = field(default_factory=dict)
    dies_after: int | None = None
    together: threading.Barrier | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: Counter[Content] = field(default_factory=Counter)
    answered: Counter[Content] = field(default_factory=Counter)
    keys: set[str | None] = field(default_factory=set)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Count anew from here."""
        self.bodies.clear()
        self.asked.clear()
        self.answered.clear()

    def fault_for(self, contents: Sequence[Content]) -> Fault | None:
        """Return how the request with these contents fails, if it does."""
        words = json.dumps(list(contents))
        for word, fault in self.sick.items():
            if word in words:
                return fault
        if self.dies_after is not None and self.answered.total() >= self.dies_after:
            return Fault(kind="drop")
        return self.faults.popleft() if self.faults else None


class _Unreadable(Exception):
    """What the server takes exception to."""


def _contents(body: Mapping[str, Any], most: int) -> list[Content]:
    """Read a request in any of the three forms."""
    if "messages" in body:
        (message,) = body["messages"]
        return [tuple(_part(part) for part in message["content"])]
    if len(body["input"]) > most:
        raise _Unreadable(f"at most {most} inputs a request")
    return [_input(one) for one in body["input"]]


def _part(part: Mapping[str, Any]) -> str:
    return part["text"] if part["type"] == "text" else _pixels(part["image_url"]["url"])


def _input(one: str | Mapping[str, str]) -> Content:
    if isinstance(one, str):
        return (one,)
    assert one.keys() <= {"text", "image"}
    image = (_pixels(one["image"]),) if "image" in one else ()
    return (*image, *((one["text"],) if "text" in one else ()))


def _pixels(url: str) -> str:
    head, _, content = url.partition(";base64,")
    assert head in ("data:image/png", "data:image/jpeg"), head
    try:
        return pixels_of(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))
    except OSError as error:
        raise _Unreadable(f"cannot read the image: {error}") from error


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for the client's acknowledgement
    timeout = 30
    state: EmbeddingsServer

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the counts say more."""

    def do_GET(self) -> None:
        if self.state.closing.is_set():  # a connection kept alive outlives the socket that listens
            self._hang_up()
        elif self.path != "/v1/models" or self.state.models is None:
            self._say(404, {"detail": "Not Found"})
        elif self._is_known():
            self._say(200, {"data": [{"id": name} for name in self.state.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.state.closing.is_set():
            self._hang_up()
        elif self.path != "/v1/embeddings":
            self._say(404, {"detail": "Not Found"})
        elif self._is_known():
            with self._counted(body):
                self._embed(body)

    @contextmanager
    def _counted(self, body: dict[str, Any]) -> Iterator[None]:
        state = self.state
        with state.lock:
            state.bodies.append(body)
            state.under_way += 1
            state.most_under_way = max(state.most_under_way, state.under_way)
        try:
            yield
        finally:
            with state.lock:
                state.under_way -= 1

    def _is_known(self) -> bool:
        """Ask for the key, and repeat a wrong one as some servers do."""
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.state.keys.add(given)
        if self.state.key in (None, given):
            return True
        message = f"Incorrect API key provided: {given}" if given else "No key"
        self._say(401, {"error": {"message": message}})
        return False

    def _embed(self, body: dict[str, Any]) -> None:
        state = self.state
        if state.models is not None and body["model"] not in state.models:
            message = f"The model `{body['model']}` does not exist."
            self._say(404, {"error": {"message": message}})
            return
        try:
            contents = _contents(body, state.texts_a_request)
        except _Unreadable as error:
            self._say(400, {"error": {"message": str(error)}})
            return
        with state.lock:
            state.asked.update(contents)
            fault = state.fault_for(contents)
        if state.together is not None:
            state.together.wait()
        time.sleep(state.seconds)
        vectors = [vector_of(content) for content in contents]
        if fault is None:
            self._answer(contents, vectors)
        else:
            self._fail(fault, contents, vectors)

    def _answer(self, contents: Sequence[Content], vectors: Sequence[Any]) -> None:
        """Answer well, and count it: before it is sent, since the test may look right after."""
        with self.state.lock:
            self.state.answered.update(contents)
        try:
            self._say(200, self._whole(vectors))
        except OSError:
            with self.state.lock:
                self.state.answered.subtract(contents)
            raise

    def _whole(self, vectors: Sequence[Any]) -> dict[str, Any]:
        entries = [
            {"object": "embedding", "index": place, "embedding": self._written(vector)}
            for place, vector in enumerate(vectors)
        ]
        if self.state.shuffles:
            entries.reverse()
        return {"object": "list", "data": entries, "model": MODEL, "usage": {"total_tokens": 1}}

    def _written(self, vector: Any) -> Any:
        if self.state.base64:
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return vector.tolist()

    def _fail(self, fault: Fault, contents: Sequence[Content], vectors: list[Any]) -> None:
        kind = fault.kind
        if kind == "status":
            self._say(fault.status, {"error": {"message": fault.message}}, fault.headers)
        elif kind in ("drop", "reset"):
            self._hang_up(rudely=kind == "reset")
        elif kind == "hang":
            self.state.closing.wait(30)
            self._hang_up()
        elif kind in ("nan", "narrow"):
            bad = [vector * np.nan if kind == "nan" else vector[:5] for vector in vectors]
            self._answer(contents, bad)
        else:
            self._say_badly(kind, self._whole(vectors))

    def _say_badly(self, kind: str, answer: dict[str, Any]) -> None:
        entries = answer["data"]
        if kind == "short":
            entries.pop()
        elif kind == "twice":
            entries[-1] = {**entries[0]} if len(entries) > 1 else {**entries[0], "index": 1}
        elif kind == "extra":
            entries.append({**entries[0], "index": len(entries)})
        elif kind in ("empty", "text"):
            entries[-1]["embedding"] = [] if kind == "empty" else ["a", "b"]
        content = b"<html>Bad gateway</html>" if kind == "page" else json.dumps(answer).encode()
        announced = len(content)
        if kind in ("cut", "half"):
            content = content[: len(content) // 2]
        self._send(200, content, announced=announced if kind == "cut" else len(content))
        if kind == "cut":
            self._hang_up()

    def _hang_up(self, *, rudely: bool = False) -> None:
        self.close_connection = True
        if rudely:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RUDELY)
            os.close(self.connection.detach())

    def _say(self, status: int, answer: object, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self._send(status, json.dumps(answer).encode(), headers)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        announced: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed leaves connections behind; that is no news."""


@contextmanager
def running_server(port: int = 0) -> Iterator[EmbeddingsServer]:
    """Serve on a port of the loopback (0: a free one) until the block ends."""
    state = EmbeddingsServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Server(("127.0.0.1", port), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving() -> Iterator[str]:
    """Serve well-behaved; the value is the URL that follows `openai:`."""
    with running_server() as server:
        yield server.url
