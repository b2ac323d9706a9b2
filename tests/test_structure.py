"""The house: imports go one way, the wheel holds the tree, the public names are what is exported,
and whatever a user can name is documented."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import mmeb_harness
import pytest
from mmeb_harness import hookspecs
from mmeb_harness.registry import BUILT_IN, build_registry
from mmeb_harness.result import RunRecord

ROOT = Path(__file__).parent.parent
ROOMS = ("plugins", "tasks", "trainers", "reports")


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_the_core_and_never_each_other(room: str) -> None:
    others = tuple(f"mmeb_harness.{other}" for other in ROOMS if other != room)
    assert sources(room)
    for path in sources(room):
        for name in imported(path):
            assert not name.startswith(others), f"{path} imports {name}"


def test_the_core_imports_no_room() -> None:
    rooms = tuple(f"mmeb_harness.{room}" for room in ROOMS)
    for path in sources("harness"):
        for name in imported(path):
            assert not name.startswith(rooms), f"{path} imports {name}"


def test_only_the_command_line_prints() -> None:
    for path in [*sources("harness"), *(path for room in ROOMS for path in sources(room))]:
        if "cli" in path.parts or path.name == "generate.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id == "print"), path


def test_the_seam_has_at_most_eight_hooks_and_the_built_ins_use_it() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith(("register_", "run_", "task_"))]
    assert 4 <= len(hooks) <= 8
    registry = build_registry()
    assert registry.cards
    assert registry.tasks
    assert registry.reporters
    assert [name for name, plugin in registry.plugins.items() if plugin.broken] == []
    assert set(BUILT_IN) <= set(registry.plugins)


def test_every_cards_factory_resolves() -> None:
    from mmeb_harness.loading import load_object

    for owned in build_registry().cards.values():
        if owned.plugin.distribution == "mmeb-harness":
            assert callable(load_object(owned.thing.factory)), owned.thing.name


def test_public_names_are_what_is_exported() -> None:
    assert sorted(mmeb_harness.__all__) == mmeb_harness.__dir__()
    for name in mmeb_harness.__all__:
        assert getattr(mmeb_harness, name) is not None


def test_modules_are_short() -> None:
    for path in [*sources("harness"), *(path for room in ROOMS for path in sources(room))]:
        assert len(path.read_text().splitlines()) <= 450, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel from a copy of the sources; return the names in it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("harness", *ROOMS):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((copy / "dist").glob("*.whl"))) as archive:
        return set(archive.namelist())


@pytest.mark.thorough
def test_the_wheel_holds_every_file_of_the_tree(wheel: set[str]) -> None:
    for room in ("harness", *ROOMS):
        prefix = "mmeb_harness" if room == "harness" else f"mmeb_harness/{room}"
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{prefix}/{path.relative_to(ROOT / room)}" in wheel


@pytest.mark.thorough
def test_the_wheel_ships_no_tests(wheel: set[str]) -> None:
    assert not [name for name in wheel if "tests" in name or "benchmarks" in name]


def documentation() -> str:
    return "\n".join(
        path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    )


def test_every_hook_command_task_and_option_of_a_model_is_documented() -> None:
    from mmeb_harness.cli.main import app

    text = documentation()
    registry = build_registry()
    names = {name for name in vars(hookspecs) if name.startswith(("register_", "run_", "task_"))}
    names |= {f"`{command.name}`" for command in app.registered_commands}
    names |= {f"`{group.name}`" for group in app.registered_groups}
    names |= {task for _, task in registry.tasks}
    names |= {
        f"`{field}`"
        for owned in registry.cards.values()
        for field in owned.thing.options
        if field != "base"
    }
    for name in names:
        assert name in text, f"{name} is not in the documentation"


def test_every_result_field_of_the_contract_is_recorded() -> None:
    needed = {"card", "overrides", "revisions", "versions", "stack", "dtype", "attention", "device",
              "batch_tokens", "workers", "seed", "command", "reused", "computed"}  # fmt: skip
    assert needed <= set(RunRecord.model_fields)


def test_pillow_is_bounded_as_decided() -> None:
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "pillow>=11,<13" in facts["project"]["dependencies"]
