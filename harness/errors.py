"""Every error this package raises on purpose: one small tree, each saying what to do next.

The exit status lives on the class, so that the command line decides nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of all deliberate errors; its text is shown to the user as it stands."""

    exit_status = 1


class UsageError(HarnessError):
    """Wrong usage, an unknown name, or a bad configuration."""

    exit_status = 2


class EnvironmentFault(HarnessError):
    """The surroundings fail: no data, no network, a missing extra, broken weights, a full disk."""

    exit_status = 3


class DataMissing(EnvironmentFault):
    """The data of a task is not on this machine."""


class AdapterMismatch(EnvironmentFault):
    """An adapter's tensors and the model's do not match, key by key and value by value."""


class EncoderFailed(HarnessError):
    """The encoder does not keep its contract, or fails on everything: going on is of no use."""


class ItemError(HarnessError):
    """One item cannot be encoded (missing image, nothing to encode); it fails its tasks."""


class TaskError(HarnessError):
    """The data of one task is unusable; the other tasks go on."""


ANY_OF_OTHERS = (Exception, SystemExit)
"""What other people's code may raise; what was a script once ends itself by SystemExit."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Make the error for a name that does not exist, naming the nearest one that does."""
    choices = sorted(known)
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    text = f"unknown {kind} {name!r}"
    if near:
        text += f"; did you mean {folded[near[0]]!r}?"
    elif 0 < len(choices) <= 12:
        text += f"; known: {', '.join(choices)}"
    return UsageError(f"{text}{_joined(text, hint)}")


def _joined(text: str, hint: str) -> str:
    """Put a hint after a text: in brackets, or as a sentence of its own."""
    if not hint or hint.startswith("(") or text.endswith("?"):
        return f" {hint}".rstrip()
    return f"; {hint}"
