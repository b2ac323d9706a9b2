"""How a side is worded in the published data (v1): placeholder, instruction, text, newline.

Source of the forms: third-party golden samples of the stored texts of MMEB-eval. A side with an
image is `<|image_1|>`, newline, instruction, text, newline; grounding candidates without a text end
without the newline, VisDial's queries end in two, and the queries of WebQA and EDIS begin with the
placeholder though they have no image. Labels, answers and captions are bare.
"""

from __future__ import annotations

from mmeb_harness.item import PLACEHOLDER
from mmeb_harness.tasks.mini.makers.example import Side
from mmeb_harness.tasks.table import DatasetFacts

STRAY_PLACEHOLDER = ("WebQA", "EDIS")


def query_text(facts: DatasetFacts, side: Side) -> str:
    """Return a query as it is stored."""
    seen = side.picture is not None or facts.name in STRAY_PLACEHOLDER
    end = "\n\n" if facts.name == "VisDial" else "\n"
    return _worded(facts.query_instruction, side.text, seen=seen) + end


def candidate_text(facts: DatasetFacts, side: Side) -> str:
    """Return a candidate as it is stored."""
    if facts.target_instruction is None:
        return side.text
    end = "" if facts.meta_task == "grounding" and not side.text else "\n"
    return _worded(facts.target_instruction, side.text, seen=side.picture is not None) + end


def _worded(instruction: str, text: str, *, seen: bool) -> str:
    placeholder = f"{PLACEHOLDER}\n" if seen else ""
    return placeholder + instruction + (f" {text}" if text else "")
