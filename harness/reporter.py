"""What a reporter is: it turns finished runs into a document, and reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmeb_harness.errors import ANY_OF_OTHERS, HarnessError
from mmeb_harness.loading import load_object
from mmeb_harness.result import Run


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How a report is to look: `width` in columns, `color` for a terminal that has it.

    `published` sets published scores beside the runs. `images` is how many queries of each task a
    report shows with thumbnails: a number, 0 for none, None for all.
    """

    format: str = "table"
    width: int = 100
    color: bool = False
    published: bool = False
    images: int | None = 24
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """A named reporter; `factory` is a dotted path to `render(runs, options) -> str`."""

    name: str
    formats: tuple[str, ...]
    factory: str
    summary: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.factory, str):
            raise TypeError(
                f"reporter {self.name}: the factory is a dotted path, 'package.module:render'"
            )

    def render(self, runs: Sequence[Run], options: ReportOptions) -> str:
        """Return the document as text."""
        try:
            document = load_object(self.factory)(runs, options)
        except (HarnessError, OSError):
            raise
        except ANY_OF_OTHERS as error:
            what = f"{type(error).__name__}: {error}"
            raise HarnessError(
                f"the reporter {self.name} ({self.factory}) failed: {what}"
            ) from error
        if not isinstance(document, str):
            raise HarnessError(
                f"the reporter {self.name} gave {type(document).__name__}, not a text"
            )
        return document
