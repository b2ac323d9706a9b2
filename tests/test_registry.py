"""Plugins: a stranger's distribution installed, broken ones listed, doubled names refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pytest
from mmeb_harness.errors import UsageError
from mmeb_harness.registry import BUILT_IN, LOAD_PLUGINS, Registry, build_registry

Install = Callable[..., Path]
MakeFolder = Callable[..., Path]

ENCODER = """
import mmeb_harness as mh

@mh.hookimpl
def register_encoders(register):
    register(mh.Card(name="{name}", factory="nowhere:Nothing", summary="from a stranger"))
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the import path, for `install_plugin`; its modules are forgotten again."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    before = set(sys.modules)
    yield tmp_path / "site"
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def command(*arguments: object, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `mmeb-harness` in a process of its own, `path` added to what it can import."""
    return subprocess.run(
        [sys.executable, "-m", "mmeb_harness", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def broken(registry: Registry) -> dict[str, str]:
    _ = registry.cards, registry.tasks, registry.trainers, registry.reporters
    return {
        name: plugin.broken
        for name, plugin in registry.plugins.items()
        if plugin.broken is not None
    }


# -- a distribution, installed ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install `third_party/toy` with pip and return the folder that it is in."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(Path(__file__).parent / "third_party/toy", folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", folder / "site"]
    subprocess.run([*pip, *options, folder / "source"], check=True, capture_output=True)
    return folder / "site"


@pytest.mark.thorough
def test_an_installed_plugin_is_listed_with_its_distribution(installed_toy: Path) -> None:
    done = command("list", "models", "--json", path=installed_toy)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads(done.stdout)["models"]}
    assert rows["toy"]["from"] == "mmeb-harness-toy"
    assert "random" in rows


@pytest.mark.thorough
def test_an_installed_plugins_encoder_is_scored_recorded_and_kept(
    installed_toy: Path, make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_task_folder("OK-VQA")
    arguments = ["run", "-m", "toy", "--suite", "mmeb", "-t", "OK-VQA", "--data-dir", folder]
    first = command(*arguments, "-o", tmp_path / "one", "--json", path=installed_toy)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["tasks"]["OK-VQA"]["status"] == "ok"
    record = json.loads((tmp_path / "one/run.json").read_text())
    assert record["plugin"]["distribution"] == "mmeb-harness-toy"
    assert record["plugin"]["version"] == "0.3"
    assert record["computed"] > 0
    second = command(*arguments, "-o", tmp_path / "two", "--json", path=installed_toy)
    assert json.loads(second.stdout)["tasks"] == result["tasks"]
    again = json.loads((tmp_path / "two/run.json").read_text())
    assert (again["computed"], sum(again["reused"].values())) == (0, record["computed"])


# -- which are loaded ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, {"first", "second"}),
        ("", set()),
        ("first_plugin", {"first"}),
        ("second-plugin", {"second"}),
        (" first_plugin , second-plugin ", {"first", "second"}),
        ("no-such-plugin", set()),
    ],
)
def test_plugins_are_loaded_all_none_or_by_name(
    site: Path, install_plugin: Install, wanted: str | None, found: set[str]
) -> None:
    for name in ("first", "second"):
        install_plugin(f"{name}-plugin", ENCODER.format(name=name))
    registry = build_registry({} if wanted is None else {LOAD_PLUGINS: wanted})
    assert {"first", "second"} & set(registry.cards) == found
    assert "random" in registry.cards
    assert set(BUILT_IN) <= set(registry.plugins)


def test_the_environment_of_the_process_decides_when_none_is_given(
    site: Path, install_plugin: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("first-plugin", ENCODER.format(name="first"))
    assert "first" in build_registry().cards
    monkeypatch.setenv(LOAD_PLUGINS, "")
    assert "first" not in build_registry().cards


def test_each_registry_is_its_own(site: Path, install_plugin: Install) -> None:
    before = build_registry()
    install_plugin("first-plugin", ENCODER.format(name="first"))
    assert "first" in build_registry().cards
    assert "first" not in before.cards


def test_a_plugin_is_known_by_distribution_and_version(site: Path, install_plugin: Install) -> None:
    install_plugin("first-plugin", ENCODER.format(name="first"))
    plugin = build_registry().cards["first"].plugin
    assert (plugin.distribution, plugin.version, plugin.broken) == ("first-plugin", "1.5", None)


# -- broken ones -----------------------------------------------------------------------------------

BROKEN = {
    "raises on import": ("raise RuntimeError('my key is missing')", "my key is missing"),
    "does not parse": ("def (", "SyntaxError"),
    "imports what is not there": ("import no_such_library", "no_such_library"),
    "exits on import": ("import sys\nsys.exit('no licence')", "no licence"),
    "raises in its hook": (
        "import mmeb_harness as mh\n@mh.hookimpl\ndef register_encoders(register):\n"
        "    raise ValueError('no cards today')",
        "no cards today",
    ),
    "registers something else": (
        "import mmeb_harness as mh\n@mh.hookimpl\ndef register_encoders(register):\n"
        "    register('a string')",
        "no Card",
    ),
    "has a hook that does not exist": (
        "import mmeb_harness as mh\n@mh.hookimpl\ndef register_encoder(register):\n    pass",
        "register_encoder",
    ),
    "asks its hook for what it does not give": (
        "import mmeb_harness as mh\n@mh.hookimpl\ndef register_encoders(register, more):\n    pass",
        "more",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_is_marked_with_its_reason_and_takes_nothing_else_down(
    site: Path, install_plugin: Install, how: str
) -> None:
    source, told = BROKEN[how]
    kind = how.replace(" ", "-")
    install_plugin(f"a-{kind}", source)  # before and after the good one, in the order of names
    install_plugin("b-good", ENCODER.format(name="good"))
    install_plugin(f"c-{kind}", source)
    registry = build_registry({})
    found = broken(registry)
    assert {name.partition(":")[0] for name in found} == {f"a-{kind}", f"c-{kind}"}
    assert all(told in reason for reason in found.values())
    assert {"good", "random"} <= set(registry.cards)
    assert len(registry.suites()["mmeb"]) == 36


@pytest.mark.thorough
def test_broken_plugins_are_listed_and_other_commands_work(
    site: Path, install_plugin: Install, make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    install_plugin("broken-one", BROKEN["raises on import"][0])
    listed = command("list", "plugins", path=site)
    assert listed.returncode == 0, listed.stderr
    (line,) = [line for line in listed.stdout.splitlines() if "broken-one" in line]
    assert "BROKEN" in line
    assert "my key is missing" in line
    ran = command(
        "run", "-m", "random", "-t", "OK-VQA", "--data-dir", make_task_folder("OK-VQA"),
        "-o", tmp_path / "run", path=site,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_an_unknown_model_points_at_the_plugins_that_are_broken(
    site: Path, install_plugin: Install
) -> None:
    install_plugin("broken-one", BROKEN["raises on import"][0])
    with pytest.raises(UsageError, match="broken-one"):
        mh.load_encoder("what-it-would-have-had")


# -- doubled names ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_two_distributions_with_one_model_name_are_an_error_naming_both(
    site: Path, install_plugin: Install
) -> None:
    for name in ("first-plugin", "second-plugin"):
        install_plugin(name, ENCODER.format(name="same"))
    done = command("list", "models", path=site)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in ("'same'", "first-plugin", "second-plugin", LOAD_PLUGINS))
    chosen = command("list", "models", path=site, **{LOAD_PLUGINS: "first-plugin"})
    assert chosen.returncode == 0
    assert "same" in chosen.stdout


def test_a_name_of_a_built_in_cannot_be_taken(site: Path, install_plugin: Install) -> None:
    install_plugin("first-plugin", ENCODER.format(name="random"))
    with pytest.raises(UsageError, match=r"'random'.*mmeb-harness.*first-plugin"):
        _ = build_registry({}).cards


TASK = """
import mmeb_harness as mh

@mh.hookimpl
def register_tasks(register):
    register(mh.Task(name="{name}", suite="{suite}", meta_task="vqa", split="ood",
                     loader="{module}:load"))

def load(task, location):
    queries = [mh.Item(text=f"number {{n}}", role="query") for n in range(3)]
    pool = [mh.Item(text=f"number {{n}}", role="candidate") for n in range(3)]
    return mh.TaskData.from_lists(queries, pool, [0, 1, 2])
"""


def test_a_strangers_task_makes_a_suite_of_its_own_and_is_scored(
    site: Path, install_plugin: Install, tmp_path: Path
) -> None:
    install_plugin("own-suite", TASK.format(name="numbers", suite="own", module="own_suite"))
    run = mh.evaluate("random", suite="own", output_dir=tmp_path / "run")
    assert run.tasks["numbers"].hit_at_1 == 1.0
    assert run.overall == 1.0
    assert run.ind is None


def test_a_strangers_task_cannot_join_a_built_in_suite(site: Path, install_plugin: Install) -> None:
    install_plugin("intruder", TASK.format(name="numbers", suite="mmeb", module="intruder"))
    with pytest.raises(UsageError, match=r"intruder.*'numbers'.*'mmeb'"):
        build_registry({}).suites()


@pytest.mark.parametrize(
    "fault",
    [
        "raise ValueError('cannot load')",
        "import no_such_library",
        "return None",
        "raise SystemExit('cannot load')",
    ],
    ids=["raises", "lacks a library", "returns nothing", "exits"],
)
def test_a_strangers_loader_that_fails_fails_its_task_and_no_other(
    site: Path, install_plugin: Install, tmp_path: Path, fault: str
) -> None:
    good = TASK.format(name="good", suite="own", module="half_good")
    bad = f"""
@mh.hookimpl(specname="register_tasks")
def more(register):
    register(mh.Task(name="bad", suite="own", meta_task="vqa", split="ind",
                     loader="half_good:load_bad"))

def load_bad(task, location):
    {fault}
"""
    install_plugin("half-good", good + bad)
    run = mh.evaluate("random", suite="own", output_dir=tmp_path / "run")
    assert run.tasks["good"].status == "ok"
    assert run.tasks["bad"].status == "failed"


# -- notices ---------------------------------------------------------------------------------------

NOTICED = """
import mmeb_harness as mh

heard = []

@mh.hookimpl
def run_started(run):
    heard.append(("started", run.model, run.finished))

@mh.hookimpl
def task_scored(run, task):
    heard.append(("scored", task.name, task.status))

@mh.hookimpl
def run_finished(run):
    heard.append(("finished", run.computed > 0, run.finished is not None))
"""


def test_notices_are_sent_in_their_order(
    site: Path, install_plugin: Install, make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    install_plugin("listener", NOTICED)
    folder = make_task_folder("OK-VQA")
    mh.evaluate("random", tasks="OK-VQA,GQA", data_dir=folder, output_dir=tmp_path / "run")
    import listener  # type: ignore[import-not-found]

    assert listener.heard == [
        ("started", "random", None),
        ("scored", "GQA", "failed"),
        ("scored", "OK-VQA", "ok"),
        ("finished", True, True),
    ]


@pytest.mark.parametrize("fault", ["OSError", "SystemExit"])
@pytest.mark.parametrize("notice", ["run_started", "task_scored", "run_finished"])
def test_a_hook_that_raises_in_a_notice_becomes_a_warning(
    site: Path,
    install_plugin: Install,
    make_task_folder: MakeFolder,
    tmp_path: Path,
    notice: str,
    fault: str,
) -> None:
    name = f"moody-{fault}-{notice.replace('_', '-')}".lower()
    install_plugin(
        name,
        f"import mmeb_harness as mh\n@mh.hookimpl\ndef {notice}(run):\n    raise {fault}('tired')",
    )
    folder = make_task_folder("OK-VQA")
    run = mh.evaluate("random", tasks="OK-VQA", data_dir=folder, output_dir=tmp_path / "run")
    assert run.tasks["OK-VQA"].status == "ok"
    (warning,) = run.record.warnings
    assert all(word in warning for word in (name, notice, "tired"))


# -- models by name --------------------------------------------------------------------------------


def model(name: str, **overrides: Any) -> Any:
    from mmeb_harness.models import resolve_model

    return resolve_model(build_registry({}), name, overrides)


def test_a_family_takes_a_reference_and_its_card_takes_overrides(tmp_path: Path) -> None:
    resolved = model("clip:some/where", prompt="stored")
    assert (resolved.card.base, resolved.card.family) == ("some/where", "clip")
    assert resolved.card.prompt == "stored"
    assert resolved.overrides == {"prompt": "stored"}


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("randm", {}, "did you mean 'random'"),
        ("clip", {}, "clip:FOLDER"),
        ("clip:", {}, "clip:FOLDER"),
        ("clip:x", {"promt": "stored"}, "did you mean 'prompt'"),
        ("clip:x", {"prompt": "poetic"}, "prompt=poetic"),
        ("random", {"max_length": 5}, "max_length"),
    ],
)
def test_wrong_names_fields_and_values_are_refused(
    name: str, overrides: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        model(name, **overrides)


def test_a_missing_requirement_is_named_with_the_command_that_installs_it(
    site: Path, install_plugin: Install
) -> None:
    source = ENCODER.format(name="needy").replace(
        'summary="from', 'requires=("no-such-distribution",), summary="from'
    )
    install_plugin("needy-plugin", source)
    with pytest.raises(mh.HarnessError, match="pip install no-such-distribution") as missing:
        mh.load_encoder("needy")
    assert missing.value.exit_status == 3


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "tab\tbed", "/absolute"])
def test_a_task_that_would_name_a_file_outside_its_folder_is_refused(name: str) -> None:
    for names in ({"name": name, "suite": "mine"}, {"name": "mine", "suite": name}):
        with pytest.raises(ValueError, match="cannot name"):
            mh.Task(meta_task="vqa", split="ood", loader="mine:load", **names)


# -- version guards --------------------------------------------------------------------------------


def test_a_library_outside_the_proven_range_is_a_warning_of_the_run(tmp_path: Path) -> None:
    from mmeb_harness.files import FileIndex
    from mmeb_harness.models import unproven
    from mmeb_harness.subject import subject_from_object

    encoder = mh.load_encoder("random")
    for wanted, warned in ((">=1", False), (">=999", True), ("<1", True)):
        card = encoder.mmeb_model.card.model_copy(update={"proven_with": {"numpy": wanted}})
        assert [f"numpy {wanted}" in line for line in unproven(card)] == [True] * warned
        encoder.mmeb_model = replace(encoder.mmeb_model, card=card)
        assert len(subject_from_object(encoder, FileIndex(tmp_path)).warnings) == warned
    run = mh.evaluate(encoder, suite="mini", tasks="GQA", output_dir=tmp_path / "run")
    assert ["was proven with numpy <1" in line for line in run.record.warnings] == [True]


def test_a_library_that_is_absent_is_no_matter_for_the_guard() -> None:
    from mmeb_harness.models import unproven

    assert unproven(mh.Card(name="x", factory="x:X", proven_with={"no-such-thing": ">=1"})) == []
