"""The README's first Python snippet runs as it stands; so does the plugin page's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.thorough
def test_the_first_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    snippet = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert snippet is not None
    exec(compile(snippet[1], "README.md", "exec"), {})
    similarity, scores = capsys.readouterr().out.splitlines()
    assert -1 <= float(similarity) <= 1
    assert len(scores.split()) == 4


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
