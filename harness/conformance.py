"""What any encoder must do whatever its weights: the checks behind `doctor` and `check_encoder`.

The one idea: each check encodes a handful of items in two ways that must agree, or that must not,
and says in plain words which defect would explain what it saw. Nothing here knows a family.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from mmeb_harness.encoder import PlannedEncoder, TrainableEncoder, infer
from mmeb_harness.errors import ANY_OF_OTHERS, HarnessError, ItemError
from mmeb_harness.item import PLACEHOLDER, Item
from mmeb_harness.patient import (
    INSTRUCTION,
    OTHER_INSTRUCTION,
    QUESTION,
    Finding,
    Patient,
    find_kinds,
    picture,
)
from mmeb_harness.prompt import worded
from mmeb_harness.wholeitem import WholeItemEncoder


def examine(patient: Patient) -> Iterator[Finding]:
    """Yield a finding for each check of an encoder against its card, if it has one.

    `patient.kinds` holds afterwards which kinds of items it takes.
    """
    found = find_kinds(patient)
    yield found
    if found.status == "failed":
        return
    for name, check in CHECKS.items():
        yield _finding(name, partial(check, patient))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    """Run one check: what it returns is what it saw; a fault is raised."""
    try:
        return Finding(check=name, status="ok", detail=check())
    except _Skipped as reason:
        return Finding(check=name, status="skipped", detail=str(reason))
    except _Fault as fault:
        return Finding(check=name, status="failed", detail=str(fault))
    except HarnessError as error:
        return Finding(check=name, status="failed", detail=str(error))
    except ANY_OF_OTHERS as error:  # a stranger's encoder may raise anything
        return Finding(check=name, status="failed", detail=f"{type(error).__name__}: {error}")


class _Fault(Exception):
    """What a check found wrong, and what would explain it."""


class _Skipped(Exception):
    """Why a check does not apply."""


# -- the checks ------------------------------------------------------------------------------------


def _finite(patient: Patient) -> str:
    """Also for what is nearly nothing: such an item is encoded or refused, never NaN."""
    vectors = patient.alone(list(patient.kinds.values()))
    if not np.isfinite(vectors).all():
        raise _Fault("a vector has NaN or infinite values")
    refused = 0
    blanks = [Item(text=text) for text in ("", " ", "\n", ".")]
    if "image" in patient.kinds:
        blanks += [Item(text=text, image=picture(20)) for text in ("", PLACEHOLDER, "\n")]
    for item in blanks:
        try:
            vector = patient.encode([item])
        except ItemError:
            refused += 1
            continue
        if not np.isfinite(vector).all():
            what = "an image and" if item.image is not None else ""
            raise _Fault(f"NaN for {what} the text {item.text!r}: refuse it with ItemError instead")
    return f"{len(blanks)} nearly empty items: {refused} refused, the rest finite"


def _dimension(patient: Patient) -> str:
    vectors = patient.alone(list(patient.kinds.values()))
    declared = None if patient.card is None else patient.card.dimension
    if declared is None:
        return f"{vectors.shape[1]} (the card declares none)"
    if vectors.shape[1] != declared:
        raise _Fault(f"vectors have {vectors.shape[1]} dimensions, the card declares {declared}")
    return str(declared)


def _normalised(patient: Patient) -> str:
    declared = None if patient.card is None else patient.card.normalize
    lengths = np.linalg.norm(patient.alone(list(patient.kinds.values())), axis=1)
    if declared is None:
        raise _Skipped("the card does not say")
    off = float(np.abs(lengths - 1).max())
    if declared and off > 1e-3:
        raise _Fault(f"the card says normalised, but a vector has length {lengths.max():.4g}")
    if not declared and off < 1e-6:
        raise _Fault("the card says unnormalised, but every vector has length 1")
    return f"lengths {lengths.min():.4g} to {lengths.max():.4g}, as the card says"


def _tells_apart(patient: Patient) -> str:
    """Another text and another picture must give another vector."""
    seen = []
    for kind, item in patient.kinds.items():
        others = []
        if item.text is not None:
            others.append(
                ("text", Item(text=item.text.replace("cat", "bridge") + " no", image=item.image))
            )
        if item.image is not None:
            others.append(("image", replace(item, image=_other_picture(item))))
        for side, other in others:
            moved = patient.apart(patient.encode([item]), patient.encode([other]))
            if moved <= patient.sensible:
                raise _Fault(f"another {side} changes nothing of an item of {kind} ({moved:.1e})")
            seen.append(moved)
    return f"the least change is {min(seen):.1e}"


def _other_picture(item: Item) -> Any:
    """Return another picture of the size that a sample's has."""
    image: Any = item.image
    return picture(110, image.size)


def _repeatable(patient: Patient) -> str:
    items = list(patient.kinds.values())
    moved = patient.apart(patient.alone(items), patient.alone(items))
    if moved > patient.tolerance:
        raise _Fault(f"the same items twice part by {moved:.1e}: dropout, or another random part")
    return f"twice the same within {moved:.1e}"


def _neighbours(patient: Patient) -> str:
    """Beside others of its own length: nothing is padded, so only the neighbours can matter."""
    worst = 0.0
    for kind, item in patient.kinds.items():
        alone = patient.encode([item])
        other = replace(item, image=_other_picture(item)) if item.image else Item(text="a dog")
        for batch, row in (([item, other, other], 0), ([other, item], 1)):
            together = patient.encode(batch)
            if len(together) != len(batch):
                raise _Fault(f"{len(batch)} items give {len(together)} vectors")
            worst = max(worst, patient.apart(alone, together[row : row + 1]))
        if worst > patient.tolerance:
            raise _Fault(
                f"an item of {kind} changes by {worst:.1e} with its batch neighbours: something is "
                "computed over the batch, or rows are mixed up"
            )
    return f"the same in any batch within {worst:.1e}"


LONG = "a dog that sleeps beside two red chairs in a garden, seen from a window above the street"


def _padding(patient: Patient) -> str:
    """Beside longer and shorter ones, and padded on either side where the encoder lets us."""
    items = [*patient.kinds.values()]
    if "text" in patient.kinds:
        items += [Item(text=LONG), Item(text="no")]
    alone, worst, sides = patient.alone(items), 0.0, _padding_sides(patient.encoder)
    for side in sides:
        with _padded_on(patient.encoder, side):
            batches = [list(range(len(items))), list(range(len(items)))[::-1]]
            for rows in batches:
                together = patient.encode([items[row] for row in rows])
                for place, row in enumerate(rows):
                    moved = patient.apart(alone[row : row + 1], together[place : place + 1])
                    worst = max(worst, moved)
    if worst > patient.tolerance:
        raise _Fault(
            f"beside items of other lengths an item changes by {worst:.1e}: padding is pooled (the "
            "wrong side), or attended to"
        )
    padded = " and ".join(str(side) for side in sides if side) or "as the encoder pads"
    return f"the same beside other lengths within {worst:.1e} (padded {padded})"


def _padding_sides(encoder: PlannedEncoder) -> tuple[str | None, ...]:
    return ("left", "right") if hasattr(encoder, "padding_side") else (None,)


@contextmanager
def _padded_on(encoder: Any, side: str | None) -> Iterator[None]:
    """Pad on one side for a while, where the encoder lets us."""
    if side is None:
        yield
        return
    before, encoder.padding_side = encoder.padding_side, side
    try:
        yield
    finally:
        encoder.padding_side = before


def _whole_image(patient: Patient) -> str:
    """The last rows of a picture must matter about as the first do, beside a long text too."""
    texts: list[str | None] = [None] if "image" in patient.kinds else []
    if "text and image" in patient.kinds:
        texts.append(f"{PLACEHOLDER}\n{LONG * 60}")
    if not texts:
        raise _Skipped("takes no images")
    shares = []
    for text in texts:
        first, last = effects_of_rows(patient, text)
        beside = "" if text is None else " beside a long text"
        if max(first, last) <= LEAST_EFFECT:
            raise _Fault(f"the rows of a picture{beside} change nothing: it is not looked at")
        if last < LEAST_SHARE * first:
            raise _Fault(
                f"the last rows of a picture{beside} change a vector by {last:.1e}, the first by "
                f"{first:.1e}: its image tokens are truncated"
            )
        if first <= LEAST_EFFECT:
            raise _Fault(f"the first rows of a picture{beside} change nothing")
        shares.append(last / first)
    beside = ", beside a long text too" if len(texts) > 1 else ""
    return f"a picture's last rows matter {min(shares):.2g} times as much as its first{beside}"


LEAST_EFFECT = 1e-6
"""Of a change of some rows of a picture on a vector, as a share of its length."""

LEAST_SHARE = 1 / 8
"""Of the effect of a picture's first rows, what the last must have: all patches see each other in a
vision tower, so that rows whose tokens are cut still have some."""


def effects_of_rows(patient: Patient, text: str | None) -> tuple[float, float]:
    """Return how far a change of the first rows moves a vector, and the same change of the last."""
    from PIL import ImageOps

    whole, changed = picture(20, (448, 448)), picture(20, (448, 448))
    changed.paste(picture(110, (448, 56)), (0, 0))
    effects = []
    for pair in ((whole, changed), (ImageOps.flip(whole), ImageOps.flip(changed))):
        one, other = (patient.encode([Item(text=text, image=image)]) for image in pair)
        effects.append(float(np.linalg.norm(one - other) / np.linalg.norm(one)))
    return effects[0], effects[1]


def _sources(patient: Patient) -> str:
    """A path, bytes and a PIL image of the same pixels are the same item."""
    import io
    import tempfile
    from pathlib import Path

    kind = next((kind for kind in ("image", "text and image") if kind in patient.kinds), None)
    if kind is None:
        raise _Skipped("takes no images")
    text, image, file = patient.kinds[kind].text, picture(20), io.BytesIO()
    image.save(file, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(file.getvalue())
        vectors = [
            patient.encode([Item(text=text, image=one)]) for one in (image, file.getvalue(), path)
        ]
    moved = max(patient.apart(vectors[0], one) for one in vectors[1:])
    if moved > patient.tolerance:
        raise _Fault(f"one picture as a path, bytes or PIL image parts by {moved:.1e}")
    return "a path, bytes and a PIL image are the same"


def _roles(patient: Patient) -> str:
    """The role changes the vector where the card or its template says so, and only there."""
    item = list(patient.kinds.values())[-1]  # with an instruction, where it can have one
    if item.instruction is None and item.text is not None:
        item = Item(text=f"{INSTRUCTION} {QUESTION}", instruction=INSTRUCTION)
    query, candidate = (replace(item, role=role) for role in ("query", "candidate"))
    declared = _declared_asymmetric(patient, query, candidate)
    if declared is None:
        raise _Skipped("the card does not say whether the role matters")
    moved = patient.apart(patient.encode([query]), patient.encode([candidate]))
    if declared and moved <= patient.sensible:
        raise _Fault("the card says that the role matters, but query and candidate are the same")
    if not declared and moved > patient.tolerance:
        raise _Fault(f"the role changes the vector by {moved:.1e}, and the card does not say so")
    return "the role matters, as the card says" if declared else "the role does not matter"


def _declared_asymmetric(patient: Patient, query: Item, candidate: Item) -> bool | None:
    card = patient.card
    if card is None:
        return None
    if card.asymmetric is not None:
        return card.asymmetric
    if "prompt" not in card.options or _settings_differ(patient, query, candidate):
        return None
    return worded(query, card) != worded(candidate, card)


def _settings_differ(patient: Patient, one: Item, other: Item) -> bool:
    """Whether a model is told two items apart beside their words, as a prompt of its own."""
    if isinstance(patient.encoder, WholeItemEncoder):
        return False  # its settings are the item's, whatever the model does with them
    return patient.encoder.render(one).settings != patient.encoder.render(other).settings


def _instructions(patient: Patient) -> str:
    """An instruction changes the vector where the card's wording keeps it, and only there."""
    card = patient.card
    kind = "text and image" if "text and image" in patient.kinds else "text"
    if card is None or "prompt" not in card.options or kind not in patient.kinds:
        raise _Skipped("the card does not say how items are worded")
    image = patient.kinds[kind].image
    one, other = (
        Item(text=f"{instruction} {QUESTION}", instruction=instruction, image=image, role="query")
        for instruction in (INSTRUCTION, OTHER_INSTRUCTION)
    )
    kept = worded(one, card) != worded(other, card) or _settings_differ(patient, one, other)
    moved = patient.apart(patient.encode([one]), patient.encode([other]))
    if kept and moved <= patient.sensible:
        raise _Fault("the card's wording keeps the instruction, but it changes nothing")
    if not kept and moved > patient.tolerance:
        raise _Fault(
            f"the card leaves the instruction out, but it changes the vector ({moved:.1e})"
        )
    return (
        "the instruction matters, as worded" if kept else "the instruction is left out, as worded"
    )


def _plan(patient: Patient) -> str:
    """Sizes are positive and known beforehand; the CPU half pickles and prepares the same."""
    encoder, items = patient.encoder, list(patient.kinds.values())
    rendered = [encoder.render(item) for item in items]
    sizes = [encoder.size(one) for one in rendered]
    if min(sizes) < 1:
        raise _Fault(f"size() gives {min(sizes)} tokens for an item; it must be positive")
    if not encoder.prepares:
        return f"sizes {sizes}; nothing is prepared in workers"
    half = pickle.loads(pickle.dumps(encoder))
    pickle.loads(pickle.dumps(encoder.prepare(rendered)))
    again = infer(encoder, half.prepare([half.render(item) for item in items]))
    moved = patient.apart(patient.encode(items), again)
    if moved > patient.tolerance:
        raise _Fault(f"prepared by a pickled copy, vectors part by {moved:.1e}")
    return f"sizes {sizes}; a pickled copy prepares the same"


def _trainable(patient: Patient) -> str:
    """A trainer gets vectors with a graph; what is settled beforehand changes none of them."""
    encoder = patient.encoder
    if not isinstance(encoder, TrainableEncoder):
        raise _Skipped("the encoder has no module to train")
    import torch

    items = list(patient.kinds.values())
    batch = encoder.prepare([encoder.render(item) for item in items])
    with torch.enable_grad():
        vectors: Any = encoder.forward(batch)
    if not getattr(vectors, "requires_grad", False):
        raise _Fault("forward gives vectors without a graph: something detaches them")
    with _frozen(encoder.module):
        settled = infer(encoder, encoder.settled(batch))
    moved = patient.apart(patient.encode(items), settled)
    if moved > patient.tolerance:
        raise _Fault(f"settled() changes vectors by {moved:.1e}")
    return "vectors carry a graph; settling what is frozen changes none"


@contextmanager
def _frozen(module: Any) -> Iterator[None]:
    """Put no parameter under training, for a while."""
    trained = [one for one in module.parameters() if one.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for one in trained:
            one.requires_grad_(True)


CHECKS: Mapping[str, Callable[[Patient], str]] = {
    "finite": _finite,
    "dimension": _dimension,
    "normalised": _normalised,
    "tells items apart": _tells_apart,
    "repeatable": _repeatable,
    "batch neighbours": _neighbours,
    "padding": _padding,
    "whole image": _whole_image,
    "image sources": _sources,
    "role": _roles,
    "instruction": _instructions,
    "plan": _plan,
    "training": _trainable,
}
