"""One question to an embeddings endpoint, asked until it is answered.

The one idea: what passes (a busy server, a dropped connection, half an answer) is waited out,
longer each time; what does not pass ends the run, whose state is kept; and what is one item's fault
stays with that item.
"""

from __future__ import annotations

import json
import os
import random
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from mmeb_harness.encoder import Vectors
from mmeb_harness.errors import EnvironmentFault, HarnessError, ItemError, UsageError
from mmeb_harness.plugins.openai_answer import read_vectors

if TYPE_CHECKING:
    import httpx2

ATTEMPTS = 8
BACKOFF_SECONDS = 1.0
"""The first pause, doubled each time: two minutes in all."""

LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_ASKED_SECONDS = 600.0
"""A server that asks for a longer pause than this is not waited for."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 300.0

KEYS = ("MMEB_HARNESS_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key, the first that is set counting."""

Result = TypeVar("Result")


class Refused(Exception):
    """The server takes exception to what it was asked: HTTP 400, 413 or 422."""


class _Passing(Exception):
    """What waiting may mend; `asked` is the pause in seconds that the server asks for."""

    def __init__(self, what: str, status: int | None = None, asked: float = 0.0) -> None:
        super().__init__(what)
        self.status, self.asked = status, asked


class Endpoint:
    """The base URL of an OpenAI-compatible server, with what was learnt of it so far."""

    def __init__(self, url: str, connections: int) -> None:
        self.url, self.connections = _checked_url(url), connections
        self.reached, self.answers = False, 0

    def __getstate__(self) -> dict[str, Any]:
        """A pickled endpoint holds no connections and no key."""
        return {name: value for name, value in self.__dict__.items() if name != "http"}

    @cached_property
    def http(self) -> httpx2.Client:
        """The connections, which many threads may use at once."""
        import httpx2

        key, headers = api_key(), {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(
                max_connections=self.connections, max_keepalive_connections=self.connections
            ),
        )
        closing = weakref.finalize(self, client.close)
        closing.atexit = False  # requests may still be under way when the program is stopped
        return client

    # -- questions -----------------------------------------------------------------------------

    def models(self) -> list[str] | None:
        """Return the names of the models that are served, None where the server does not say."""

        def read(answer: httpx2.Response) -> list[str] | None:
            try:
                return [str(model["id"]) for model in answer.json()["data"]]
            except (ValueError, TypeError, KeyError):
                return None

        try:
            return self._ask("GET", "/models", b"", read, Event())
        except (UsageError, Refused):
            return None

    def embed(self, question: Mapping[str, Any], count: int, stopped: Event) -> list[Vectors]:
        """Return `count` vectors (D,), in the order in which they were asked for.

        Raises:
            Refused: where the server takes exception to the question.
            ItemError: where it fails on this question, again and again, and on no other.
            UsageError: for an unknown path or model.
            EnvironmentFault: where it cannot be reached, refuses the key or stays unwell.
        """
        body = json.dumps(question).encode()
        return self._ask("POST", "/embeddings", body, partial(_read, count=count), stopped)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes,
        read: Callable[[httpx2.Response], Result],
        stopped: Event,
    ) -> Result:
        """Ask until there is an answer that can be read, with longer and longer pauses."""
        answers_before, attempt = self.answers, 0
        while True:
            attempt += 1
            try:
                result = read(self._response(method, path, body))
            except _Passing as fault:
                if attempt >= ATTEMPTS or fault.asked > LONGEST_ASKED_SECONDS:
                    raise self._given_up(path, fault, attempt, answers_before) from fault
                wait(stopped, pause(attempt, fault.asked))
                if stopped.is_set():
                    raise EnvironmentFault("stopped while waiting for the server") from fault
            else:
                self.answers += 1
                return result

    def _response(self, method: str, path: str, body: bytes) -> httpx2.Response:
        import httpx2

        try:
            response = self.http.request(method, self.url + path, content=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if not self.reached:
                raise EnvironmentFault(
                    f"nothing answers at {self.url} ({_first_line(str(error)) or 'no connection'}):"
                    " is the server up, and the address right?"
                ) from error
            raise _Passing(f"no connection ({_first_line(str(error))})") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            what = f"{type(error).__name__} {_first_line(str(error))}".strip()
            raise _Passing(what) from error
        self.reached = True
        if response.is_success:
            return response
        raise self._fault(path, response)

    def _fault(self, path: str, response: httpx2.Response) -> Exception:
        """Tell what a status means: who is at fault, and whether waiting may help."""
        status = response.status_code
        said = f"HTTP {status}: {_message(response)}"
        if status in (400, 413, 422):
            return Refused(said)
        if status in (401, 403):
            name = next((name for name in KEYS if os.environ.get(name)), None)
            key = f"the key in {name}" if name else "to answer without a key"
            advice = "give one that is valid" if name else f"set {' or '.join(KEYS)}"
            return EnvironmentFault(f"{self.url} refuses {key} ({said}): {advice}")
        if status in (404, 405):
            return UsageError(
                f"{self.url}{path} is not there, or the model is not ({said}): a URL usually ends "
                "in /v1, and -M served_model=NAME names the model"
            )
        if status in (408, 409, 424, 425, 429) or status >= 500:  # 424: TEI, "Inference failed"
            return _Passing(said, status, _seconds_asked(response.headers.get("Retry-After")))
        return EnvironmentFault(f"{self.url}{path} gives no embeddings ({said})")

    def _given_up(
        self, path: str, fault: _Passing, attempts: int, answers_before: int
    ) -> HarnessError:
        """Say that there is no answer: for this one question, or for any."""
        if fault.status == 500 and self.answers > answers_before:
            return ItemError(
                f"the server fails on it, though it answers others ({fault}; {attempts} attempts)"
            )
        asked = f", and asks for {fault.asked:.0f} seconds" if fault.asked else ""
        return EnvironmentFault(
            f"{self.url}{path} gives no answer: {fault} ({attempts} attempts{asked}). What was "
            "computed is kept; the same command goes on"
        )


def _checked_url(url: str) -> str:
    """Return the base URL without the endings that are added to it."""
    import httpx2

    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UsageError(f"{url} is no URL: {error}") from None
    if parts.userinfo or parts.query or parts.fragment:
        raise UsageError(
            "openai: takes a plain URL such as http://localhost:8000/v1; a key comes from "
            f"{' or '.join(KEYS)}, a model's name from -M served_model=NAME"
        )
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UsageError(f"{url} is no http or https URL, such as http://localhost:8000/v1")
    return url.rstrip("/").removesuffix("/embeddings")


# -- waiting ---------------------------------------------------------------------------------------


def pause(attempt: int, asked: float) -> float:
    """Return how many seconds to wait after an attempt: what the server asks for and a little, so
    that not all come back at once, or longer each time, with a random part for the same reason."""
    if asked:
        return asked + BACKOFF_SECONDS * random.random()
    longest = min(BACKOFF_SECONDS * 2.0 ** (attempt - 1), LONGEST_BACKOFF_SECONDS)
    return longest * random.uniform(0.5, 1.0)


def wait(stopped: Event, seconds: float) -> None:
    """Wait, or until it is of no use any more."""
    stopped.wait(seconds)


def _seconds_asked(header: str | None) -> float:
    """Read `Retry-After`, a number of seconds or a date; 0 where there is none, or no sense."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        return _seconds_until(header)


def _seconds_until(date: str) -> float:
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    seconds: float = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds)


# -- reading ---------------------------------------------------------------------------------------


def _read(response: httpx2.Response, count: int) -> list[Vectors]:
    """Return the vectors of an answer; one that is not whole may be asked for again."""
    try:
        return read_vectors(response.json(), count)
    except (ValueError, RecursionError) as error:
        raise _Passing(f"{error}: {_message(response)}") from None


def _message(response: httpx2.Response) -> str:
    """Return the first line of what the server says, without the key should it repeat that."""
    try:
        body = response.json()
        error = body.get("error") or body
        said = error if isinstance(error, str) else error.get("message") or error.get("detail")
        text = str(said or response.text)
    except (ValueError, AttributeError, RecursionError):
        text = response.text
    key = api_key()
    return _first_line(text if key is None else text.replace(key, "***")) or "(nothing)"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]


def api_key() -> str | None:
    """Return the key from the environment; it is kept nowhere.

    Raises:
        EnvironmentFault: where it cannot be sent.
    """
    for name in KEYS:
        key = os.environ.get(name, "").strip()
        if key and not (key.isascii() and key.isprintable()):
            raise EnvironmentFault(f"the key in {name} holds characters that cannot be sent")
        if key:
            return key
    return None
