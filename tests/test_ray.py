"""Ray for real: many actors give what one process gives, and whatever dies is made good."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import ray_toys
import torch
from mmeb_harness.engines.actors.ray_cluster import token_mode
from mmeb_harness.engines.actors.sending import check_arrived, identity_of, libraries, unseal
from mmeb_harness.errors import EnvironmentFault, UsageError

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra [ray]")

TASKS = ("OK-VQA", "A-OKVQA")
MINI = "OK-VQA,MSCOCO_i2t,CIRR"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One cluster for all tests here, as somebody else would have started it."""
    with ray_toys.cluster_here() as address:
        yield address


@pytest.fixture
def cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def data(make_task_folder: Callable[..., Path]) -> Path:
    folders = [make_task_folder(task, queries=40, candidates=4) for task in TASKS]
    return folders[0]


@pytest.fixture
def footprints(tmp_path: Path) -> Path:
    (tmp_path / "footprints").mkdir()
    return tmp_path / "footprints"


def score(encoder: Any, data: Path, output: Path, **options: Any) -> mh.Run:
    """Score an encoder of the toys, in many batches."""
    place = {"tasks": ",".join(TASKS), "data_dir": data, "output_dir": output}
    return mh.evaluate(encoder, **place, **{"batch_tokens": 400, **options})


def scores(run: mh.Run) -> dict[str, tuple[str, float | None]]:
    return {name: (task.status, task.score) for name, task in run.tasks.items()}


def same(ours: dict[bytes, bytes], theirs: dict[bytes, bytes]) -> None:
    assert ours.keys() == theirs.keys()
    for key, vector in ours.items():
        gap = np.abs(np.frombuffer(vector, np.float32) - np.frombuffer(theirs[key], np.float32))
        assert gap.max() <= 1e-5


# -- the same numbers ------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_vectors_and_scores_are_those_of_one_process(
    tmp_path: Path, stored_vectors: Callable[..., Any]
) -> None:
    """On a cluster that is there; `test_same_vectors.py` has 1, 2 and 4 actors of a run's own."""

    def run(name: str, **options: Any) -> mh.Run:
        place = {"output_dir": tmp_path / name, "cache_dir": tmp_path / f"{name} cache"}
        return mh.evaluate("mini-vlm", suite="mini", tasks=MINI, limit=6, **place, **options)

    here = run("local", batch_tokens=700)
    there = run("ray", batch_tokens=700, engine="ray", actors=2, workers=1)
    assert scores(there) == scores(here)
    same(stored_vectors(tmp_path / "ray cache"), stored_vectors(tmp_path / "local cache"))
    record = there.record
    assert (record.engine, record.actors, record.workers) == ("ray", 2, 1)
    assert record.computed == here.record.computed


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_a_second_run_computes_nothing_and_starts_nothing(
    data: Path, tmp_path: Path, footprints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(ray_toys.Toy(footprints), data, tmp_path / "run", actors=2)
    assert list(footprints.iterdir())
    assert not (footprints / str(os.getpid())).exists()
    monkeypatch.setattr("mmeb_harness.engines.actors.ray.Cluster", None)
    again = score(ray_toys.Toy(footprints), data, tmp_path / "run", actors=2)
    assert again.record.computed == 0
    assert scores(again) == scores(first)


# -- what dies -------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_actors_killed_in_mid_batch_are_replaced_and_the_run_ends_equal(
    data: Path, tmp_path: Path, footprints: Path
) -> None:
    here = score(ray_toys.Toy(), data, tmp_path / "local")
    killer = ray_toys.Killer("answer 7", footprints, times=2)
    there = score(killer, data, tmp_path / "ray", actors=2)
    assert len(list(footprints.glob("death *"))) == 2
    assert scores(there) == scores(here)
    assert there.record.computed == here.record.computed


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_a_batch_that_always_kills_its_process_fails_its_task_by_name(
    data: Path, tmp_path: Path, footprints: Path
) -> None:
    here = score(ray_toys.Toy(), data, tmp_path / "local")
    killer = ray_toys.Killer("A-OKVQA answer 39", footprints)
    there = score(killer, data, tmp_path / "ray", actors=2, batch_tokens=30)  # an item a batch
    assert there.tasks["A-OKVQA"].status == "failed"
    assert "process died 3 times (out of memory?)" in str(there.tasks["A-OKVQA"].error)
    assert scores(there)["OK-VQA"] == scores(here)["OK-VQA"]
    alone = len(list(footprints.glob("death *")))
    assert 3 <= alone <= 4, "its batch died three times alone, and once perhaps with others"


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_processes_that_all_die_at_their_start_are_one_clear_error(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFault, match="processes die, one after another"):
        score(ray_toys.DiesWhenOpened(), data, tmp_path / "ray", actors=1)


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_errors_of_our_own_arrive_as_themselves(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"^the weights in models/none cannot be loaded$"):
        score(ray_toys.NoWeights(), data, tmp_path / "none", actors=1)
    run = score(ray_toys.Shapeless(), data, tmp_path / "shapeless", actors=1)
    assert {task.status for task in run.tasks.values()} == {"failed"}
    assert all("the encoder returned an array" in str(task.error) for task in run.tasks.values())
    with pytest.raises(EnvironmentFault, match=r"^an actor cannot be started: LookupError: where"):
        score(ray_toys.Confused(), data, tmp_path / "confused", actors=1)


# -- a Ray of one's own ----------------------------------------------------------------------------


PLUGIN = """
import mmeb_harness as mh
import ray_toys
from mmeb_harness import store

store.SHARD_SECONDS = store.SHARD_SHARE = 0.0

@mh.hookimpl
def register_encoders(register):
    register(mh.Card(name="slow", factory="slow_plugin:Slow"))

class Slow(ray_toys.Toy):
    def __init__(self):
        super().__init__(seconds=0.05)

    def fingerprint(self):
        return "slow 1"
"""

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(
    tmp_path: Path, data: Path, install_plugin: Callable[..., Path], no_cluster: None
) -> Iterator[Start]:
    """Return a function that starts the same run, with two actors of its own Ray."""
    site = install_plugin("slow-plugin", PLUGIN)

    def run() -> subprocess.Popen[str]:
        arguments = ["run", "-m", "slow", "-t", ",".join(TASKS), "--data-dir", data]
        arguments += ["-o", tmp_path / "run", "--actors", "2", "--batch-tokens", "200", "--json"]
        paths = [str(site), str(Path(__file__).parent)]
        return subprocess.Popen(
            [sys.executable, "-m", "mmeb_harness", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": short},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # where pytest was started in the background, interrupts are ignored by inheritance
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        yield run


def wait_for_shards(process: subprocess.Popen[str], cache: Path, wanted: int) -> None:
    while process.poll() is None and len(set(cache.rglob("[0-9]*.arrow"))) < wanted:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes below one, however deep."""
    found = [process.pid]
    for parent in found:
        tasks = Path(f"/proc/{parent}/task").glob("*/children")
        found += [int(word) for path in tasks for word in path.read_text().split()]
    return found[1:]


def gone(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def urgency(number: int) -> int | None:
    try:
        return os.getpriority(os.PRIO_PROCESS, number)
    except ProcessLookupError:
        return None


def wait_until_gone(numbers: list[int]) -> None:
    deadline = time.monotonic() + 240
    while (left := [number for number in numbers if not gone(number)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not left, "processes of Ray were left running"


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_stopped_run_leaves_nothing_running_and_goes_on_where_it_was(
    tmp_path: Path, start: Start, stored_vectors: Callable[..., Any], number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    process = start()
    wait_for_shards(process, cache, 3)
    below = children(process)
    assert len(below) > 4, "Ray should have been running"
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert {urgency(number) for number in below} <= {ours, None}, "they yield to others"
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else -number), errors
    wait_until_gone(below)
    before = len(stored_vectors(cache))

    process = start()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert {task["status"] for task in json.loads(output)["tasks"].values()} == {"ok"}
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["engine"] == "ray"
    assert sum(record["reused"].values()) == before > 0
    assert record["computed"] == len(stored_vectors(cache)) - before > 0


# -- what is wrong is said before anything is started ----------------------------------------------


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"gpus": 99}, EnvironmentFault, "--gpus 99: this machine has"),
        ({"gpus": 1, "actors": 2}, UsageError, "leave --actors out"),
        ({"engine": "local", "actors": 2}, UsageError, "leave --engine local out"),
        ({"engine": "rya"}, UsageError, "did you mean 'ray'"),
        ({"actors": 0}, UsageError, "--actors must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_told_at_once(
    data: Path, tmp_path: Path, options: dict[str, Any], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        score(ray_toys.Toy(), data, tmp_path / "run", **options)


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("where", ["variable", "path", "home", "nowhere"])
def test_a_token_that_is_here_is_shown(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if where == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    if where == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "secret.txt")
    if where == "home":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("secret")
    assert token_mode() == ({} if where == "nowhere" else {"RAY_AUTH_MODE": "token"})


def test_without_ray_the_extra_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mmeb_harness.engines.actors.ray_cluster.installed_version", lambda name: None
    )
    with pytest.raises(EnvironmentFault, match=r'pip install "mmeb-harness\[ray\]"'):
        score(ray_toys.Toy(), data, tmp_path / "run", engine="ray")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1"),
        ("nowhere", "give HOST:PORT of the cluster's head"),
        ("ray://127.0.0.1:10001", "give HOST:PORT of the cluster's head"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, told: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(EnvironmentFault, match=told):
        score(ray_toys.Toy(), data, tmp_path / "run", engine="ray")


@pytest.mark.usefixtures("no_cluster")
def test_an_encoder_that_cannot_be_sent_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be sent to other processes"):
        score(ray_toys.Unsendable(), data, tmp_path / "run", actors=1)
    with pytest.raises(EnvironmentFault, match="was changed in memory"):
        score(ray_toys.Another(), data, tmp_path / "other", actors=1)


@pytest.mark.usefixtures("no_cluster")
def test_weights_that_were_changed_in_memory_are_never_replaced_by_those_on_disk(
    data: Path, tmp_path: Path, goldens: Path
) -> None:
    encoder = mh.load_encoder(f"qwen2-vl:{goldens}/models/tiny-qwen2vl", device="cpu")
    with torch.no_grad():
        next(encoder.module.parameters()).mul_(1.5)
    with pytest.raises(EnvironmentFault, match="was changed in memory"):
        score(encoder, data, tmp_path / "run", actors=1)


def test_ray_is_imported_only_when_it_is_used() -> None:
    code = "import sys, mmeb_harness.cli.main, mmeb_harness.api; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:1", torch.device("cuda:1")], ids=["text", "torch"])
def test_a_copy_on_a_gpu_takes_the_only_one_that_it_sees(device: Any) -> None:
    encoder: Any = ray_toys.Toy()
    encoder.device = device
    sealed = pickle.dumps(encoder)
    there: Any = unseal(sealed, on_gpu=True)
    assert there.device == type(device)("cuda")
    preparing: Any = unseal(sealed, on_gpu=False)
    assert preparing.device == device


class Weighty(ray_toys.Toy):
    def weight_folders(self) -> list[Path]:
        assert self.folder is not None
        return [self.folder]


def test_a_machine_with_other_libraries_or_weights_is_refused(footprints: Path) -> None:
    (footprints / "model.safetensors").write_bytes(b"weights")
    here = identity_of(Weighty(footprints))
    check_arrived((here, libraries()), here)
    with pytest.raises(EnvironmentFault, match=r"^torch is 1\.0 there and .* here$"):
        check_arrived((here, {**libraries(), "torch": "1.0"}), here)
    (footprints / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(EnvironmentFault, match="files of the weights there are not those"):
        check_arrived((identity_of(Weighty(footprints)), libraries()), here)
