"""What a training is told: YAML sections that every trainer shares, read with clear errors.

A trainer's own config model extends `TrainConfig` with its sections. `model` and `data` may be
written as one word each (a model's name, a folder of pairs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from mmeb_harness.errors import UsageError, unknown_name
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

Place = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path, in which `~` is the user's folder."""


Words = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]
"""Several words, or a single one."""


class Section(BaseModel):
    """A part of a training's configuration: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(Section):
    """The model to train, as `-m` and `-M` name one: `name`, and any fields of its card."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def overrides(self) -> dict[str, Any]:
        """Fields of the card that are changed."""
        return dict(self.model_extra or {})


class DataSection(Section):
    """Where the pairs come from: training parts of a suite's tasks, or a folder of one's own.

    With `suite`, `dir` is a folder in its published layout (default: where `data fetch` puts it)
    and `subsets` chooses tasks as `-t` does, of those that have a training part, in the order
    written. Without, `dir` holds tables of pairs; `split` then chooses among a subfolder's files.
    `cap` is the number of pairs a subset gives at most: its first rows, or a seeded sample.
    `weights` says how often a subset is drawn, by its name (1 where not named, 0 leaves it out);
    see `batch`.
    """

    dir: Place | None = None
    suite: str | None = None
    subsets: str | tuple[str, ...] = "all"
    split: str = "original"
    image_dir: Place | None = None
    cap: int | None = Field(default=None, ge=1)
    sample: Literal["first", "random"] = "first"
    weights: Mapping[str, float] = {}
    missing_images: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _names_something(self) -> DataSection:
        if self.dir is None and self.suite is None:
            raise ValueError("name a folder of pairs (dir) or a suite")
        return self


class EvaluationSection(Section):
    """What is scored while training goes on, by the engine that makes leaderboards: before the
    first step, after `every` steps, and at the end."""

    every: int = Field(ge=1)
    suite: str = "mini"
    tasks: str | tuple[str, ...] = "all"
    data_dir: Place | None = None
    image_dir: Place | None = None
    limit: int | None = Field(default=None, ge=1)


class RunSection(Section):
    """Where the trained model is written, from which seed, on what; a trainer's own adds to it."""

    output_dir: Place
    seed: int = 42
    device: str | None = None


class TrainConfig(Section):
    """What every trainer is told."""

    trainer: str = "contrastive"
    model: ModelSection
    data: DataSection
    evaluation: EvaluationSection | None = None
    run: RunSection

    @model_validator(mode="before")
    @classmethod
    def _one_word_sections(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        words = {"model": "name", "data": "dir"}
        if given.get("evaluation") is False:
            given = {**given, "evaluation": None}
        return {
            key: {words[key]: value} if key in words and isinstance(value, str | Path) else value
            for key, value in given.items()
        }

    def weights_dtype(self, device: str) -> str | None:
        """Return the numeric type in which a device's weights are loaded (None: its usual)."""
        return None


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections. Raises UsageError, naming the line where it can."""
    import yaml

    try:
        text = path.expanduser().read_text(encoding="utf-8")
        twice = _key_twice(yaml.compose(text, yaml.SafeLoader))
        given = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date, the bytes
        place = getattr(error, "problem_mark", None)
        where = "" if place is None else f", line {place.line + 1}"
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{path}{where} is no YAML: {what}") from None
    if twice is not None:
        line = twice.start_mark.line + 1
        raise UsageError(f"{path}, line {line}: key {twice.value!r} is there twice")
    if not isinstance(given, dict):
        raise UsageError(f"{path} holds no sections; it needs at least model and data")
    return given


def _key_twice(node: Any) -> Any:
    """Return the first key that stands twice in a section, of which only the last would count."""
    known: set[str] = set()
    for part in node.value if node is not None and not isinstance(node.value, str) else ():
        key, value = part if isinstance(part, tuple) else (None, part)
        if key is not None and isinstance(key.value, str):
            if key.value in known:
                return key
            known.add(key.value)
        if (twice := _key_twice(value)) is not None:
            return twice
    return None


def with_changes(given: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Apply `section.key=value` words, each value read as YAML.

    Raises:
        UsageError: for a word without `=`, or a key under something that is no section.
    """
    import yaml

    changed: dict[str, Any] = _copied(given)
    for word in changes:
        path, equals, text = word.partition("=")
        *sections, key = path.split(".")
        if not equals or not all((*sections, key)):
            raise UsageError(f"{word!r}: write a change as section.key=value")
        place = changed
        for name in sections:
            inner = place.get(name)
            if isinstance(inner, str) and name in ("model", "data"):  # a section in one word
                inner = {"name" if name == "model" else "dir": inner}
            inner = {} if inner is True else inner  # a section with its defaults
            if inner is not None and not isinstance(inner, dict):
                raise UsageError(f"{word!r}: {name} is {inner!r}, which has no keys")
            place[name] = inner = {} if inner is None else inner
            place = inner
        try:
            place[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise UsageError(f"{word!r}: {text!r} is no YAML value") from None
    return changed


def _copied(given: Any) -> Any:
    return {k: _copied(v) for k, v in given.items()} if isinstance(given, Mapping) else given


def checked_config(kind: type[TrainConfig], given: Mapping[str, Any]) -> TrainConfig:
    """Turn sections into a trainer's config.

    Raises:
        UsageError: for the first unknown key (naming the nearest), missing key or unusable value.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problems = error.errors()
        unknown = [one for one in problems if one["type"] == "extra_forbidden"]
        raise _problem(kind, given, (unknown or problems)[0]) from None


SHAPES = {"tuple_type": "give a list", "model_type": "it is a section: give its keys",
          "path_type": "give a path", "dict_type": "give names with values"}  # fmt: skip
"""What is wrong, in the words of YAML rather than of Python."""


def _problem(kind: type[BaseModel], given: Mapping[str, Any], problem: ErrorDetails) -> UsageError:
    place = _place(given, problem)
    dotted = ".".join(place)
    if problem["type"] == "extra_forbidden":
        section = ".".join(place[:-1])
        homes = [] if section else _sections_with(kind, place[-1])
        if homes:
            return UsageError(f"{place[-1]} is a key of section {homes[0]}: {homes[0]}.{place[-1]}")
        where = f"key in section {section}" if section else "section"
        return unknown_name(where, place[-1], _known_keys(kind, place[:-1]))
    if problem["type"] == "missing":
        return UsageError(f"the configuration lacks {dotted}")
    message = SHAPES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return UsageError(f"{dotted}: {message}" if dotted else message)


def _sections_with(kind: type[BaseModel], key: str) -> list[str]:
    return [name for name in _known_keys(kind, []) if key in _known_keys(kind, [name])]


def _place(given: Any, problem: ErrorDetails) -> list[str]:
    """Return the keys that lead to a problem, without the kinds of value that were tried there."""
    place = []
    for part in problem["loc"]:
        inside = isinstance(given, Mapping) and part in given
        if inside or isinstance(part, int) or problem["type"] == "missing":
            place.append(str(part))
        given = given[part] if inside else None
    return place


def _known_keys(kind: type[BaseModel], place: Sequence[str]) -> list[str]:
    """Return the keys of the section that `place` leads to."""
    for name in place:
        field = kind.model_fields.get(name)
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        models = [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            return []
        kind = models[0]
    return list(kind.model_fields)
