"""From values to words: numbers as they are read, and strange text made harmless and visible.

The one idea: nothing that a name or a message contains may act on the page or hide in it. The
template escapes markup; here hidden characters are shown, what is too long is cut, and what looks
like a secret or a home folder is taken out.
"""

from __future__ import annotations

import re

from mmeb_harness.reports.readable import SPACES, visible
from mmeb_harness.summary import Interval

NAME = 72
"""Characters of a name where it stands in a table."""

MESSAGE = 2000
"""Characters of a message, a path or a command."""

SECRETS = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|AKIA)[A-Za-z0-9_-]{8,}")
HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s\"']+|/root(?=/|$)")
LINK = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~/?#@!$&()*+,;=%:-]*)?")


def cut(text: str, length: int = NAME) -> str:
    """Return the text in one line of at most `length` characters, with … where it was cut."""
    text = visible(SPACES.sub(" ", text[: 8 * length]).strip(" "))
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def cut_inside(text: str, length: int) -> str:
    """Return the text in one line of at most `length` characters, cut in its middle: names of one
    family differ at both ends."""
    whole = cut(text, 4 * length)
    if len(whole) <= length:
        return whole
    end = (length - 1) // 2
    return f"{whole[: length - 1 - end].rstrip()}…{whole[-end:].lstrip()}"


def redacted(text: str) -> str:
    """Return the text without access tokens, and with home folders as `~`."""
    return HOME.sub("~", SECRETS.sub("[secret]", text))


def is_link(text: str) -> bool:
    """Tell whether the whole text is an https address that is safe to point at."""
    return LINK.fullmatch(text) is not None


def percent(value: float | None) -> str:
    """Write a fraction in percent, with one decimal: `81.3`."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Write a difference of fractions in percentage points, with its sign: `+3.1`, `−0.4`."""
    written = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if written in ("+0.0", "−0.0") else written


def span(interval: Interval | tuple[float, float] | None) -> str:
    """Write an interval in percent: `78.1–84.0`."""
    return "" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def amount(billions: float | None) -> str:
    """Write a number of parameters, given in billions, shortly: `2.56 M`, `8.29 B`."""
    if billions is None:
        return "–"
    for unit, size in (("B", 1.0), ("M", 1e-3), ("k", 1e-6)):
        if billions >= size:
            shown = billions / size
            return f"{shown:,.0f} {unit}" if shown >= 100 else f"{shown:.3g} {unit}"
    return f"{billions * 1e9:.0f}"


def counted(number: int, word: str, words: str | None = None) -> str:
    """Write a number with its word: `1 task`, `36 tasks`."""
    return f"{number:,} {word if number == 1 else words or word + 's'}"
