"""The README's first Python snippet runs as it stands, and its screenful is what a run prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmeb_harness.cli.main import _run

README = Path(__file__).parent.parent / "README.md"


def test_the_first_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    snippet = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert snippet is not None
    exec(compile(snippet[1], "README.md", "exec"), {})
    similarity, scores = capsys.readouterr().out.splitlines()
    assert -1 <= float(similarity) <= 1
    assert len(scores.split()) == 4


def test_the_screenful_is_what_a_bare_run_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.search(r"```\n\$ mmeb-harness run\n(.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    assert _run(["run"]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == shown[1].splitlines()
