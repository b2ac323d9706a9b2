"""A card whose weights lie inside an installed package: `package:NAME/FOLDER`."""

from __future__ import annotations

import shutil
from pathlib import Path

import mmeb_harness as mh
import pytest
from mmeb_harness.card import read_card
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.hub import commit_of, local_folder
from training_parts import GOLDENS, under_training

REFERENCE = "package:vlm_package.models/tiny"
ITEMS = [mh.Item(text="a cat"), mh.Item(text="a dog")]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with weights in it."""
    inside = tmp_path / "site/vlm_package/models"
    shutil.copytree(GOLDENS / "models/tiny-qwen2vl", inside / "tiny")
    for folder in (inside, inside.parent):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return inside / "tiny"


def test_it_is_the_folder_in_the_package(package: Path) -> None:
    found = local_folder(REFERENCE)
    assert found is not None
    assert found.samefile(package)
    assert commit_of(found) is None
    direct = mh.load_encoder(f"qwen2-vl:{package}", device="cpu")
    named = mh.load_encoder(f"qwen2-vl:{REFERENCE}", device="cpu")
    assert (named.encode(ITEMS) == direct.encode(ITEMS)).all()


def test_an_adapter_names_the_package_and_no_place_on_this_disk(
    package: Path, tmp_path: Path
) -> None:
    encoder = mh.load_encoder(f"qwen2-vl:{REFERENCE}", device="cpu", dtype="float32")
    under_training(encoder, lora={"rank": 2})
    encoder.module.eval()
    encoder.save(tmp_path / "saved")
    assert read_card(tmp_path / "saved").base == REFERENCE
    written = (tmp_path / "saved/adapter_config.json").read_text()
    assert REFERENCE in written
    assert str(tmp_path) not in written
    for again in (str(tmp_path / "saved"), f"qwen2-vl:{tmp_path / 'saved'}"):
        loaded = mh.load_encoder(again, device="cpu", dtype="float32")
        assert loaded.adapter_folder is not None
        assert abs(loaded.encode(ITEMS) - encoder.encode(ITEMS)).max() <= 1e-5


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("package:vlm_package.models/none", "no folder 'none'"),
        ("package:vlm_package.models/__init__.py", "no folder '__init__.py'"),
        ("package:no_such_package/tiny", "no package 'no_such_package'"),
        ("package:no_such_package.inside/tiny", "no package 'no_such_package.inside'"),
        ("package:/tiny", "no package ''"),
        ("package:", "no package ''"),
    ],
)
@pytest.mark.usefixtures("package")
def test_what_is_not_there_is_told(reference: str, why: str) -> None:
    with pytest.raises(EnvironmentFault, match=why):
        mh.load_encoder(f"qwen2-vl:{reference}", device="cpu")


@pytest.mark.usefixtures("package")
def test_a_package_has_no_commits() -> None:
    with pytest.raises(UsageError, match="is a folder"):
        mh.load_encoder(f"qwen2-vl:{REFERENCE}", device="cpu", revision="abc")
