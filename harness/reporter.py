"""What a reporter is: it turns finished runs into a document, and reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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

    def render(self, runs: Sequence[Run], options: ReportOptions) -> str:
        """Return the document as text."""
        document: str = load_object(self.factory)(runs, options)
        return document
