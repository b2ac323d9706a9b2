"""Text from data as a page may show it: short, on few lines, and nothing in it that hides.

The one idea: escaping markup is the template's work, and not enough. Control characters and those
that turn the direction of writing are shown by their number, what is long is cut and says so, and
what looks like a secret or a home folder is taken out.
"""

from __future__ import annotations

import re

TURNS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff{TURNS}]")
"""Control characters (but tab and line end), turns of direction, halves of characters."""

SPACES = re.compile(r"[ \t\n]+")

NAME = 72
"""Characters of a name where it stands in a table."""

MESSAGE = 2000
"""Characters of a message, a path or a command."""

SECRETS = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|AKIA)[A-Za-z0-9_-]{8,}")
HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s\"']+|/root(?=/|$)")
LINK = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~/?#@!$&()*+,;=%:-]*)?")


def readable(text: str, limit: int) -> str:
    """Return the text with spaces collapsed, hidden characters shown, cut after `limit`."""
    kept = SPACES.sub(" ", text[: 4 * limit].replace("\r\n", "\n").strip(" \t\r\n"))
    if len(kept) > limit or len(text) > 4 * limit:
        kept = kept[:limit].rstrip()
        kept += f" … (and {len(text) - len(kept):,} more characters)"
    return visible(kept)


def visible(text: str) -> str:
    """Return the text with control, direction and broken characters shown by their number."""
    return text if text.isprintable() else HIDDEN.sub(_numbered, text)


def _numbered(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"


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
