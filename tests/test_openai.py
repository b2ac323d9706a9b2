"""A served model, against a real HTTP server that is well, slow, busy, rude or confused."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from embeddings_server import (
    DIMENSION,
    MODEL,
    EmbeddingsServer,
    Fault,
    pixels_of,
    running_server,
    serving,
    vector_of,
)
from mmeb_harness.cli.main import _run
from mmeb_harness.errors import EncoderFailed, EnvironmentFault, ItemError, UsageError
from mmeb_harness.files import FileIndex
from mmeb_harness.image import load_image, to_rgb
from mmeb_harness.item import PLACEHOLDER
from mmeb_harness.plugins import openai, openai_client
from mmeb_harness.plugins.at_once import call_at_once
from mmeb_harness.subject import subject_from_object
from mmeb_harness.testing import check_encoder
from PIL import Image

pytestmark = pytest.mark.thorough

KEY = "sk-a-secret"
UNWELL = ["drop", "reset", "cut", "half", "page", "short", "twice", "extra", "empty", "text"]


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    with running_server() as running:
        yield running


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, no keys, and pauses of milliseconds."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", *openai_client.KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openai_client, "BACKOFF_SECONDS", 0.002)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of pauses asked for, none of them taken; of the usual length."""
    seen: list[float] = []
    monkeypatch.setattr(openai_client, "BACKOFF_SECONDS", 1.0)
    monkeypatch.setattr(openai_client, "wait", lambda _, seconds: seen.append(seconds))
    return seen


def load(server: EmbeddingsServer | str, **options: Any) -> Any:
    url = server if isinstance(server, str) else server.url
    return mh.load_encoder(f"openai:{url}", **options)


def picture(turn: int = 0, mode: str = "RGB", size: tuple[int, int] = (20, 14)) -> Image.Image:
    """Draw a picture that differs with `turn`."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).resize(size).convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def texts(count: int) -> list[mh.Item]:
    return [mh.Item(text=f"text number {number}") for number in range(count)]


def mixed(count: int) -> list[tuple[mh.Item, tuple[str, ...]]]:
    """Make items of every kind, each with the content that the server must have seen."""
    made = []
    for number in range(count):
        image = picture(number)
        seen, words = pixels_of(image), f"text number {number}"
        made.append(
            [
                (mh.Item(text=words), (words,)),
                (mh.Item(image=image), (seen,)),
                (
                    mh.Item(text=f"{PLACEHOLDER}\n{words}\n", image=file_of(image)),
                    (seen, f"{words}\n"),
                ),
                (mh.Item(text=words, image=image), (seen, words)),
                (mh.Item(text=f"as {PLACEHOLDER} {words}", image=image), ("as", seen, words)),
            ][number % 5]
        )
    return made


def assert_each_once(server: EmbeddingsServer, contents: Sequence[tuple[str, ...]]) -> None:
    """Check that all of these, and nothing else, were answered, once each."""
    assert server.answered == Counter(contents)
    assert set(server.answered.values()) == {1}


def assert_vectors(found: Any, contents: Sequence[tuple[str, ...]]) -> None:
    np.testing.assert_array_equal(found, np.stack([vector_of(content) for content in contents]))


# -- what is asked ---------------------------------------------------------------------------------


def content_of(body: dict[str, Any]) -> Any:
    (message,) = body["messages"]
    assert message["role"] == "user"
    return message["content"]


def test_vllm_is_asked_in_chat_messages_one_item_a_request_texts_too(
    server: EmbeddingsServer,
) -> None:
    load(server, concurrency=1).encode(
        [
            mh.Item(text="a cat"),
            mh.Item(text=f"{PLACEHOLDER}\nWhat is it?\n", image=file_of(picture())),
            mh.Item(text=f"Before {PLACEHOLDER} after", image=file_of(picture())),
            mh.Item(image=file_of(picture())),
        ]
    )
    url = "data:image/png;base64," + base64.b64encode(file_of(picture())).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    wanted = [
        [{"type": "text", "text": "a cat"}],
        [image, {"type": "text", "text": "What is it?\n"}],
        [{"type": "text", "text": "Before"}, image, {"type": "text", "text": "after"}],
        [image],
    ]
    assert sorted(map(str, map(content_of, server.bodies))) == sorted(map(str, wanted))
    for body in server.bodies:
        assert {key: body[key] for key in body if key != "messages"} == {
            "model": MODEL,
            "encoding_format": "float",
        }


def test_sglang_is_asked_in_objects_one_item_a_request(server: EmbeddingsServer) -> None:
    items = [
        mh.Item(text="a cat"),
        mh.Item(text=f"Before {PLACEHOLDER} after", image=file_of(picture())),
        mh.Item(image=file_of(picture())),
    ]
    load(server, request_form="sglang", concurrency=1).encode(items)
    url = "data:image/png;base64," + base64.b64encode(file_of(picture())).decode()
    wanted = [
        [{"text": "a cat"}],
        [{"text": "Before\nafter", "image": url}],
        [{"image": url}],
    ]
    assert sorted(map(str, (body["input"] for body in server.bodies))) == sorted(map(str, wanted))


def test_a_text_server_is_asked_for_many_texts_a_request(server: EmbeddingsServer) -> None:
    vectors = load(server, request_form="openai").encode(texts(70))
    assert sorted(len(body["input"]) for body in server.bodies) == [6, 32, 32]
    assert_vectors(vectors, [(item.text or "",) for item in texts(70)])


def test_a_text_server_refuses_an_item_with_an_image_by_name(server: EmbeddingsServer) -> None:
    encoder = load(server, request_form="openai")
    with pytest.raises(ItemError, match="texts only"):
        encoder.encode([mh.Item(text="a", image=picture())])


def test_other_fields_of_a_request_are_the_users(server: EmbeddingsServer) -> None:
    extra = {"dimensions": 8, "encoding_format": "base64"}
    load(server, request_extra=json.dumps(extra)).encode(texts(1))
    assert {key: server.bodies[0][key] for key in extra} == extra
    for name in ("model", "input", "messages", "embed_dtype", "endianness"):
        with pytest.raises(UsageError, match=f"may not set '{name}'"):
            load(server, request_extra={name: "x"})
    with pytest.raises(UsageError, match="request_extra"):
        load(server, request_extra="{dimensions}")


def test_words_follow_the_cards_prompt_form(server: EmbeddingsServer) -> None:
    item = mh.Item(text=f"{PLACEHOLDER}\nFind it: a cat\n", instruction="Find it:", image=picture())
    rendered = {
        form: load(server, prompt=form, template="{{ instruction }}|<|image_1|>|{{ text }}")
        .render(item).text
        for form in ("stored", "plain", "template")
    }  # fmt: skip
    assert rendered == {
        "stored": "Find it: a cat\n",
        "plain": "a cat",
        "template": "Find it:|<|image_1|>|a cat",
    }
    assert load(server).render(mh.Item(text=f"{PLACEHOLDER}\nstray")).text == "stray"
    with pytest.raises(ItemError, match="without its instruction"):
        load(server, prompt="plain").render(mh.Item(text="Find it:", instruction="Find it:"))


def test_equal_requests_are_one_rendering(server: EmbeddingsServer) -> None:
    encoder = load(server)
    bare, marked = (mh.Item(text=text, image="a.png") for text in ("a", f"{PLACEHOLDER}\na"))
    assert encoder.render(bare) == encoder.render(marked)
    inside = mh.Item(text=f"a {PLACEHOLDER}", image="a.png")
    assert encoder.render(inside) != encoder.render(bare)


# -- images ----------------------------------------------------------------------------------------


def sent(server: EmbeddingsServer, source: Any, **options: Any) -> tuple[str, bytes]:
    """Return media type and bytes of an image as the server was given it."""
    server.forget()
    load(server, **options).encode([mh.Item(image=source)])
    url = content_of(server.bodies[0])[0]["image_url"]["url"]
    head, _, content = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_plain_file_travels_as_it_is(server: EmbeddingsServer, kind: str, tmp_path: Path) -> None:
    content = file_of(picture(), kind)
    (tmp_path / "picture").write_bytes(content)
    for source in (content, tmp_path / "picture", str(tmp_path / "picture")):
        assert sent(server, source) == (f"image/{kind.lower()}", content)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(picture(size=(20, 14)), "JPEG", exif=exif)


def see_through(mode: str) -> Image.Image:
    image = picture(mode=mode)
    if mode == "RGBA":
        image.putalpha(picture(40, "L"))
    return image


OTHER_PICTURES = {
    "alpha": lambda: file_of(see_through("RGBA")),
    "alpha, not a file": lambda: see_through("RGBA"),
    "a palette": lambda: file_of(picture(mode="P")),
    "a transparent palette entry": lambda: file_of(picture(mode="P"), transparency=0),
    "a transparent colour": lambda: file_of(picture(), transparency=(0, 0, 0)),
    "grey": lambda: file_of(picture(mode="L")),
    "16 bits": lambda: file_of(
        Image.fromarray(np.asarray(picture(mode="L")).astype(np.uint16) * 257)
    ),
    "four inks": lambda: file_of(picture(mode="CMYK"), "JPEG"),
    "turned by the camera": turned,
    "a GIF": lambda: file_of(picture(), "GIF"),
    "a WebP": lambda: file_of(picture(), "WEBP", lossless=True),
    "a BMP": lambda: file_of(picture(), "BMP"),
    "not a file": picture,
}


@pytest.mark.parametrize("name", OTHER_PICTURES)
def test_any_other_picture_travels_as_the_plain_pixels_that_all_encoders_see(
    server: EmbeddingsServer, name: str
) -> None:
    source = OTHER_PICTURES[name]()
    kind, content = sent(server, source)
    assert kind == "image/png"
    received = Image.open(io.BytesIO(content))
    assert received.mode == "RGB"
    assert not received.info
    assert not received.getexif()
    assert received.tobytes() == to_rgb(load_image(source)).tobytes()
    assert received.size == (20, 14)


def test_a_picture_with_a_colour_profile_keeps_its_pixels_and_the_caller_keeps_the_picture(
    server: EmbeddingsServer,
) -> None:
    image = picture()
    image.info["icc_profile"] = b"a profile"
    _, content = sent(server, image)
    assert not Image.open(io.BytesIO(content)).info
    assert image.info == {"icc_profile": b"a profile"}


def test_pictures_are_resized_here_where_the_card_says_so(server: EmbeddingsServer) -> None:
    kind, content = sent(server, file_of(picture(), "JPEG"), image_resolution="low")
    received = Image.open(io.BytesIO(content))
    assert (kind, received.size) == ("image/png", (128, 128))
    wanted = Image.open(io.BytesIO(file_of(picture(), "JPEG"))).resize((128, 128))
    assert received.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("content", [b"", b"no image", file_of(picture(), "JPEG")[:200]])
def test_an_unreadable_picture_is_found_before_anything_is_asked(
    server: EmbeddingsServer, content: bytes
) -> None:
    with pytest.raises(ItemError, match="image"):
        load(server).encode([mh.Item(image=content)])
    assert not server.bodies


# -- every vector, in order, once ------------------------------------------------------------------


def every_fault() -> list[Any]:
    """Each way to be unwell with each way to ask; the most telling ones are quick."""
    quick = {"vllm": ("drop", "cut", "half", "429", "500"), "openai": ("short", "twice", "503")}
    return [
        pytest.param(kind, form, marks=() if kind in quick[form] else pytest.mark.thorough)
        for form in quick
        for kind in [*UNWELL, "429", "500", "503", "408", "409", "424"]
    ]


@pytest.mark.parametrize(("kind", "form"), every_fault())
def test_whatever_passes_is_waited_out_and_nothing_is_lost_or_asked_for_twice(
    server: EmbeddingsServer, kind: str, form: str
) -> None:
    fault = Fault(kind="status", status=int(kind)) if kind.isdigit() else Fault(kind=kind)
    wanted = mixed(30) if form == "vllm" else [(item, (item.text,)) for item in texts(200)]
    encoder = load(server, request_form=form)
    batch = encoder.prepare([encoder.render(item) for item, _ in wanted])
    server.faults = deque([fault] * 7)
    contents = [content for _, content in wanted]
    assert_vectors(encoder.forward(batch), contents)
    assert not server.faults
    assert_each_once(server, contents)


def test_a_server_that_hangs_is_asked_again(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "READ_SECONDS", 0.5)
    encoder = load(server)
    server.faults = deque([Fault(kind="hang")] * 3)
    contents = [(item.text or "",) for item in texts(12)]
    assert_vectors(encoder.encode(texts(12)), contents)
    assert_each_once(server, contents)


def test_a_storm_of_every_fault_is_weathered(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "ATTEMPTS", 40)
    draw = random.Random(3)
    statuses = [Fault(status=status) for status in (429, 500, 502, 503)]
    soon = Fault(status=429, headers={"Retry-After": "0"})
    faults = [*statuses, soon, *(Fault(kind=kind) for kind in UNWELL)]
    encoder = load(server)
    server.faults = deque(draw.choice(faults) if draw.random() < 0.5 else None for _ in range(400))
    server.seconds = 0.002
    wanted = mixed(200)
    batch = encoder.prepare([encoder.render(item) for item, _ in wanted])
    contents = [content for _, content in wanted]
    assert_vectors(encoder.forward(batch), contents)
    assert_each_once(server, contents)
    assert server.asked.total() > 250


@pytest.mark.parametrize("form", ["vllm", "openai"])
@pytest.mark.parametrize("in_base64", [False, True])
def test_answers_may_come_in_any_order_and_encoding(
    server: EmbeddingsServer, form: str, in_base64: bool
) -> None:
    server.shuffles, server.base64 = True, in_base64
    found = load(server, request_form=form).encode(texts(50))
    assert_vectors(found, [(item.text or "",) for item in texts(50)])


def test_so_many_requests_are_under_way_at_once_and_no_more(server: EmbeddingsServer) -> None:
    server.together = threading.Barrier(5, timeout=20)  # none is answered before five are there
    load(server, concurrency=5).encode(texts(20))
    assert server.most_under_way == 5


def test_the_default_is_eight_at_once(server: EmbeddingsServer) -> None:
    server.together = threading.Barrier(8, timeout=20)
    load(server).encode(texts(16))
    assert server.most_under_way == 8


def test_an_item_that_comes_twice_is_asked_for_once(server: EmbeddingsServer) -> None:
    encoder = load(server)
    batch = encoder.prepare([encoder.render(mh.Item(text=text)) for text in "abacab"])
    assert_vectors(encoder.forward(batch), [(text,) for text in "abacab"])
    assert_each_once(server, [("a",), ("b",), ("c",)])
    encoder.forward(batch)
    assert set(server.answered.values()) == {2}, "what was asked is not remembered for ever"


def test_vectors_are_as_they_come_unless_normalised(server: EmbeddingsServer) -> None:
    server.sick["a"] = Fault(kind="narrow")  # five of the numbers: no unit length
    plain = load(server).encode([mh.Item(text="a")])
    np.testing.assert_array_equal(plain[0], vector_of(("a",))[:5])
    unit = load(server, normalize=True).encode([mh.Item(text="a")])
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), atol=1e-7)
    assert abs(np.linalg.norm(plain) - 1) > 0.01


# -- how long, and how often -----------------------------------------------------------------------


def test_a_server_that_says_when_to_come_back_is_heeded(
    server: EmbeddingsServer, pauses: list[float]
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=300), usegmt=True)
    headers = ["7", later, past, "soon", "-3", "nan"]
    server.faults = deque(
        Fault(status=status, headers={"Retry-After": header})
        for status, header in zip((429, 503, 429, 503, 500, 429), headers, strict=True)
    )
    load(server).encode(texts(1))
    bounds = [(7, 8), (200, 301), (2, 4), (4, 8), (8, 16), (16, 32)]
    assert len(pauses) == len(bounds)
    for seconds, (least, most) in zip(pauses, bounds, strict=True):
        assert least <= seconds <= most, pauses


def test_pauses_grow_to_a_limit_differ_and_end(
    server: EmbeddingsServer, pauses: list[float]
) -> None:
    encoder = load(server)
    server.sick["text"] = Fault(status=503, message="the model is loading\nmore of it")
    with pytest.raises(EnvironmentFault) as raised:
        encoder.encode(texts(1))
    said = str(raised.value)
    assert f"{server.url}/embeddings" in said
    assert "HTTP 503: the model is loading (8 attempts)" in said
    assert "more of it" not in said
    assert len(pauses) == 7 == len(server.bodies) - 1
    for number, seconds in enumerate(pauses):
        longest = min(2**number, 60)
        assert longest / 2 <= seconds <= longest
    assert len({seconds / 2**number for number, seconds in enumerate(pauses)}) > 3
    assert 30 <= openai_client.pause(20, 0.0) <= 60


def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    server: EmbeddingsServer, pauses: list[float]
) -> None:
    encoder = load(server)
    server.faults = deque([Fault(status=429, headers={"Retry-After": "3600"})])
    with pytest.raises(EnvironmentFault, match=r"HTTP 429.*asks for 3600 seconds"):
        encoder.encode(texts(1))
    assert not pauses


@pytest.mark.parametrize("kind", ["drop", "cut", "half", "twice"])
def test_a_server_that_stays_confused_ends_the_run_with_one_clear_error(
    server: EmbeddingsServer, kind: str
) -> None:
    encoder = load(server)
    server.sick["text"] = Fault(kind=kind)
    with pytest.raises(EnvironmentFault, match=r"gives no answer: .*\(8 attempts\)") as raised:
        encoder.encode(texts(1))
    assert server.url in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(server.bodies) == 8


def test_a_server_that_goes_away_is_waited_for(pauses: list[float]) -> None:
    with running_server() as server:
        encoder = load(server)
        encoder.encode(texts(1))
    with pytest.raises(EnvironmentFault, match=r"no connection .*8 attempts"):
        encoder.encode(texts(1))
    assert len(pauses) == 7


def test_a_server_that_never_was_there_is_not_waited_for(pauses: list[float]) -> None:
    with running_server() as server:
        url = server.url
    with pytest.raises(EnvironmentFault, match=f"nothing answers at {url}.*is the server up"):
        load(url)
    assert not pauses


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (401, EnvironmentFault, "MMEB_HARNESS_API_KEY or OPENAI_API_KEY"),
        (403, EnvironmentFault, "refuses to answer without a key"),
        (404, UsageError, "usually ends in /v1, and -M served_model"),
        (405, UsageError, "HTTP 405: unwell"),
        (400, ItemError, r"the server refuses it \(HTTP 400: unwell\)"),
        (413, ItemError, "HTTP 413: unwell"),
        (422, ItemError, "HTTP 422: unwell"),
        (302, EnvironmentFault, "HTTP 302: unwell"),
        (402, EnvironmentFault, "HTTP 402: unwell"),
    ],
)
def test_what_does_not_pass_is_said_at_once(
    server: EmbeddingsServer, pauses: list[float], status: int, kind: type[Exception], told: str
) -> None:
    encoder = load(server)
    server.sick["text"] = Fault(status=status)
    with pytest.raises(kind, match=told):
        encoder.encode(texts(1))
    assert len(server.bodies) == 1
    assert not pauses


def test_the_first_fault_ends_the_batch_whoever_is_still_waiting(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "BACKOFF_SECONDS", 1000.0)
    monkeypatch.setattr(openai_client, "LONGEST_BACKOFF_SECONDS", 1000.0)
    encoder = load(server)
    server.sick = {"number 1": Fault(status=503), "number 7": Fault(status=401)}
    with pytest.raises(EnvironmentFault, match="HTTP 401"):
        encoder.encode(texts(8))
    for thread in [one for one in threading.enumerate() if one.name == "call at once"]:
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": {"message": "too long", "code": 400}}', "too long"),
        (b'{"error": "Model is overloaded", "error_type": "overloaded"}', "Model is overloaded"),
        (b'{"message": "no such", "code": 1}', "no such"),
        (b'{"detail": [{"msg": "Field required"}]}', "Field required"),
        (b"<html>\nBad gateway", "<html>"),
        (b"[1, 2]", "[1, 2]"),
        (b"", "(nothing)"),
    ],
)
def test_what_a_server_says_is_passed_on_in_one_line(body: bytes, told: str) -> None:
    import httpx2

    said = openai_client._message(httpx2.Response(400, content=body))
    assert told in said
    assert "\n" not in said


# -- one item's fault ------------------------------------------------------------------------------


def task_folder(make_task_folder: Callable[..., Path], queries: int = 30) -> Path:
    folder = make_task_folder("OK-VQA", queries=queries)
    return make_task_folder("A-OKVQA", queries=queries, folder=folder)


def run(server: EmbeddingsServer, data: Path, output: Path, **options: Any) -> mh.Run:
    return mh.evaluate(
        f"openai:{server.url}",
        tasks=["OK-VQA", "A-OKVQA"],
        data_dir=data,
        output_dir=output,
        **options,
    )


@pytest.mark.parametrize("status", [400, 500])
def test_an_item_that_the_server_cannot_do_fails_its_task_alone_and_nothing_is_asked_twice(
    server: EmbeddingsServer,
    make_task_folder: Callable[..., Path],
    tmp_path: Path,
    status: int,
) -> None:
    data = task_folder(make_task_folder)
    server.sick["A-OKVQA answer 7"] = Fault(status=status, message="cannot do that")
    result = run(server, data, tmp_path / "run")
    assert (result.tasks["OK-VQA"].status, result.tasks["A-OKVQA"].status) == ("ok", "failed")
    error = result.tasks["A-OKVQA"].error or ""
    assert "'A-OKVQA answer 7': the server" in error
    assert f"HTTP {status}: cannot do that" in error
    assert set(server.answered.values()) == {1}
    assert result.record.computed == server.answered.total()
    assert server.asked[("A-OKVQA answer 7",)] == (1 if status == 400 else 8)
    assert server.asked.total() - server.asked[("A-OKVQA answer 7",)] == server.answered.total()


@pytest.mark.parametrize(("word", "status"), [("text", 500), ("number 3", 503)])
def test_only_a_500_while_others_are_answered_is_an_items_own_fault(
    server: EmbeddingsServer, word: str, status: int
) -> None:
    encoder = load(server)
    encoder.encode(texts(8))
    server.sick[word] = Fault(status=status)
    with pytest.raises(EnvironmentFault, match=f"gives no answer: HTTP {status}"):
        encoder.encode(texts(8))


def test_a_group_with_one_bad_text_loses_that_one(server: EmbeddingsServer) -> None:
    encoder = load(server, request_form="openai")
    server.sick["number 13"] = Fault(status=422, message="too long")
    batch = encoder.prepare([encoder.render(item) for item in texts(64)])
    with pytest.raises(ItemError, match="HTTP 422: too long"):
        encoder.forward(batch)
    kept = [row for row in range(64) if row != 13]
    contents = [(f"text number {row}",) for row in kept]
    assert_vectors(encoder.forward([batch[row] for row in kept]), contents)
    assert_each_once(server, contents)


def test_a_server_that_takes_fewer_texts_a_request_is_asked_one_by_one(
    server: EmbeddingsServer,
) -> None:
    server.texts_a_request = 8
    contents = [(item.text or "",) for item in texts(40)]
    assert_vectors(load(server, request_form="openai").encode(texts(40)), contents)
    assert_each_once(server, contents)


def test_a_server_that_refuses_everything_fails_the_run_with_its_reason(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = task_folder(make_task_folder, queries=4)
    server.sick[""] = Fault(status=422, message="missing field `input`")
    result = run(server, data, tmp_path / "run")
    for task in result.tasks.values():
        assert task.status == "failed"
        assert "fails on every item it is given: the server refuses it" in (task.error or "")
        assert "missing field `input`" in (task.error or "")


def test_a_vector_that_is_not_finite_fails_its_task_and_names_the_item(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = task_folder(make_task_folder, queries=4)
    server.sick["A-OKVQA answer 2"] = Fault(kind="nan")
    result = run(server, data, tmp_path / "run")
    assert result.tasks["OK-VQA"].status == "ok"
    assert "A-OKVQA answer 2" in (result.tasks["A-OKVQA"].error or "")
    assert "not finite" in (result.tasks["A-OKVQA"].error or "")


def test_vectors_of_two_lengths_end_the_run(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = load(server)
    encoder.encode(texts(1))
    server.sick["number 30"] = Fault(kind="narrow")
    with pytest.raises(EncoderFailed, match=f"5 numbers after some of {DIMENSION}"):
        encoder.encode(texts(40))
    server.sick = {"A-OKVQA answer 2": Fault(kind="narrow")}
    data = task_folder(make_task_folder, queries=4)
    result = run(server, data, tmp_path / "run", batch_tokens=1024)
    assert any("one model answer" in (task.error or "") for task in result.tasks.values())


# -- which model, which key ------------------------------------------------------------------------


def test_the_only_model_is_taken_and_recorded(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    result = run(server, task_folder(make_task_folder, 4), tmp_path / "run")
    assert result.record.revisions == {server.url: MODEL}
    assert result.record.device == "served"
    assert {body["model"] for body in server.bodies} == {MODEL}


def test_of_several_models_one_must_be_named(server: EmbeddingsServer) -> None:
    server.models = ("one", "two")
    with pytest.raises(UsageError, match=r"-M served_model=NAME: one, two"):
        load(server)
    with pytest.raises(UsageError, match="did you mean 'two'"):
        load(server, served_model="twoo")
    load(server, served_model="two").encode(texts(1))
    assert server.bodies[0]["model"] == "two"


@pytest.mark.parametrize("models", [(), None])
def test_a_server_that_names_no_model_must_be_told_one(
    server: EmbeddingsServer, models: Sequence[str] | None
) -> None:
    server.models = models
    with pytest.raises(UsageError, match="does not say which model it serves"):
        load(server)
    server.models = None
    load(server, served_model="two").encode(texts(1))
    assert server.bodies[0]["model"] == "two"


def test_another_model_at_the_same_url_does_not_get_the_vectors_of_the_first(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = task_folder(make_task_folder, 4)

    def again() -> mh.Run:
        return run(server, data, tmp_path / "run")

    computed = again().record.computed
    assert again().record.computed == 0 < computed
    server.models = ("another",)
    record = again().record
    assert (record.computed, record.reused) == (computed, {})
    assert record.revisions == {server.url: "another"}


def test_what_is_asked_of_the_server_decides_where_vectors_are_kept_and_how_fast_does_not(
    server: EmbeddingsServer, tmp_path: Path
) -> None:
    server.models = (MODEL, "another")
    index = FileIndex(tmp_path / "cache")

    def namespace(**options: Any) -> str:
        options = {"served_model": MODEL, **options}
        return subject_from_object(load(server, **options), index).namespace

    assert namespace(concurrency=3) == namespace()
    others = [{"served_model": "another"}, {"request_form": "openai"}, {"request_extra": {"a": 1}}]
    others.append({"request_extra": {"a": 2}})
    assert len({namespace(), *(namespace(**one) for one in others)}) == 5


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://a/v1", "http://", "http://[::1/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"no (http or https )?URL"):
        load(url)


@pytest.mark.parametrize("url", ["http://me:pass@a/v1", "http://a/v1?key=pass", "http://a/v1#pass"])
def test_a_url_that_carries_more_than_a_place_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError, match="a key comes from MMEB_HARNESS_API_KEY") as raised:
        load(url)
    assert "pass" not in str(raised.value)


def test_a_url_may_end_in_a_slash_or_in_the_endpoint_itself(server: EmbeddingsServer) -> None:
    for url in (f"{server.url}/", f"{server.url}/embeddings"):
        assert load(url).encode(texts(1)).shape == (1, DIMENSION)


def test_the_key_comes_from_the_environment_and_is_sent_and_nothing_else(
    server: EmbeddingsServer,
    monkeypatch: pytest.MonkeyPatch,
    make_task_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    server.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    monkeypatch.setenv("MMEB_HARNESS_API_KEY", f"{KEY}\n")
    encoder = load(server)
    encoder.encode(texts(1))
    assert server.keys == {KEY}
    assert KEY.encode() not in pickle.dumps(encoder)
    data = task_folder(make_task_folder, 4)
    mh.evaluate(encoder, tasks="OK-VQA", data_dir=data, output_dir=tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_key_that_is_refused_is_named_by_its_variable_and_never_shown(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "another"
    with pytest.raises(EnvironmentFault, match="refuses to answer without a key"):
        load(server)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(EnvironmentFault, match=r"the key in OPENAI_API_KEY .*\*\*\*") as raised:
        load(server)
    assert KEY not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\N{SNOWMAN}")
    with pytest.raises(EnvironmentFault, match="characters that cannot be sent"):
        load(server)


# -- calls at once ---------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_things_whichever_is_done_first() -> None:
    second = threading.Event()

    def call(thing: int, _: threading.Event) -> int:
        second.wait(20) if thing == 0 else second.set()
        return thing * 10

    assert call_at_once(call, range(5), threads=2) == [0, 10, 20, 30, 40]
    assert call_at_once(call, [], threads=2) == []


# -- through the harness ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["vllm", "sglang"])
def test_the_conformance_kit_passes(form: str) -> None:
    with serving() as url:
        check_encoder(load(url, request_form=form))


def test_mini_runs_end_to_end_and_asks_for_everything_once(
    server: EmbeddingsServer, tmp_path: Path
) -> None:
    few = "ImageNet-1K,GQA,MSCOCO_t2i,RefCOCO"
    model = f"openai:{server.url}"
    result = mh.evaluate(model, suite="mini", tasks=few, output_dir=tmp_path / "run")
    assert {task.status for task in result.tasks.values()} == {"ok"}
    assert len(result.tasks) == 4
    assert result.record.computed == server.answered.total()
    assert set(server.answered.values()) == {1}


def test_embed_writes_the_vectors_in_the_order_of_the_file(
    server: EmbeddingsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(5).save(tmp_path / "a.png")
    rows = [*({"text": f"text {number}"} for number in range(20)), {"image": "a.png", "text": "a"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    server.faults = deque(Fault(kind=kind) for kind in UNWELL)
    model, output = f"openai:{server.url}", tmp_path / "v.npz"
    assert _run(["embed", "-m", model, str(tmp_path / "items.jsonl"), "-o", str(output)]) == 0
    capsys.readouterr()
    wanted = [*((f"text {number}",) for number in range(20)), (pixels_of(picture(5)), "a")]
    assert_vectors(np.load(output)["embeddings"], wanted)
    assert_each_once(server, wanted)


@pytest.mark.thorough
def test_workers_make_the_same_questions(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = task_folder(make_task_folder, queries=8)
    results = [
        run(server, data, tmp_path / f"run {workers}", workers=workers, batch_tokens=3000)
        for workers in (0, 2)
    ]
    assert [result.record.workers for result in results] == [0, 2]
    assert results[0].record.computed == results[1].record.computed > 16
    assert set(server.answered.values()) == {2}
    assert [task.hit_at_1 for task in results[0].tasks.values()] == [
        task.hit_at_1 for task in results[1].tasks.values()
    ]


# -- stopping and going on -------------------------------------------------------------------------


def test_a_run_whose_server_dies_keeps_its_state_and_asks_for_the_rest_only(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = task_folder(make_task_folder)
    server.dies_after = 40
    with pytest.raises(EnvironmentFault, match="What was computed is kept"):
        run(server, data, tmp_path / "run", batch_tokens=4096)
    stored = server.answered.copy()
    assert 40 <= stored.total() < 60
    server.dies_after = None
    server.forget()
    result = run(server, data, tmp_path / "run", batch_tokens=4096)
    assert all(task.status == "ok" for task in result.tasks.values())
    kept = sum(result.record.reused.values())
    assert kept >= 32, "whole batches of the first run are kept"
    assert result.record.computed == server.answered.total()
    assert set(server.answered.values()) == {1}
    again = stored & server.answered
    assert again.total() == stored.total() - kept, "only the batch under way is asked for again"
    assert kept + result.record.computed == (stored | server.answered).total()


def start(server: EmbeddingsServer, data: Path, output: Path) -> subprocess.Popen[str]:
    arguments = ["run", "-m", f"openai:{server.url}", "-t", "OK-VQA,A-OKVQA", "--json"]
    folders = [
        "--data-dir",
        str(data),
        "-o",
        str(output),
        "--batch-tokens",
        "4096",
        "--workers",
        "1",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "mmeb_harness", *arguments, *folders],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.thorough
def test_a_run_that_is_killed_goes_on_where_it_was(
    server: EmbeddingsServer,
    make_task_folder: Callable[..., Path],
    tmp_path: Path,
    stored_vectors: Callable[[Path], dict[bytes, bytes]],
) -> None:
    data, output = task_folder(make_task_folder), tmp_path / "run"
    server.seconds = 0.1  # slow enough that the store is written before the end
    process = start(server, data, output)
    while process.poll() is None and not list(output.rglob("[0-9]*.arrow")):
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)  # nor does a worker of it live on, with its ends of the pipes
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    kept = len(stored_vectors(output))
    server.seconds = 0.0
    server.forget()
    process = start(server, data, output)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {task["status"] for task in json.loads(printed)["tasks"].values()} == {"ok"}
    record = json.loads((output / "run.json").read_text())
    whole = stored_vectors(output)
    assert sum(record["reused"].values()) == kept > 0
    assert record["computed"] == len(whole) - kept == server.answered.total() > 0
    assert set(server.answered.values()) == {1}
    wanted = {vector_of(content).tobytes() for content in server.answered}
    assert wanted <= set(whole.values())
    assert len(set(whole.values())) == len(whole)


@pytest.mark.thorough
def test_a_run_that_waits_for_a_hanging_server_can_be_stopped(
    server: EmbeddingsServer, make_task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = task_folder(make_task_folder)
    server.sick["OK-VQA"] = Fault(kind="hang")
    process = start(server, data, tmp_path / "run")
    while process.poll() is None and server.under_way < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=25)  # the server hangs for 30
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "kept" in json.loads(printed)["error"]


def test_a_dead_server_is_exit_status_3_and_a_wrong_model_2(
    server: EmbeddingsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*options: str) -> int:
        arguments = ["run", "-m", f"openai:{server.url}", "--suite", "mini", "-t", "GQA"]
        return _run([*arguments, "--workers", "0", "-o", str(tmp_path / "run"), *options])

    server.sick[""] = Fault(status=503, message="loading")
    assert status() == 3
    assert "HTTP 503: loading" in capsys.readouterr().err
    assert status("-M", "served_model=tiny/serve") == 2
    assert "did you mean 'tiny/served'" in capsys.readouterr().err
    server.sick[""] = Fault(status=404, message="no such model")
    assert status() == 2
    assert "no such model" in capsys.readouterr().err


def test_a_form_is_known_for_each_value_that_the_card_takes() -> None:
    from typing import get_args

    annotation = mh.Card.model_fields["request_form"].annotation
    known = {value for part in get_args(annotation) for value in get_args(part)}
    assert known == set(openai.FORMS)
