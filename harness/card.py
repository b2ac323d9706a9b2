"""The declared facts of one encoder, and how `-M key=value` changes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmeb_harness.errors import UsageError, unknown_name
from mmeb_harness.image import Resolution
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Prompt = Literal["stored", "plain", "template"]
Similarity = Literal["cosine", "dot"]

VECTOR_FIELDS = (
    "factory", "prompt", "template", "image_token", "stray_placeholder", "positions", "pooling",
    "normalize", "fusion", "text_padding",
    "image_resolution", "min_pixels", "max_pixels", "num_crops", "max_length", "attention",
    "served_model", "request_form", "request_extra",
)  # fmt: skip
"""Fields that decide a vector, beside the weights. `similarity` is the scorer's."""

DEFAULT_SUITE = "mmeb"
"""Whose tasks training datasets are named after, where no suite is said."""

CARD_FILE = "card.json"
"""The card inside a folder that a trainer wrote."""


class Probe(BaseModel):
    """A cosine similarity that the authors print for the real weights: the only public check.

    `settings` are the card fields under which they printed it, where those differ from the card's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    image: str | None = None
    others: Mapping[str, tuple[float, ...]]
    others_role: Literal["query", "candidate"] = "candidate"
    settings: Mapping[str, Any] = {}
    note: str | None = None


class Card(BaseModel):
    """What is known of one encoder, before it is built.

    `factory` is a dotted path `package.module:callable`, imported only when the encoder is built
    and given those of `card`, `device` and `dtype` that it takes by name. A card without `base`
    stands for a family: `NAME:REFERENCE` fills it in. `options` lists the fields that `-M` may
    change for this family; `requires` lists distributions, checked by metadata only.
    `proven_with` gives the versions of a distribution with which the numbers were compared
    (`{"transformers": ">=5.17,<5.24"}`): outside it a run carries a warning. How `prompt`,
    `template` and `image_token` word an item is told by `mmeb_harness.prompt`. `random_weights` is
    a seed from which the weights of the base are drawn, in place of those stored. `asymmetric` says
    that the same content has another vector as a query than as a candidate. `training_datasets`
    names the tasks of MMEB whose training parts were used, and those of another suite as
    `SUITE/TASK`. `published` holds the scores in percent (hit@1) that `published_as` names, by
    meta-task, `ind`, `ood` and `overall`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    factory: str
    summary: str = ""
    family: str | None = None

    base: str | None = None
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    random_weights: int | None = Field(None, ge=0, le=2**63 - 1)

    prompt: Prompt = "stored"
    template: str | None = None
    image_token: str | None = None
    stray_placeholder: Literal["keep", "drop"] = "keep"
    positions: Literal["sequential", "mrope"] | None = None
    pooling: Literal["last", "eos"] | None = None
    normalize: bool | None = None
    similarity: Similarity = "cosine"
    fusion: Literal["sum", "unimodal"] | None = None
    asymmetric: bool | None = None
    text_padding: Literal["longest", "max_length"] | None = None
    image_resolution: Resolution | None = None
    min_pixels: int | None = Field(None, gt=0)
    max_pixels: int | None = Field(None, gt=0)
    num_crops: int | None = Field(None, gt=0)
    max_length: int | None = Field(None, gt=0)
    attention: Literal["eager", "sdpa", "flash"] | None = None
    served_model: str | None = None
    request_form: Literal["vllm", "sglang", "openai"] | None = None
    request_extra: Mapping[str, Any] | None = None
    concurrency: int | None = Field(None, gt=0)

    dimension: int | None = Field(None, gt=0)
    parameters: int | None = Field(None, ge=0)
    licence: str | None = None
    training_datasets: tuple[str, ...] | None = None
    requires: tuple[str, ...] = ()
    proven_with: Mapping[str, str] = {}
    options: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    published_as: str | None = None
    published: Mapping[str, float] = {}
    verified: Literal["goldens", "library", "published", "no"] = "no"
    sources: tuple[str, ...] = ()

    @field_validator("request_extra", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} exceeds max_pixels {self.max_pixels}")
        return self

    @property
    def is_family(self) -> bool:
        """Whether the card needs a reference: `NAME:REFERENCE`."""
        return bool(self.options) and "base" in self.options and self.base is None

    def with_options(self, options: Mapping[str, Any]) -> Card:
        """Return the card with `-M` fields changed, each checked.

        Raises:
            UsageError: for a field this family does not have, or a value it does not take.
        """
        allowed = {*self.options, "similarity"} - {"base"}
        for key in options:
            if key not in allowed:
                takes = f"(it takes {', '.join(sorted(allowed))})"
                raise unknown_name(f"-M field for {self.name}", key, allowed, takes)
        if options.get("random_weights") is not None and self.adapter and "adapter" not in options:
            raise UsageError(
                f"-M random_weights: {self.name} has an adapter, which is for other weights; name "
                f"the base itself ({self.family or 'FAMILY'}:{self.base})"
            )
        if options.get("adapter") is not None:  # what is known is of another one
            options = {"adapter_revision": None, "training_datasets": None, **options}
        if options.get("random_weights") is not None:
            options = {"training_datasets": (), **options}
        if options.get("template") is not None:
            options = {"prompt": "template", **options}
        try:
            return Card.model_validate({**self.model_dump(), **options})
        except ValidationError as error:
            raise UsageError(_first_problem(error)) from None

    def vector_settings(self) -> dict[str, Any]:
        """Return the settings that decide a vector, for its key."""
        return self.model_dump(mode="json", include=set(VECTOR_FIELDS))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if not field:
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"-M {field}={problem['input']}: {problem['msg']}"


def suite_and_task(dataset: str) -> tuple[str, str]:
    """Split the name of a training dataset: `VOC2007` is MMEB's, `mini/VOC2007` that of `mini`."""
    suite, slash, task = dataset.rpartition("/")
    return (suite, task) if slash else (DEFAULT_SUITE, task)


def dataset_name(suite: str, task: str) -> str:
    """Name a task's training part, as `training_datasets` has it."""
    return task if suite == DEFAULT_SUITE else f"{suite}/{task}"


def write_card(card: Card, folder: Path, *, adapter_of: str | None = None) -> None:
    """Leave a card in a folder of weights, or of an adapter: what it says of published ones is not
    said of these."""
    own = {"name": folder.name, "base": ".", "verified": "no", "probes": (), "published": {}}
    published = ["revision", "adapter", "adapter_revision", "random_weights", "published_as"]
    if adapter_of is not None:
        own |= {"base": adapter_of, "adapter": "."}
        published = ["adapter_revision", "published_as"]
    saved = card.model_copy(update={**dict.fromkeys(published), **own})
    (folder / CARD_FILE).write_text(saved.model_dump_json(indent=1))


def relabel(folder: Path, **changes: Any) -> None:
    """Change fields of the card in a folder, if there is one."""
    path = folder / CARD_FILE
    if path.is_file():
        card = Card.model_validate_json(path.read_text()).model_copy(update=changes)
        path.write_text(card.model_dump_json(indent=1))


def read_card(folder: Path) -> Card:
    """Read the card that a trainer left in `folder`; its `.` paths mean the folder itself."""
    try:
        card = Card.model_validate_json((folder / CARD_FILE).read_text())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{folder / CARD_FILE} is not a usable card: {error}") from None
    places = {
        key: str(folder / value)
        for key, value in (("base", card.base), ("adapter", card.adapter))
        if value is not None and value.startswith(".")
    }
    return card.model_copy(update=places)
