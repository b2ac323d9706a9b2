"""Plans are cut once and read back the same; the store never gives a vector it was not given."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mmeb_harness.errors import EnvironmentFault
from mmeb_harness.files import FileIndex, cache_root, is_tidy, write_aside
from mmeb_harness.item import Rendered
from mmeb_harness.keys import item_key
from mmeb_harness.plan import (
    MAX_BATCH_ITEMS,
    cut_batches,
    make_plan,
    plan_identity,
    read_plan,
    write_plan,
)
from mmeb_harness.store import VectorStore, describe_namespace, stored_encoders
from numpy.typing import NDArray

# -- batches and plans -----------------------------------------------------------------------------

SIZES = np.random.default_rng(0).integers(1, 400, 700).astype(np.int32)


def key(number: int) -> bytes:
    return number.to_bytes(16)


@pytest.mark.parametrize("budget", [1, 50, 400, 2048, 10**9])
def test_batches_hold_every_item_once_within_the_padded_budget(budget: int) -> None:
    batches = cut_batches(SIZES, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(SIZES)))
    for batch in batches:
        assert 1 <= len(batch) <= MAX_BATCH_ITEMS
        assert len(batch) == 1 or len(batch) * SIZES[batch].max() <= budget


def test_batches_are_as_full_as_the_budget_allows() -> None:
    batches = cut_batches(SIZES, 2048)
    for batch, following in pairwise(batches):
        full = (len(batch) + 1) * int(SIZES[batch].max()) > 2048
        smaller = SIZES[following[0]] < 0.85 * SIZES[batch[0]] and SIZES[batch].sum() >= 256
        assert full or smaller or len(batch) == MAX_BATCH_ITEMS


def test_a_batch_with_work_enough_ends_where_items_become_much_smaller() -> None:
    sizes = np.array([100] * 3 + [84] * 4 + [10] * 3, dtype=np.int32)
    assert [len(batch) for batch in cut_batches(sizes, 10_000)] == [3, 4, 3]
    assert [len(batch) for batch in cut_batches(sizes, 10_000, pads=False)] == [10]
    little = np.array([100, 84, 20, 10], dtype=np.int32)
    assert [len(batch) for batch in cut_batches(little, 10_000)] == [4]
    assert [len(batch) for batch in cut_batches(sizes, 200)] == [2] * 5


def test_the_largest_items_come_first_and_equal_ones_keep_their_order() -> None:
    sizes = np.tile(np.array([3, 9], dtype=np.int32), 300)
    odd, even = list(range(1, 600, 2)), list(range(0, 600, 2))
    assert np.concatenate(cut_batches(sizes, 10)).tolist() == odd + even


def test_an_item_over_the_budget_stands_alone() -> None:
    sizes = np.array([5, 500, 5, 5], dtype=np.int32)
    batches = [batch.tolist() for batch in cut_batches(sizes, 20)]
    assert batches == [[1], [0, 2, 3]]


def test_batches_are_cut_the_same_every_time() -> None:
    first, second = cut_batches(SIZES, 999), cut_batches(SIZES.copy(), 999)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_items_without_size_are_cut_by_number() -> None:
    batches = cut_batches(np.zeros(257, dtype=np.int32), 10**9)
    assert [len(batch) for batch in batches] == [256, 1]


PICTURES = [place % 7 for place in range(700)]
ALONE = [-1 if place % 2 else place for place in range(700)]


@pytest.mark.parametrize("budget", [1, 50, 400, 2048, 10**9])
def test_batches_of_shared_images_hold_the_budget_too(budget: int) -> None:
    batches = cut_batches(SIZES, budget, PICTURES)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(SIZES)))
    for batch in batches:
        assert 1 <= len(batch) <= MAX_BATCH_ITEMS
        assert len(batch) == 1 or len(batch) * SIZES[batch].max() <= budget


def test_items_of_one_image_and_like_size_are_batched_together() -> None:
    sizes = np.array([100, 99, 98, 97, 96, 95, 50, 49], dtype=np.int32)
    pictures = [0, 1, 0, 1, -1, 0, 0, 1]
    order = [batch.tolist() for batch in cut_batches(sizes, 300, pictures)]
    assert order == [[0, 2, 5], [1, 3, 4], [6, 7]]


def test_items_of_one_image_but_other_size_are_not() -> None:
    sizes = np.array([100, 90, 84, 80], dtype=np.int32)
    order = np.concatenate(cut_batches(sizes, 100, [0, 1, 0, 1])).tolist()
    assert order == [0, 1, 3, 2]


def test_images_that_nothing_shares_change_no_batch() -> None:
    plain = [batch.tolist() for batch in cut_batches(SIZES, 2048)]
    assert [batch.tolist() for batch in cut_batches(SIZES, 2048, ALONE)] == plain


def test_little_is_padded_for_the_sake_of_an_image() -> None:
    batches = cut_batches(SIZES, 2048, PICTURES)
    padded = sum(len(batch) * int(SIZES[batch].max()) for batch in batches)
    assert padded < int(SIZES.sum()) / 0.85
    neighbours = [PICTURES[row] for batch in batches for row in batch]
    changes = sum(one != other for one, other in pairwise(neighbours))
    assert changes < len(SIZES) / 4


def test_nothing_to_do_makes_no_batches() -> None:
    none = np.zeros(0, dtype=np.int32)
    assert cut_batches(none, 10) == []
    plan = make_plan([], none, budget=10, identity="i", name="n")
    assert (list(plan.rows_by_batch()), plan.tokens) == ([], 0)


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    keys = [key(number) for number in range(len(SIZES))]
    plan = make_plan(keys, SIZES, budget=2048, identity="asked", name="this one", fresh=True)
    write_plan(plan, tmp_path)
    again = read_plan(tmp_path)
    assert again is not None
    assert (again.identity, again.name, again.fresh) == ("asked", "this one", True)
    assert list(again.keys) == list(plan.keys)
    np.testing.assert_array_equal(again.sizes, plan.sizes)
    np.testing.assert_array_equal(again.batches, plan.batches)
    assert list(again.rows_by_batch()) == list(plan.rows_by_batch())
    assert again.tokens == int(SIZES.sum())


def test_the_rows_of_a_plan_are_its_batches() -> None:
    keys = [key(number) for number in range(len(SIZES))]
    plan = make_plan(keys, SIZES, budget=2048, identity="", name="")
    expected = [[keys[item] for item in batch] for batch in cut_batches(SIZES, 2048)]
    assert [[plan.keys[row] for row in rows] for rows in plan.rows_by_batch()] == expected
    assert sorted(plan.keys) == sorted(keys)


def test_an_empty_plan_is_read_back(tmp_path: Path) -> None:
    nothing = np.zeros(0, dtype=np.int32)
    write_plan(make_plan([], nothing, budget=1, identity="i", name="n"), tmp_path)
    plan = read_plan(tmp_path)
    assert plan is not None
    assert (list(plan.keys), list(plan.rows_by_batch())) == ([], [])


def test_an_absent_or_cut_plan_is_no_plan(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    plan = make_plan([key(1)], np.array([3], np.int32), budget=9, identity="i", name="n")
    write_plan(plan, tmp_path)
    whole = (tmp_path / "plan.arrow").read_bytes()
    for length in (0, 8, len(whole) // 2, len(whole) - 1):
        (tmp_path / "plan.arrow").write_bytes(whole[:length])
        assert read_plan(tmp_path) is None, f"cut to {length} bytes"


def test_a_damaged_plan_is_no_plan_or_one_that_can_be_walked(tmp_path: Path) -> None:
    keys = [key(number) for number in range(5)]
    sizes = np.array([3, 4, 5, 6, 7], np.int32)
    write_plan(make_plan(keys, sizes, budget=9, identity="i", name="n"), tmp_path)
    whole = (tmp_path / "plan.arrow").read_bytes()
    refused = 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 0x80
        (tmp_path / "plan.arrow").write_bytes(content)
        plan = read_plan(tmp_path)
        refused += plan is None
        if plan is not None:
            assert sum(len(rows) for rows in plan.rows_by_batch()) == len(plan.keys)
    assert refused > 0


def test_a_plan_is_known_by_encoder_items_and_budget() -> None:
    identities = {
        plan_identity("encoder", [key(1), key(2)], 100),
        plan_identity("another", [key(1), key(2)], 100),
        plan_identity("encoder", [key(1)], 100),
        plan_identity("encoder", [key(1), key(2)], 101),
    }
    assert len(identities) == 4
    assert plan_identity("encoder", [key(1), key(2)], 100) in identities


# -- vectors ---------------------------------------------------------------------------------------


def vectors_of(numbers: Sequence[int], dimension: int = 6) -> NDArray[np.float32]:
    rows = [np.random.default_rng(number).standard_normal(dimension) for number in numbers]
    return np.array(rows, dtype=np.float32)


def keys_of(numbers: Sequence[int]) -> list[bytes]:
    return [key(number) for number in numbers]


def written(folder: Path, numbers: Sequence[int], **options: str) -> Path:
    """Store vectors in one shard and return its path."""
    before = set(folder.glob("*.arrow"))
    store = VectorStore(folder, **options)
    store.add(keys_of(numbers), vectors_of(numbers))
    store.flush()
    (path,) = set(folder.glob("*.arrow")) - before
    return path


def test_what_is_added_is_found_and_read_back_in_any_order(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    store.add(keys_of([1, 2, 3]), vectors_of([1, 2, 3]))
    store.add(keys_of([4]), vectors_of([4]))
    np.testing.assert_array_equal(
        store.get(keys_of([4, 1, 3, 1])), vectors_of([4, 1, 3, 1]), strict=True
    )
    assert store.find(keys_of([1, 4, 9])) == {key(1), key(4)}


@pytest.mark.parametrize("threads", ["1", "3"])
def test_many_are_read_back_from_shards_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    for shard in np.array_split(np.arange(2000), 7):
        written(tmp_path, shard.tolist())
    order = np.random.default_rng(0).integers(0, 2000, 3000).tolist()
    wanted = [*range(900), *order, *reversed(range(2000))]  # side by side, scattered, backwards
    np.testing.assert_array_equal(
        VectorStore(tmp_path).get(keys_of(wanted)), vectors_of(range(2000))[wanted], strict=True
    )


def test_sources_are_counted_over_the_shards_of_a_run(tmp_path: Path) -> None:
    written(tmp_path, [1, 2], run="first")
    written(tmp_path, [3], run="second")
    written(tmp_path, [4, 5, 6], run="first")
    found = VectorStore(tmp_path).sources(keys_of([1, 3, 4, 5]))
    assert found == {"first": 3, "second": 1}


def test_a_reopened_store_has_all_that_was_flushed(tmp_path: Path) -> None:
    written(tmp_path, [1, 2])
    written(tmp_path, [3])
    store = VectorStore(tmp_path)
    assert store.find(keys_of([1, 2, 3, 4])) == set(keys_of([1, 2, 3]))
    np.testing.assert_array_equal(store.get(keys_of([3, 1, 2])), vectors_of([3, 1, 2]))
    assert store.damaged == []


def test_nothing_is_on_disk_before_a_flush_and_nothing_is_written_twice(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    store.add(keys_of([1]), vectors_of([1]))
    assert list(tmp_path.glob("*.arrow")) == []
    store.flush()
    store.flush()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_store_finds_nothing(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "absent")
    assert store.find(keys_of([1])) == set()
    store.flush()
    assert not (tmp_path / "absent").exists()


def test_of_two_shards_with_one_key_the_newest_counts(tmp_path: Path) -> None:
    for number in (7, 8, 9):
        store = VectorStore(tmp_path)
        store.add([key(1)], vectors_of([number]))
        store.flush()
        np.testing.assert_array_equal(store.get([key(1)]), vectors_of([number]))
    np.testing.assert_array_equal(VectorStore(tmp_path).get([key(1)]), vectors_of([9]))


def test_vectors_are_counted_by_the_run_that_computed_them(tmp_path: Path) -> None:
    written(tmp_path, [1, 2], run="first")
    written(tmp_path, [3], run="second")
    assert VectorStore(tmp_path).sources(keys_of([1, 2, 3])) == {"first": 2, "second": 1}


def test_only_vectors_of_the_wanted_plan_count(tmp_path: Path) -> None:
    written(tmp_path, [1], only_plan="old")
    written(tmp_path, [2], only_plan="new")
    assert VectorStore(tmp_path, only_plan="new").find(keys_of([1, 2])) == {key(2)}
    assert VectorStore(tmp_path, only_plan="none").find(keys_of([1, 2])) == set()
    assert VectorStore(tmp_path).find(keys_of([1, 2])) == set(keys_of([1, 2]))


def test_a_store_begun_afresh_finds_what_it_adds_itself(tmp_path: Path) -> None:
    written(tmp_path, [1], only_plan="old")
    store = VectorStore(tmp_path, only_plan="new")
    store.add([key(1)], vectors_of([5]))
    np.testing.assert_array_equal(store.get([key(1)]), vectors_of([5]))


def test_a_flipped_byte_in_a_vector_loses_that_vector_alone_and_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, [1, 2, 3])
    content = bytearray(path.read_bytes())
    content[content.index(vectors_of([2]).tobytes()) + 5] ^= 1
    path.write_bytes(content)
    store = VectorStore(tmp_path)
    assert store.find(keys_of([1, 2, 3])) == {key(1), key(3)}
    assert any(key(2).hex() in damage for damage in store.damaged)
    assert store.find([key(2)]) == set()


def test_a_damaged_vector_can_be_stored_again(tmp_path: Path) -> None:
    path = written(tmp_path, [1, 2])
    content = bytearray(path.read_bytes())
    content[content.index(vectors_of([2]).tobytes())] ^= 1
    path.write_bytes(content)
    written(tmp_path, [2])
    store = VectorStore(tmp_path)
    assert store.find(keys_of([1, 2])) == set(keys_of([1, 2]))
    np.testing.assert_array_equal(store.get([key(2)]), vectors_of([2]))


def test_a_damaged_newest_copy_does_not_hide_an_intact_older_one(tmp_path: Path) -> None:
    written(tmp_path, [1])
    path = written(tmp_path, [1])
    content = bytearray(path.read_bytes())
    content[content.index(vectors_of([1]).tobytes())] ^= 1
    path.write_bytes(content)
    store = VectorStore(tmp_path)
    found = store.find([key(1)])
    assert store.damaged
    if found:  # computing it again is as good; giving the damaged one is not
        np.testing.assert_array_equal(store.get([key(1)]), vectors_of([1]))


FLIPS = """
import pickle, sys
from pathlib import Path
from mmeb_harness.store import VectorStore

whole, expected, folder = pickle.load(sys.stdin.buffer)
for mask in (0x01, 0x80):
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= mask
        path = Path(folder) / "0.arrow"
        path.unlink(missing_ok=True)  # the former one is still mapped
        path.write_bytes(content)
        print(f"byte {place} flipped by {mask:#x}", file=sys.stderr)
        store = VectorStore(Path(folder))
        for key in store.find(expected):
            assert store.get([key]).tobytes() == expected[key], "a wrong vector"
"""


@pytest.mark.thorough
def test_no_flipped_byte_anywhere_gives_a_wrong_vector_or_an_end(tmp_path: Path) -> None:
    """In a process of its own: a damaged Arrow file can end the process that maps it."""
    whole = written(tmp_path, [1, 2, 3]).read_bytes()
    expected = {key(number): vectors_of([number]).tobytes() for number in (1, 2, 3)}
    (tmp_path / "damaged").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FLIPS],
        input=pickle.dumps((whole, expected, str(tmp_path / "damaged"))),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-600:]


def test_a_cut_shard_is_ignored_and_told(tmp_path: Path) -> None:
    written(tmp_path, [1])
    path = written(tmp_path, [2, 3])
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.unlink()
        path.write_bytes(whole[:length])
        store = VectorStore(tmp_path)
        assert store.find(keys_of([1, 2, 3])) == {key(1)}, f"cut to {length} bytes"
        assert any(path.name in damage for damage in store.damaged)


def test_a_foreign_arrow_file_in_the_store_is_ignored_and_told(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"other": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "foreign.arrow"), table.schema) as writer:
        writer.write_table(table)
    store = VectorStore(tmp_path)
    assert store.find([key(1)]) == set()
    assert any("foreign.arrow" in damage for damage in store.damaged)


def test_a_half_written_shard_left_by_a_kill_is_not_seen(tmp_path: Path) -> None:
    path = written(tmp_path, [1])
    (tmp_path / f".{path.name}.0123abcd").write_bytes(path.read_bytes()[:50])
    store = VectorStore(tmp_path)
    assert (store.find([key(1)]), store.damaged) == ({key(1)}, [])


def blocked(tmp_path: Path) -> Path:
    """Return a folder that cannot be made: its parent is a file (root may write anywhere else)."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "vectors"


def test_a_store_that_cannot_be_written_is_a_fault_of_the_surroundings(tmp_path: Path) -> None:
    folder = blocked(tmp_path)
    store = VectorStore(folder)
    store.add([key(1)], vectors_of([1]))
    with pytest.raises(EnvironmentFault, match="file"):
        store.flush()


def test_a_plan_that_cannot_be_written_is_a_fault_of_the_surroundings(tmp_path: Path) -> None:
    plan = make_plan([key(1)], np.array([3], np.int32), budget=9, identity="i", name="n")
    with pytest.raises(EnvironmentFault, match="file"):
        write_plan(plan, blocked(tmp_path))


def test_stored_encoders_are_listed_with_their_names_and_numbers(tmp_path: Path) -> None:
    written(tmp_path / "abc", [1, 2])
    written(tmp_path / "abc", [3])
    describe_namespace(tmp_path / "abc", {"model": "toy"})
    describe_namespace(tmp_path / "abc", {"model": "not again"})
    (stored,) = stored_encoders(tmp_path)
    assert (stored.name, stored.vectors) == ("toy", 3)
    assert stored.size_bytes == sum(p.stat().st_size for p in (tmp_path / "abc").glob("*.arrow"))


@pytest.mark.parametrize(("hours", "most"), [(0.1, 250), (20, 1000)])
def test_a_long_run_leaves_few_files_and_loses_little_when_killed(
    hours: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, lost = 1000.0, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    store = VectorStore(tmp_path)
    step = hours * 3600 / 4000
    for number in range(4000):
        store.add([key(number)], np.ones((1, 4), np.float32))
        unsaved = sum(len(keys) for keys, _ in store._waiting) * step
        lost = max(lost, unsaved - max(1.0, 0.01 * (clock - 1000.0)))
        clock += step
    assert 10 < len(list(tmp_path.iterdir())) <= most
    assert lost <= 2 * step


# -- files -----------------------------------------------------------------------------------------


def test_a_file_written_aside_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.txt"
    with write_aside(target) as aside:
        aside.write_text("old")
        assert not target.exists()
    with pytest.raises(KeyError), write_aside(target) as aside:
        aside.write_text("half of the n")
        raise KeyError
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def settled(path: Path, content: bytes) -> Path:
    """Write a file and wait until its times are surely in the past."""
    path.write_bytes(content)
    time.sleep(0.05)
    return path


def test_an_unchanged_file_is_read_once_ever(tmp_path: Path, opened_files: list[str]) -> None:
    path = settled(tmp_path / "picture.png", b"one")
    opened_files.clear()
    index = FileIndex(tmp_path / "cache")
    first = index.digest(path)
    assert opened_files.count(str(path)) == 1
    assert index.digest(path) == first
    index.close()
    again = FileIndex(tmp_path / "cache")
    assert again.digest(path) == first
    assert opened_files.count(str(path)) == 1
    again.close()


def test_a_file_changed_without_changing_size_or_time_is_read_again(tmp_path: Path) -> None:
    index = FileIndex(tmp_path / "cache")
    path = settled(tmp_path / "picture.png", b"one")
    before, status = index.digest(path), path.stat()
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert path.stat().st_ino == status.st_ino
    assert index.digest(path) != before
    index.close()


def test_a_file_replaced_by_another_of_the_same_size_and_time_is_read_again(
    tmp_path: Path,
) -> None:
    index = FileIndex(tmp_path / "cache")
    path = settled(tmp_path / "picture.png", b"one")
    before, status = index.digest(path), path.stat()
    other = settled(tmp_path / "other.png", b"two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert index.digest(path) != before
    index.close()


def test_a_file_too_young_to_be_told_from_its_next_version_is_not_remembered(
    tmp_path: Path, opened_files: list[str]
) -> None:
    index = FileIndex(tmp_path / "cache")
    path = tmp_path / "picture.png"
    for content in (bytes([number]) for number in range(50)):
        written_at = time.monotonic()
        path.write_bytes(content)
        opened_files.clear()
        digests = [index.digest(path) for _ in range(2)]
        assert set(digests) == {sha256(content).hexdigest()}
        if time.monotonic() - written_at < 0.015:  # in time, even on a busy machine
            assert opened_files.count(str(path)) == 2
            break
    else:
        pytest.skip("this machine is too busy to read a file within 15 ms of writing it")
    index.close()


def test_relative_and_absolute_paths_are_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_files: list[str]
) -> None:
    settled(tmp_path / "picture.png", b"one")
    opened_files.clear()
    monkeypatch.chdir(tmp_path)
    index = FileIndex(tmp_path / "cache")
    assert index.digest(Path("picture.png")) == index.digest(tmp_path / "picture.png")
    assert sum(path.endswith("picture.png") for path in opened_files) == 1
    index.close()


def test_what_one_index_learns_another_may_write_beside_it(tmp_path: Path) -> None:
    """A run of hours must not keep others with the same cache waiting."""
    index = FileIndex(tmp_path / "cache")
    index.digest(settled(tmp_path / "a.png", b"one"))
    other = sqlite3.connect(index.path, timeout=0)
    try:
        other.execute("REPLACE INTO files VALUES ('b', 'state', 'digest')")
        other.commit()
    finally:
        other.close()
        index.close()


def test_a_folder_is_known_by_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    index = FileIndex(tmp_path / "cache")
    folder = tmp_path / "weights"
    folder.mkdir()
    seen = set()

    def changed(change: Callable[[], object]) -> None:
        change()
        seen.add(index.folder_digest(folder))

    changed(lambda: (folder / "a").write_text("1"))
    changed(lambda: (folder / "a").write_text("2"))
    changed(lambda: (folder / "b").write_text("1"))
    changed(lambda: (folder / "b").rename(folder / "c"))
    assert len(seen) == 4
    changed(lambda: (folder / ".hidden").write_text("1"))
    changed(lambda: os.utime(folder / "c"))
    changed(lambda: (folder / "a").write_text("2"))
    assert len(seen) == 4
    index.close()


@pytest.mark.parametrize("trouble", ["under a file", "not a database"])
def test_an_unusable_cache_is_a_fault_of_the_surroundings(tmp_path: Path, trouble: str) -> None:
    root = blocked(tmp_path)
    if trouble == "not a database":
        root = tmp_path / "cache"
        root.mkdir()
        (root / "files.sqlite").write_bytes(b"something else altogether" * 100)
    with pytest.raises(EnvironmentFault, match="--cache-dir"):
        FileIndex(root)


def test_the_cache_is_where_the_option_then_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("MMEB_HARNESS_CACHE_DIR")
    assert cache_root().name == "mmeb-harness"


def test_a_vector_that_was_asked_for_in_vain_is_found_when_it_has_come(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    assert store.find(keys_of([1, 2])) == set()
    assert len(store) == 0
    store.add(keys_of([2]), vectors_of([2]))
    np.testing.assert_array_equal(store.get(keys_of([2])), vectors_of([2]))
    assert store.find(keys_of([1, 2])) == {key(2)}
    assert len(store) == 1
    with pytest.raises(KeyError):
        store.get(keys_of([1]))


def test_the_key_of_an_item_digests_its_rendering_as_json() -> None:
    cases = [('a"\n\u00e9\U0001f600 \udc80', None, ()), (None, "digest", ("x", ""))]
    for text, image, settings in cases:
        content = json.dumps([text, image, settings]).encode("utf-8", "surrogatepass")
        rendered = Rendered(text=text, settings=settings)
        assert item_key(rendered, image) == sha256(content).digest()[:16]


def test_files_recalled_together_are_known_until_the_next_flush(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path in paths:
        Path(path).write_text(path)
        os.utime(path, (1, 1))
    time.sleep(0.05)
    index = FileIndex(tmp_path / "cache")
    digests = [index.digest(path) for path in paths]
    index.flush()
    index.recall([*paths, str(tmp_path / "absent")])
    assert [index.digest(path) for path in paths] == digests
    Path(paths[1]).write_text("changed")
    assert index.digest(paths[1]) == sha256(b"changed").hexdigest()
    index.close()


# -- full paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/a/b.png",
        "/a/./b",
        "/a/../b",
        "//a/b",
        "/a//b",
        "/a/",
        "/",
        "/a/.hidden/b",
        "/a/b/.",
        "a/b",
    ],
)
def test_a_path_that_looks_tidy_is_what_it_resolves_to(path: str) -> None:
    if is_tidy(path):
        assert path == os.path.abspath(path) == str(Path(path).absolute())
    assert is_tidy("/a/b.png")


@pytest.mark.parametrize("spelling", ["/./", "//", "/sub/../"])
def test_a_digest_is_remembered_under_one_name(spelling: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "picture.png").write_bytes(b"picture")
    time.sleep(0.05)  # a file younger than this is not remembered
    index = FileIndex(tmp_path / "index")
    index.digest(f"{tmp_path}{spelling}picture.png")
    assert [*index._learnt] == [str(tmp_path / "picture.png")]
