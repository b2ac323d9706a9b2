"""MMEB's data in every published form becomes the same items; what is wrong with it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmeb_harness.errors import DataMissing, TaskError
from mmeb_harness.registry import build_registry
from mmeb_harness.task import Task
from mmeb_harness.tasks import mmeb

MakeFolder = Callable[..., Path]
IMAGE = "<|image_1|>"


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {task.name: task for task in build_registry({}).suites()["mmeb"]}


def locate(folder: Path, image_dir: Path | None = None) -> mh.DataLocation:
    return mh.DataLocation(data_dir=folder, image_dir=image_dir)


def v1(query: str, image: str, texts: Sequence[str], images: Sequence[str]) -> dict[str, Any]:
    return {
        "qry_text": query,
        "qry_img_path": image,
        "tgt_text": list(texts),
        "tgt_img_path": list(images),
    }


# -- the table -------------------------------------------------------------------------------------


def test_the_suite_has_the_36_tasks_by_meta_task_and_split(tasks: dict[str, Task]) -> None:
    assert len(tasks) == 36
    assert Counter(task.meta_task for task in tasks.values()) == {
        "classification": 10,
        "vqa": 10,
        "retrieval": 12,
        "grounding": 4,
    }
    assert Counter(task.split for task in tasks.values()) == {"ind": 20, "ood": 16}
    assert all(task.metric == "hit_at_1" for task in tasks.values())


def test_exactly_the_in_distribution_tasks_have_a_training_part(tasks: dict[str, Task]) -> None:
    trained = {name for name, task in tasks.items() if task.training_loader is not None}
    assert trained == {name for name, task in tasks.items() if task.split == "ind"}
    assert trained == {name for name, task in tasks.items() if task.training_fetcher is not None}
    with pytest.raises(TaskError, match="no training part"):
        tasks["GQA"].training("original", mh.DataLocation())


def test_facts_that_are_easily_got_wrong(tasks: dict[str, Task]) -> None:
    assert (tasks["MSCOCO"].meta_task, tasks["MSCOCO"].split) == ("grounding", "ind")
    assert (tasks["FashionIQ"].meta_task, tasks["FashionIQ"].split) == ("retrieval", "ood")
    assert tasks["ImageNet-1K"].facts["train_name"] == "ImageNet_1K"
    assert tasks["HatefulMemes"].facts["candidates"] == 2
    assert [name for name, task in tasks.items() if task.facts["unimodal"] == "t2i"] == [
        "VisDial", "CIRR", "VisualNews_t2i", "MSCOCO_t2i", "NIGHTS", "WebQA", "Wiki-SS-NQ",
        "OVEN", "EDIS",
    ]  # fmt: skip
    assert {name for name, task in tasks.items() if task.facts["unimodal"] == "i2t"} == {
        *(name for name, task in tasks.items() if task.meta_task == "classification"),
        "MSCOCO_i2t",
        "VisualNews_i2t",
    }


# -- layouts ---------------------------------------------------------------------------------------

# For each of V2's parsers: the columns of its layout, and the v1 strings that they stand for.
FORMS: dict[str, dict[str, Any]] = {
    "ImageNet-1K": {  # image_cls
        "v2": {
            "qry_inst": f"{IMAGE}\nRepresent the given image for classification",
            "qry_text": "",
            "qry_img_path": "q.png",
            "tgt_text": ["tench", "cock"],
        },
        "query": f"{IMAGE}\nRepresent the given image for classification\n",
        "candidates": [("tench", None), ("cock", None)],
    },
    "N24News": {  # image_cls with a text
        "v2": {
            "qry_inst": f"{IMAGE}\nRepresent the given news image with the following caption for "
            "domain classification:",
            "qry_text": "A caption",
            "qry_img_path": "q.png",
            "tgt_text": ["Science", "Sports"],
        },
        "query": f"{IMAGE}\nRepresent the given news image with the following caption for domain "
        "classification: A caption\n",
        "candidates": [("Science", None), ("Sports", None)],
    },
    "OK-VQA": {  # image_qa
        "v2": {
            "qry_inst": f"{IMAGE} Represent the given image with the following question:",
            "qry_text": "What is it?",
            "qry_img_path": "q.png",
            "tgt_text": ["yes", "no"],
        },
        "query": f"{IMAGE}\nRepresent the given image with the following question: What is it?\n",
        "candidates": [("yes", None), ("no", None)],
    },
    "MSCOCO_i2t": {  # image_i2t
        "v2": {
            "qry_inst": f"{IMAGE}\nFind an image caption describing the given everyday image.",
            "qry_text": "",
            "qry_img_path": "q.png",
            "tgt_text": ["A cat.", "A dog."],
        },
        "query": f"{IMAGE}\nFind an image caption describing the given everyday image.\n",
        "candidates": [("A cat.", None), ("A dog.", None)],
    },
    "MSCOCO_t2i": {  # image_t2i
        "v2": {
            "qry_inst": "Find me an everyday image that matches the given caption:",
            "qry_text": "A cat.",
            "tgt_inst": f"{IMAGE}\nRepresent the given image.",
            "tgt_text": ["", ""],
            "tgt_img_path": ["a.png", "b.png"],
        },
        "query": "Find me an everyday image that matches the given caption: A cat.\n",
        "candidates": [
            (f"{IMAGE}\nRepresent the given image.\n", "a.png"),
            (f"{IMAGE}\nRepresent the given image.\n", "b.png"),
        ],
    },
    "VisDial": {  # image_t2i, a second newline
        "v2": {
            "qry_inst": "Represent the given dialogue about an image, which is used for image "
            "retrieval:",
            "qry_text": "Q:a A:b",
            "tgt_inst": f"{IMAGE}\nRepresent the given image",
            "tgt_text": ["", ""],
            "tgt_img_path": ["a.png", "b.png"],
        },
        "query": "Represent the given dialogue about an image, which is used for image retrieval: "
        "Q:a A:b\n\n",
        "candidates": [
            (f"{IMAGE}\nRepresent the given image\n", "a.png"),
            (f"{IMAGE}\nRepresent the given image\n", "b.png"),
        ],
    },
    "WebQA": {  # image_t2i with captions, a stray placeholder in the query
        "v2": {
            "qry_inst": f"{IMAGE}\nFind a Wikipedia image that answers this question:",
            "qry_text": "Who?",
            "tgt_inst": f"{IMAGE}\nRepresent the given Wikipedia image with related text "
            "information:",
            "tgt_text": ["A man", "A tower"],
            "tgt_img_path": ["a.png", "b.png"],
        },
        "query": f"{IMAGE}\nFind a Wikipedia image that answers this question: Who?\n",
        "candidates": [
            (
                f"{IMAGE}\nRepresent the given Wikipedia image with related text information: "
                "A man\n",
                "a.png",
            ),
            (
                f"{IMAGE}\nRepresent the given Wikipedia image with related text information: "
                "A tower\n",
                "b.png",
            ),
        ],
    },
    "RefCOCO": {  # image_i2i_vg, no newline after its candidates
        "v2": {
            "qry_inst": f"{IMAGE} Select the portion of the image that follows the language "
            "expressions.",
            "qry_text": '"left cat"',
            "qry_img_path": "q.png",
            "tgt_inst": f"{IMAGE}\nRepresent the given cropped image of the object",
            "tgt_text": ["", ""],
            "tgt_img_path": ["a.png", "b.png"],
        },
        "query": f"{IMAGE}\nSelect the portion of the image that follows the language "
        'expressions. "left cat"\n',
        "candidates": [
            (f"{IMAGE}\nRepresent the given cropped image of the object", "a.png"),
            (f"{IMAGE}\nRepresent the given cropped image of the object", "b.png"),
        ],
    },
    "OVEN": {  # image_i2i_vg with texts
        "v2": {
            "qry_inst": f"{IMAGE} Retrieve a Wikipedia image-description pair that provides "
            "evidence for the question of this image:",
            "qry_text": "Which bird?",
            "qry_img_path": "q.png",
            "tgt_inst": f"{IMAGE}\nRepresent the given Wikipedia image with related text "
            "information:",
            "tgt_text": ["A heron.", "A crane."],
            "tgt_img_path": ["a.png", "b.png"],
        },
        "query": f"{IMAGE}\nRetrieve a Wikipedia image-description pair that provides evidence for "
        "the question of this image: Which bird?\n",
        "candidates": [
            (
                f"{IMAGE}\nRepresent the given Wikipedia image with related text information: "
                "A heron.\n",
                "a.png",
            ),
            (
                f"{IMAGE}\nRepresent the given Wikipedia image with related text information: "
                "A crane.\n",
                "b.png",
            ),
        ],
    },
}


def as_v1(name: str) -> dict[str, Any]:
    form = FORMS[name]
    texts, paths = zip(*form["candidates"], strict=True)
    return v1(form["query"], form["v2"].get("qry_img_path", ""), texts, [p or "" for p in paths])


@pytest.mark.parametrize("name", FORMS)
def test_the_v1_layout_is_read_verbatim(
    name: str, tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    folder = make_task_folder(name, [as_v1(name)])
    data = tasks[name].load(locate(folder))
    form, root = FORMS[name], f"{folder}/images"
    query = data.items[data.queries[0]]
    image = form["v2"].get("qry_img_path")
    assert (query.text, query.role) == (form["query"], "query")
    assert query.image == (f"{root}/{image}" if image else None)
    candidates = [data.items[item] for item in data.candidates[0]]
    assert [(item.text, item.image) for item in candidates] == [
        (text, f"{root}/{path}" if path else None) for text, path in form["candidates"]
    ]
    assert {item.role for item in candidates} == {"candidate"}
    assert data.gold[0].tolist() == [data.candidates[0][0]]
    assert data.notes["unknown_instruction"] == 0


@pytest.mark.parametrize("name", FORMS)
def test_the_v2_layout_is_joined_to_the_v1_strings(
    name: str, tasks: dict[str, Task], make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    first = tasks[name].load(locate(make_task_folder(name, [as_v1(name)])))
    other = make_task_folder(name, [FORMS[name]["v2"]], folder=tmp_path / "v2")
    second = tasks[name].load(locate(other, tmp_path / "data/images"))
    assert list(second.items) == list(first.items)
    assert [row.tolist() for row in second.candidates] == [row.tolist() for row in first.candidates]
    assert dict(second.notes) == dict(first.notes)


@pytest.mark.parametrize("name", FORMS)
def test_the_instruction_is_marked_as_it_stands_in_the_text(
    name: str, tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    data = tasks[name].load(locate(make_task_folder(name, [as_v1(name)])))
    facts = tasks[name].facts
    for item in data.items:
        expected = facts[f"{'query' if item.role == 'query' else 'target'}_instruction"]
        assert item.instruction == expected
        assert expected is None or expected in str(item.text)


def test_every_parser_has_its_form_above(tasks: dict[str, Task]) -> None:
    assert {tasks[name].facts["parser"] for name in FORMS} == {
        task.facts["parser"] for task in tasks.values()
    }


def test_one_sided_tasks_mark_what_the_original_baselines_take_of_each_side(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    expected = {"MSCOCO_t2i": ("text", "image"), "ImageNet-1K": ("image", "text")}
    for name, sides in expected.items():
        data = tasks[name].load(locate(make_task_folder(name, [as_v1(name)])))
        assert {(item.role, item.modality) for item in data.items} == {
            ("query", sides[0]),
            ("candidate", sides[1]),
        }
    data = tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", [as_v1("OK-VQA")])))
    assert {item.modality for item in data.items} == {None}


@pytest.mark.parametrize("empty", [[""], ""], ids=["a list of one", "a plain string"])
def test_the_older_form_with_one_empty_candidate_text_is_read(
    tasks: dict[str, Task], make_task_folder: MakeFolder, empty: Any
) -> None:
    rows = [as_v1("MSCOCO_t2i") | {"tgt_text": empty}] * 2
    data = tasks["MSCOCO_t2i"].load(locate(make_task_folder("MSCOCO_t2i", rows)))
    candidates = [data.items[item] for item in data.candidates[1]]
    assert [item.text for item in candidates] == [None, None]
    assert [Path(str(item.image)).name for item in candidates] == ["a.png", "b.png"]


def test_absent_and_null_image_paths_are_no_images(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    rows = [as_v1("OK-VQA") | {"qry_img_path": None}, as_v1("OK-VQA") | {"qry_img_path": ""}]
    rows[0]["tgt_img_path"] = [None, ""]
    data = tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", rows)))
    assert {item.image for item in data.items} == {None}
    assert data.queries.tolist() == [0, 0]


def test_several_files_are_one_table_in_the_order_of_their_names(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    folder = make_task_folder("OK-VQA", [])
    (folder / "OK-VQA/test-00000-of-00001.parquet").unlink()
    for number in (1, 0):
        row = v1(f"query {number}", "", ["a", "b"], ["", ""])
        pq.write_table(
            pa.Table.from_pylist([row]), folder / f"OK-VQA/test-0000{number}-of-00002.parquet"
        )
    data = tasks["OK-VQA"].load(locate(folder))
    assert [data.items[query].text for query in data.queries] == ["query 0", "query 1"]


def test_files_that_a_readme_declares_are_found(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    folder = make_task_folder("OK-VQA", [as_v1("OK-VQA")])
    (folder / "elsewhere").mkdir()
    (folder / "OK-VQA/test-00000-of-00001.parquet").rename(folder / "elsewhere/part.parquet")
    with pytest.raises(DataMissing):
        tasks["OK-VQA"].load(locate(folder))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: OK-VQA\n  data_files:\n  - split: test\n"
        "    path: elsewhere/*.parquet\n---\n"
    )
    assert len(tasks["OK-VQA"].load(locate(folder)).queries) == 1
    with pytest.raises(DataMissing):
        tasks["GQA"].load(locate(folder))


def test_large_string_and_dictionary_columns_are_read(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    folder = make_task_folder("OK-VQA", [as_v1("OK-VQA")] * 3)
    path = folder / "OK-VQA/test-00000-of-00001.parquet"
    expected = tasks["OK-VQA"].load(locate(folder))
    table = pq.read_table(path)
    schema = pa.schema(
        {
            "qry_text": pa.large_string(),
            "qry_img_path": pa.string(),
            "tgt_text": pa.large_list(pa.large_string()),
            "tgt_img_path": pa.list_(pa.string()),
        }
    )
    pq.write_table(table.cast(schema), path)
    found = tasks["OK-VQA"].load(locate(folder))
    assert list(found.items) == list(expected.items)


# -- distinct items --------------------------------------------------------------------------------


def test_an_item_stands_once_however_often_it_is_mentioned(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    rows = [
        v1("same query", "", ["one", "two", "one"], ["", "", ""]),
        v1("same query", "", ["two", "three"], ["", ""]),
    ]
    data = tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", rows)))
    assert sorted(str(item.text) for item in data.items) == ["one", "same query", "three", "two"]
    assert data.queries.tolist() == [0, 0]
    texts = [[data.items[item].text for item in row] for row in data.candidates]
    assert texts == [["one", "two", "one"], ["two", "three"]]
    assert [[data.items[item].text for item in row] for row in data.gold] == [["one"], ["two"]]


def test_equal_texts_with_other_images_are_other_items(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    row = as_v1("MSCOCO_t2i")
    data = tasks["MSCOCO_t2i"].load(locate(make_task_folder("MSCOCO_t2i", [row])))
    assert len(data.items) == 3
    assert len(set(data.candidates[0].tolist())) == 2


def test_a_query_and_a_candidate_of_equal_text_are_two_items(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    rows = [v1("x", "", ["x", "y"], ["", ""])]
    data = tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", rows)))
    assert [(item.text, item.role) for item in data.items] == [
        ("x", "query"),
        ("x", "candidate"),
        ("y", "candidate"),
    ]


def test_the_head_of_a_task_holds_only_the_items_it_reaches(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    rows = [v1(f"query {n}", "", [f"c{n}", f"c{n + 1}"], ["", ""]) for n in range(5)]
    data = tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", rows)))
    head = data.head(2)
    assert {item.text for item in head.items} == {"query 0", "query 1", "c0", "c1", "c2"}
    texts = [[head.items[item].text for item in row] for row in head.candidates]
    assert texts == [["c0", "c1"], ["c1", "c2"]]
    assert [head.items[query].text for query in head.queries] == ["query 0", "query 1"]
    assert [head.items[row[0]].text for row in head.gold] == ["c0", "c1"]


def test_the_head_of_a_task_with_one_pool_for_all_keeps_the_pool() -> None:
    pool = [mh.Item(text=f"c{n}") for n in range(3)]
    queries = [mh.Item(text=f"q{n}") for n in range(3)]
    head = mh.TaskData.from_lists(queries, pool, [0, 1, 2]).head(1)
    assert [item.text for item in head.items] == ["q0", "c0", "c1", "c2"]
    assert [head.items[item].text for item in head.candidates[0]] == ["c0", "c1", "c2"]


def test_lists_make_the_same_data_whether_the_pool_is_shared_or_repeated() -> None:
    pool = [mh.Item(text=f"c{n}") for n in range(3)]
    queries = [mh.Item(text=f"q{n}") for n in range(2)]
    shared = mh.TaskData.from_lists(queries, pool, [2, [0, 1]])
    repeated = mh.TaskData.from_lists(queries, [pool, pool], [2, [0, 1]])
    assert list(shared.items) == list(repeated.items)
    for one in (shared, repeated):
        assert [row.tolist() for row in one.candidates] == [[2, 3, 4], [2, 3, 4]]
        assert [row.tolist() for row in one.gold] == [[4], [2, 3]]


def test_lists_of_differing_length_are_refused() -> None:
    pool = [mh.Item(text="c")]
    with pytest.raises(TaskError, match="length"):
        mh.TaskData.from_lists([mh.Item(text="q")], pool, [0, 0])


# -- what is wrong with the data -------------------------------------------------------------------


@pytest.mark.parametrize("longer", ["tgt_text", "tgt_img_path"])
def test_lists_of_differing_length_in_a_row_are_an_error_naming_the_row(
    tasks: dict[str, Task], make_task_folder: MakeFolder, longer: str
) -> None:
    rows = [v1("q", "", ["a", "b"], ["", ""]) for _ in range(3)]
    rows[1][longer] = ["a.png", "b.png", "c.png"]
    with pytest.raises(TaskError, match=r"row 1.*tgt_text.*tgt_img_path"):
        tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", rows)))


def test_a_row_without_candidates_is_an_error_naming_the_row(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    rows = [v1("q", "", ["a", "b"], ["", ""]), v1("q", "", [], [])]
    with pytest.raises(TaskError, match="row 1 has no candidates"):
        tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", rows)))


@pytest.mark.parametrize("missing", ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"])
def test_a_missing_column_is_an_error_naming_it(
    tasks: dict[str, Task], make_task_folder: MakeFolder, missing: str
) -> None:
    row = v1("q", "", ["a", "b"], ["", ""])
    del row[missing]
    with pytest.raises(TaskError, match=missing):
        tasks["OK-VQA"].load(locate(make_task_folder("OK-VQA", [row])))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("qry_img_path", {"bytes": b"", "path": "q.png"}),
        ("qry_text", ["a list"]),
        ("tgt_text", [["a list"], ["of lists"]]),
        ("tgt_img_path", [{"path": "a.png"}, {"path": "b.png"}]),
    ],
)
def test_a_column_of_another_type_is_an_error_naming_it(
    tasks: dict[str, Task], make_task_folder: MakeFolder, column: str, value: Any
) -> None:
    folder = make_task_folder("OK-VQA", [])
    row = v1("q", "", ["a", "b"], ["", ""]) | {column: value}
    pq.write_table(pa.Table.from_pylist([row]), folder / "OK-VQA/test-00000-of-00001.parquet")
    with pytest.raises(TaskError, match=column):
        tasks["OK-VQA"].load(locate(folder))


def test_a_table_without_rows_fails_its_task_and_the_other_is_scored(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    make_task_folder("GQA")
    folder = make_task_folder("OK-VQA", [as_v1("OK-VQA")])
    path = folder / "OK-VQA/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    run = mh.evaluate("random", tasks="OK-VQA,GQA", data_dir=folder, output_dir=tmp_path / "run")
    assert run.tasks["OK-VQA"].status == "failed"
    assert "row" in str(run.tasks["OK-VQA"].error)
    assert run.tasks["GQA"].status == "ok"


def test_a_damaged_table_is_an_error_naming_it(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    folder = make_task_folder("OK-VQA", [as_v1("OK-VQA")])
    path = folder / "OK-VQA/test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TaskError, match=path.name):
        tasks["OK-VQA"].load(locate(folder))


CLIMBING = ["../secret.png", "a/../../secret.png", "/etc/secret.png", "..\\secret.png", "a\0b.png"]


@pytest.mark.parametrize("side", ["query", "candidate"])
@pytest.mark.parametrize("path", CLIMBING)
def test_an_image_path_that_climbs_out_is_refused(
    tasks: dict[str, Task], make_task_folder: MakeFolder, path: str, side: str
) -> None:
    folder = make_task_folder("CIRR", [])
    row = v1("q", path if side == "query" else "", ["a", "b"], ["", ""])
    row["tgt_img_path"] = ["", path if side == "candidate" else ""]
    pq.write_table(pa.Table.from_pylist([row]), folder / "CIRR/test-00000-of-00001.parquet")
    with pytest.raises(TaskError, match="climbs out"):
        tasks["CIRR"].load(locate(folder))


def test_rows_with_an_unknown_instruction_are_counted_and_left_as_they_are(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    good, other = as_v1("MSCOCO_t2i"), as_v1("MSCOCO_t2i")
    other["qry_text"] = "Show me: A cat."
    odd_candidate = as_v1("MSCOCO_t2i")
    odd_candidate["tgt_text"] = [odd_candidate["tgt_text"][0], f"{IMAGE}\nDraw this.\n"]
    rows = [good, other, odd_candidate, other]
    data = tasks["MSCOCO_t2i"].load(locate(make_task_folder("MSCOCO_t2i", rows)))
    assert (data.notes["rows"], data.notes["unknown_instruction"]) == (4, 3)
    query = data.items[data.queries[1]]
    assert (query.text, query.instruction) == ("Show me: A cat.", None)


def test_rows_with_a_placeholder_and_no_image_are_counted_and_left_as_they_are(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    stray, good = as_v1("WebQA"), as_v1("WebQA")
    good["qry_text"] = good["qry_text"].removeprefix(f"{IMAGE}\n")
    bare_candidate = {**good, "tgt_img_path": ["a.png", ""]}
    rows = [stray, good, bare_candidate, stray, good]
    data = tasks["WebQA"].load(locate(make_task_folder("WebQA", rows)))
    assert data.notes["stray_placeholder"] == 3
    assert str(data.items[data.queries[0]].text).startswith(IMAGE)


def test_what_is_odd_becomes_a_warning_of_the_result(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_task_folder("WebQA", [as_v1("WebQA"), {**as_v1("WebQA"), "qry_text": "Who?"}])
    run = mh.evaluate("random", tasks="WebQA", data_dir=folder, output_dir=tmp_path / "run")
    warnings = " ".join(run.tasks["WebQA"].warnings)
    assert "1 rows with a placeholder" in warnings
    assert "1 rows with an instruction" in warnings
    assert run.tasks["WebQA"].notes == {
        "rows": 2, "unknown_instruction": 1, "stray_placeholder": 1,
    }  # fmt: skip


# -- where images and data are ---------------------------------------------------------------------


def image_of(task: Task, location: mh.DataLocation) -> Path:
    data = task.load(location)
    return Path(str(data.items[data.queries[0]].image))


def test_images_are_looked_for_in_images_then_eval_images_then_the_folder_itself(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    task, found = tasks["OK-VQA"], []
    for images in (".", "eval_images", "images"):
        folder = make_task_folder("OK-VQA", images=images)
        found.append(image_of(task, locate(folder)).parent.parent)
    assert found == [folder, folder / "eval_images", folder / "images"]


def test_an_image_folder_without_the_paths_is_passed_over(
    tasks: dict[str, Task], make_task_folder: MakeFolder
) -> None:
    folder = make_task_folder("OK-VQA", images="eval_images")
    (folder / "images/something-else").mkdir(parents=True)
    assert image_of(tasks["OK-VQA"], locate(folder)).parent.parent == folder / "eval_images"


def test_a_given_image_folder_wins(
    tasks: dict[str, Task], make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_task_folder("OK-VQA")
    image = image_of(tasks["OK-VQA"], locate(folder, tmp_path / "given"))
    assert image == tmp_path / "given/OK-VQA/0.png"


def test_data_that_is_nowhere_names_its_size_and_the_command_that_fetches_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataMissing) as missing:
        mh.evaluate("random", tasks="OK-VQA,GQA", output_dir=tmp_path / "run")
    assert "mmeb-harness data fetch -t OK-VQA" in str(missing.value)
    assert "GB" in str(missing.value)
    assert missing.value.exit_status == 3


def test_data_that_is_partly_there_fails_the_absent_task_and_scores_the_other(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_task_folder("OK-VQA")
    run = mh.evaluate("random", tasks="OK-VQA,GQA", data_dir=folder, output_dir=tmp_path / "run")
    assert run.tasks["OK-VQA"].status == "ok"
    assert run.tasks["GQA"].status == "failed"
    assert "mmeb-harness data fetch -t GQA" in str(run.tasks["GQA"].error)


def test_a_task_with_unusable_rows_fails_and_the_other_is_scored(
    make_task_folder: MakeFolder, tmp_path: Path
) -> None:
    make_task_folder("GQA", [v1("q", "", ["a", "b"], ["", "", ""])])
    folder = make_task_folder("OK-VQA")
    run = mh.evaluate("random", tasks="OK-VQA,GQA", data_dir=folder, output_dir=tmp_path / "run")
    assert run.tasks["OK-VQA"].status == "ok"
    assert "row 0" in str(run.tasks["GQA"].error)


def test_the_data_folder_can_come_from_the_environment_and_the_cache(
    make_task_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task_folder("OK-VQA", folder=tmp_path / "cache/data/mmeb")
    first = mh.evaluate("random", tasks="OK-VQA", output_dir=tmp_path / "one")
    assert first.record.data_dir == str(tmp_path / "cache/data/mmeb")
    folder = make_task_folder("OK-VQA", folder=tmp_path / "named")
    monkeypatch.setenv("MMEB_HARNESS_DATA_DIR", str(folder))
    second = mh.evaluate("random", tasks="OK-VQA", output_dir=tmp_path / "two")
    assert second.record.data_dir == str(folder)


# -- training --------------------------------------------------------------------------------------


def write_training(folder: Path, name: str, rows: list[dict[str, Any]], split: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / name / f"{split}-00000-of-00001.parquet")


ASKED = "Represent the given image for classification."
TRAINING_ROW = {
    "qry": f"{IMAGE}\n{ASKED}\n",
    "qry_image_path": "images/ImageNet_1K/Train/1.jpg",
    "pos_text": "tench",
    "pos_image_path": "",
}


def test_training_pairs_are_read_in_order_with_their_image_folder(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    rows = [TRAINING_ROW | {"pos_text": f"label {n}"} for n in range(1500)]
    write_training(tmp_path, "ImageNet_1K", rows, "original")
    pairs = list(tasks["ImageNet-1K"].training("original", locate(tmp_path)))
    assert [pair.positive.text for pair in pairs] == [row["pos_text"] for row in rows]
    assert pairs[0].query == mh.Item(
        text=f"{IMAGE}\n{ASKED}\n",
        image=f"{tmp_path}/images/ImageNet_1K/Train/1.jpg",
        instruction=ASKED,
        role="query",
        modality="image",
    )
    assert (pairs[0].positive.image, pairs[0].positive.role) == (None, "candidate")
    assert {pair.negative for pair in pairs} == {None}


def test_hard_negatives_are_read_where_the_data_has_them(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    negatives = [("cock", ""), ("", ""), (None, None), ("", "images/n.jpg")]
    rows = [TRAINING_ROW | {"neg_text": text, "neg_image_path": path} for text, path in negatives]
    write_training(tmp_path, "ImageNet_1K", rows, "original")
    pairs = list(tasks["ImageNet-1K"].training("original", locate(tmp_path)))
    assert [pair.negative and (pair.negative.text, pair.negative.image) for pair in pairs] == [
        ("cock", None), None, None, (None, f"{tmp_path}/images/n.jpg"),
    ]  # fmt: skip


def test_splits_are_told_apart_and_an_absent_one_is_missing_data(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    write_training(tmp_path, "ImageNet_1K", [TRAINING_ROW], "original")
    other = [TRAINING_ROW | {"pos_text": "other"}]
    write_training(tmp_path, "ImageNet_1K", other, "diverse_instruction")
    task, location = tasks["ImageNet-1K"], locate(tmp_path)
    assert [p.positive.text for p in task.training("original", location)] == ["tench"]
    assert [p.positive.text for p in task.training("diverse_instruction", location)] == ["other"]
    with pytest.raises(DataMissing, match="diverse_instruction"):
        list(task.training("train", location))


@pytest.mark.parametrize(
    ("change", "told"),
    [({"qry": None}, "qry"), ({"qry_image_path": "../x.jpg"}, "climbs out")],
    ids=["missing column", "climbing path"],
)
def test_unusable_training_rows_are_an_error(
    tasks: dict[str, Task], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    row = {key: value for key, value in (TRAINING_ROW | change).items() if value is not None}
    write_training(tmp_path, "ImageNet_1K", [row], "original")
    with pytest.raises(TaskError, match=told):
        list(tasks["ImageNet-1K"].training("original", locate(tmp_path)))


def test_the_golden_training_data_is_read_with_images_and_instructions(
    tasks: dict[str, Task], goldens: Path
) -> None:
    folder = goldens / "data/train"
    names = {task.facts["train_name"]: task for task in tasks.values() if task.facts["train_name"]}
    read = 0
    for subset in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        location = locate(folder, goldens / "data/train_images")
        pairs = names[subset].training("original", location)
        assert isinstance(pairs, Sequence), "read a row at a time"
        read += len(pairs)
        for item in (item for pair in pairs for item in (pair.query, pair.positive)):
            assert item.text or item.image
            assert item.image is None or Path(str(item.image)).is_file()
            assert item.instruction is not None or item.image is None
    assert read == 48


def test_training_instructions_are_marked_as_either_part_words_them(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    stop = ASKED.removesuffix(".")
    texts = [f"{IMAGE} {ASKED}", f"{IMAGE}\n{stop}\n", f"Represent {IMAGE} for classification."]
    rows = [TRAINING_ROW | {"qry": text} for text in texts]
    write_training(tmp_path, "ImageNet_1K", rows, "diverse_instruction")
    pairs = list(tasks["ImageNet-1K"].training("diverse_instruction", locate(tmp_path)))
    assert [pair.query.text for pair in pairs] == texts
    assert [pair.query.instruction for pair in pairs] == [ASKED, stop, None]


def test_training_sides_are_one_sided_as_they_are_scored(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    for name in ("CIRR", "OK-VQA"):
        write_training(tmp_path, name, [TRAINING_ROW | {"neg_text": "n"}], "original")
    [cirr] = tasks["CIRR"].training("original", locate(tmp_path))
    assert cirr.negative is not None
    sides = (cirr.query.modality, cirr.positive.modality, cirr.negative.modality)
    assert sides == ("text", "image", "image")
    [question] = tasks["OK-VQA"].training("original", locate(tmp_path))
    assert (question.query.modality, question.positive.modality) == (None, None)


def test_training_data_that_is_not_there_says_what_is(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    write_training(tmp_path, "ImageNet_1K", [TRAINING_ROW], "original")
    write_training(tmp_path, "ImageNet_1K", [TRAINING_ROW], "train")
    with pytest.raises(DataMissing, match=r"no split 'originals'; it has original, train$"):
        tasks["ImageNet-1K"].training("originals", locate(tmp_path))
    with pytest.raises(DataMissing, match=r"no training data of CIRR .*; it has ImageNet_1K$"):
        tasks["CIRR"].training("original", locate(tmp_path))
    with pytest.raises(DataMissing, match="it holds no tables"):
        tasks["CIRR"].training("original", locate(tmp_path / "nowhere"))
    with pytest.raises(DataMissing, match="name the folder"):
        tasks["CIRR"].training("original", locate(None))  # type: ignore[arg-type]  # as not given


def test_part_of_a_training_table_is_refused(tasks: dict[str, Task], tmp_path: Path) -> None:
    write_training(tmp_path, "CIRR", [TRAINING_ROW], "original")
    path = tmp_path / "CIRR/original-00000-of-00001.parquet"
    path.rename(path.with_name("original-00000-of-00002.parquet"))
    with pytest.raises(TaskError, match="1 of 2 files of original: fetch it again"):
        tasks["CIRR"].training("original", locate(tmp_path))


def test_a_files_own_codes_are_numbered_as_its_texts_are() -> None:
    values = pa.array(["unused", "b", "a", "b", None], pa.string())
    codes = pa.DictionaryArray.from_arrays(pa.array([2, 3, None, 1, 4, 2], pa.int32()), values)
    plain = pa.array(["a", "b", "", "b", "", "a"], pa.large_string())
    for found, expected in zip(mmeb._encode(codes), mmeb._encode(plain), strict=True):
        assert list(found) == list(expected)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int16(), pa.int64()])
def test_codes_of_few_bits_are_read_however_many_texts_they_name(kind: pa.DataType) -> None:
    count = 256 if kind == pa.uint8() else 128
    texts = [f"text {number}" for number in range(count)]
    indices = pa.array([*reversed(range(count)), None], kind)
    codes = pa.DictionaryArray.from_arrays(indices, pa.array(texts))
    numbers, found = mmeb._encode(codes)
    assert [found[number] for number in numbers] == [*reversed(texts), ""]
