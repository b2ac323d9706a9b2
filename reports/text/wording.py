"""What the text formats say alike: names made harmless, numbers, marks, and sentences below.

Whatever comes from data passes `visible` first, so that no name can move a cursor, end a line or
turn the reading order; each format then escapes what its own syntax gives a meaning.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from mmeb_harness.reports.board.leaderboard import (
    Board,
    Column,
    Entry,
    Kind,
    Score,
    full_name,
    letters,
)
from mmeb_harness.reports.text.reproduction import reproduction_sentence

NAMED = 6
"""Tasks are named up to so many, then counted."""

REMARK = 300
"""Characters of a remark below a table."""

OTHER_CUTS = (0.75, 1.0, 0.25)
"""Where a text is cut that is like another one when cut in its middle."""

TRAINED, CORRECTED = "*", "^"
"""Marks behind a score: the model was trained on it; its source prints another number."""

BY: dict[Kind, tuple[str, str]] = {
    "measured": ("M", "measured here"),
    "imported": ("I", "imported"),
    "paper": ("P", "the benchmark's paper and team"),
    "authors": ("A", "the model's authors"),
    "third-party": ("T", "others"),
}
"""Who made the scores: a letter, and in words."""


def visible(text: str) -> str:
    """Make text one printable line: other characters become their number, ⟨U+001B⟩, or a space."""
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return f"⟨U+{ord(character):04X}⟩"


def shortened(text: str, length: int, *, head: float = 0.5) -> str:
    """Make text visible and cut its middle out: paths and names differ at both ends.

    `head` is the share of what is left that stands before the cut.
    """
    text = visible(text if len(text) <= 2 * length else text[:length] + text[-length:])
    if len(text) <= length:
        return text
    before = int(head * (length - 3))
    return f"{text[:before]}...{text[len(text) - (length - 3 - before) :]}"


def told_apart(texts: Sequence[str], length: int) -> list[str]:
    """Shorten texts; those that would become alike are cut elsewhere, if that helps."""
    short = [shortened(text, length) for text in texts]
    for head in OTHER_CUTS:
        counts = Counter(short)
        short = [
            shortened(text, length, head=head) if counts[cut] > 1 else cut
            for text, cut in zip(texts, short, strict=True)
        ]
    return short


def isolated(text: str) -> str:
    """Put marks around text that runs from right to left: numbers beside it keep their place."""
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        return f"\u200e{text}\u200e"
    return text


def published(entry: Entry) -> bool:
    """Tell whether others published the scores, in contrast to files that lie here."""
    return entry.kind not in ("measured", "imported")


def standing(entry: Entry, board: Board) -> str:
    """Say in a few characters why an entry has no rank; nothing where it has."""
    words = []
    if _only_averages(entry, board):
        words.append("averages")
    elif entry.missing:
        words.append(f"{_known(entry, board)}/{len(board.tasks)}")
    if entry.limit is not None:
        words.append(f"limit {entry.limit}")
    return " ".join(words)


def standing_at_length(entry: Entry, board: Board) -> str:
    """Say behind a name why an entry has no rank; nothing where it has."""
    words = []
    if entry.limit is not None:
        words.append(f"first {entry.limit} queries")
    if _only_averages(entry, board):
        words.append("averages only")
    elif entry.missing:
        words.append(f"{_known(entry, board)} of {len(board.tasks)} tasks")
    return f" ({', '.join(words)})" if words else ""


def _known(entry: Entry, board: Board) -> int:
    return len(board.tasks) - len(entry.missing)


def _only_averages(entry: Entry, board: Board) -> bool:
    return not _known(entry, board) and bool(entry.scores)


def averages(board: Board) -> list[Column]:
    """Return the columns of averages; those by training where they tell more than the splits."""
    told = any(map(_tells_by_training, board.entries))
    return [
        column
        for column in board.columns
        if column.kind == "average" and (told or column.key not in ("seen", "unseen"))
    ]


def _tells_by_training(entry: Entry) -> bool:
    """Tell whether a model was trained, and on other tasks than those in distribution."""
    values = {key: score.value for key, score in entry.scores.items()}
    seen, unseen = values.get("seen"), values.get("unseen")
    same = seen == values.get("ind") and unseen == values.get("ood")
    return (seen is not None or unseen not in (None, values.get("overall"))) and not same


def mark(column: Column, score: Score) -> str:
    """Return the mark that belongs behind a score, if any."""
    if score.printed is not None:
        return CORRECTED
    return TRAINED if score.seen and column.split == "ood" else ""


def ood_mark(entry: Entry, board: Board) -> str:
    """Return the mark of a model that was trained on tasks of the out-of-distribution split."""
    tasks = [column for column in board.columns if column.kind == "task"]
    scores = [(column, entry.scores.get(column.key)) for column in tasks]
    seen = any(score and mark(column, score) == TRAINED for column, score in scores)
    return TRAINED if seen else ""


def average_mark(entry: Entry, column: Column, board: Board) -> str:
    """Return the mark behind an average."""
    score = entry.scores.get(column.key)
    if score is not None and score.printed is not None:
        return CORRECTED
    return ood_mark(entry, board) if column.key == "ood" else ""


def legend(board: Board, *, by_letters: bool) -> list[str]:
    """Explain the marks that occur on a board, a sentence each."""
    sentences = []
    if letters(board):
        sentences.append("a, b, ...: not told apart at 95 % from the first model of that letter")
    kinds = {entry.kind for entry in board.entries}
    if by_letters and kinds != {"measured"}:
        known = ", ".join(
            f"{letter} {words}" for kind, (letter, words) in BY.items() if kind in kinds
        )
        sentences.append(f"by: {known}")
    if by_letters and any(_only_averages(entry, board) for entry in board.entries):
        sentences.append("averages: the scores of single tasks are not published, so not ranked")
    if any(ood_mark(entry, board) for entry in board.entries):
        sentences.append(f"{TRAINED} trained on tasks that are out of distribution here")
    if any(score.printed is not None for entry in board.entries for score in entry.scores.values()):
        sentences.append(
            f"{CORRECTED} as the tasks' scores give it; the source prints another number"
        )
    return sentences


def remarks(entry: Entry) -> list[str]:
    """Say what must be read with the scores of an entry, a line each."""
    name = shortened(full_name(entry), 60)
    return [f"{name}: {shortened(sentence, REMARK)}" for sentence in _sentences(entry)]


def _sentences(entry: Entry) -> Iterable[str]:
    """Say each reason of failure once, then what the entry itself says."""
    for reason in dict.fromkeys(entry.failed.values()):
        tasks = [task for task, why in entry.failed.items() if why == reason]
        named = f" ({', '.join(tasks)})" if len(tasks) <= NAMED else ""
        who = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
        yield f"{who} failed{named if len(tasks) > 1 else ''}: {reason}"
    yield from entry.remarks
    if compared := reproduction_sentence(entry):
        yield compared
