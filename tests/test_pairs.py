"""Training pairs in the documented columns: every format alike, lazily, and every slip told."""

from __future__ import annotations

import csv
import json
import pickle
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmeb_harness.errors import DataMissing, TaskError
from mmeb_harness.pairfiles import own_pairs, read_pairs
from mmeb_harness.pairs import PairTable, Side, positive_codes

Row = Mapping[str, Any]
IMAGE = "<|image_1|>"

ROWS: list[Row] = [
    {
        "qry": 'Say "A,\tB"\nand C: é 猫',
        "qry_image_path": "images/q/0.png",
        "pos_text": "NA",
        "pos_image_path": "",
        "neg_text": "",
        "neg_image_path": "images/n/0.png",
    },
    {
        "qry": "1",
        "qry_image_path": "",
        "pos_text": "",
        "pos_image_path": "images/p/1.png",
        "neg_text": "",
        "neg_image_path": "",
    },
]


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows in the format that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(map(dict, rows))), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


def texts(count: int, start: int = 0) -> list[Row]:
    return [{"qry": f"q{n}", "pos_text": f"p{n}"} for n in range(start, start + count)]


def queries(pairs: Sequence[mh.Pair]) -> list[str | None]:
    return [pair.query.text for pair in pairs]


def only(tables: Mapping[str, PairTable]) -> PairTable:
    [table] = tables.values()
    return table


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_every_format_gives_the_same_pairs(tmp_path: Path, suffix: str) -> None:
    [(name, pairs)] = own_pairs(write(tmp_path / f"mine{suffix}", ROWS)).items()
    assert name == "mine"
    assert list(pairs) == [
        mh.Pair(
            query=mh.Item(text=ROWS[0]["qry"], image=f"{tmp_path}/images/q/0.png", role="query"),
            positive=mh.Item(text="NA", role="candidate"),
            negative=mh.Item(image=f"{tmp_path}/images/n/0.png", role="candidate"),
        ),
        mh.Pair(
            query=mh.Item(text="1", role="query"),
            positive=mh.Item(image=f"{tmp_path}/images/p/1.png", role="candidate"),
        ),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_is_read_in_blocks_whatever_stands_in_its_rows(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmeb_harness.pairfiles._BLOCK", 512)
    rows = [{"qry": f'{n}\n\n"a",\n{n}', "pos_text": f"p{n % 7}"} for n in range(200)]
    pairs = only(own_pairs(write(tmp_path / f"mine{suffix}", rows)))
    assert pairs.table["qry"].num_chunks > 5
    assert queries(pairs) == [row["qry"] for row in rows]
    assert pairs.positive_codes.tolist() == [n % 7 for n in range(200)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("positive", ["pos_text", "pos_image_path"])
def test_two_columns_are_enough(tmp_path: Path, suffix: str, positive: str) -> None:
    rows = [{"qry": "a", positive: "b"}, {"qry": "c", positive: "d"}]
    pairs = only(own_pairs(write(tmp_path / f"mine{suffix}", rows)))
    assert len(pairs) == 2
    [*_, last] = pairs
    found = last.positive.text if positive == "pos_text" else last.positive.image
    assert found == ("d" if positive == "pos_text" else f"{tmp_path}/d")
    assert (last.query, last.negative) == (mh.Item(text="c", role="query"), None)


def test_keys_that_only_some_lines_have_are_read(tmp_path: Path) -> None:
    rows = [{"qry": "a", "pos_text": "b"}, {"qry": None, "qry_image_path": "i", "pos_text": "c"}]
    pairs = only(own_pairs(write(tmp_path / "mine.jsonl", [*rows, {**rows[0], "neg_text": "d"}])))
    assert pairs[0].negative is None
    assert (pairs[1].query.text, pairs[1].query.image) == (None, f"{tmp_path}/i")
    assert pairs[2].negative == mh.Item(text="d", role="candidate")


def test_other_columns_and_other_types_of_text_are_no_hindrance(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2],
            "qry": pa.array(["a", "b"]).dictionary_encode(),
            "pos_text": pa.array(["c", "d"], pa.string_view()),
            "pos_image_path": pa.nulls(2),
            "meta": [{"score": 1}, {"score": 2}],
        }
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    rows = [
        {"qry": "a", "pos_text": "c", "meta": {"x": 1}},
        {"qry": "b", "pos_text": "d", "meta": 2},
    ]
    write(tmp_path / "other.jsonl", rows)
    first, second = own_pairs(tmp_path).values()
    assert list(first) == list(second)
    assert [pair.positive.text for pair in first] == ["c", "d"]


def test_rows_are_chosen_without_copying_the_table(tmp_path: Path) -> None:
    pairs = read_pairs([write(tmp_path / "mine.parquet", texts(10))])
    assert queries(pairs[2:8]) == [f"q{n}" for n in range(2, 8)]
    assert queries(pairs[2:8][::-2]) == ["q7", "q5", "q3"]
    assert queries(pairs[2:].select(np.array([5, 0, 5]))) == ["q7", "q2", "q7"]
    assert queries(pairs.select(np.array([3, 1, 4]))[1:]) == ["q1", "q4"]
    assert pairs[2:8].select(np.array([1])).table is pairs.table
    assert (pairs[-1].query.text, len(pairs[2:8])) == ("q9", 6)
    for out in (10, -11):
        with pytest.raises(IndexError):
            pairs[out]
    with pytest.raises(IndexError):
        pairs[2:8][6]
    assert queries(pickle.loads(pickle.dumps(pairs[2:4]))) == ["q2", "q3"]


@pytest.mark.thorough
def test_many_rows_are_no_objects_until_they_are_asked_for(tmp_path: Path) -> None:
    count = 200_000
    numbers = pa.array(range(count)).cast(pa.string())
    pq.write_table(pa.table({"qry": numbers, "pos_text": numbers}), tmp_path / "mine.parquet")
    read_pairs([write(tmp_path / "first.parquet", texts(1))]).check()  # imports are not counted
    tracemalloc.start()
    pairs = read_pairs([tmp_path / "mine.parquet"])
    pairs.check()
    codes = pairs[1:].positive_codes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs[count - 1].query.text == str(count - 1)
    assert len(np.unique(codes)) == count - 1
    assert peak < 100 * count, f"{peak / count:.0f} bytes a row: two Python strings take more"


def test_a_tables_side_marks_the_longest_instruction_that_a_text_begins_with() -> None:
    side = Side(role="query", instructions=("Find", "Find it:", "Other"), modality="text")
    assert side.item(f"{IMAGE}\nFind it: a", None, "") == mh.Item(
        text=f"{IMAGE}\nFind it: a", instruction="Find it:", role="query", modality="text"
    )
    assert side.item("Find a", None, "").instruction == "Find"
    assert side.item("Do not Find it: a", None, "").instruction is None


# -- what is wrong with a row ----------------------------------------------------------------------


@pytest.mark.parametrize("column", ["qry", "pos_text"])
def test_a_row_with_nothing_on_a_side_names_file_and_row(tmp_path: Path, column: str) -> None:
    files = [write(tmp_path / f"a-0000{n}-of-00002.jsonl", texts(3)) for n in range(2)]
    write(files[1], [*texts(2), {**texts(1)[0], column: ""}, *texts(1)])
    pairs = read_pairs(files)
    side = "query" if column == "qry" else "positive"
    told = rf"{files[1].name}, row 2 \(the first is 0\): its {side} has neither text nor image"
    with pytest.raises(TaskError, match=told):
        pairs.check()
    with pytest.raises(TaskError, match=told):
        pairs[5]
    pairs[:5].check()
    assert pairs[6].query.text == "q0"


def test_a_lenient_table_leaves_empty_items_to_whoever_encodes(tmp_path: Path) -> None:
    from dataclasses import replace

    rows = [*texts(1), {"qry": "", "pos_text": "p"}]
    pairs = replace(read_pairs([write(tmp_path / "a.jsonl", rows)]), lenient=True)
    pairs.check()
    assert pairs[1].query == mh.Item(role="query")


@pytest.mark.parametrize("column", ["qry_image_path", "pos_image_path", "neg_image_path"])
@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png", "a\0b"])
def test_an_image_path_that_climbs_out_names_file_and_row(
    tmp_path: Path, column: str, path: str
) -> None:
    rows = [*texts(2), {**texts(1)[0], column: path}, {**texts(1)[0], column: "a..b/..c.png"}]
    pairs = read_pairs([write(tmp_path / "mine.parquet", [{column: "", **row} for row in rows])])
    told = r"mine.parquet, row 2 .*climbs out"
    with pytest.raises(TaskError, match=told):
        pairs.check()
    with pytest.raises(TaskError, match=told):
        pairs[2]
    assert pairs[3].query.text == "q0"


# -- what is wrong with a file ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"qry_text": "a", "pos_text": "b"}, "column qry is missing; .*is 'qry_text' that column"),
        ({"query": "a", "pos_text": "b"}, "column qry is missing; .*is 'query' that column"),
        ({"qry": "a", "positive_text": "b"}, "pos_text or pos_image_path is missing; there are: "
         "qry, positive_text; is 'positive_text' that column"),
        ({"qry": "a", "pos_text": "b", "neg_image": "c"}, "'neg_image' is not read; is "
         "'neg_image_path' meant"),
        ({"qry": "a", "pos_text": "b", "qry_img_path": "c"}, "is 'qry_image_path' meant"),
        ({"qry": "a", "pos_text": "b", "instruction": "c"}, "is 'qry_instruction' meant"),
        ({"x": "a"}, "column qry is missing; there are: x$"),
    ],
)  # fmt: skip
def test_a_missing_or_misspelt_column_names_what_is_meant(
    tmp_path: Path, suffix: str, row: Row, told: str
) -> None:
    path = write(tmp_path / f"mine{suffix}", [row])
    with pytest.raises(TaskError, match=rf"mine{suffix}: .*{told}"):
        own_pairs(path)


def test_a_published_table_may_have_columns_that_look_like_slips(tmp_path: Path) -> None:
    rows = [{"qry": "a", "pos_text": "b", "qry_img_path": "c"}]
    assert len(read_pairs([write(tmp_path / "a.parquet", rows)])) == 1


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("pos_text", 3, "'pos_text' holds int64, not text"),
        ("qry", ["a"], "'qry' holds list.*not text"),
        ("qry_image_path", {"bytes": b"", "path": "a"}, "'qry_image_path' holds struct.*not paths"),
    ],
)
def test_a_parquet_column_of_another_type_is_named(
    tmp_path: Path, column: str, value: object, told: str
) -> None:
    path = write(tmp_path / "mine.parquet", [{**texts(1)[0], column: value}])
    with pytest.raises(TaskError, match=rf"mine.parquet: column {told}"):
        own_pairs(path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"qry": "a", "pos_text": 3}', "line 4: pos_text holds no text"),
        ('{"qry": ["a"], "pos_text": "b"}', "line 4: qry holds no text"),
        ('{"qry": "a", "pos_text": "b"', "line 4 is no JSON object"),
        ("[1]", "line 4 is no JSON object"),
    ],
)
def test_a_line_that_is_no_object_of_texts_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "mine.jsonl"
    good = json.dumps(texts(1)[0])
    path.write_text(f"{good}\n\n{good}\n{line}\n{good}\n")
    with pytest.raises(TaskError, match=f"mine.jsonl, {told}"):
        own_pairs(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.parquet", b"PAR1 no more", "a.parquet cannot be read"),
        ("a.csv", b"qry,pos_text\na,b,c\n", "a.csv cannot be read: .*Expected 2 columns, got 3"),
        ("a.csv", b"qry,pos_text,qry\na,b,c\n", "column 'qry' is there twice"),
        ("a.csv", b"qry,pos_text\n\xff\xfe,b\n", "a.csv cannot be read: .*utf-8"),
        ("a.jsonl", b'{"qry": "\xff", "pos_text": "b"}\n', "a.jsonl cannot be read: .*utf-8"),
        ("a.csv", b"qry,pos_text\n", "a.csv has no rows"),
        ("a.csv", b"", "column qry is missing; there are: none"),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows"),
        ("a.json", b"[]", "a.json is none of .parquet, .jsonl, .csv, .tsv"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=told):
        own_pairs(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_bytes_that_are_no_text_are_found_wherever_they_stand(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"mine{suffix}", texts(20_000))
    path.write_bytes(path.read_bytes().replace(b"q19999", b"q\xff"))
    with pytest.raises(TaskError, match=rf"mine{suffix} cannot be read: .*UTF8"):
        own_pairs(path)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for name, text in (("a.csv", "qry,pos_text\na,b\n"), ("b.jsonl", json.dumps(texts(1)[0]))):
        (tmp_path / name).write_text(text, "utf-8-sig")
    assert [queries(pairs) for pairs in own_pairs(tmp_path).values()] == [["a"], ["q0"]]


def test_an_empty_parquet_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.parquet", texts(1))
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(TaskError, match=r"mine.parquet has no rows"):
        own_pairs(path)


def test_files_of_one_subset_have_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "a/one.jsonl", texts(1))
    write(tmp_path / "a/two.jsonl", [{**texts(1)[0], "neg_text": "n"}])
    with pytest.raises(TaskError, match=r"two.jsonl and .*one.jsonl .*the columns neg_text"):
        own_pairs(tmp_path)


# -- a folder --------------------------------------------------------------------------------------


def test_a_folder_holds_subsets_as_files_shards_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "news.csv", texts(1))
    write(tmp_path / "shop-00001-of-00002.jsonl", texts(2, start=1))
    write(tmp_path / "shop-00000-of-00002.jsonl", texts(1))
    write(tmp_path / "faq/b.tsv", texts(1, start=1))
    write(tmp_path / "faq/a.parquet", texts(1))
    (tmp_path / "images").mkdir()
    (tmp_path / ".hidden.csv").write_text("")
    (tmp_path / "README.md").write_text("")
    found = {name: queries(pairs) for name, pairs in own_pairs(tmp_path).items()}
    assert found == {"news": ["q0"], "shop": ["q0", "q1", "q2"], "faq": ["q0", "q1"]}


def test_what_is_named_for_evaluation_is_not_trained_on(tmp_path: Path) -> None:
    for name in (
        "train.csv",
        "test.csv",
        "Validation.csv",
        "dev-00000-of-00001.csv",
        "testing.csv",
    ):
        write(tmp_path / name, texts(1))
    write(tmp_path / "test/a.csv", texts(1))
    write(tmp_path / "shop/test.csv", texts(1))
    write(tmp_path / "shop/train.csv", texts(1))
    found = own_pairs(tmp_path)
    assert {name: len(pairs) for name, pairs in found.items()} == {
        "train": 1,
        "testing": 1,
        "shop": 1,
    }
    assert len(only(own_pairs(tmp_path / "test.csv"))) == 1, "who names it wants it"
    with pytest.raises(TaskError, match=r"no table of pairs.*test\.csv.*kept for evaluation"):
        (tmp_path / "shop/train.csv").unlink()
        own_pairs(tmp_path / "shop")


def test_a_subfolder_in_the_published_layout_gives_one_split(tmp_path: Path) -> None:
    for at, split in enumerate(("diverse_instruction", "original", "train")):
        write(tmp_path / f"CIRR/{split}-00000-of-00001.parquet", texts(1, start=at))
    assert queries(only(own_pairs(tmp_path, split="original"))) == ["q1"]
    assert queries(only(own_pairs(tmp_path, split="diverse_instruction"))) == ["q0"]


def test_a_place_without_pairs_says_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TaskError, match=r"no table of pairs.*\.jsonl.*qry, qry_image_path"):
        own_pairs(tmp_path)
    with pytest.raises(DataMissing, match=r"no file or folder .*nowhere"):
        own_pairs(tmp_path / "nowhere")


def test_a_file_and_a_folder_cannot_be_one_subset(tmp_path: Path) -> None:
    write(tmp_path / "shop.csv", texts(1))
    write(tmp_path / "shop/a.csv", texts(1))
    with pytest.raises(TaskError, match="both subset 'shop'"):
        own_pairs(tmp_path)


def test_part_of_a_sharded_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "shop-00000-of-00002.csv", texts(1))
    with pytest.raises(TaskError, match="1 of 2 files of shop"):
        own_pairs(tmp_path)


@pytest.mark.parametrize(
    ("where", "root"),
    [("images/a/1.png", "images"), ("a/1.png", "."), ("shop/images/a/1.png", "shop/images")],
)
def test_images_are_found_beside_the_tables(tmp_path: Path, where: str, root: str) -> None:
    rows = [{"qry": "x", "qry_image_path": f"a/{n}.png", "pos_text": "p"} for n in range(2)]
    write(tmp_path / "shop/pairs.csv", rows)
    (tmp_path / where).parent.mkdir(parents=True)
    (tmp_path / where).touch()
    (tmp_path / "images").mkdir(exist_ok=True)
    pairs = only(own_pairs(tmp_path))
    assert Path(str(pairs[0].query.image)) == tmp_path / root / "a/0.png"
    given = only(own_pairs(tmp_path, tmp_path / "given"))
    assert given[0].query.image == f"{tmp_path}/given/a/0.png"


def test_the_paths_that_are_tried_are_spread_over_the_chosen_rows(tmp_path: Path) -> None:
    rows = [
        {"qry": "x", "qry_image_path": f"{n}" if n % 2 else "", "pos_text": "p"} for n in range(100)
    ]
    pairs = read_pairs([write(tmp_path / "a.csv", rows)])
    assert pairs.image_paths(8) == ["1", "33", "65", "99"]
    assert pairs[:4].image_paths(8) == ["1", "3"]
    assert pairs[:1].image_paths(8) == []


# -- wording ---------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_an_image_without_a_placeholder_is_worded_as_with_one(
    tmp_path: Path, tiny_qwen: Callable[..., Any], goldens: Path
) -> None:
    images = goldens / "data/train_images/images"
    image = sorted(images.glob("CIRR/*.png"))[0].relative_to(images).as_posix()
    rows = [
        {"qry": text, "qry_image_path": image, "pos_text": "p"}
        for text in ("a red square", f"{IMAGE}\na red square", "", IMAGE)
    ]
    pairs = only(own_pairs(write(tmp_path / "mine.csv", rows), images))
    assert queries(pairs)[0] == "a red square", "nothing is written into a user's text"
    encoder = tiny_qwen(image_resolution="low")
    rendered = [encoder.render(pair.query) for pair in pairs]
    assert rendered[0] == rendered[1]
    assert str(rendered[0].text).startswith("<|image_pad|>\n")
    vectors = encoder.encode([pair.query for pair in pairs])
    assert np.isfinite(vectors).all()


def test_instructions_of_their_own_stand_before_the_texts_and_are_marked(tmp_path: Path) -> None:
    ask, show = "Find the answer:", "Represent the image."
    row = {
        "qry": "", "qry_image_path": "", "qry_instruction": "",
        "pos_text": "", "pos_image_path": "", "pos_instruction": show,
        "neg_text": "", "neg_image_path": "",
    }  # fmt: skip
    rows = [
        {**row, "qry": "who?", "qry_instruction": ask, "pos_image_path": "a.png"},
        {**row, "qry": f"{ask} who?", "qry_instruction": ask, "pos_text": "A cat.",
         "neg_image_path": "n.png"},
        {**row, "qry": f"{IMAGE}\nwho?", "qry_instruction": ask, "qry_image_path": "q.png",
         "pos_text": "A cat.", "neg_text": "A dog."},
        {**row, "qry": "who?", "pos_text": f"{IMAGE}\n{show}", "pos_image_path": "a.png"},
    ]  # fmt: skip
    pairs = only(own_pairs(write(tmp_path / "mine.csv", rows)))
    assert [(pair.query.text, pair.query.instruction) for pair in pairs] == [
        (f"{ask} who?", ask),
        (f"{ask} who?", ask),
        (f"{IMAGE}\n{ask} who?", ask),
        ("who?", None),
    ]
    assert [(pair.positive.text, pair.positive.instruction) for pair in pairs] == [
        (show, show),
        (f"{show} A cat.", show),
        (f"{show} A cat.", show),
        (f"{IMAGE}\n{show}", show),
    ]
    assert [pair.negative and pair.negative.text for pair in pairs] == [
        None, show, f"{show} A dog.", None,
    ]  # fmt: skip


def test_an_instruction_alone_is_nothing_to_encode(tmp_path: Path) -> None:
    rows = [{"qry": "", "qry_instruction": "Find:", "pos_text": "p"}]
    pairs = only(own_pairs(write(tmp_path / "mine.csv", rows)))
    with pytest.raises(TaskError, match="its query has neither text nor image"):
        pairs.check()


def test_positives_of_images_only_get_the_instruction_as_their_text(tmp_path: Path) -> None:
    rows = [{"qry": "q", "pos_image_path": "a.png", "pos_instruction": "Represent it."}]
    pairs = only(own_pairs(write(tmp_path / "mine.jsonl", rows)))
    assert pairs[0].positive.text == pairs[0].positive.instruction == "Represent it."


# -- equal positives -------------------------------------------------------------------------------


def positives(path: Path, of: Sequence[tuple[str, str]]) -> PairTable:
    rows = [{"qry": "q", "pos_text": text, "pos_image_path": image} for text, image in of]
    return read_pairs([write(path, rows)])


def test_equal_positives_have_equal_codes(tmp_path: Path) -> None:
    of = [("a", ""), ("a", "1"), ("", "1"), ("a", ""), ("b", "1"), ("a", "1"), ("1", ""), ("", "1")]
    pairs = positives(tmp_path / "a.parquet", of)
    assert pairs.positive_codes.tolist() == [0, 1, 2, 0, 3, 1, 4, 2]
    assert pairs[3:].positive_codes.tolist() == [0, 3, 1, 4, 2]
    assert pairs.select(np.array([7, 0])).positive_codes.tolist() == [2, 0]


def test_codes_are_common_to_tables_and_other_pairs(tmp_path: Path) -> None:
    from dataclasses import replace

    one = replace(positives(tmp_path / "a.parquet", [("a", "x/1"), ("b", "")]), root=Path("r"))
    two = replace(
        positives(tmp_path / "b.csv", [("b", ""), ("a", "1"), ("a", "x/1")]), root=Path("r/x")
    )
    three = [
        mh.Pair(query=mh.Item(text="q"), positive=mh.Item(text=text, image=image))
        for text, image in [("a", "r/x/1"), ("b", None), (None, b"1"), (None, b"1"), (None, b"2")]
    ]
    codes = [part.tolist() for part in positive_codes([one, two, three])]
    assert codes == [[0, 1], [1, 0, 2], [0, 1, 3, 3, 4]]
    assert positive_codes([]) == []


def test_columns_that_are_not_there_and_null_count_as_nothing(tmp_path: Path) -> None:
    table = pa.table(
        {"qry": ["q"] * 3, "pos_image_path": ["1", None, "1"], "pos_text": ["", "a", None]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.select(["qry", "pos_text"]), tmp_path / "b.parquet")
    whole, texts_only = (read_pairs([tmp_path / f"{name}.parquet"]) for name in "ab")
    codes = [part.tolist() for part in positive_codes([whole, texts_only])]
    assert codes == [[0, 1, 0], [2, 1, 2]]
