"""Every family of ours: the conformance kit on a tiny model, and a run on the embedded suite."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import mmeb_harness as mh
import numpy as np
import pytest
from embeddings_server import serving
from mmeb_harness.patient import picture
from mmeb_harness.registry import DISTRIBUTION, build_registry
from mmeb_harness.testing import check_encoder

TINY = sorted(path.stem for path in (Path(__file__).parent / "tiny").glob("*.py"))
SERVED = "openai"
"""The family that has no weights of its own: a server on loopback stands for the model."""


@contextlib.contextmanager
def reference(name: str, folder: Path) -> Iterator[str]:
    """Make a tiny model of a family; yield what `-m` takes."""
    if name == SERVED:
        with serving() as url:
            yield f"{SERVED}:{url}"
    else:
        yield importlib.import_module(f"tiny.{name}").make(folder)


def test_every_family_has_a_tiny_model() -> None:
    families = {
        name
        for name, owned in build_registry().cards.items()
        if owned.thing.is_family and owned.plugin.distribution == DISTRIBUTION
    }
    tiny = {importlib.import_module(f"tiny.{name}").FAMILY for name in TINY}
    assert tiny | {SERVED} == families


@pytest.mark.parametrize("name", ["llava_next", "phi3_v", "siglip"])
def test_a_text_and_a_picture_have_vectors_of_their_own(name: str, tmp_path: Path) -> None:
    """A glance at the families with goldens, for `make quick`; the rest of the file is thorough."""
    with reference(name, tmp_path / "model") as model:
        items = [mh.Item(text="a cat"), mh.Item(image=picture())]
        text, image = mh.load_encoder(model, device="cpu").encode(items)
    assert np.isfinite([text, image]).all()
    assert np.abs(text - image).max() > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*TINY, SERVED])
def test_the_conformance_kit_passes(name: str, tmp_path: Path) -> None:
    with reference(name, tmp_path / "model") as model:
        findings = check_encoder(mh.load_encoder(model))
    assert {"encodes", "finite", "batch neighbours", "padding", "tells items apart"} <= {
        one.check for one in findings if one.status == "ok"
    }


FEW = "ImageNet-1K,GQA,MSCOCO_t2i,WebQA,RefCOCO"
"""A task of each meta-task, and one whose candidates have both texts and pictures."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*TINY, SERVED])
def test_a_run_on_the_embedded_suite_scores_every_task(name: str, tmp_path: Path) -> None:
    with reference(name, tmp_path / "model") as model:
        run = mh.evaluate(model, suite="mini", tasks=FEW, limit=8, output_dir=tmp_path / "run")
    assert {task.status for task in run.tasks.values()} == {"ok"}, [
        task.error for task in run.tasks.values()
    ]
    assert len(run.tasks) == 5
    assert run.record.warnings == ()
    for task in run.tasks.values():
        assert "the vectors have collapsed: they are all but equal" not in task.warnings
