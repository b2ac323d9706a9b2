"""Text from data as a page may show it: short, on few lines, and nothing in it that hides.

The one idea: escaping markup is the template's work, and not enough. Control characters and those
that turn the direction of writing are shown by their number, and what is long is cut and says so.
"""

from __future__ import annotations

import re

TURNS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff{TURNS}]")
"""Control characters (but tab and line end), turns of direction, halves of characters."""

SPACES = re.compile(r"[ \t\n]+")


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
