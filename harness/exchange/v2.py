"""The form of the public leaderboard (MMEB-V2): one JSON for a model, metadata and metrics.

Metrics go by modality and dataset; a string stands where a part is missing. Source:
TIGER-AI-Lab/VLM2Vec, experiments/report_score_v2.py of the branch main, and the score files under
experiments/public/all_scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmeb_harness import environment
from mmeb_harness.errors import UsageError
from mmeb_harness.exchange.forms import MOST, SUITE, Told, count, fraction, quoted
from mmeb_harness.exchange.ranking import measures
from mmeb_harness.result import Run, RunRecord, TaskResult
from mmeb_harness.rows import read_rows

IMAGE = "image"
NO_FILE, NO_FOLDER = "FILE_N/A", "DIR_N/A"
"""What stands for a dataset without scores, and for one of a modality without any."""

METADATA = (
    "model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens",
    "model_release_date", "data_source", "url", "report_generated_date",
)  # fmt: skip

OTHER_MODALITIES = {
    "visdoc": (
        "ViDoRe_arxivqa", "ViDoRe_docvqa", "ViDoRe_infovqa", "ViDoRe_tabfquad", "ViDoRe_tatdqa",
        "ViDoRe_shiftproject", "ViDoRe_syntheticDocQA_artificial_intelligence",
        "ViDoRe_syntheticDocQA_energy", "ViDoRe_syntheticDocQA_government_reports",
        "ViDoRe_syntheticDocQA_healthcare_industry", "ViDoRe_esg_reports_human_labeled_v2",
        "ViDoRe_biomedical_lectures_v2", "ViDoRe_biomedical_lectures_v2_multilingual",
        "ViDoRe_economics_reports_v2", "ViDoRe_economics_reports_v2_multilingual",
        "ViDoRe_esg_reports_v2", "ViDoRe_esg_reports_v2_multilingual",
        "VisRAG_ArxivQA", "VisRAG_ChartQA", "VisRAG_MP-DocVQA", "VisRAG_SlideVQA",
        "VisRAG_InfoVQA", "VisRAG_PlotQA",
        "ViDoSeek-page", "ViDoSeek-doc", "MMLongBench-page", "MMLongBench-doc",
    ),
    "video": (
        "DiDeMo", "MSR-VTT", "MSVD", "VATEX", "YouCook2",
        "QVHighlight", "Charades-STA", "MomentSeeker",
        "K700", "SmthSmthV2", "HMDB51", "UCF101", "Breakfast",
        "MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA",
    ),
}  # fmt: skip
"""Datasets that the leaderboard has beside those of images, and this harness has not."""


def report_of(run: Run) -> dict[str, Any]:
    """Return the whole document of a run."""
    image = {task.name: _scores(run, run.tasks.get(task.name)) for task in run.record.suite_tasks}
    others = {
        modality: dict.fromkeys(names, NO_FOLDER) for modality, names in OTHER_MODALITIES.items()
    }
    return {"metadata": metadata_of(run.record), "metrics": {IMAGE: image, **others}}


def _scores(run: Run, result: TaskResult | None) -> dict[str, Any] | str:
    if result is None or result.hit_at_1 is None:
        return NO_FILE
    rows = read_rows(run.output_dir, result.name)
    found = {} if rows is None else measures(rows, run.record.scoring)
    numbers = dict.fromkeys(("num_pred", "num_data"), result.n_queries) if result.n_queries else {}
    return {"hit@1": result.hit_at_1, **found, **numbers}


def metadata_of(record: RunRecord) -> dict[str, Any]:
    """Return what a record tells of the model; None for what only its makers can tell."""
    card = record.card
    known: dict[str, Any] = dict.fromkeys(METADATA) | {
        key: value for key, value in record.declared.items() if key in METADATA
    }
    if card is not None:
        known |= {
            "model_backbone": card.family,
            "model_size": card.parameters / 1e9 if card.parameters else None,
            "embedding_dimension": card.dimension,
            "max_length_tokens": card.max_length,
        }
    known["data_source"] = known["data_source"] or "Self-Reported"
    known |= {"model_name": record.model, "report_generated_date": environment.now()}
    return known if record.suite == SUITE else {**known, "suite": record.suite}


def declared_of(metadata: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Return what a file's metadata says of the model, as far as it is words and numbers."""
    return {
        key: value[:200] if isinstance(value, str) else value
        for key, value in metadata.items()
        if key in METADATA and (isinstance(value, str) or _number(value))
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < MOST


def read_score(content: Any, where: str) -> Told:
    """Read the scores of one dataset. Raises UsageError naming what is wrong with them."""
    if isinstance(content, str):
        return Told(error=f"no score in the file imported: {quoted(content)}")
    if not isinstance(content, Mapping) or "hit@1" not in content:
        raise UsageError(f"{where} has no hit@1: {quoted(content)}")
    score = fraction(content["hit@1"], f"{where}: hit@1")
    told = [content[name] for name in ("num_pred", "num_data") if content.get(name) is not None]
    numbers = [count(number, f"{where}: num_pred or num_data") for number in told]
    if len(set(numbers)) > 1:
        return Told(error=f"only {numbers[0]:,} of {numbers[1]:,} queries were scored")
    return Told(score=score, queries=numbers[0] if numbers else 0)
