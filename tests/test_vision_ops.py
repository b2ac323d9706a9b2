"""A torchvision that does not fit torch is survived; one that fits is left alone.

The stand-in fails exactly as the CUDA build does beside a CPU torch: it registers a fake for an
operator that its missing compiled library should have defined.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

BROKEN = """
import torch

for name in ("nms", "qnms"):
    @torch.library.register_fake(f"torchvision::{name}")
    def fake(dets, scores, iou_threshold):
        return scores

__version__ = "0.28.0+cu130"
"""


def run(code: str, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def install(site: Path, source: str) -> None:
    (site / "torchvision").mkdir(parents=True)
    (site / "torchvision/__init__.py").write_text(source)


def test_the_stand_in_is_broken_as_the_real_one_is(tmp_path: Path) -> None:
    install(tmp_path, BROKEN)
    done = run("import torchvision", tmp_path)
    assert done.returncode != 0
    assert "torchvision::nms does not exist" in done.stderr


def test_a_torchvision_that_does_not_fit_torch_is_survived(tmp_path: Path) -> None:
    install(tmp_path, BROKEN)
    code = (
        "from mmeb_harness.plugins.vision_ops import mend_torchvision\n"
        "assert mend_torchvision() is not None\nimport torchvision\nprint(torchvision.__version__)"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0.28.0+cu130" in done.stdout


def test_a_torchvision_that_works_is_left_alone(tmp_path: Path) -> None:
    install(tmp_path, "__version__ = '1'")
    code = (
        "from mmeb_harness.plugins.vision_ops import mend_torchvision\n"
        "assert mend_torchvision() is None\nprint('untouched')"
    )
    done = run(code, tmp_path)
    assert "untouched" in done.stdout, done.stderr
