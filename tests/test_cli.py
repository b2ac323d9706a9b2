"""The command line: exit statuses, one clear line for every mistake, and a light start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mmeb_harness.cli.main import _run
from PIL import Image

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]

INSTRUCTION = "<|image_1|>\nRepresent the given image with the following question:"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `(*arguments) -> (exit status, stdout, stderr)`, run in this process."""

    def run(*arguments: object) -> Outcome:
        status = _run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def error_line(outcome: Outcome, status: int) -> str:
    """Check that a command failed with one `error:` line and no traceback; return the line."""
    assert outcome[0] == status, outcome
    lines = [line for line in outcome[2].splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in outcome[2]
    return lines[0]


def question(
    image: str, answers: Sequence[str], images: Sequence[str] | None = None
) -> dict[str, object]:
    return {
        "qry_text": f"{INSTRUCTION} what is it?\n",
        "qry_img_path": image,
        "tgt_text": list(answers),
        "tgt_img_path": list(images) if images is not None else [""] * len(answers),
    }


# -- wrong words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "-m", "randm"], "did you mean 'random'"),
        (["run", "-m", "vlm2vec-qwen2vl-7"], "did you mean 'vlm2vec-qwen2vl-7b'"),
        (["run", "-t", "ImageNet1K"], "did you mean 'ImageNet-1K'"),
        (["run", "--suite", "mmebb"], "did you mean 'mmeb'"),
        (["run", "-m", "qwen2-vl:x/y", "-M", "poling=last"], "did you mean 'pooling'"),
        (["run", "-m", "qwen2-vl:x/y", "-M", "pooling=mean"], "'last' or 'eos'"),
        (["run", "-m", "qwen2-vl:x/y", "-M", "max_length=0"], "greater than 0"),
        (["run", "-m", "qwen2-vl:x/y", "-M", "pooling"], "KEY=VALUE"),
        (["run", "-m", "qwen2-vl"], "needs a reference"),
        (["run", "-m", "clip:"], "needs a reference"),
        (["run", "-m", "clip:./no-such-folder"], "no folder './no-such-folder'"),
        (["run", "--limt", "3"], "--limit"),
        (["run", "--limit", "0"], "at least 1"),
        (["run", "--limit", "many"], "valid integer"),
        (["run", "--scoring", "lucky"], "expected, reference"),
        (["list", "modls"], "did you mean 'models'"),
        (["show", "vlm2vec-qwen2vl"], "did you mean"),
        (["report", "no-such-run"], "holds no run"),
        (["report", "--format", "tabel"], "did you mean 'table'"),
        (["embed", "no-such-file.jsonl", "-m", "random", "-o", "v.npz"], "cannot be read"),
        (["runn"], "runn"),
    ],
)
def test_a_wrong_word_is_one_clear_line_and_status_2(
    command: Command, arguments: list[str], told: str
) -> None:
    assert told in error_line(command(*arguments), 2)


def test_json_reports_errors_as_json(command: Command) -> None:
    status, out, _ = command("run", "-m", "randm", "--json")
    assert status == 2
    assert "randm" in json.loads(out)["error"]
    status, out, _ = command("run", "--limt", "3", "--json")
    assert status == 2
    assert "--limt" in json.loads(out)["error"]


# -- surroundings -------------------------------------------------------------------------------


def test_no_data_says_how_to_fetch_it(command: Command) -> None:
    line = error_line(command("run", "-m", "random", "-t", "RefCOCO"), 3)
    assert "mmeb-harness data fetch -t RefCOCO" in line
    assert "30 GB" in line


def test_a_hub_model_without_network_is_status_3(command: Command, tmp_path: Path) -> None:
    outcome = command("run", "-m", "clip-vit-base-patch32", "--suite", "mini", "-o", tmp_path)
    assert "openai/clip-vit-base-patch32" in error_line(outcome, 3)


def test_an_output_folder_that_cannot_be_written_is_status_3(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA")
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    outcome = command(
        "run", "-m", "random", "-t", "OK-VQA", "--data-dir", data, "-o", blocked / "run"
    )
    assert str(blocked) in error_line(outcome, 3)


def test_a_device_that_is_not_there_is_status_3(command: Command, goldens: Path) -> None:
    outcome = command(
        "run", "-m", f"clip:{goldens}/models/tiny-clip", "--suite", "mini", "--device", "cuda:99"
    )
    assert "cuda:99" in error_line(outcome, 3)


def test_a_model_of_another_family_is_refused_by_name(command: Command, goldens: Path) -> None:
    outcome = command("run", "-m", f"qwen2-vl:{goldens}/models/tiny-clip", "--suite", "mini")
    assert "'clip'" in error_line(outcome, 2)


@pytest.mark.thorough
def test_broken_weights_are_status_3(command: Command, goldens: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(goldens / "models/tiny-clip", broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    items = tmp_path / "items.jsonl"
    items.write_text('{"text": "a cat"}\n')
    outcome = command("embed", items, "-m", f"clip:{broken}", "-o", tmp_path / "v.npz")
    assert "cannot be loaded" in error_line(outcome, 3)


@pytest.mark.thorough
def test_weights_that_lack_a_tensor_are_refused(
    command: Command, goldens: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(goldens / "models/tiny-clip", broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    items = tmp_path / "items.jsonl"
    items.write_text('{"text": "a cat"}\n')
    outcome = command("embed", items, "-m", f"clip:{broken}", "-o", tmp_path / "v.npz")
    assert "text_projection.weight" in error_line(outcome, 3)


# -- unusable data: the task fails by name, the others are scored ----------------------------------


def damage(folder: Path, how: str) -> str:
    """Spoil the image of a task's first query; return what the message must say."""
    path = folder / "images/OK-VQA/0.png"
    if how == "missing":
        path.unlink()
        return "does not exist"
    if how == "truncated":
        Image.effect_noise((64, 64), 80).save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:600])
        return "truncated"
    if how == "text":
        path.write_text("this is no image")
        return "not an image file"
    if how == "empty":
        path.write_bytes(b"")
        return "empty (0 bytes)"
    Image.new("1", (20000, 20000)).save(path)
    return "decompression bomb"


@pytest.mark.parametrize(
    "how",
    ["missing", "truncated", "text", "empty", pytest.param("bomb", marks=pytest.mark.thorough)],
)
def test_an_unusable_image_fails_its_task_by_name_and_no_other(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path], how: str
) -> None:
    data = make_task_folder("OK-VQA")
    make_task_folder("GQA", folder=data)
    told = damage(data, how)
    status, out, err = command(
        "run",
        "-m",
        "random",
        "-t",
        "OK-VQA,GQA",
        "--data-dir",
        data,
        "-o",
        tmp_path / "run",
        "--json",
    )
    tasks = json.loads(out)["tasks"]
    assert status == 1
    assert tasks["OK-VQA"]["status"] == "failed"
    assert told in tasks["OK-VQA"]["error"]
    assert "0.png" in tasks["OK-VQA"]["error"]
    assert tasks["OK-VQA"]["score"] is None
    assert tasks["GQA"]["status"] == "ok"
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (question("../../secret.png", ["a", "b"]), "climbs out"),
        (question("/etc/passwd", ["a", "b"]), "climbs out"),
        (question("OK-VQA/0.png", ["a", "b"], [""]), "tgt_text has 2 entries and tgt_img_path 1"),
        (question("OK-VQA/0.png", []), "no candidates"),
        (question("OK-VQA/0.png", ["a", ""]), "neither text nor image"),
    ],
)
def test_an_unusable_row_fails_its_task_by_name_and_no_other(
    command: Command,
    tmp_path: Path,
    make_task_folder: Callable[..., Path],
    row: dict[str, object],
    told: str,
) -> None:
    data = make_task_folder("GQA")
    good = question("OK-VQA/0.png", ["a", "b"])
    make_task_folder("OK-VQA", [good], folder=data)
    import pyarrow as pa

    table = pa.Table.from_pylist([good, row])
    pq.write_table(table, data / "OK-VQA/test-00000-of-00001.parquet")
    status, out, _ = command(
        "run",
        "-m",
        "random",
        "-t",
        "OK-VQA,GQA",
        "--data-dir",
        data,
        "-o",
        tmp_path / "run",
        "--json",
    )
    tasks = json.loads(out)["tasks"]
    assert status == 1
    assert told in tasks["OK-VQA"]["error"]
    assert tasks["GQA"]["status"] == "ok"


def test_a_missing_column_is_named(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA")
    path = data / "OK-VQA/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["tgt_img_path"]), path)
    status, out, _ = command(
        "run", "-m", "random", "-t", "OK-VQA", "--data-dir", data, "-o", tmp_path / "run", "--json"
    )
    assert status == 1
    assert "'tgt_img_path' is missing" in json.loads(out)["tasks"]["OK-VQA"]["error"]


# -- a run, as it is meant ------------------------------------------------------------------------


def test_a_run_prints_the_leaderboard_and_what_is_missing(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA", queries=7)
    status, out, err = command(
        "run", "-m", "random", "-t", "OK-VQA", "--data-dir", data, "-o", tmp_path / "run"
    )
    assert status == 0
    assert "OK-VQA" in out
    assert "IND" in out
    assert "random (1 of 36 tasks)" in out
    assert "35 of 36 tasks (" in out
    assert ") not run" in out
    assert "averages that need a missing task are left out" in out
    assert "Results:" in err


def test_json_holds_the_contracts_keys(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA")
    _, out, _ = command(
        "run", "-m", "random", "-t", "OK-VQA", "--data-dir", data, "-o", tmp_path / "run", "--json"
    )
    found = json.loads(out)
    assert {"model", "suite", "overall", "ind", "ood", "meta_tasks", "tasks", "output_dir"} <= set(
        found
    )
    assert found["overall"] is None
    assert found["ind"] is None
    task = found["tasks"]["OK-VQA"]
    assert {"metric", "score", "hit_at_1", "ci", "n_queries", "status"} <= set(task)
    assert 0 <= task["ci"][0] <= task["score"] <= task["ci"][1] <= 1


def test_strict_turns_a_warning_into_status_1(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA")
    arguments = ("run", "-m", "random", "-t", "OK-VQA", "--data-dir", data, "-o", tmp_path / "run")
    assert command(*arguments)[0] == 0
    assert command(*arguments, "--strict")[0] == 1  # four queries: at chance


def test_options_come_from_the_environment(
    command: Command,
    tmp_path: Path,
    make_task_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MMEB_HARNESS_DATA_DIR", str(make_task_folder("OK-VQA")))
    monkeypatch.setenv("MMEB_HARNESS_OUTPUT_DIR", str(tmp_path / "from-environment"))
    monkeypatch.setenv("MMEB_HARNESS_LIMIT", "2")
    status, out, _ = command("run", "-m", "random", "-t", "OK-VQA", "--json")
    assert status == 0
    assert json.loads(out)["tasks"]["OK-VQA"]["n_queries"] == 2
    assert (tmp_path / "from-environment/run.json").exists()


def test_a_dry_run_computes_and_writes_nothing(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA", queries=3, candidates=2)
    arguments = (
        "run",
        "-m",
        "random",
        "-t",
        "OK-VQA,GQA",
        "--data-dir",
        data,
        "-o",
        tmp_path / "run",
    )
    status, out, _ = command(*arguments, "--dry-run")
    assert status == 0
    assert "7 items" in out  # 3 queries, 4 distinct answers
    assert "missing     GQA: no data" in out
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("cache/vectors/*/*.arrow"))
    command(*arguments)
    _, out, _ = command(*arguments, "--dry-run", "--json")
    assert json.loads(out)["items"] == 0
    assert json.loads(out)["reused"] == 7


def test_embed_keeps_the_order_and_reports_the_unusable(command: Command, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    items.write_text('{"text": "b"}\n\n{"text": "a", "image": "red.png"}\n{"text": "b"}\n')
    status, _, _ = command("embed", items, "-m", "random", "-o", tmp_path / "v.npz")
    vectors = np.load(tmp_path / "v.npz")["embeddings"]
    assert status == 0
    assert vectors.shape == (3, 64)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])

    items.write_text('{"text": "a"}\n{"image": "blue.png"}\n')
    outcome = command("embed", items, "-m", "random", "-o", tmp_path / "w.npz")
    assert "blue.png" in error_line(outcome, 1)
    assert not (tmp_path / "w.npz").exists()


@pytest.mark.parametrize(
    ("line", "told", "status"),
    [
        ("not json", "items.jsonl:1: not JSON", 2),
        ('["a"]', "an object is needed", 2),
        ('{"txt": "a"}', "did you mean 'text'", 2),
        ('{"text": 3}', "must be a string", 2),
        ('{"role": "asker", "text": "a"}', "query or candidate", 2),
        ('{"image": "../secret.png"}', "climbs out", 1),
        ("{}", "neither text nor image", 1),
    ],
)
def test_a_bad_line_of_items_is_named(
    command: Command, tmp_path: Path, line: str, told: str, status: int
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(line + "\n")
    outcome = command("embed", items, "-m", "random", "-o", tmp_path / "v.npz")
    assert told in error_line(outcome, status)


def test_cache_lists_and_clears(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA", queries=3, candidates=2)
    arguments = ("run", "-m", "random", "-t", "OK-VQA", "--data-dir", data, "-o", tmp_path / "run")
    command(*arguments)
    assert "7 vectors" in command("cache", "list")[1]
    assert "did you mean 'random'" in error_line(command("cache", "clear", "-m", "randm", "-y"), 2)
    assert command("cache", "clear", "--yes") == (0, "deleted 7 vectors\n", "")
    assert "vectors" not in command("cache", "list")[1].replace("cache  ", "")
    assert "7 items to encode" in command(*arguments)[2]


def test_report_sets_runs_side_by_side(
    command: Command, tmp_path: Path, make_task_folder: Callable[..., Path]
) -> None:
    data = make_task_folder("OK-VQA")
    for limit in (2, 3):
        command(
            "run", "-m", "random", "-t", "OK-VQA", "--data-dir", data,
            "-o", tmp_path / f"run{limit}", "--limit", limit,
        )  # fmt: skip
    status, out, _ = command("report", tmp_path / "run2", tmp_path / "run3")
    assert status == 0
    assert "first 2" in out.replace("\n", " ")
    assert "first 3" in out.replace("\n", " ")
    saved = tmp_path / "report.txt"
    command("report", tmp_path / "run2", "-o", saved)
    assert "OK-VQA" in saved.read_text()


# -- a light start --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list", "tasks"], ["list", "models"], ["show", "clip"]],
)
def test_help_and_lists_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from mmeb_harness.cli.main import _run; "
        f"status = _run({arguments!r}); "
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'pyarrow', 'numpy', 'PIL'}; "
        "heavy &= set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_teaches(command: Command) -> None:
    _, out, _ = command("run", "--help")
    for told in ("--data-dir", "--dry-run", "Examples:", "--scoring", "it computes nothing"):
        assert told in " ".join(out.split())
