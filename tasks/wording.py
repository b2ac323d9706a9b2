"""How MMEB words its items: where the instruction stands, and how V2's separate parts are joined.

The joining rules are those of VLM2Vec's V2
parsers (src/data/eval_dataset/image_*.py at main), which rebuild the v1 strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmeb_harness.item import PLACEHOLDER
from mmeb_harness.tasks.table import DatasetFacts


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Whether the instructions stand in columns of their own (V2 code) or in the texts (v1)."""

    separate: bool

    @classmethod
    def of(cls, columns: Sequence[str]) -> Wording:
        return cls(separate="qry_inst" in columns)


def query_text(facts: DatasetFacts, instruction: str, text: str) -> str:
    """Join a V2 query's parts into the v1 string."""
    if facts.parser == "image_t2i":
        end = "\n\n" if facts.name == "VisDial" else "\n"
        return f"{instruction} {text}{end}"
    instruction = instruction.replace(PLACEHOLDER, "")
    if facts.parser in ("image_qa", "image_i2i_vg"):
        instruction = "\n" + instruction.strip()
    return _tidy(_with_image(instruction, text)) + "\n"


def candidate_text(facts: DatasetFacts, instruction: str, text: str, *, worded: bool) -> str:
    """Join a V2 candidate's parts into the v1 string; `worded`: the row's first one has text."""
    if facts.parser not in ("image_t2i", "image_i2i_vg"):
        return text
    instruction = instruction.replace(PLACEHOLDER, "")
    if worded:
        return _tidy(_with_image(f"{instruction} {text}", "")) + "\n"
    end = "\n" if facts.parser == "image_t2i" else ""
    return _tidy(_with_image(instruction, "")) + end


def _with_image(instruction: str, text: str) -> str:
    return f"{PLACEHOLDER} {instruction} {text}" if text else f"{PLACEHOLDER} {instruction}"


def _tidy(text: str) -> str:
    return text.replace(" \n", "\n")
