"""What every test shares: a clean environment, the goldens, and the tiny models, loaded once."""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub reads it when it is imported
# Ray keeps the first token that a process has: one for all the tests of this one
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import mmeb_harness as mh


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's settings, caches or network."""
    for name in [name for name in os.environ if name.startswith("MMEB_HARNESS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MMEB_HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Return the folder of numbers made by the reference code (see its README)."""
    return Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def golden_items(goldens: Path) -> Callable[[str, str], list[mh.Item]]:
    """Return `(subset, "qry" or "tgt") -> items`, in the order of the stored vectors."""
    keys = json.loads((goldens / "expected/keys.json").read_text())

    def items(subset: str, side: str) -> list[mh.Item]:
        images = goldens / "data/eval_images"
        return [
            mh.Item(text=text or None, image=str(images / image) if image else None)
            for text, image in keys[subset][side]
        ]

    return items


@pytest.fixture(scope="session")
def tiny_qwen(goldens: Path) -> Callable[..., Any]:
    """Return `(**options) -> encoder` over the tiny Qwen2-VL; equal options share one: no edits."""

    @cache
    def load(**options: Any) -> Any:
        return mh.load_encoder(f"qwen2-vl:{goldens}/models/tiny-qwen2vl", device="cpu", **options)

    return load


@pytest.fixture(scope="session")
def tiny_clip(goldens: Path) -> Callable[..., Any]:
    """Return `(**options) -> encoder` over the tiny CLIP; equal options share one: no edits."""

    @cache
    def load(**options: Any) -> Any:
        return mh.load_encoder(f"clip:{goldens}/models/tiny-clip", device="cpu", **options)

    return load


@pytest.fixture
def make_task_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return `(name, rows) -> folder`: MMEB's v1 layout, each image it names drawn from its path.

    Without `rows`: `queries` questions about pictures, each with `candidates` answers.
    """
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def picture(path: str) -> Image.Image:
        return Image.frombytes("RGB", (8, 8), hashlib.shake_128(path.encode()).digest(8 * 8 * 3))

    def rows_of(name: str, queries: int, candidates: int) -> list[dict[str, Any]]:
        asked = "<|image_1|>\nRepresent the given image with the following question:"
        return [
            {
                "qry_text": f"{asked} what is {number}?\n",
                "qry_img_path": f"{name}/{number}.png",
                "tgt_text": [f"{name} answer {number + place}" for place in range(candidates)],
                "tgt_img_path": [""] * candidates,
            }
            for number in range(queries)
        ]

    def make(
        name: str,
        rows: list[dict[str, Any]] | None = None,
        *,
        queries: int = 4,
        candidates: int = 3,
        folder: Path | None = None,
        images: str = "images",
    ) -> Path:
        folder = folder or tmp_path / "data"
        rows = rows_of(name, queries, candidates) if rows is None else rows
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name / "test-00000-of-00001.parquet")
        named = {row.get("qry_img_path") for row in rows}
        named |= {path for row in rows for path in row.get("tgt_img_path") or ()}
        for path in sorted(path for path in named if path):
            (folder / images / path).parent.mkdir(parents=True, exist_ok=True)
            picture(path).save(folder / images / path)
        return folder

    return make


@pytest.fixture(scope="session")
def _open_audit() -> dict[str, list[str] | None]:
    """One audit hook for the whole session (it cannot be taken out), heard only where asked."""
    import sys

    listening: dict[str, list[str] | None] = {"paths": None}

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and (paths := listening["paths"]) is not None:
            paths.append(str(arguments[0]))

    sys.addaudithook(hear)
    return listening


@pytest.fixture
def opened_files(_open_audit: dict[str, list[str] | None]) -> Iterator[list[str]]:
    """Return the list of paths that Python opens from now on; clear it to count anew."""
    _open_audit["paths"] = paths = []
    yield paths
    _open_audit["paths"] = None


@pytest.fixture
def install_plugin(tmp_path: Path) -> Callable[..., Path]:
    """Return `(distribution, source) -> folder`: a module and its metadata, as pip leaves them.

    The entry point is named after the module, which is the distribution with underscores.
    """

    def install(distribution: str, source: str, *, folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "site"
        module = distribution.replace("-", "_")
        about = folder / f"{module}-1.5.dist-info"
        about.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"
        )
        (about / "entry_points.txt").write_text(f"[mmeb_harness]\n{module} = {module}\n")
        return folder

    return install


@pytest.fixture
def stored_vectors() -> Callable[[Path], dict[bytes, bytes]]:
    """Return `(folder) -> vectors by key` of every shard there; none may be stored twice."""
    import numpy as np
    import pyarrow as pa

    def read(folder: Path) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for path in folder.rglob("[0-9]*.arrow"):
            table = pa.ipc.open_file(path.read_bytes()).read_all()
            for key, vector in zip(table["key"], table["vector"], strict=True):
                assert key.as_py() not in found, "a vector was stored twice"
                found[key.as_py()] = np.float32(vector.as_py()).tobytes()
        return found

    return read


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run", action="append", default=[], help="run tests marked gpu, network, slow"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked as needing more than this machine has, and say so."""
    for name in {"gpu", "network", "slow"} - set(config.getoption("--run")):
        for item in items:
            if name in item.keywords:
                item.add_marker(pytest.mark.skip(reason=f"marked {name}: pytest --run {name}"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that gives the tiny encoder of a family, one for a module of tests."""
    known: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in known:
            model = importlib.import_module(f"tiny.{name}").make(tmp_path_factory.mktemp(name))
            known[name] = mh.load_encoder(model, device="cpu", dtype="float32")
        return known[name]

    return load
