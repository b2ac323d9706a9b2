"""The README's first Python snippet runs as it stands, and its screenful is what a run prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mmeb_harness.cli.main import _run

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.thorough
def test_the_first_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    snippet = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert snippet is not None
    exec(compile(snippet[1], "README.md", "exec"), {})
    similarity, scores = capsys.readouterr().out.splitlines()
    assert -1 <= float(similarity) <= 1
    assert len(scores.split()) == 4


NUMBER = re.compile(r"\d+\.\d+")
TWO_QUERIES = 100 * 2 / 64


@pytest.mark.thorough
def test_the_screenful_is_what_a_bare_run_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Line for line, where the README leaves none out; scores may differ by two queries between
    machines, intervals with them."""
    shown = re.search(r"```\n\$ mmeb-harness run\n(.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    assert _run(["run"]) == 0
    printed = iter([line.rstrip() for line in capsys.readouterr().out.splitlines()])
    for line in shown[1].splitlines():
        if line == "...":
            continue
        named = NUMBER.split(line)[0].split()
        found = next((one for one in printed if NUMBER.split(one)[0].split() == named), None)
        assert found is not None, f"{line!r} is not printed, or not there"
        for told, scored in zip(NUMBER.findall(line), NUMBER.findall(found), strict=True):
            assert abs(float(told) - float(scored)) <= TWO_QUERIES + 0.1, line


def test_the_toy_of_the_plugin_page_passes_the_kit_that_the_page_shows() -> None:
    from mmeb_harness.testing import check_encoder

    page = README.parent / "docs/plugins.md"
    snippet = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(compile(snippet[1], "plugins.md", "exec"), names)
    check_encoder(names["Toy"]())
    registered: list[Any] = []
    names["register_encoders"](registered.append)
    assert [card.name for card in registered] == ["toy"]
