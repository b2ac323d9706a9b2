"""The drill-down of a report: which queries, what is told of them, and pictures in their budget."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_runs import Asked, draw, ranked, rows_table, write_run
from mmeb_harness.errors import UsageError
from mmeb_harness.item import Item
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.examples.build import Examples, Group, build
from mmeb_harness.reports.examples.distributions import gold_ranks, margin_bars, margins, rank_bars
from mmeb_harness.reports.examples.thumbnails import SIDE, Album
from mmeb_harness.reports.readable import readable
from PIL import Image

LABELS = [Item(text=f"label {number}") for number in range(6)]
FIRST = len(LABELS)


def picture_task(folder: Path, right: Sequence[bool]) -> tuple[list[Item], list[Asked]]:
    """Queries about pictures: right, or with the gold (label 0) in third place."""
    asks = "Name what is shown:"
    items = list(LABELS)
    asked = []
    for number, is_right in enumerate(right):
        image = draw(folder / f"{number}.png", f"#{40 + number:02x}6080")
        items.append(
            Item(text=f"<|image_1|>\n{asks} no. {number}\n", instruction=asks, image=image)
        )
        order = [0, 1, 2, 3, 4, 5] if is_right else [4, 5, 0, 1, 2, 3]
        asked.append(ranked(FIRST + number, 0, order))
    return items, asked


def options(images: int | None = 24, **extra: Any) -> ReportOptions:
    return ReportOptions(format="html", images=images, extra=extra)


def only(examples: Examples) -> Group:
    (task,) = examples.tasks.values()
    (group,) = task.groups
    return group


def test_a_query_shows_its_text_without_placeholder_and_instruction_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [False, True])})
    examples = build([run], options())
    wrong, right = only(examples).queries
    assert (wrong.number, wrong.kind, right.kind) == (0, "wrong", "right")
    assert wrong.item.text == "no. 0"
    assert wrong.item.instruction == only(examples).instruction == "Name what is shown:"
    assert [gold.text for gold in wrong.gold] == ["label 0"]
    (outcome,) = wrong.outcomes
    assert (outcome.state, outcome.rank, outcome.ties) == ("wrong", 3, 0)
    assert outcome.margin == pytest.approx(-0.2, abs=1e-6)
    assert [answer.item.text for answer in outcome.answers] == [
        "label 4", "label 5", "label 0", "label 1", "label 2"]  # fmt: skip
    assert [answer.gold for answer in outcome.answers] == [False, False, True, False, False]
    assert outcome.answers[0].score == pytest.approx(0.9)
    assert right.outcomes[0].margin == pytest.approx(0.1, abs=1e-6)


def test_a_gold_below_the_answers_shown_stands_after_them_at_its_place(tmp_path: Path) -> None:
    items = [*(Item(text=f"t{number}") for number in range(20)), Item(text="asked")]
    kept = ranked(20, 7, range(20))  # eighth: among the ten that are kept
    lost = ranked(20, 15, range(20))
    run = write_run(tmp_path / "a", "a", {"VQ": (items, [kept, lost])})
    seen, unseen = only(build([run], options())).queries
    last = seen.outcomes[0].answers[-1]
    assert (last.place, last.item.text, last.gold) == (8, "t7", True)
    assert last.score == pytest.approx(0.2, abs=1e-6)
    last = unseen.outcomes[0].answers[-1]
    assert (last.place, last.item.text, last.gold, last.score) == (16, "t15", True, None)
    assert unseen.outcomes[0].margin is None
    assert only(build([run], options())).spreads[0].unknown == 1


def test_a_query_with_several_gold_candidates_shows_them_and_marks_each(tmp_path: Path) -> None:
    """The best of them counts; the others are right answers too, and no one's ties."""
    scores = {0: 0.9, 1: 0.8, 2: 0.8, 3: 0.8, 4: 0.5, 5: 0.4}
    asked = Asked(query=6, gold=[5, 3, 1], scores=scores)
    run = write_run(tmp_path / "a", "a", {"VQ": ([*LABELS, Item(text="q")], [asked])})
    (query,) = only(build([run], options())).queries
    assert [gold.text for gold in query.gold] == ["label 5", "label 3", "label 1"]
    (outcome,) = query.outcomes
    assert (outcome.state, outcome.rank, outcome.ties) == ("wrong", 2, 1)
    assert outcome.margin == pytest.approx(-0.1, abs=1e-6)
    assert {answer.item.text: answer.gold for answer in outcome.answers} == {
        "label 0": False, "label 1": True, "label 2": False, "label 3": True, "label 4": False,
    }  # fmt: skip


def test_the_first_of_several_gold_candidates_is_right_whichever_it_is(tmp_path: Path) -> None:
    """Only the gold that is stored first would be marked, and the right answer taken for wrong."""
    asked = Asked(query=6, gold=[5, 2], scores={0: 0.5, 2: 0.9, 5: 0.1})
    run = write_run(tmp_path / "a", "a", {"VQ": ([*LABELS, Item(text="q")], [asked])})
    (outcome,) = only(build([run], options())).queries[0].outcomes
    assert (outcome.state, outcome.rank, outcome.ties) == ("right", 1, 0)
    assert [answer.gold for answer in outcome.answers] == [True, False, True]


def test_of_many_gold_candidates_five_are_shown(tmp_path: Path) -> None:
    """A query with hundreds of them would fill the page."""
    items = [*(Item(text=f"t{number}") for number in range(20)), Item(text="asked")]
    asked = Asked(query=20, gold=range(8), scores={n: 0.9 - 0.01 * n for n in range(20)})
    run = write_run(tmp_path / "a", "a", {"VQ": (items, [asked])})
    (query,) = only(build([run], options())).queries
    assert [gold.text for gold in query.gold] == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize(("gold", "place"), [([9, 6], 7), ([5, 9], 6), ([4, 9], 5)])
def test_the_best_gold_stands_after_the_answers_where_none_is_among_them(
    tmp_path: Path, gold: list[int], place: int
) -> None:
    """The sixth is the first that the five answers leave out; the fifth is not shown twice."""
    items = [*(Item(text=f"t{number}") for number in range(12)), Item(text="asked")]
    asked = Asked(query=12, gold=gold, scores={n: 0.9 - 0.05 * n for n in range(12)})
    run = write_run(tmp_path / "a", "a", {"VQ": (items, [asked])})
    (outcome,) = only(build([run], options())).queries[0].outcomes
    assert [answer.place for answer in outcome.answers] == [*range(1, 6), *([place] * (place > 5))]
    assert [answer.place for answer in outcome.answers if answer.gold] == [place]
    assert outcome.answers[place - 1 if place < 6 else 5].item.text == f"t{place - 1}"


def test_a_query_is_tied_where_one_run_has_it_tied(tmp_path: Path) -> None:
    """Whoever looks for ties would miss those of one run among several."""
    tie = Asked(query=6, gold=[0], scores=dict.fromkeys(range(6), 0.5))
    right = ranked(6, 0, range(6))
    items = [*LABELS, Item(text="q")]
    runs = [write_run(tmp_path / n, n, {"VQ": (items, [one])}) for n, one in
            (("a", tie), ("b", right))]  # fmt: skip
    (query,) = only(build(runs, options())).queries
    assert (query.tied, query.states, query.kind) == (True, "12", "flipped")
    assert not only(build(runs[1:], options())).queries[0].tied


def test_a_querys_text_may_be_three_times_as_long_as_a_candidates(tmp_path: Path) -> None:
    """600 and 200 characters, also where one item is both."""
    items = [Item(text="x" * 1000), Item(text="other")]
    run = write_run(tmp_path / "a", "a", {"VQ": (items, [ranked(0, 0, [0, 1])])})
    (query,) = only(build([run], options())).queries
    assert query.item.text == "x" * 600 + " … (and 400 more characters)"
    assert query.gold[0].text == "x" * 200 + " … (and 800 more characters)"
    assert query.outcomes[0].answers[0].item.text == query.gold[0].text


def test_an_instruction_is_taken_out_once_and_without_placeholder(tmp_path: Path) -> None:
    """What is asked may repeat it, word for word."""
    asks = "<|image_1|>Name it: "
    item = Item(text=asks + "who says Name it: in the film?", instruction=asks)
    run = write_run(tmp_path / "a", "a", {"VQ": ([*LABELS, item], [ranked(6, 0, range(6))])})
    (query,) = only(build([run], options())).queries
    assert query.item.instruction == "Name it:"
    assert query.item.text == "who says Name it: in the film?"


def test_queries_of_several_instructions_have_none_in_common(tmp_path: Path) -> None:
    """One of them would stand above queries that were asked something else."""
    items = [*LABELS, *(Item(text=f"{asks} it", instruction=asks) for asks in ("Name", "Find"))]
    asked = [ranked(6, 0, range(6)), ranked(7, 0, range(6))]
    run = write_run(tmp_path / "a", "a", {"VQ": (items, asked)})
    group = only(build([run], options()))
    assert [query.item.instruction for query in group.queries] == ["Name", "Find"]
    assert group.instruction == ""


def test_ties_are_neither_right_nor_wrong_and_are_counted(tmp_path: Path) -> None:
    tie = Asked(query=6, gold=[0], scores=dict.fromkeys(range(6), 0.5))
    run = write_run(tmp_path / "a", "a", {"VQ": ([*LABELS, Item(text="q")], [tie])})
    (query,) = only(build([run], options())).queries
    (outcome,) = query.outcomes
    assert (outcome.state, outcome.rank, outcome.ties, query.states) == ("tied", 1, 5, "1")
    assert outcome.hit_at_1 == pytest.approx(1 / 6)
    assert query.kind == "wrong"  # right in no run
    assert only(build([run], options())).spreads[0].ranks[0].count == 0  # it wins no tie


def test_runs_stand_together_only_on_the_same_data(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [True, False])})
    second = write_run(tmp_path / "b", "b", {"VQ": picture_task(tmp_path, [False, False])})
    other = write_run(
        tmp_path / "c", "c", {"VQ": picture_task(tmp_path, [True, True])}, digest="other data"
    )
    (task,) = build([first, second, other], options()).tasks.values()
    assert [group.models for group in task.groups] == [("a", "b"), ("c",)]
    assert task.groups[0].counts == {"flipped": 1, "wrong": 1, "right": 0}
    assert [query.states for query in task.groups[0].queries] == ["20", "00"]
    assert task.groups[1].counts == {"flipped": 0, "wrong": 0, "right": 2}
    assert len({group.key for group in task.groups}) == 2


def test_a_run_with_fewer_queries_or_unknown_data_stands_alone(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [True, True])}),
        write_run(tmp_path / "b", "b", {"VQ": picture_task(tmp_path, [True])}),
        write_run(tmp_path / "c", "c", {"VQ": picture_task(tmp_path, [True])}, digest=""),
        write_run(tmp_path / "d", "d", {"VQ": picture_task(tmp_path, [True])}, digest=""),
    ]
    (task,) = build(runs, options()).tasks.values()
    assert [group.models for group in task.groups] == [("a",), ("b",), ("c",), ("d",)]


def test_a_limited_run_stands_alone_and_a_failed_task_nowhere(tmp_path: Path) -> None:
    """The first queries of a task have fewer candidates: another question."""
    task = {"VQ": picture_task(tmp_path, [True])}
    runs = [write_run(tmp_path / name, name, task) for name in "abc"]
    runs[1].tasks["VQ"].__dict__["limit"] = 1
    runs[2].tasks["VQ"].__dict__["status"] = "failed"
    (found,) = build(runs, options()).tasks.values()
    assert [group.models for group in found.groups] == [("a",), ("b",)]
    assert found.unknown == ()


def test_a_models_name_is_cut(tmp_path: Path) -> None:
    """A name of any length would stand over each query."""
    run = write_run(tmp_path / "a", "m" * 100, {"VQ": picture_task(tmp_path, [True])})
    assert only(build([run], options())).models == ("m" * 60 + " … (and 40 more characters)",)


def test_suites_stand_apart_and_runs_without_rows_are_named(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [True])})
    two = write_run(tmp_path / "b", "b", {"VQ": picture_task(tmp_path, [True])}, suite="big")
    bare = write_run(tmp_path / "c", "c", {"VQ": picture_task(tmp_path, [True])})
    (tmp_path / "c/tasks/VQ.parquet").unlink()
    examples = build([one, two, bare], options())
    assert set(examples.tasks) == {("toy", "VQ"), ("big", "VQ")}
    assert examples.tasks["toy", "VQ"].unknown == ("c",)
    assert build([bare], options()).tasks == {}


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    task = {"VQ": picture_task(tmp_path, [True])}
    runs = [
        write_run(tmp_path / "a", "m", task, overrides={"pooling": "last"}),
        write_run(tmp_path / "b", "m", task, overrides={"pooling": "mean"}),
    ]
    assert only(build(runs, options())).models == ("m pooling=last", "m pooling=mean")
    assert only(build(runs, options(), ["x", "y"])).models == ("x", "y")


def test_what_is_listed_is_flipped_first_and_leaves_room_for_each_kind(tmp_path: Path) -> None:
    first = [number % 2 == 0 for number in range(60)]
    second = [number % 3 == 0 for number in range(60)]
    items, asked = picture_task(tmp_path, first)
    runs = [
        write_run(tmp_path / "a", "a", {"VQ": (items, asked)}),
        write_run(tmp_path / "b", "b", {"VQ": picture_task(tmp_path, second)}),
    ]
    group = only(build(runs, options(12)))
    assert group.counts == {"flipped": 30, "wrong": 20, "right": 10}
    kinds = [query.kind for query in group.queries]
    assert kinds == ["flipped"] * 6 + ["wrong"] * 4 + ["right"] * 2
    assert len({query.number for query in group.queries}) == 12
    for query in group.queries:
        both = (first[query.number], second[query.number])
        assert query.kind == ("right" if all(both) else "flipped" if any(both) else "wrong")
    flipped = [query.number for query in group.queries if query.kind == "flipped"]
    assert flipped[0] < 10
    assert flipped[-1] > 45  # evenly over the task
    assert only(build(runs, options(12))).queries == group.queries


@pytest.mark.parametrize("right", [60, 59, 3, 0])
def test_what_a_kind_leaves_free_goes_to_another(tmp_path: Path, right: int) -> None:
    states = [number < right for number in range(60)]
    run = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, states)})
    queries = only(build([run], options(24))).queries
    assert len({query.number for query in queries}) == len(queries) == 24
    assert sum(query.kind == "right" for query in queries) == {60: 24, 59: 23, 3: 3, 0: 0}[right]
    assert len(only(build([run], options(None))).queries) == 60


def test_a_picture_stands_once_whoever_shows_it(tmp_path: Path) -> None:
    same = draw(tmp_path / "same.png", "red")
    copy = draw(tmp_path / "elsewhere/copy.png", "red")
    tasks = {}
    for name, image in (("A", same), ("B", copy)):
        items = [Item(text="yes"), Item(text="no"), Item(text="q", image=image)]
        tasks[name] = (items, [ranked(2, 0, [0, 1])] * 3)
    runs = [write_run(tmp_path / name, name, tasks) for name in ("r", "s")]
    examples = build(runs, options())
    (picture,) = examples.pictures
    assert (picture.width, picture.height, picture.name) == (40, 30, "same.png")
    same.unlink()
    assert build(runs, options()).pictures[0].source == picture.source  # the copy is as good


def test_a_drawn_picture_is_kept_exactly_and_a_large_one_is_small(tmp_path: Path) -> None:
    photo = Image.effect_noise((600, 300), 60).convert("RGB")
    photo.save(tmp_path / "photo.jpg")
    drawn = draw(tmp_path / "drawn.png", "teal")
    items = [Item(text="y"), Item(text="n"), Item(image=drawn), Item(image=tmp_path / "photo.jpg")]
    asked = [ranked(2, 0, [0, 1]), ranked(3, 0, [0, 1])]
    run = write_run(tmp_path / "a", "a", {"A": (items, asked)})
    for thumbnail, original in zip(build([run], options()).pictures, (drawn, None), strict=True):
        assert thumbnail.source is not None
        head, _, content = thumbnail.source.partition(";base64,")
        assert head.startswith("data:image/")
        shown = Image.open(io.BytesIO(base64.b64decode(content)))
        assert shown.size == (thumbnail.width, thumbnail.height)
        if original:
            assert np.array_equal(shown.convert("RGB"), Image.open(original).convert("RGB"))
        else:
            assert shown.size == (SIDE, SIDE // 2)


def test_pictures_that_cannot_be_shown_become_notes(tmp_path: Path) -> None:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    images = {
        "gone": draw(tmp_path / "gone.png", "red"),
        "changed": draw(tmp_path / "changed.png", "red", (41, 30)),
        "text": write("text.png", b"this is no picture"),
        "empty": write("empty.png", b""),
        "cut": write("cut.png", draw(tmp_path / "whole.png", "red", (90, 90)).read_bytes()[:80]),
        "folder": tmp_path,
        "null": Path("a\0b.png"),
    }
    os.mkfifo(tmp_path / "pipe.png")  # reading it would never end
    images["pipe"] = tmp_path / "pipe.png"
    items = [Item(text="y"), Item(text="n"), *(Item(image=path) for path in images.values())]
    asked = [ranked(2 + number, 0, [0, 1]) for number in range(len(images))]
    run = write_run(tmp_path / "a", "a", {"A": (items, asked)})
    images["gone"].unlink()
    draw(images["changed"], "blue")
    examples = build([run], options())
    notes = dict(zip(images, [one.note or "" for one in examples.pictures], strict=True))
    assert not any(one.source for one in examples.pictures)
    assert notes["gone"] == "is no longer there"
    assert notes["changed"] == "has changed since the run"
    assert "not an image" in notes["text"]
    assert "empty" in notes["empty"]
    assert "not a regular file" in notes["folder"]
    assert "not a regular file" in notes["pipe"]
    assert all(notes.values())
    assert str(tmp_path) not in repr(examples.pictures)  # where it lay is nobody's business
    assert any("is no longer there" in remark for remark in examples.remarks)


def test_pictures_of_gold_candidates_that_no_answer_shows_are_drawn(tmp_path: Path) -> None:
    """What is right could not be seen where the run did not find it."""
    items = [Item(text=f"t{number}") for number in range(14)]
    items += [Item(image=draw(tmp_path / "gold.png", "red")), Item(text="asked")]
    asked = Asked(query=15, gold=[0, 14], scores={n: 0.9 - 0.01 * n for n in range(15)})
    run = write_run(tmp_path / "a", "a", {"VQ": (items, [asked])})
    (picture,) = build([run], options()).pictures
    assert (picture.name, picture.source is None) == ("gold.png", False)


def test_an_image_in_memory_only_is_a_note() -> None:
    album = Album()
    number = album.ask("digest", None)
    assert "memory" in (album.draw([number])[0].note or "")


def test_the_budget_is_kept_and_no_task_is_left_without(tmp_path: Path) -> None:
    tasks = {}
    for name in "ABC":
        items, asked = picture_task(tmp_path / name, [False] * 8)
        tasks[name] = (items, asked)
        for number in range(8):  # a size of its own makes each picture one of its own
            draw(tmp_path / name / f"{number}.png", "red", (50 + number, 50 + ord(name)))
    run = write_run(tmp_path / "a", "a", tasks)
    whole = build([run], options())
    assert all(one.source for one in whole.pictures)
    total = sum(len(one.source or "") for one in whole.pictures)
    part = build([run], options(picture_bytes=total // 2))
    drawn = [one for one in part.pictures if one.source]
    assert total // 4 < sum(len(one.source or "") for one in drawn) <= total // 2
    for task in part.tasks.values():
        shown = [part.pictures[query.item.picture or 0].source for query in task.groups[0].queries]
        kept = [source is not None for source in shown]
        assert kept[0]
        assert not any(late and not early for early, late in pairwise(kept))
    assert any("budget" in remark for remark in part.remarks)


def test_without_pictures_the_texts_are_still_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [True] * 30)})
    examples = build([run], options(0))
    assert not any(one.source for one in examples.pictures)
    assert len(only(examples).queries) == 24
    assert only(examples).queries[0].item.text == "no. 0"
    assert examples.remarks == ()


def test_many_runs_list_fewer_queries(tmp_path: Path) -> None:
    from mmeb_harness.reports.examples.build import _listed

    assert _listed(options(24), 36, 3) == 24
    assert _listed(options(24), 36, 30) == 4
    assert _listed(options(None), 36, 30) is None
    assert _listed(options(100), 1, 1) == 100


def test_rows_that_do_not_belong_to_the_items_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [True])})
    other = write_run(tmp_path / "b", "b", {"VQ": (LABELS[:2], [ranked(0, 0, [0, 1])])})
    (other.output_dir / "tasks/VQ.items.parquet").replace(tmp_path / "a/tasks/VQ.items.parquet")
    with pytest.raises(UsageError, match="do not belong"):
        build([run], options())
    short = write_run(tmp_path / "c", "c", {"VQ": (LABELS, [ranked(0, 0, [0, 1])])})
    (short.output_dir / "tasks/VQ.items.parquet").replace(tmp_path / "a/tasks/VQ.items.parquet")
    with pytest.raises(UsageError, match="do not belong"):  # the query is the seventh of six
        build([run], options())
    (tmp_path / "a/tasks/VQ.items.parquet").unlink()
    with pytest.raises(UsageError, match="not its items"):
        build([run], options())


# --- distributions


def test_ranks_are_what_a_random_order_of_the_tied_gives() -> None:
    """The expected rank of the best gold, against every order of the tied."""
    from itertools import permutations

    scores = {0: 0.9, **dict.fromkeys(range(1, 6), 0.5)}
    rows = rows_table([Asked(query=0, gold=[1, 2], scores=scores)])
    places = [
        2 + next(place for place, one in enumerate(order) if one < 2)  # one is better, two are gold
        for order in permutations(range(5))
    ]
    assert gold_ranks(rows)[0] == pytest.approx(np.mean(places))


def test_every_query_is_in_one_bar(tmp_path: Path) -> None:
    for last in (1, 2, 3, 4, 24, 50, 1000, 5000):
        ranks = np.arange(1, last + 1, dtype=float)
        bars = rank_bars(ranks, last)
        assert sum(bar.count for bar in bars) == last
        assert bars[0].count == 1
        assert [bar.good for bar in bars] == [True] + [False] * (len(bars) - 1)
        assert max(bar.height for bar in bars) == 1
        assert bars[-1].label.split()[-1] == f"{last:,}"
    run = write_run(tmp_path / "a", "a", {"VQ": picture_task(tmp_path, [True, True, False])})
    (spread,) = only(build([run], options())).spreads
    assert [(bar.label, bar.count) for bar in spread.ranks if bar.count] == [
        ("rank 1", 2), ("rank 3", 1)]  # fmt: skip
    assert sum(bar.count for bar in spread.margins) == 3
    assert sum(bar.count for bar in spread.margins if bar.good) == 2
    for bar in spread.margins:
        assert bar.good == (not bar.label.startswith("-"))


def test_margins_need_the_gold_and_another_among_the_kept() -> None:
    alone = Asked(query=0, gold=[1], scores={1: 0.5})
    low = ranked(0, 15, range(16))
    several = Asked(query=0, gold=[1, 2], scores={1: 0.1, 2: 0.6, 3: 0.4})
    found = margins(rows_table([alone, low, several]))
    assert math.isnan(found[0])
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("span", "first", "last", "good"),
    [
        ((-0.1, 0.3), "-0.1 to -0.075", "+0.275 to +0.3", 12),
        ((0.31, 0.39), "+0 to +0.025", "+0.375 to +0.4", 16),
        ((-0.39, -0.31), "-0.4 to -0.375", "-0.025 to +0", 0),
        ((-0.2, 0.05), "-0.2 to -0.175", "+0.075 to +0.1", 4),
    ],
)
def test_bars_of_margins_are_four_a_tick_and_end_at_zero(
    span: tuple[float, float], first: str, last: str, good: int
) -> None:
    """Right and wrong answers share no bar, also where the axis is computed a little off zero."""
    bars = margin_bars(np.array([*span, 0.0]), span)
    assert (bars[0].label, bars[-1].label) == (first, last)
    assert len(bars) % 4 == 0
    assert sum(bar.good for bar in bars) == good
    assert sum(bar.count for bar in bars) == 3
    if good:
        zero = next(bar for bar in bars if bar.good)
        assert (zero.label.startswith("+0 to "), zero.count) == (True, 1)


def test_the_most_candidates_that_any_run_tells_end_the_ranks(tmp_path: Path) -> None:
    """A run of an older release does not tell them; the task is the same."""
    task = {"VQ": picture_task(tmp_path, [True])}
    runs = [write_run(tmp_path / name, name, task) for name in "ab"]
    runs[0].tasks["VQ"].__dict__["n_candidates"] = None
    group = only(build(runs, options()))
    assert group.candidates == 6
    assert [spread.ranks[-1].label for spread in group.spreads] == ["rank 6"] * 2


def test_confusions_count_what_was_taken_and_ties_apart(tmp_path: Path) -> None:
    items = [Item(text="cat"), Item(text="dog"), Item(text="ape"), Item(text="q")]
    asked = [
        ranked(3, 0, [1, 0, 2]),
        ranked(3, 0, [1, 2, 0]),
        ranked(3, 2, [2, 0, 1]),
        Asked(query=3, gold=[1], scores={0: 0.4, 1: 0.4, 2: 0.1}),
    ]
    run = write_run(tmp_path / "a", "a", {"VQ": (items, asked)})
    table = only(build([run], options())).spreads[0].confusions
    assert table is not None
    assert table.labels == ("ape", "cat", "dog")
    assert table.counts == ((1, 0, 0, 0), (0, 0, 2, 0), (0, 0, 0, 1))
    assert table.highest == 2


def test_any_of_several_gold_candidates_is_no_confusion(tmp_path: Path) -> None:
    """Answered with the second: right, so it counts as that one. Else the first is what was to be
    answered."""
    items = [Item(text="cat"), Item(text="dog"), Item(text="ape"), Item(text="q")]
    asked = [Asked(query=3, gold=[0, 1], scores={0: 0.1, 1: 0.9, 2: 0.5}),
             Asked(query=3, gold=[1, 0], scores={0: 0.1, 1: 0.5, 2: 0.9})]  # fmt: skip
    run = write_run(tmp_path / "a", "a", {"VQ": (items, asked)})
    table = only(build([run], options())).spreads[0].confusions
    assert table is not None
    assert table.labels == ("ape", "cat", "dog")
    assert table.counts == ((0, 0, 0, 0), (0, 0, 0, 0), (1, 0, 1, 0))


def test_many_candidates_or_pictures_have_no_confusions(tmp_path: Path) -> None:
    many = [*(Item(text=f"t{number}") for number in range(25)), Item(text="q")]
    shown = [Item(image=draw(tmp_path / "a.png", "red")), Item(text="b"), Item(text="q")]
    run = write_run(
        tmp_path / "a", "a",
        {"A": (many, [ranked(25, 0, range(25))]), "B": (shown, [ranked(2, 0, [0, 1])])},
    )  # fmt: skip
    for task in build([run], options()).tasks.values():
        assert task.groups[0].spreads[0].confusions is None


# --- texts


def test_what_hides_is_shown_by_its_number() -> None:
    assert readable("a\u202eb\x1b[31m\u2066c", 100) == "a⟨U+202E⟩b⟨U+001B⟩[31m⟨U+2066⟩c"
    assert readable("  two\n\n lines\tand\r\nmore ", 100) == "two lines and more"
    assert readable("\ud800x", 100) == "⟨U+D800⟩x"
    assert readable("שלום 👩‍👩‍👧 ½", 100) == "שלום 👩‍👩‍👧 ½"  # nothing hides here


@pytest.mark.parametrize("length", [5, 10, 11, 39, 40, 41, 100_000])
def test_long_texts_are_cut_and_say_so(length: int) -> None:
    shown = readable("x" * length, 10)
    if length <= 10:
        assert shown == "x" * length
    else:
        assert shown == "x" * 10 + f" … (and {length - 10:,} more characters)"


def test_hostile_texts_are_cut_before_they_cost(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\u202e" + "\0" * 100_000
    items = [Item(text=bad + "a"), Item(text=bad + "b"), Item(text=bad, instruction=bad[:50])]
    run = write_run(tmp_path / "a", bad[:300], {"VQ": (items, [ranked(2, 0, [0, 1])])})
    group = only(build([run], options()))
    texts = [group.models[0], group.queries[0].item.text, group.queries[0].gold[0].text]
    assert max(map(len, texts)) < 8 * 600 + 50
    assert not any("\u202e" in text or "\0" in text for text in texts)
