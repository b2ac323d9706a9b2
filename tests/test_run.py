"""Whole runs over small data made here, with encoders such as a stranger would write."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow.parquet as pq
import pytest
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.rows import read_items, read_rows
from PIL import Image

MakeFolder = Callable[..., Path]
Stored = Callable[[Path], dict[bytes, bytes]]
COLUMNS = [
    *("query", "better", "tied", "tied_gold", "hit_at_1", "top_candidates", "top_scores"),
    *("query_item", "gold_items", "top_items", "cluster"),
]


def content_of(item: mh.Item) -> str:
    image = "" if item.image is None else Path(str(item.image)).read_bytes().hex()
    return f"{item.text} {image} {item.instruction} {item.role}"


def pointed_at(folder: Path, task: str) -> list[tuple[str | None, ...]]:
    """Return of each query the texts that its row points at: its own, the gold's, the best."""
    rows, items = read_rows(folder, task), read_items(folder, task)
    assert rows is not None
    assert items is not None
    return [
        tuple(items.texts[item] for item in (query, *gold, *top))
        for query, gold, top in zip(rows.query_items, rows.gold_items, rows.top_items, strict=True)
    ]


class Live:
    """Level 1, without a fingerprint: a vector decided by all of an item; notes what it is given.

    An item whose text holds `trouble` is met with `response`.
    """

    def __init__(self, trouble: str = "", response: Callable[[], Any] = lambda: 0.0) -> None:
        self.seen: list[mh.Item] = []
        self.batches: list[int] = []
        self.trouble, self.response = trouble, response

    def encode(self, items: Sequence[mh.Item]) -> Any:
        self.batches.append(len(items))
        rows = np.array([self._vector(item) for item in items])
        self.seen.extend(items)
        return rows

    def _vector(self, item: mh.Item) -> Any:
        if self.trouble and self.trouble in (item.text or ""):
            return np.full(16, self.response())
        seed = hashlib.sha256(content_of(item).encode()).digest()
        return np.random.default_rng(list(seed)).standard_normal(16)


class Kept(Live):
    """The same with a fingerprint: its vectors are kept across runs."""

    def fingerprint(self) -> str:
        return "content 1"


def fail(error: Exception) -> Callable[[], Any]:
    def response() -> Any:
        raise error

    return response


def run(encoder: Any, folder: Path, output: Path, **options: Any) -> mh.Run:
    return mh.evaluate(encoder, data_dir=folder, output_dir=output, **options)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def data(make_task_folder: MakeFolder) -> Path:
    """Two tasks of four questions with three answers each."""
    make_task_folder("OK-VQA")
    return make_task_folder("A-OKVQA")


BOTH = ["OK-VQA", "A-OKVQA"]

# -- what is written -------------------------------------------------------------------------------


def test_a_run_scores_its_tasks_and_writes_them(data: Path, tmp_path: Path) -> None:
    result = run(Kept(), data, tmp_path / "run", tasks=BOTH)
    assert {name: task.status for name, task in result.tasks.items()} == dict.fromkeys(BOTH, "ok")
    for name in BOTH:
        task = read_json(tmp_path / f"run/tasks/{name}.json")
        rows = pq.read_table(tmp_path / f"run/tasks/{name}.parquet")
        assert rows.column_names == COLUMNS
        assert rows["query"].to_pylist() == [0, 1, 2, 3]
        assert task["hit_at_1"] == task["score"] == np.mean(rows["hit_at_1"].to_pylist())
        assert result.tasks[name].hit_at_1 == task["hit_at_1"]
        assert task["ci"][0] < task["ci"][1]
        assert task["chance"] == pytest.approx(1 / 3)
        assert (task["n_queries"], task["n_candidates"]) == (4, [3, 3])
        assert [sorted(top) for top in rows["top_candidates"].to_pylist()] == [[0, 1, 2]] * 4
        assert all(top == sorted(top, reverse=True) for top in rows["top_scores"].to_pylist())
    assert (tmp_path / "run/plan.arrow").is_file()
    assert not list((tmp_path / "run").rglob(".*")), "nothing half-written is left"


def test_the_score_is_that_of_the_vectors_compared_by_hand(data: Path, tmp_path: Path) -> None:
    result = run(Kept(), data, tmp_path / "run", tasks="OK-VQA")
    table = pq.read_table(data / "OK-VQA/test-00000-of-00001.parquet").to_pylist()
    hits, encoder = [], Live()
    for row in table:
        asked = "Represent the given image with the following question:"
        query = mh.Item(
            text=row["qry_text"],
            image=str(data / "images" / row["qry_img_path"]),
            instruction=asked,
            role="query",
        )
        answers = [mh.Item(text=text, role="candidate") for text in row["tgt_text"]]
        vectors = encoder.encode([query, *answers])
        cosines = vectors[1:] @ vectors[0] / np.linalg.norm(vectors[1:], axis=1)
        hits.append(float(cosines.argmax() == 0))
    assert result.tasks["OK-VQA"].hit_at_1 == np.mean(hits)
    rows = pq.read_table(tmp_path / "run/tasks/OK-VQA.parquet")
    assert rows["hit_at_1"].to_pylist() == hits


def test_run_json_holds_everything_that_could_change_a_number(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    mh.evaluate(
        "random", tasks=BOTH, data_dir=data, output_dir=tmp_path / "run", batch_tokens=300,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    record = read_json(tmp_path / "run/run.json")
    assert record["card"]["name"] == record["model"] == "random"
    assert record["card"]["factory"] == "mmeb_harness.plugins.random:Random"
    assert record["plugin"]["distribution"] == "mmeb-harness"
    assert record["plugin"]["version"]
    for name in ("python", "torch", "transformers", "pillow", "numpy", "mmeb-harness"):
        assert record["versions"][name], name
    assert record["stack"]["resized_image"]
    assert record["batch_tokens"] == 300
    assert {"overrides", "revisions", "dtype", "device", "attention", "seed"} <= record.keys()
    assert record["device_name"]
    assert record["command"]
    assert record["encoder"]
    assert (record["suite"], record["tasks"]) == ("mmeb", BOTH)
    assert record["data_dir"] == str(data)
    assert (record["scoring"], record["similarity"], record["engine"]) == (
        "expected", "cosine", "local",
    )  # fmt: skip
    assert record["started"] <= record["finished"]
    assert record["computed"] == len(stored_vectors(tmp_path / "cache"))
    assert record["reused"] == {}
    for name in BOTH:
        assert len(read_json(tmp_path / f"run/tasks/{name}.json")["data_digest"]) == 64


@pytest.mark.parametrize("change", ["a row", "an image"])
def test_the_data_digest_changes_with_the_data(
    make_task_folder: MakeFolder, tmp_path: Path, change: str
) -> None:
    folder = make_task_folder("OK-VQA")
    first = run(Kept(), folder, tmp_path / "one", tasks="OK-VQA")
    again = run(Kept(), folder, tmp_path / "two", tasks="OK-VQA")
    if change == "a row":
        make_task_folder("OK-VQA", candidates=2)
    else:
        Image.new("RGB", (9, 9), "red").save(folder / "images/OK-VQA/1.png")
    changed = run(Kept(), folder, tmp_path / "three", tasks="OK-VQA")
    digests = [one.tasks["OK-VQA"].data_digest for one in (first, again, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_reused_vectors_are_counted_by_the_run_they_come_from(data: Path, tmp_path: Path) -> None:
    first = run(Kept(), data, tmp_path / "one", tasks="OK-VQA")
    second = run(Kept(), data, tmp_path / "two", tasks=BOTH)
    assert second.record.reused == {str(tmp_path / "one"): first.record.computed}
    assert second.record.computed > 0


def test_averages_over_an_incomplete_suite_are_none(data: Path, tmp_path: Path) -> None:
    result = run(Kept(), data, tmp_path / "run", tasks=BOTH)
    assert (result.overall, result.ind, result.meta_tasks["vqa"]) == (None, None, None)
    assert len(result.summary.missing) == 34
    assert result.to_json()["overall"] is None


def test_a_constant_encoder_scores_chance_through_a_whole_run(data: Path, tmp_path: Path) -> None:
    class Constant:
        def encode(self, items: Sequence[mh.Item]) -> Any:
            return np.tile(np.float32([0.3, -1.7, 2.9]), (len(items), 1))

    result = run(Constant(), data, tmp_path / "run", tasks=BOTH)
    for task in result.tasks.values():
        assert task.hit_at_1 == pytest.approx(1 / 3, abs=1e-9)
        assert task.ties == 1.0
        assert any("collapsed" in warning for warning in task.warnings)
        assert any("chance" in warning for warning in task.warnings)
        assert any("tied" in warning for warning in task.warnings)


# -- nothing is computed twice ---------------------------------------------------------------------


def test_a_second_run_computes_nothing_reads_no_image_and_scores_the_same(
    data: Path, tmp_path: Path, opened_files: list[str]
) -> None:
    time.sleep(0.05)  # images younger than the clock's tick are not remembered
    opened_files.clear()
    first = run(Kept(), data, tmp_path / "run", tasks=BOTH)
    images = {str(path) for path in (data / "images").rglob("*.png")}
    assert images <= set(opened_files), "the images were not read even once: no test"
    opened_files.clear()
    encoder = Kept()
    second = run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert encoder.batches == []
    assert images & set(opened_files) == set()
    assert second.record.computed == 0
    assert sum(second.record.reused.values()) == first.record.computed
    assert second.tasks == first.tasks


def test_a_second_run_into_another_folder_computes_nothing_either(
    data: Path, tmp_path: Path
) -> None:
    first = run(Kept(), data, tmp_path / "one", tasks=BOTH)
    encoder = Kept()
    second = run(encoder, data, tmp_path / "two", tasks=BOTH)
    assert encoder.batches == []
    assert second.tasks == first.tasks


def test_adding_a_task_to_a_finished_run_encodes_only_its_items(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    first = Kept()
    run(first, data, tmp_path / "run", tasks="OK-VQA")
    second = Kept()
    result = run(second, data, tmp_path / "run", tasks=BOTH)
    assert {name: task.status for name, task in result.tasks.items()} == dict.fromkeys(BOTH, "ok")
    assert second.seen
    assert all("OK-VQA/" not in str(item.image).replace("A-OKVQA/", "") for item in second.seen)
    assert {content_of(item) for item in first.seen}.isdisjoint(map(content_of, second.seen))
    stored_vectors(tmp_path / "cache")


def test_the_results_of_a_finished_run_stay_when_another_task_is_run(
    data: Path, tmp_path: Path
) -> None:
    run(Kept(), data, tmp_path / "run", tasks="OK-VQA")
    result = run(Kept(), data, tmp_path / "run", tasks="A-OKVQA")
    assert set(result.tasks) == set(BOTH)


def test_an_item_shared_by_two_tasks_is_encoded_once(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    for name in BOTH:
        folder = make_task_folder(name, [row("same query", ["same answer", name])])
    encoder = Kept()
    run(encoder, folder, tmp_path / "run", tasks=BOTH)
    texts = [item.text for item in encoder.seen]
    assert sorted(map(str, texts)) == ["A-OKVQA", "OK-VQA", "same answer", "same query"]


def row(query: str, answers: list[str], image: str = "", images: Any = None) -> dict[str, Any]:
    return {
        "qry_text": query,
        "qry_img_path": image,
        "tgt_text": answers,
        "tgt_img_path": images or [""] * len(answers),
    }


def test_equal_content_under_another_path_has_one_vector(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    rows = [row("<|image_1|>\nwhat?\n", ["one", "two"], f"OK-VQA/{n}.png") for n in range(3)]
    folder = make_task_folder("OK-VQA", rows)
    for name in ("1.png", "2.png"):
        content = (folder / "images/OK-VQA/0.png").read_bytes()
        (folder / "images/OK-VQA" / name).write_bytes(content)
    encoder = Kept()
    run(encoder, folder, tmp_path / "run", tasks="OK-VQA")
    assert sum(item.image is not None for item in encoder.seen) == 1

    (folder / "images").rename(tmp_path / "elsewhere")
    again = Kept()
    run(again, folder, tmp_path / "other", tasks="OK-VQA", image_dir=tmp_path / "elsewhere")
    assert again.batches == []


def test_a_level_1_encoder_is_shown_role_and_instruction_and_keyed_by_them(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    asked = "Represent the given image with the following question:"
    folder = make_task_folder("OK-VQA", [row(f"{asked} x", [f"{asked} x", "y"])])
    encoder = Kept()
    run(encoder, folder, tmp_path / "run", tasks="OK-VQA")
    seen = {(item.text, item.role, item.instruction) for item in encoder.seen}
    assert seen == {
        (f"{asked} x", "query", asked),
        (f"{asked} x", "candidate", None),
        ("y", "candidate", None),
    }


def test_a_level_2_encoder_is_keyed_by_what_it_renders_alone(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_task_folder("OK-VQA", [row("x", ["x", "y"])])
    result = run("random", folder, tmp_path / "run", tasks="OK-VQA")
    assert result.record.computed == 2
    assert result.tasks["OK-VQA"].hit_at_1 == 1.0


@pytest.mark.parametrize("how", ["rewritten", "same size and time", "replaced"])
def test_a_changed_image_is_computed_again_and_alone(data: Path, tmp_path: Path, how: str) -> None:
    path = data / "images/OK-VQA/2.png"
    content = b"P6 2 1 255 " + b"abcdef"
    path.write_bytes(content)
    time.sleep(0.05)
    run(Kept(), data, tmp_path / "run", tasks=BOTH)
    status = path.stat()
    target = path.with_name("new.png") if how == "replaced" else path
    target.write_bytes(content.replace(b"f", b"ff" if how == "rewritten" else b"g"))
    if how != "rewritten":
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert target.stat().st_size == status.st_size
    os.replace(target, path)
    encoder = Kept()
    run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert [item.image for item in encoder.seen] == [str(path)]


def test_an_encoder_with_another_fingerprint_shares_nothing(data: Path, tmp_path: Path) -> None:
    class Newer(Kept):
        def fingerprint(self) -> str:
            return "content 2"

    first = run(Kept(), data, tmp_path / "one", tasks=BOTH)
    second = run(Newer(), data, tmp_path / "two", tasks=BOTH)
    assert second.record.computed == first.record.computed


def test_an_encoder_without_fingerprint_is_cached_in_its_run_folder_alone(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    first = run(Live(), data, tmp_path / "run", tasks=BOTH)
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert len(stored_vectors(tmp_path / "run/vectors")) == first.record.computed
    again = Live()
    run(again, data, tmp_path / "run", tasks=BOTH)
    assert again.batches == []
    elsewhere = Live()
    run(elsewhere, data, tmp_path / "other", tasks=BOTH)
    assert len(elsewhere.seen) == first.record.computed


def test_a_damaged_stored_vector_is_computed_again_and_told(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    first = run(Kept(), data, tmp_path / "run", tasks=BOTH)
    shard = next((tmp_path / "cache/vectors").rglob("*.arrow"))
    content = bytearray(shard.read_bytes())
    vector = next(one for one in stored_vectors(tmp_path / "cache").values() if one in content)
    content[content.index(vector) + 2] ^= 1
    shard.write_bytes(content)
    encoder = Kept()
    second = run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert len(encoder.seen) == 1
    assert any("damaged" in warning for warning in second.record.warnings)
    assert second.tasks == first.tasks


# -- what fails, fails by name ---------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_a_vector_that_is_not_finite_fails_its_task_by_name_and_no_other(
    data: Path, tmp_path: Path, bad: float
) -> None:
    with np.errstate(over="ignore"):
        encoder = Kept("A-OKVQA answer 5", lambda: bad)
        result = run(encoder, data, tmp_path / "run", tasks=BOTH)
    failed, good = result.tasks["A-OKVQA"], result.tasks["OK-VQA"]
    assert (failed.status, failed.score, failed.hit_at_1) == ("failed", None, None)
    assert "'A-OKVQA answer 5'" in str(failed.error)
    assert "not finite" in str(failed.error)
    assert (good.status, good.error) == ("ok", None)
    assert [task.name for task in result.failed] == ["A-OKVQA"]
    assert not (tmp_path / "run/tasks/A-OKVQA.parquet").exists()
    assert read_json(tmp_path / "run/tasks/A-OKVQA.json")["status"] == "failed"


def test_only_what_failed_is_tried_again(data: Path, tmp_path: Path) -> None:
    run(Kept("A-OKVQA answer 5", lambda: float("nan")), data, tmp_path / "run", tasks=BOTH)
    encoder = Kept()
    result = run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert [item.text for item in encoder.seen] == ["A-OKVQA answer 5"]
    assert result.failed == []


def test_a_failed_item_removes_the_rows_of_an_earlier_success(data: Path, tmp_path: Path) -> None:
    run(Kept(), data, tmp_path / "run", tasks=BOTH)
    assert (tmp_path / "run/tasks/OK-VQA.parquet").exists()
    (data / "images/OK-VQA/2.png").unlink()
    result = run(Kept(), data, tmp_path / "run", tasks=BOTH)
    assert result.tasks["OK-VQA"].status == "failed"
    assert not (tmp_path / "run/tasks/OK-VQA.parquet").exists()


def test_an_encoder_that_raises_on_one_item_fails_its_task_by_name_and_no_other(
    data: Path, tmp_path: Path
) -> None:
    encoder = Kept("A-OKVQA answer 5", fail(RuntimeError("no such word\nsecond line")))
    result = run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert result.tasks["OK-VQA"].status == "ok"
    error = str(result.tasks["A-OKVQA"].error)
    assert "'A-OKVQA answer 5'" in error
    assert "RuntimeError: no such word" in error
    assert "second line" not in error
    assert not any(item.text == "A-OKVQA answer 5" for item in encoder.seen)


def test_an_encoder_that_raises_on_everything_fails_every_task_and_soon_gives_up(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    for name in BOTH:
        folder = make_task_folder(name, queries=60)
    calls = []

    class Unreachable(Kept):
        def encode(self, items: Sequence[mh.Item]) -> Any:
            calls.append(len(items))
            raise RuntimeError("the server is gone")

    result = run(Unreachable(), folder, tmp_path / "run", tasks=BOTH, batch_tokens=2048)
    assert [task.status for task in result.tasks.values()] == ["failed", "failed"]
    assert all("the server is gone" in str(task.error) for task in result.tasks.values())
    assert len(calls) < 2 * calls[0], "it went on after the first batch"


@pytest.mark.parametrize(
    "shape",
    [lambda n: (n + 1, 4), lambda n: (n - 1, 4), lambda n: (n,), lambda n: (n, 2, 2), lambda _: ()],
    ids=["too many", "too few", "flat", "three-dimensional", "a number"],
)
def test_an_array_of_the_wrong_shape_fails_every_task_and_says_so(
    data: Path, tmp_path: Path, shape: Callable[[int], tuple[int, ...]]
) -> None:
    class Misshapen:
        def encode(self, items: Sequence[mh.Item]) -> Any:
            return np.ones(shape(len(items)))

    result = run(Misshapen(), data, tmp_path / "run", tasks=BOTH)
    assert [task.status for task in result.tasks.values()] == ["failed", "failed"]
    assert all("shape" in str(task.error) for task in result.tasks.values())


def test_vectors_of_differing_length_fail_every_task_and_say_so(data: Path, tmp_path: Path) -> None:
    class Growing:
        calls = 4

        def encode(self, items: Sequence[mh.Item]) -> Any:
            self.calls += 1
            return np.ones((len(items), self.calls))

    result = run(Growing(), data, tmp_path / "run", tasks=BOTH, batch_tokens=600)
    assert [task.status for task in result.tasks.values()] == ["failed", "failed"]


def test_what_is_no_array_fails_every_task(data: Path, tmp_path: Path) -> None:
    class Wordy:
        def encode(self, items: Sequence[mh.Item]) -> Any:
            return [["not", "a", "number"]] * len(items)

    result = run(Wordy(), data, tmp_path / "run", tasks=BOTH)
    assert [task.status for task in result.tasks.values()] == ["failed", "failed"]


def test_lists_tensors_and_doubles_are_vectors_too(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    import torch

    class Converted(Live):
        def __init__(self, convert: Callable[[Any], Any]) -> None:
            super().__init__()
            self.convert = convert

        def encode(self, items: Sequence[mh.Item]) -> Any:
            return self.convert(super().encode(items).astype(np.float32))

    conversions: dict[str, Callable[[Any], Any]] = {
        "plain": lambda rows: rows,
        "lists": lambda rows: rows.tolist(),
        "doubles": lambda rows: rows.astype(np.float64),
        "tensor": torch.tensor,
        "gradients": lambda rows: torch.tensor(rows, requires_grad=True),
        "backwards": lambda rows: np.asfortranarray(rows),
    }
    seen = set()
    for name, convert in conversions.items():
        run(Converted(convert), data, tmp_path / name, tasks="OK-VQA")
        seen.add(frozenset(stored_vectors(tmp_path / name / "vectors").items()))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [("absent", "does not exist"), ("empty", "empty"), ("text", "not an image")],
)
def test_an_unusable_image_fails_its_task_by_name_and_no_other(
    data: Path, tmp_path: Path, trouble: str, told: str
) -> None:
    path = data / "images/OK-VQA/2.png"
    if trouble == "absent":
        path.unlink()
    else:
        path.write_bytes(b"" if trouble == "empty" else b"hello")
    result = run("random", data, tmp_path / "run", tasks=BOTH)
    assert result.tasks["A-OKVQA"].status == "ok"
    error = str(result.tasks["OK-VQA"].error)
    assert str(path) in error
    assert told in error


def test_something_that_does_not_encode_is_refused_before_anything_is_done(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="encode"):
        run(object(), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_refused_naming_the_nearest(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="output_dir"):
        mh.evaluate("random", data_dir=data, output_dit=tmp_path / "run")


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"batch_tokens": 0}, {"workers": -1}, {"scoring": "best"}]
)
def test_numbers_and_words_out_of_range_are_refused(
    data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).replace("_", "-")):
        run("random", data, tmp_path / "run", **options)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_encoded(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    encoder = Kept()
    with pytest.raises(EnvironmentFault, match="file"):
        run(encoder, data, tmp_path / "file/run")
    assert encoder.batches == []


# -- memory, workers, batches ----------------------------------------------------------------------


class Cramped(Kept):
    """Runs out of memory on more than two items at once."""

    def encode(self, items: Sequence[mh.Item]) -> Any:
        import torch

        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode(items)


def test_running_out_of_memory_recuts_the_batch_and_gives_the_same_vectors(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    roomy, cramped = Kept(), Cramped()
    whole = run(roomy, data, tmp_path / "one", tasks=BOTH, cache_dir=tmp_path / "cache one")
    recut = run(cramped, data, tmp_path / "two", tasks=BOTH, cache_dir=tmp_path / "cache two")
    assert max(roomy.batches) > 2 == max(cramped.batches)
    assert stored_vectors(tmp_path / "cache one") == stored_vectors(tmp_path / "cache two")
    assert {name: task.score for name, task in recut.tasks.items()} == {
        name: task.score for name, task in whole.tasks.items()
    }
    assert any("smaller" in warning for warning in recut.record.warnings)
    assert whole.record.warnings == ()


def test_batches_stay_within_the_token_budget(data: Path, tmp_path: Path) -> None:
    small, large = Live(), Live()
    run(small, data, tmp_path / "one", tasks=BOTH, batch_tokens=600)
    run(large, data, tmp_path / "two", tasks=BOTH, batch_tokens=60000)
    assert len(large.batches) == 2 < len(small.batches)  # pictures, and texts
    assert sorted(map(content_of, small.seen)) == sorted(map(content_of, large.seen))


@pytest.mark.thorough
def test_worker_processes_give_the_same_vectors(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    for workers in (0, 2):
        result = run(
            "random", data, tmp_path / f"run {workers}", tasks=BOTH, workers=workers,
            batch_tokens=200, cache_dir=tmp_path / f"cache {workers}",
        )  # fmt: skip
        assert result.failed == []
        assert result.record.workers == workers
    assert stored_vectors(tmp_path / "cache 0") == stored_vectors(tmp_path / "cache 2")
    assert stored_vectors(tmp_path / "cache 0")


def test_an_object_that_cannot_travel_to_a_worker_runs_where_it_is(
    data: Path, tmp_path: Path
) -> None:
    class Locked(Kept):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    result = run(Locked(), data, tmp_path / "run", tasks=BOTH, workers=2)
    assert result.failed == []


# -- one folder, one run ---------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"limit": 2}, {"scoring": "reference"}], ids=str)
def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_touched(
    data: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(Kept(), data, tmp_path / "run", tasks=BOTH)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=next(iter(change))) as refusal:
        run(Kept(), data, tmp_path / "run", tasks=BOTH, **change)
    assert "--fresh" in str(refusal.value)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_another_encoder_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    run(Kept(), data, tmp_path / "run", tasks=BOTH)
    with pytest.raises(UsageError, match="model"):
        run("random", data, tmp_path / "run", tasks=BOTH)


def test_fresh_replaces_the_run_and_computes_everything_anew(data: Path, tmp_path: Path) -> None:
    first = run(Kept(), data, tmp_path / "run", tasks=BOTH)
    encoder = Kept()
    result = run(encoder, data, tmp_path / "run", tasks="OK-VQA", fresh=True, scoring="reference")
    assert set(result.tasks) == {"OK-VQA"}
    assert sorted(path.name for path in (tmp_path / "run/tasks").iterdir()) == [
        "OK-VQA.items.parquet", "OK-VQA.json", "OK-VQA.parquet",
    ]  # fmt: skip
    assert result.record.reused == {}
    assert result.record.computed == len(encoder.seen) > 0
    assert result.record.computed < first.record.computed


def test_a_run_begun_afresh_reuses_its_own_vectors_when_run_again(
    data: Path, tmp_path: Path
) -> None:
    run(Kept(), data, tmp_path / "run", tasks=BOTH)
    run(Kept(), data, tmp_path / "run", tasks=BOTH, fresh=True)
    encoder = Kept()
    result = run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert encoder.batches == []
    assert result.failed == []


def test_a_task_can_be_added_to_a_run_begun_afresh(data: Path, tmp_path: Path) -> None:
    run(Kept(), data, tmp_path / "run", tasks="OK-VQA", fresh=True)
    encoder = Kept()
    result = run(encoder, data, tmp_path / "run", tasks=BOTH)
    assert {name: task.status for name, task in result.tasks.items()} == dict.fromkeys(BOTH, "ok")
    assert not any("OK-VQA/" in str(item.image).replace("A-OKVQA/", "") for item in encoder.seen)


def test_a_run_begun_afresh_and_stopped_goes_on_with_its_own_vectors_alone(
    data: Path, tmp_path: Path
) -> None:
    class Stopped(Kept):
        __qualname__ = Kept.__qualname__  # the same encoder, stopped

        def encode(self, items: Sequence[mh.Item]) -> Any:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode(items)

    total = run(Kept(), data, tmp_path / "run", tasks=BOTH, batch_tokens=600).record.computed
    stopped = Stopped()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, data, tmp_path / "run", tasks=BOTH, batch_tokens=600, fresh=True)
    assert 0 < len(stopped.seen) < total
    rest = Kept()
    result = run(rest, data, tmp_path / "run", tasks=BOTH, batch_tokens=600)
    assert len(rest.seen) == total - len(stopped.seen)
    assert result.failed == []


def test_a_stopped_run_goes_on_with_the_same_batches(
    data: Path, tmp_path: Path, stored_vectors: Stored
) -> None:
    class Stopped(Kept):
        __qualname__ = Kept.__qualname__  # the same encoder, stopped

        def encode(self, items: Sequence[mh.Item]) -> Any:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode(items)

    whole, stopped, rest = Kept(), Stopped(), Kept()
    options = {"tasks": BOTH, "batch_tokens": 600}
    expected = run(whole, data, tmp_path / "one", cache_dir=tmp_path / "cache one", **options)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, data, tmp_path / "two", **options)
    result = run(rest, data, tmp_path / "two", **options)
    assert stopped.batches + rest.batches == whole.batches
    assert [*stopped.seen, *rest.seen] == whole.seen
    assert {name: task.score for name, task in result.tasks.items()} == {
        name: task.score for name, task in expected.tasks.items()
    }
    assert stored_vectors(tmp_path / "cache one") == stored_vectors(tmp_path / "cache")


def test_a_result_is_there_as_soon_as_its_task_is_done(data: Path, tmp_path: Path) -> None:
    class Interrupted(Kept):
        __qualname__ = Kept.__qualname__  # the same encoder, stopped

        def encode(self, items: Sequence[mh.Item]) -> Any:
            if any("A-OKVQA" in (item.text or "") for item in items):
                raise KeyboardInterrupt
            return super().encode(items)

    run(Kept(), data, tmp_path / "other", tasks="OK-VQA")
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), data, tmp_path / "run", tasks=BOTH)
    assert read_json(tmp_path / "run/tasks/OK-VQA.json")["status"] == "ok"
    assert not (tmp_path / "run/tasks/A-OKVQA.json").exists()


# -- limit and scoring -----------------------------------------------------------------------------


def test_limit_takes_the_first_queries_and_marks_the_run(data: Path, tmp_path: Path) -> None:
    whole = run(Kept(), data, tmp_path / "whole", tasks="OK-VQA")
    encoder = Live()
    result = run(encoder, data, tmp_path / "run", tasks="OK-VQA", limit=2)
    task = result.tasks["OK-VQA"]
    assert (result.record.limit, task.limit, task.n_queries) == (2, 2, 2)
    assert result.to_json()["limit"] == 2
    texts = [item.text or "" for item in encoder.seen if item.role == "query"]
    assert sorted(text[-11:].strip() for text in texts) == ["what is 0?", "what is 1?"]
    assert sorted(item.text or "" for item in encoder.seen if item.role == "candidate") == [
        f"OK-VQA answer {number}" for number in range(4)
    ]
    rows = [pq.read_table(tmp_path / name / "tasks/OK-VQA.parquet") for name in ("whole", "run")]
    outcomes = COLUMNS[: COLUMNS.index("query_item")]
    assert rows[1].select(outcomes).equals(rows[0].slice(0, 2).select(outcomes))
    pointed = [pointed_at(tmp_path / name, "OK-VQA")[:2] for name in ("whole", "run")]
    assert pointed[0] == pointed[1], "the same texts, wherever they stand among the items"
    assert whole.record.limit is None


def test_a_limit_over_the_number_of_queries_is_still_marked(data: Path, tmp_path: Path) -> None:
    result = run(Live(), data, tmp_path / "run", tasks="OK-VQA", limit=999)
    assert (result.tasks["OK-VQA"].n_queries, result.tasks["OK-VQA"].limit) == (4, 999)


def test_reference_scoring_lets_the_gold_win_ties(data: Path, tmp_path: Path) -> None:
    class Constant:
        def encode(self, items: Sequence[mh.Item]) -> Any:
            return np.ones((len(items), 2))

    result = run(Constant(), data, tmp_path / "run", tasks="OK-VQA", scoring="reference")
    assert result.tasks["OK-VQA"].hit_at_1 == 1.0
    assert result.tasks["OK-VQA"].scoring == "reference"


def test_vectors_are_compared_by_cosine(make_task_folder: MakeFolder, tmp_path: Path) -> None:
    long_and_slanted = {"query": [1, 0], "gold": [1, 0], "rival": [9, 9]}

    class Slanted:
        def encode(self, items: Sequence[mh.Item]) -> Any:
            return np.array([long_and_slanted[str(item.text)] for item in items], float)

    folder = make_task_folder("OK-VQA", [row("query", ["gold", "rival"])])
    encoder = Slanted()
    cosine = run(encoder, folder, tmp_path / "cosine", tasks="OK-VQA")
    assert cosine.tasks["OK-VQA"].hit_at_1 == 1.0
    assert cosine.record.similarity == "cosine"


# -- what must not be mistaken for the same -------------------------------------------------------


def test_two_classes_of_one_fingerprint_share_nothing(data: Path, tmp_path: Path) -> None:
    class Other(Kept):
        pass

    run(Kept(), data, tmp_path / "kept", tasks=BOTH)
    assert run(Other(), data, tmp_path / "other", tasks=BOTH).record.computed > 0


def test_a_fingerprint_that_is_none_is_no_fingerprint(data: Path, tmp_path: Path) -> None:
    class Nameless(Kept):
        def fingerprint(self) -> Any:
            return None

    run(Nameless(), data, tmp_path / "one", tasks=BOTH)
    assert run(Nameless(), data, tmp_path / "two", tasks=BOTH).record.computed > 0


def test_two_bad_items_side_by_side_fail_their_task_alone(data: Path, tmp_path: Path) -> None:
    class Picky(Kept):
        def encode(self, items: Sequence[mh.Item]) -> Any:
            if any(item.text in ("A-OKVQA answer 0", "A-OKVQA answer 1") for item in items):
                raise ValueError("not these")
            return super().encode(items)

    result = run(Picky(), data, tmp_path / "run", tasks=BOTH)
    assert {name: task.status for name, task in result.tasks.items()} == {
        "OK-VQA": "ok",
        "A-OKVQA": "failed",
    }


def test_an_encoder_that_exits_fails_its_tasks_and_not_the_process(
    data: Path, tmp_path: Path
) -> None:
    class Leaving(Kept):
        def encode(self, items: Sequence[mh.Item]) -> Any:
            raise SystemExit

    assert len(run(Leaving(), data, tmp_path / "run", tasks=BOTH).failed) == 2


def test_fresh_without_data_leaves_the_old_run_alone(data: Path, tmp_path: Path) -> None:
    run(Kept(), data, tmp_path / "run", tasks=BOTH)
    (tmp_path / "run/tasks/mine.json").write_text("{}")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(EnvironmentFault):
        run(Kept(), tmp_path / "nowhere", tmp_path / "run", tasks=BOTH, fresh=True)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before
    run(Kept(), data, tmp_path / "run", tasks=BOTH, fresh=True)
    assert (tmp_path / "run/tasks/mine.json").exists()


def test_very_large_and_very_small_vectors_score_as_their_directions_do(
    data: Path, tmp_path: Path
) -> None:
    expected = run(Kept(), data, tmp_path / "plain", tasks=BOTH)
    for number, scale in enumerate((1e25, 1e-30)):

        class Scaled(Kept):
            factor = scale

            def fingerprint(self) -> str:
                return f"scaled {self.factor}"

            def encode(self, items: Sequence[mh.Item]) -> Any:
                return np.asarray(super().encode(items), dtype=np.float64) * self.factor

        result = run(Scaled(), data, tmp_path / str(number), tasks=BOTH)
        for name in BOTH:
            assert result.tasks[name].score == expected.tasks[name].score
            assert result.tasks[name].ties == expected.tasks[name].ties
