"""Boards: what stands in which column, who is ranked, who is tied, and how entries are named."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_runs import ALL, IND, OOD, made_run
from mmeb_harness.card import Card
from mmeb_harness.errors import UsageError
from mmeb_harness.reporter import ReportOptions
from mmeb_harness.reports.board import published
from mmeb_harness.reports.board.build import build
from mmeb_harness.reports.board.datasets import of_other_data
from mmeb_harness.reports.board.entries import row_entry
from mmeb_harness.reports.board.leaderboard import Board, Entry, Score, letters
from mmeb_harness.reports.board.naming import keys
from mmeb_harness.reports.board.published import PublishedRow
from mmeb_harness.reports.board.ranking import ranked
from mmeb_harness.reports.board.remarks import some_of
from mmeb_harness.result import Run, TaskName
from mmeb_harness.rows import rows_path
from mmeb_harness.statistics import average_interval, published_average_interval, task_interval
from mmeb_harness.summary import Cluster, wilson

PLAIN = ReportOptions()
PUBLISHED = ReportOptions(published=True)
LEVEL = dict.fromkeys(ALL, 0.5)
SUITE = ({"name": "cats", "meta_task": "vqa", "split": "ind"},)


def board(*runs: Run, options: ReportOptions = PLAIN) -> Board:
    (made,) = build(runs, options)
    return made


def entry_of(made: Board, name: str) -> Entry:
    (found,) = [entry for entry in made.entries if entry.name == name]
    return found


def card(**facts: Any) -> Card:
    return Card(name="model", factory="toy:Toy", **facts)


# -- columns and averages ---------------------------------------------------------------------


def test_columns_are_averages_and_then_tasks_by_meta_task(tmp_path: Path) -> None:
    made = board(made_run(tmp_path, LEVEL))
    averages = [column.key for column in made.columns if column.kind == "average"]
    assert averages == [
        "overall", "ind", "ood", "classification", "vqa", "retrieval", "grounding",
        "seen", "unseen",
    ]  # fmt: skip
    tasks = [column for column in made.columns if column.kind == "task"]
    assert made.columns[len(averages) :] == tuple(tasks)
    assert sorted(column.key for column in tasks) == sorted(ALL)
    metas = [column.meta_task for column in tasks]
    assert metas == sorted(metas, key=averages.index)
    by_key = {column.key: column for column in made.columns}
    assert set(by_key["ind"].tasks) == set(IND)
    assert (by_key["ind"].title, by_key["vqa"].title, by_key["seen"].title) == (
        "IND",
        "VQA",
        "Seen",
    )


def test_averages_are_plain_means_with_the_interval_of_their_clusters(tmp_path: Path) -> None:
    hits = {name: number / 40 for number, name in enumerate(ALL)}
    run = made_run(tmp_path, hits, card=card(training_datasets=("GQA", "OVEN", "elsewhere")))
    scores = board(run).entries[0].scores
    assert scores["overall"].value == pytest.approx(sum(range(36)) / 40 / 36)
    assert scores["overall"].interval == pytest.approx(
        average_interval([run.tasks[name].clusters for name in ALL])
    )
    assert scores["ood"].value == pytest.approx(sum(hits[name] for name in OOD) / 16)
    assert scores["seen"].value == pytest.approx((hits["GQA"] + hits["OVEN"]) / 2)
    assert scores["unseen"].value == pytest.approx(
        (sum(hits.values()) - hits["GQA"] - hits["OVEN"]) / 34
    )
    assert scores["GQA"].interval == run.tasks["GQA"].ci
    assert (scores["GQA"].seen, scores["OK-VQA"].seen) == (True, False)


@pytest.mark.parametrize(("training", "known"), [(None, set()), ((), {"unseen"}), (ALL, {"seen"})])
def test_seen_and_unseen_stand_only_where_training_data_is_declared(
    tmp_path: Path, training: tuple[str, ...] | None, known: set[str]
) -> None:
    entry = board(made_run(tmp_path, LEVEL, card=card(training_datasets=training))).entries[0]
    assert entry.scores.keys() & {"seen", "unseen"} == known
    seen = {entry.scores[name].seen for name in ALL}
    assert seen == {None if training is None else bool(training)}


def test_a_run_without_single_queries_has_intervals_from_their_number(tmp_path: Path) -> None:
    hits = {name: number / 40 for number, name in enumerate(ALL)}
    whole = made_run(tmp_path / "a", hits, model="whole")
    imported = made_run(
        tmp_path / "b", hits, model="imported", task={"clusters": (), "ci": None}, imported="v1, x"
    )
    bare = made_run(
        tmp_path / "c", hits, model="bare", task={"clusters": (), "ci": None, "n_queries": 0}
    )
    made = board(whole, imported, bare)
    known, same = entry_of(made, "whole").scores, entry_of(made, "imported").scores
    for key in ("overall", "ood", "vqa", "GQA"):
        assert same[key].interval == pytest.approx(known[key].interval, abs=1e-9)
    assert entry_of(made, "imported").kind == "imported"
    assert all(score.interval is None for score in entry_of(made, "bare").scores.values())


# -- what is incomplete ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["absent", "failed", "nan", "1.5", "-0.5"])
def test_an_incomplete_entry_has_no_average_over_the_gap_and_no_rank(
    tmp_path: Path, how: str
) -> None:
    hits: dict[str, Any] = {**LEVEL, "GQA": None}
    if how == "absent":
        del hits["GQA"]
    run = made_run(tmp_path / "part", hits, model="part")
    if how not in ("absent", "failed"):
        run = made_run(tmp_path / "part", LEVEL, model="part")
        run.tasks["GQA"].__dict__["score"] = float(how)
    made = board(run, made_run(tmp_path / "whole", dict.fromkeys(ALL, 0.1), model="whole"))
    entry = entry_of(made, "part")
    assert entry.missing == ("GQA",)
    assert (entry.rank, entry.group, entry.complete) == (None, None, False)
    assert entry.scores.keys().isdisjoint({"overall", "ood", "vqa", "GQA"})
    assert {"ind", "retrieval", "OK-VQA"} <= entry.scores.keys()
    assert set(entry.failed) == (set() if how == "absent" else {"GQA"})
    assert any("GQA not run" in remark for remark in entry.remarks) == (how == "absent")
    assert [entry.name for entry in made.entries] == ["whole", "part"]
    assert entry_of(made, "whole").rank == 1


def test_a_task_that_failed_has_no_score_whatever_was_scored_before(tmp_path: Path) -> None:
    """A score of part of a task would stand in the averages as if it were whole."""
    run = made_run(tmp_path, LEVEL)
    run.tasks["GQA"].__dict__.update(status="failed", error="the disk is full")
    (entry,) = board(run).entries
    assert (entry.missing, entry.failed) == (("GQA",), {"GQA": "the disk is full"})
    assert entry.scores.keys().isdisjoint({"GQA", "vqa", "overall"})


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_none_right_and_all_right_are_scores(tmp_path: Path, score: float) -> None:
    """A model that is never right would count as one that was not run."""
    (entry,) = board(made_run(tmp_path, {**LEVEL, "GQA": score})).entries
    assert (entry.missing, entry.rank, entry.scores["GQA"].value) == ((), 1, score)


def test_an_average_has_no_interval_where_one_of_its_tasks_has_none(tmp_path: Path) -> None:
    """Of a single query nobody knows how far chance moves it."""
    run = made_run(tmp_path, {**LEVEL, "GQA": [1.0]}, task={"clusters": (), "ci": None})
    scores = board(run).entries[0].scores
    assert scores["vqa"].interval is None
    assert scores["overall"].interval is None
    assert scores["retrieval"].interval is not None


def test_entries_without_a_rank_stand_limited_ones_last(tmp_path: Path) -> None:
    """A score over part of the queries is no reason to stand above one over all of them."""
    limited = made_run(tmp_path / "a", dict.fromkeys(ALL, 0.9), model="limited", limit=5)
    part = made_run(tmp_path / "b", {"GQA": 0.1}, model="part")
    whole = made_run(tmp_path / "c", dict.fromkeys(ALL, 0.1), model="whole")
    made = board(limited, part, whole)
    assert [entry.name for entry in made.entries] == ["whole", "part", "limited"]


def test_of_entries_without_a_rank_those_with_an_average_stand_first(tmp_path: Path) -> None:
    """None right is a score, and no score is none."""
    (none,) = board(made_run(tmp_path / "a", {"GQA": 0.5}, model="a")).entries
    (zero,) = board(made_run(tmp_path / "z", dict.fromkeys(ALL, 0.0), model="z")).entries
    found = ranked([none, replace(zero, missing=("GQA",))])
    assert [(entry.name, entry.rank) for entry in found] == [("z", None), ("a", None)]


def test_a_limited_run_is_marked_and_never_ranked(tmp_path: Path) -> None:
    limited = made_run(tmp_path / "a", dict.fromkeys(ALL, 0.9), model="limited", limit=5)
    made = board(limited, made_run(tmp_path / "b", LEVEL, model="full"))
    assert [(entry.name, entry.rank) for entry in made.entries] == [("full", 1), ("limited", None)]
    entry = entry_of(made, "limited")
    assert entry.limit == 5
    assert not entry.complete
    assert entry.scores["overall"].value == pytest.approx(0.9)
    assert "only the first 5 queries of each task: not ranked" in entry.remarks


# -- suites ------------------------------------------------------------------------------------


def test_suites_never_mix(tmp_path: Path) -> None:
    mini = made_run(tmp_path / "mini", LEVEL, model="same", suite="mini")
    full = made_run(tmp_path / "mmeb", LEVEL, model="same")
    other = made_run(tmp_path / "cats", {"cats": 0.5}, model="same", suite="a", suite_tasks=SUITE)
    boards = build([mini, other, full], PUBLISHED)
    assert [made.suite for made in boards] == ["mmeb", "a", "mini"]
    runs = {made.suite: [entry.run for entry in made.entries if entry.run] for made in boards}
    assert runs == {"mmeb": [full], "a": [other], "mini": [mini]}
    assert [len(made.entries) for made in boards] == [77, 1, 1]
    assert {entry.kind for made in boards[1:] for entry in made.entries} == {"measured"}
    keys = [entry.key for made in boards for entry in made.entries]
    assert len(set(keys)) == len(keys)


def test_nothing_to_report_is_an_error() -> None:
    with pytest.raises(UsageError, match="--published"):
        build([], PLAIN)


def test_a_task_named_like_an_average_is_an_error(tmp_path: Path) -> None:
    tasks = ({"name": "ood", "meta_task": "vqa", "split": "ind"},)
    run = made_run(tmp_path, {"ood": 0.5}, suite="a", suite_tasks=tasks)
    with pytest.raises(UsageError, match="'ood'"):
        build([run], PLAIN)


def test_runs_of_a_suite_that_grew_lack_what_came_later(tmp_path: Path) -> None:
    grown = ({"name": "dogs", "meta_task": "vqa", "split": "ood"}, *SUITE)
    old = made_run(tmp_path / "a", {"cats": 0.9}, model="old", suite="a", suite_tasks=SUITE)
    new = made_run(
        tmp_path / "b", {"cats": 0.5, "dogs": 0.5}, model="new", suite="a", suite_tasks=grown
    )
    made = board(old, new)
    assert [task.name for task in made.tasks] == ["dogs", "cats"]
    assert [(entry.name, entry.rank) for entry in made.entries] == [("new", 1), ("old", None)]
    assert entry_of(made, "old").missing == ("dogs",)


# -- published rows ----------------------------------------------------------------------------


def test_published_rows_stand_on_a_board_of_their_own_without_runs() -> None:
    made = board(options=PUBLISHED)
    assert (made.suite, len(made.entries), made.tasks) == ("mmeb", 76, published.tasks())
    ranked = [entry for entry in made.entries if entry.rank is not None]
    assert len(ranked) == 38
    assert all(len(entry.scores.keys() & set(ALL)) == 36 for entry in ranked)
    siglip = entry_of(made, "SigLIP")
    score = siglip.scores["retrieval"]
    assert (score.value, score.printed) == (pytest.approx(0.44092, abs=1e-5), pytest.approx(0.316))
    assert siglip.scores["overall"].printed is None
    assert siglip.remarks[0].startswith("Retrieval is printed as 31.6")
    assert siglip.scores["GQA"].interval == wilson(siglip.scores["GQA"].value, 1000)
    assert siglip.source.startswith("TIGER-Lab: paper")


def test_printed_averages_stand_alone_and_unranked() -> None:
    made = board(options=PUBLISHED)
    entry = entry_of(made, "VLM2Vec Qwen2-VL-7B LoRA, high resolution")
    assert (entry.rank, len(entry.missing)) == (None, 36)
    assert entry.scores["overall"].value == pytest.approx(0.658)
    assert entry.scores["seen"].value == entry.scores["ind"].value
    low, high = entry.scores["overall"].interval or (0, 0)
    assert low < 0.658 < high
    assert high - low < 0.012
    part = entry_of(made, "UniIR (CLIP_SF)")
    assert (part.rank, len(part.missing)) == (None, 4)
    low, high = part.scores["overall"].interval or (0, 0)
    assert low < part.scores["overall"].value < high
    assert "unseen" not in part.scores
    assert part.scores["seen"].value == pytest.approx(
        sum(part.scores[name].value for name in part.training or ()) / 10
    )


def row_scores(**facts: Any) -> Mapping[str, Score]:
    """Return the scores of a published row, made up."""
    row = PublishedRow(**{"name": "a", "kind": "paper", "by": "b", "source": "c", **facts})
    return row_entry(row, board(options=PUBLISHED).columns).scores


def test_unknown_scores_are_what_the_printed_average_leaves_for_them() -> None:
    """Three of four are known; the fourth must be 40 % where the mean of all is 70 %."""
    names = [task.name for task in published.tasks() if task.meta_task == "grounding"]
    scores = row_scores(scores=dict.fromkeys(names[:3], 0.8), printed={"grounding": 0.7})
    expected = published_average_interval([0.8, 0.8, 0.8, 0.4])
    assert scores["grounding"].interval == pytest.approx(expected)


@pytest.mark.parametrize(("known", "mean", "rest"), [(0.999, 1.0, 1.0), (0.001, 0.0, 0.0)])
def test_an_unknown_score_is_none_beyond_0_or_100(known: float, mean: float, rest: float) -> None:
    """A printed mean is rounded: what it leaves for the unknown score may be beyond either end."""
    names = [task.name for task in published.tasks() if task.meta_task == "grounding"]
    scores = row_scores(scores=dict.fromkeys(names[:3], known), printed={"grounding": mean})
    expected = published_average_interval([known, known, known, rest])
    assert scores["grounding"].interval == pytest.approx(expected, abs=1e-12)


def test_a_wrong_print_is_told_of_the_average_that_was_printed_and_no_other() -> None:
    """Trained on all tasks in distribution, the mean of those seen is that of IND: nobody printed
    it, right or wrong."""
    level = dict.fromkeys(ALL, 0.5)
    scores = row_scores(scores=level, printed={"ind": 0.6, "ood": 0.5}, training=IND)
    assert (scores["ind"].printed, scores["ind"].value) == (0.6, 0.5)
    assert (scores["seen"].printed, scores["seen"].value) == (None, 0.5)
    assert scores["ood"].printed is None


def test_what_is_known_of_a_published_row_stands_with_its_entry() -> None:
    """Else its scores would be read without what its source says of them."""
    made = board(options=PUBLISHED)
    for row in published.rows():
        entry = entry_of(made, row.name)
        assert (entry.parameters, entry.training) == (row.parameters, row.training)
        said = [*row.corrections, *filter(None, (row.setting, row.note))]
        missing = 36 - len(row.scores)
        if missing == 36:
            said.append("only averages are published: not ranked")
        elif missing:
            said.append(f"scores of {missing} of 36 tasks are not published: not ranked")
        assert list(entry.remarks) == said


def test_tasks_that_mmeb_has_not_are_said_beside_published_rows(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"cats": 0.5}, model="other", suite_tasks=SUITE)
    entry = entry_of(board(run, options=PUBLISHED), "other")
    assert len(entry.missing) == 36
    assert "not among the tasks of mmeb: cats" in entry.remarks


# -- ranks and ties ----------------------------------------------------------------------------


def test_equal_scores_share_a_rank_and_the_next_is_skipped(tmp_path: Path) -> None:
    rates = {"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.1}
    runs = [made_run(tmp_path / m, dict.fromkeys(ALL, r), model=m) for m, r in rates.items()]
    made = board(*runs)
    assert [(entry.name, entry.rank, entry.group) for entry in made.entries] == [
        ("a", 1, 1), ("b", 2, 2), ("c", 2, 2), ("d", 4, 3),
    ]  # fmt: skip


def test_a_group_is_led_by_its_best_and_not_by_a_chain(tmp_path: Path) -> None:
    # 1,000 queries of 36 tasks: two scores about 50 % are told apart from 0.7 points on
    rates = {"a": 0.510, "b": 0.506, "c": 0.502, "d": 0.498}
    runs = [made_run(tmp_path / m, dict.fromkeys(ALL, r), model=m) for m, r in rates.items()]
    assert [(entry.name, entry.group) for entry in board(*runs).entries] == [
        ("a", 1), ("b", 1), ("c", 2), ("d", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(("more", "groups"), [(0.006, [1, 1]), (0.008, [1, 2])])
def test_two_runs_measured_apart_are_told_apart_from_0_7_points_on(
    tmp_path: Path, more: float, groups: list[int]
) -> None:
    """More than one interval's half, less than what two of them reach: that may be chance."""
    rates = {"a": 0.5 + more, "b": 0.5}
    runs = [made_run(tmp_path / m, dict.fromkeys(ALL, r), model=m) for m, r in rates.items()]
    assert [entry.group for entry in board(*runs).entries] == groups


def with_overall(entry: Entry, value: float) -> Entry:
    """Return an entry with another overall score, of which no interval is known."""
    overall = replace(entry.scores["overall"], value=value, interval=None)
    return replace(entry, scores={**entry.scores, "overall": overall})


@pytest.mark.parametrize(("more", "ranks"), [(4e-10, [1, 1]), (2e-9, [1, 2])])
def test_scores_are_equal_to_a_billionth(tmp_path: Path, more: float, ranks: list[int]) -> None:
    """What a sum rounds makes no rank, and neither does what is shown of a score."""
    (entry,) = board(made_run(tmp_path, LEVEL)).entries
    found = ranked([with_overall(entry, 0.5), with_overall(entry, 0.5 + more)])
    assert [entry.rank for entry in found] == ranks
    assert [entry.group for entry in found] == ranks


def test_equal_scores_stand_by_name(tmp_path: Path) -> None:
    """What the rounding of a sum puts first would stand first, and that is no order."""
    (entry,) = board(made_run(tmp_path, LEVEL)).entries
    first = with_overall(replace(entry, name="a"), 0.5)
    second = with_overall(replace(entry, name="b"), 0.5 + 4e-10)
    assert [entry.name for entry in ranked([second, first])] == ["a", "b"]


def paired_runs(tmp_path: Path, both: dict[str, Any] | None = None, **changes: Any) -> list[Run]:
    """Return runs of which one is right where the other is, and on 2 queries of 1,000 more.

    `both` changes both, `changes` the better one.
    """
    generator = np.random.default_rng(0)
    runs: list[dict[str, Any]] = [{}, {}]
    for name in ALL:
        hits = generator.random(1000) < 0.5
        better = hits.copy()
        better[np.flatnonzero(~hits)[:2]] = True
        runs[0][name], runs[1][name] = hits.astype(float), better.astype(float)
    return [
        made_run(tmp_path / "worse", runs[0], model="worse", rows=True, **(both or {})),
        made_run(tmp_path / "better", runs[1], model="better", rows=True, **(both or changes)),
    ]


def test_runs_over_the_same_queries_are_compared_query_by_query(tmp_path: Path) -> None:
    made = board(*paired_runs(tmp_path))
    assert [(entry.name, entry.group) for entry in made.entries] == [("better", 1), ("worse", 2)]


def test_other_data_or_no_rows_are_compared_as_apart(tmp_path: Path) -> None:
    other = paired_runs(tmp_path / "other", task={"data_digest": "of others"})
    assert [entry.group for entry in board(*other).entries] == [1, 1]
    unknown = paired_runs(tmp_path / "unknown", both={"task": {"data_digest": None}})
    assert [entry.group for entry in board(*unknown).entries] == [1, 1]
    gone = paired_runs(tmp_path / "gone")
    (gone[0].output_dir / "tasks/GQA.parquet").unlink()
    assert [entry.group for entry in board(*gone).entries] == [1, 1]


def test_runs_that_fail_on_different_queries_are_less_sure_than_runs_apart(tmp_path: Path) -> None:
    """One is right where the other is wrong: 0.9 points, by 1,000 queries of 36 tasks, are chance
    then, and would not be over other queries."""
    generator = np.random.default_rng(0)
    hits: list[dict[str, Any]] = [{}, {}]
    for name in ALL:
        one = generator.permutation(np.arange(1000) < 500)
        other = ~one
        other[np.flatnonzero(one)[:9]] = True
        hits[0][name], hits[1][name] = one.astype(float), other.astype(float)

    def groups(folder: str, **changes: Any) -> list[int | None]:
        runs = [
            made_run(tmp_path / folder / "worse", hits[0], model="worse", rows=True),
            made_run(tmp_path / folder / "better", hits[1], model="better", rows=True, **changes),
        ]
        return [entry.group for entry in board(*runs).entries]

    assert groups("same") == [1, 1]
    assert groups("other", task={"data_digest": "of others"}) == [1, 2]


def test_another_number_of_queries_is_other_data_whatever_its_digest(tmp_path: Path) -> None:
    """Paired by place, queries would be compared with others."""
    runs = paired_runs(tmp_path)
    long = made_run(
        tmp_path / "long", dict.fromkeys(ALL, 0.5), model="long", queries=1100, rows=True
    )
    entries = [entry for run in (runs[1], long) for entry in board(run).entries]
    assert [entry.group for entry in ranked(entries)] == [1, 1]


def test_a_run_with_a_task_more_is_compared_as_apart(tmp_path: Path) -> None:
    """Its rows are of other tasks: there is no pair for each of them."""
    cats = TaskName(name="cats", meta_task="vqa", split="ind")
    more = (*published.tasks(), cats)
    runs = [
        made_run(tmp_path / "a", {**LEVEL, "cats": 0.5}, model="a", rows=True, suite_tasks=more),
        made_run(tmp_path / "b", dict.fromkeys(ALL, 0.502), model="b", rows=True),
    ]
    assert [(entry.name, entry.group) for entry in board(*runs).entries] == [("b", 1), ("a", 1)]


def test_rows_are_read_only_where_the_answer_is_not_plain(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / str(rate), dict.fromkeys(ALL, rate), model=f"m{rate}", rows=True)
        for rate in (0.2, 0.5, 0.8)
    ]
    (tmp_path / "0.5/tasks/GQA.parquet").write_text("damaged")
    assert [entry.group for entry in board(*runs).entries] == [1, 2, 3]
    near = made_run(tmp_path / "near", dict.fromkeys(ALL, 0.501), model="near", rows=True)
    with pytest.raises(UsageError, match=r"GQA\.parquet cannot be read"):
        board(*runs, near)


def test_an_entry_without_an_interval_is_tied_with_none(tmp_path: Path) -> None:
    bare = {"clusters": (), "ci": None, "n_queries": 0}
    runs = [
        made_run(tmp_path / "a", dict.fromkeys(ALL, 0.501), model="a", task=bare),
        made_run(tmp_path / "b", LEVEL, model="b"),
    ]
    assert [(entry.rank, entry.group) for entry in board(*runs).entries] == [(1, 1), (2, 2)]


def test_the_order_of_the_runs_changes_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    runs = [
        made_run(
            tmp_path / f"{number}",
            {name: generator.choice([0.49, 0.5, 0.51]) for name in ALL[: 36 - number % 3 // 2]},
            model=generator.choice(["a", "b", "B", "a-2", "<a>", "m" * 1000]),
            limit=generator.choice([None, None, 7]),
            overrides=generator.choice([{}, {"pooling": "eos"}]),
            suite=generator.choice(["mini", "mmeb"]),
        )
        for number in range(24)
    ]
    made = build(runs, PUBLISHED)
    for _ in range(3):
        generator.shuffle(runs)
        assert build(runs, PUBLISHED) == made
    names = [(each.suite, entry.name, entry.variant) for each in made for entry in each.entries]
    assert len(set(names)) == len(names), "two entries cannot be told apart"


# -- names -------------------------------------------------------------------------------------


def variants_of(*runs: Run) -> dict[str, str]:
    return {str(e.run.output_dir): e.variant for e in board(*runs).entries if e.run}


def test_variants_say_what_was_changed_and_then_what_differs(tmp_path: Path) -> None:
    def run(folder: str, **record: Any) -> Run:
        return made_run(tmp_path / folder, {}, **record)

    plain = run("x/a")
    low = run("x/b", overrides={"image_resolution": "low", "attention": "eager"})
    assert variants_of(low).popitem()[1] == "attention=eager image_resolution=low"
    assert set(variants_of(plain, low).values()) == {"", "attention=eager image_resolution=low"}
    exact = run("x/c", dtype="float32")
    assert variants_of(plain, exact)[str(tmp_path / "x/c")] == "dtype=float32"
    again = run("y/a")
    assert variants_of(plain, again) == {str(tmp_path / "x/a"): "x", str(tmp_path / "y/a"): "y"}
    assert set(variants_of(plain, run("x/d")).values()) == {"a", "d"}
    other = run("y/b", model="other")
    assert set(variants_of(plain, other).values()) == {""}


def test_long_values_are_cut_and_the_folder_tells_them_apart(tmp_path: Path) -> None:
    long = "x" * 100_000
    runs = [made_run(tmp_path / end, {}, overrides={"template": long + end}) for end in ("a", "b")]
    found = set(variants_of(*runs).values())
    assert len(found) == 2
    assert all(len(variant) < 100 for variant in found)


def test_a_folder_given_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    twice = [made_run(tmp_path / "a", LEVEL), made_run(Path("a"), LEVEL)]
    (entry,) = board(*twice).entries
    assert entry.variant == ""


HOSTILE = (
    "</script><script>alert(1)</script>",
    "</SCRIPT><script>alert(1)</script>",
    "\u202egpj.exe",
    "",
    "   ",
    "模型",
    "a" * 100_000,
    "a" * 100_000 + "b",
    "../../etc/passwd",
    "7b",
    '"quoted" & \x00\n',
)


def test_hostile_names_have_safe_keys_and_stay_as_they_are(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / str(place), {}, model=name) for place, name in enumerate(HOSTILE)]
    entries = board(*runs, options=PUBLISHED).entries
    keys = [entry.key for entry in entries]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,63}", key) for key in keys)
    assert {entry.name for entry in entries} >= set(HOSTILE)


def test_keys_are_cut_and_told_apart_by_a_number() -> None:
    """Two entries of one key would share what a page points at."""
    long = "Model " + "x" * 60
    found = keys([(1, long), (2, long + "y"), (3, "b/C_3"), (4, "b c 3"), (5, "7b"), (6, "!")])
    stem = "model-" + "x" * 42
    assert [*found.values()] == [stem, f"{stem}-2", "b-c-3", "b-c-3-2", "m-7b", "model"]


def test_groups_beyond_z_have_two_letters(tmp_path: Path) -> None:
    """The 27th group would have the letter of the first."""
    (entry,) = board(made_run(tmp_path, LEVEL)).entries
    entries = [replace(entry, key=f"k{n}", group=n // 2 + 1) for n in range(2 * 28)]
    found = letters(replace(board(made_run(tmp_path, LEVEL)), entries=entries))
    assert [found[f"k{n}"] for n in (0, 1, 2, 51, 52, 54)] == ["a", "a", "b", "z", "aa", "ab"]


# -- remarks -----------------------------------------------------------------------------------


def test_a_warning_at_all_tasks_is_said_once_with_its_range(tmp_path: Path) -> None:
    run = made_run(tmp_path, LEVEL, warnings=("of the run",))
    for place, name in enumerate(ALL):
        warnings = [f"at chance ({place + 9}.5%)"]
        if name in ("GQA", "OVEN"):
            warnings.append("3 rows")
        run.tasks[name].__dict__["warnings"] = tuple(warnings)
    assert board(run).entries[0].remarks == (
        "of the run",
        "all 36 tasks: at chance (9.5 to 44.5%)",
        "GQA, OVEN: 3 rows",
    )


def test_many_tasks_of_a_warning_are_counted(tmp_path: Path) -> None:
    run = made_run(tmp_path, LEVEL)
    for name in ALL[:5]:
        run.tasks[name].__dict__["warnings"] = ("odd",)
    first = ", ".join(ALL[:3])
    assert board(run).entries[0].remarks == (f"5 of 36 tasks ({first}, ...): odd",)


def test_up_to_three_tasks_are_named() -> None:
    """A remark would be a list of tasks, or name none of a few."""
    assert some_of(["a", "b", "c"], 4) == "a, b, c"
    assert some_of(["a", "b", "c", "d"], 5) == "4 of 5 tasks (a, b, c, ...)"
    assert some_of(["a", "b"], 2) == "all 2 tasks"
    assert some_of(["a"], 1) == "a", "all of one task is its name"


def test_what_was_not_run_and_another_scoring_are_remarks(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"GQA": 0.5}, scoring="reference")
    remarks = board(run).entries[0].remarks
    assert remarks[0].startswith("35 of 36 tasks (ImageNet-1K, ")
    assert remarks[0].endswith("not run")
    assert "of tied candidates the first wins" in remarks[2]


def test_size_comes_from_the_card_or_the_imported_files(tmp_path: Path) -> None:
    known = made_run(
        tmp_path / "a", {}, model="a", card=card(parameters=2_210_000_000, dimension=7)
    )
    told = made_run(
        tmp_path / "b",
        {},
        model="b",
        card=None,
        declared={"model_size": 2.21, "embedding_dimension": 7, "url": "x"},
    )
    silent = made_run(tmp_path / "c", {}, model="c", card=None, declared={"model_size": "2B"})
    made = board(known, told, silent)
    assert [(e.parameters, e.dimension) for e in made.entries] == [
        (pytest.approx(2.21), 7), (pytest.approx(2.21), 7), (None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [0, -2, "2B"])
def test_a_size_that_makes_no_sense_is_not_known(tmp_path: Path, wrong: int | str) -> None:
    """Files from elsewhere may declare anything."""
    declared = {"model_size": wrong, "embedding_dimension": wrong}
    (entry,) = board(made_run(tmp_path, {}, card=None, declared=declared)).entries
    assert (entry.parameters, entry.dimension) == (None, None)


def test_the_training_data_of_another_suite_is_not_that_of_this(tmp_path: Path) -> None:
    named = card(training_datasets=("mini/GQA", "OVEN"))
    entry = board(made_run(tmp_path, LEVEL, card=named)).entries[0]
    assert {name for name, score in entry.scores.items() if score.seen} == {"OVEN"}
    assert entry.training == ("OVEN",)


def test_a_run_over_fewer_queries_is_not_ranked_beside_others(tmp_path: Path) -> None:
    whole = made_run(tmp_path / "a", LEVEL, model="whole")
    few = made_run(tmp_path / "b", {**LEVEL, "GQA": [1.0] * 10}, model="few")
    made = board(whole, few)
    assert entry_of(made, "whole").rank == 1
    assert entry_of(made, "few").rank is None
    assert entry_of(made, "few").remarks[0] == (
        "GQA: fewer queries than others have (10 of 1,000 of GQA): not ranked"
    )


def test_the_task_with_the_fewest_queries_is_named(tmp_path: Path) -> None:
    """The limit told would be above what some task has."""
    whole = made_run(tmp_path / "a", LEVEL, model="whole")
    few: dict[str, Any] = {**LEVEL, "OK-VQA": [1.0] * 20, "GQA": [1.0] * 10, "EDIS": [1.0] * 30}
    entry = entry_of(board(whole, made_run(tmp_path / "b", few, model="few")), "few")
    assert entry.limit == 10
    assert entry.remarks[0].endswith("fewer queries than others have (10 of 1,000 of GQA): "
                                     "not ranked")  # fmt: skip


def test_a_task_that_is_not_of_the_suite_limits_nobody(tmp_path: Path) -> None:
    """Its score is on no board, whatever queries and data it is of."""
    more = (*published.tasks(), TaskName(name="cats", meta_task="vqa", split="ind"))
    runs = [
        made_run(tmp_path / "a", {**LEVEL, "cats": [1.0] * 10}, model="a", suite_tasks=more),
        made_run(tmp_path / "b", {**LEVEL, "cats": [1.0] * 20}, model="b", suite_tasks=more),
    ]
    runs[0].tasks["cats"].__dict__["data_digest"] = "of others"
    for entry in board(*runs).entries:
        assert (entry.rank, entry.remarks) == (1, ("not among the tasks of mmeb: cats",))


def test_an_import_over_fewer_queries_than_published_is_not_ranked(tmp_path: Path) -> None:
    perfect = dict.fromkeys(ALL, [1.0] * 10)
    few = made_run(tmp_path, perfect, model="ten", task={"clusters": ()}, imported="mmeb-v1, x")
    alone = build([few], ReportOptions())[0]
    assert entry_of(alone, "ten").rank == 1
    beside = build([few], ReportOptions(published=True))[0]
    assert entry_of(beside, "ten").rank is None
    assert entry_of(beside, "ten").limit == 10


def test_other_data_is_said(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, LEVEL, model=name) for name in ("a", "b")]
    other = made_run(tmp_path / "c", LEVEL, model="c", task={"data_digest": "another"})
    made = board(*runs, other)
    assert entry_of(made, "c").remarks[0] == "all 36 tasks: other data than that of the other runs"
    assert not any("data" in remark for remark in entry_of(made, "a").remarks)


def test_of_two_kinds_of_data_the_first_models_counts_as_usual(tmp_path: Path) -> None:
    """Neither is more frequent: what is said must not depend on the order of the runs."""
    runs = [
        made_run(tmp_path / name, LEVEL, model=name, task={"data_digest": f"of {name}"})
        for name in ("a", "b")
    ]
    entries = board(*runs).entries
    for given in (entries, entries[::-1]):
        told = {entry.name: entry.remarks for entry in of_other_data(
            [replace(entry, remarks=()) for entry in given])}  # fmt: skip
        assert told == {"a": (), "b": ("all 36 tasks: other data than that of the other runs",)}


def test_a_suite_of_mmeb_has_its_36_tasks_whatever_a_run_says(tmp_path: Path) -> None:
    ten = dict.fromkeys(ALL[:10], 0.5)
    tasks = tuple(task for task in published.tasks() if task.name in ten)
    entry = board(made_run(tmp_path, ten, suite_tasks=tasks)).entries[0]
    assert "overall" not in entry.scores
    assert entry.rank is None
    assert any(remark.startswith("26 of 36 tasks") for remark in entry.remarks)


def test_intervals_are_those_of_the_clusters_that_results_tell(tmp_path: Path) -> None:
    """Four queries an image, hit together: a task's interval is its own, an average's is wider."""
    clusters = (Cluster(4, 0.0, 125), Cluster(4, 4.0, 125))
    own = task_interval(clusters)
    changes = {"clusters": clusters, "ci": tuple(own)}
    grouped = board(made_run(tmp_path / "a", LEVEL, model="a", task=changes)).entries[0].scores
    single = board(made_run(tmp_path / "b", LEVEL, model="b")).entries[0].scores
    assert grouped["GQA"].interval == own
    assert grouped["overall"].interval == pytest.approx(average_interval([clusters] * 36))

    def width(scores: Mapping[str, Score]) -> float:
        low, high = scores["overall"].interval or (0, 0)
        return high - low

    assert width(grouped) > 1.8 * width(single)


def test_rows_that_are_not_those_of_the_result_are_not_compared(tmp_path: Path) -> None:
    """Two runs that only their rows could tell apart; the rows of one are of another time."""
    generator = np.random.default_rng(0)
    hits = {name: (generator.random(1000) < 0.5).astype(float).tolist() for name in ALL}
    worse = {
        name: [min(one, float(n % 200 > 0)) for n, one in enumerate(hits[name])] for name in ALL
    }
    runs = [
        made_run(tmp_path / name, given, model=name, rows=True)
        for name, given in (("a", hits), ("b", worse))
    ]
    assert [entry.group for entry in board(*runs).entries] == [1, 2]
    cut = rows_path(tmp_path / "b", "GQA")
    pq.write_table(pq.read_table(cut).slice(0, 10), cut)
    assert [entry.group for entry in board(*runs).entries] == [1, 1]
