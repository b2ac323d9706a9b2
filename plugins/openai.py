"""A model behind an OpenAI-compatible embeddings endpoint: vLLM, SGLang, TEI and others.

The one idea: the server is the module. `prepare` makes questions on the CPU, `forward` asks those
of a batch at once. Who answers at a URL can change, so there is no fingerprint: vectors are kept in
the run's own folder, from which the same command goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from mmeb_harness.card import Card
from mmeb_harness.encoder import PlannedEncoder, Vectors
from mmeb_harness.errors import EncoderFailed, EnvironmentFault, ItemError, UsageError, unknown_name
from mmeb_harness.item import PLACEHOLDER, Item, Rendered
from mmeb_harness.plugins.at_once import call_at_once
from mmeb_harness.plugins.data_url import data_url
from mmeb_harness.plugins.openai_client import Endpoint, Refused
from mmeb_harness.prompt import worded

CONCURRENCY = 8
"""Requests under way at once, unless the card says otherwise."""

IMAGE_SIZE = 1024
"""Stands for the tokens of an image, which only the server knows."""

TEXTS_A_REQUEST = 32
"""What a text server takes in one request by default (TEI's --max-client-batch-size)."""

NOT_EXTRA = ("model", "input", "messages", "embed_dtype", "endianness")
"""Fields of a request that are not the user's: what is asked, and how numbers are written."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the server is asked of one item: the image, as a data URL, between two texts."""

    before: str = ""
    image: str | None = None
    after: str = ""

    @property
    def text(self) -> str:
        """The words alone."""
        return "\n".join(part for part in (self.before, self.after) if part)


Answers = dict[Question, Vectors | ItemError]


class Served(PlannedEncoder):
    """An encoder whose vectors a server computes."""

    device = "served"
    pads = False

    def __init__(self, card: Card) -> None:
        if card.base is None:
            raise UsageError(f"{card.name} names no server: -m {card.name}:http://HOST:PORT/v1")
        self.card, self.form = card, FORMS[card.request_form or "vllm"]
        self.extra = dict(card.request_extra or {})
        for name in NOT_EXTRA:
            if name in self.extra:
                raise UsageError(f"-M request_extra may not set {name!r}")
        self.concurrency = card.concurrency or CONCURRENCY
        self.endpoint = Endpoint(card.base, self.concurrency)
        self.model = _model(self.endpoint, card.served_model)
        self.dimension: int | None = None
        self._answers: Answers = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_answers": {}}

    def revisions(self) -> Mapping[str, str]:
        return {self.endpoint.url: self.model}

    # -- CPU half ------------------------------------------------------------------------------

    def render(self, item: Item) -> Rendered:
        """Word the item; where it has an image, a placeholder stays only where words precede it."""
        text = worded(item, self.card)
        if item.image is None:
            if not text:
                raise ItemError(
                    "nothing is left of it without its instruction (see -M prompt=stored)"
                )
            return Rendered(text=text)
        if not self.form.images:
            raise ItemError("has an image, and -M request_form=openai sends texts only")
        question = _question(text, "")
        place = PLACEHOLDER if question.before else ""
        return Rendered(text=f"{question.before}{place}{question.after}" or None, image=item.image)

    def size(self, rendered: Rendered) -> int:
        return 1 + len(rendered.text or "") // 4 + IMAGE_SIZE * (rendered.image is not None)

    def prepare(self, rendered: Sequence[Rendered]) -> list[Question]:
        resolution = self.card.image_resolution or "processor"
        return [
            Question(after=one.text or "")
            if one.image is None
            else _question(one.text or "", data_url(one.image, resolution))
            for one in rendered
        ]

    # -- the server's half ---------------------------------------------------------------------

    def forward(self, batch: Sequence[Question]) -> Vectors:
        """Return the (B, D) vectors of a batch, each question asked once.

        One that is refused fails the batch, which the engine then cuts to find it; the answers to
        the others wait here for that, so that nothing is asked again.

        Raises:
            ItemError: where the server refuses one of them, or fails on it alone.
            EncoderFailed: where vectors differ in length.
        """
        if not all(question in self._answers for question in batch):
            self._answers = self._ask(list(dict.fromkeys(batch)))
        answers = [self._answers[question] for question in batch]
        refusal = next((answer for answer in answers if isinstance(answer, ItemError)), None)
        if refusal is None or len(batch) == 1:
            for question in batch:
                self._answers.pop(question, None)
        if refusal is not None:
            raise ItemError(str(refusal))
        return self._finished([answer for answer in answers if not isinstance(answer, ItemError)])

    def _ask(self, questions: Sequence[Question]) -> Answers:
        many = self.form.items_a_request
        groups = [questions[start : start + many] for start in range(0, len(questions), many)]
        answers: Answers = {}
        for found in call_at_once(self._ask_group, groups, self.concurrency):
            answers.update(found)
        return answers

    def _ask_group(self, group: Sequence[Question], stopped: Event) -> Answers:
        """Ask for several in one request; if that is refused, one by one, to know which it is."""
        body = {
            "encoding_format": "float",
            **self.extra,
            "model": self.model,
            **self.form.body(group),
        }
        try:
            return dict(zip(group, self.endpoint.embed(body, len(group), stopped), strict=True))
        except Refused as refusal:
            if len(group) == 1:
                return {group[0]: ItemError(f"the server refuses it ({refusal})")}
        except ItemError as error:
            if len(group) == 1:
                return {group[0]: error}
        answers: Answers = {}
        for question in group:
            answers.update(self._ask_group([question], stopped))
        return answers

    def _finished(self, vectors: Sequence[Vectors]) -> Vectors:
        for vector in vectors:
            self.dimension = self.dimension or len(vector)
            if len(vector) != self.dimension:
                raise EncoderFailed(
                    f"{self.endpoint.url} gave a vector of {len(vector)} numbers after some of "
                    f"{self.dimension}: does one model answer there?"
                )
        vectors_BD = np.stack(vectors)
        if not self.card.normalize:
            return vectors_BD
        lengths_B1 = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        unit_BD: Vectors = vectors_BD / np.maximum(lengths_B1, 1e-12)
        return unit_BD


def _model(endpoint: Endpoint, named: str | None) -> str:
    """Return the model to ask for: the one that is named, or the only one that is served."""
    try:
        served = endpoint.models()
    except EnvironmentFault:
        if named is None or not endpoint.reached:
            raise
        return named  # a server may close its listing and answer all the same
    if named is not None:
        if served and named not in served:
            raise unknown_name(f"model at {endpoint.url}", named, served)
        return named
    if not served:
        raise UsageError(f"{endpoint.url} does not say which model it serves: -M served_model=NAME")
    if len(served) > 1:
        names = ", ".join(sorted(served)[:12]) + (", ..." if len(served) > 12 else "")
        raise UsageError(
            f"{endpoint.url} serves several models, choose one with -M served_model=NAME: {names}"
        )
    return served[0]


def _question(text: str, image: str) -> Question:
    """Put the image where the placeholder stands, or before the text; space around it is dropped,
    since how words and images are joined is the server's chat template to say."""
    if PLACEHOLDER not in text:
        return Question(image=image, after=text)
    before, _, after = text.partition(PLACEHOLDER)
    return Question(before=before.rstrip(), image=image, after=after.lstrip())


# -- how servers are asked -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way of asking: the fields of a request for some questions, and how many it takes."""

    body: Callable[[Sequence[Question]], dict[str, Any]]
    images: bool
    items_a_request: int = 1


def _as_messages(questions: Sequence[Question]) -> dict[str, Any]:
    """One item a request, as a chat message that the model's chat template renders."""
    (question,) = questions
    parts: list[dict[str, Any]] = []
    if question.before:
        parts.append({"type": "text", "text": question.before})
    if question.image is not None:
        parts.append({"type": "image_url", "image_url": {"url": question.image}})
    if question.after:
        parts.append({"type": "text", "text": question.after})
    return {"messages": [{"role": "user", "content": parts}]}


def _as_objects(questions: Sequence[Question]) -> dict[str, Any]:
    """One object an item, also for a bare text: a plain string would miss the chat template."""
    pairs = [{"text": question.text, "image": question.image} for question in questions]
    return {"input": [{key: value for key, value in pair.items() if value} for pair in pairs]}


def _as_texts(questions: Sequence[Question]) -> dict[str, Any]:
    return {"input": [question.text for question in questions]}


FORMS = {
    "vllm": Form(body=_as_messages, images=True),
    "sglang": Form(body=_as_objects, images=True),
    "openai": Form(body=_as_texts, images=False, items_a_request=TEXTS_A_REQUEST),
}
"""How servers are asked; docs/served-models.md names the pages that say so."""
