"""From tasks to keys: each distinct item rendered once, its vector's key known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmeb_harness.encoder import PlannedEncoder
from mmeb_harness.engines.batch import reason
from mmeb_harness.errors import ANY_OF_OTHERS, EnvironmentFault, ItemError, TaskError
from mmeb_harness.files import FileIndex
from mmeb_harness.image import describe, source_key
from mmeb_harness.item import Item, Rendered
from mmeb_harness.keys import image_digest, item_key
from mmeb_harness.plan import Key
from mmeb_harness.store import VectorStore
from mmeb_harness.taskdata import TaskData
from numpy.typing import NDArray

MOST_TOKENS = 1 << 31
AT_ONCE = 256
"""Items that are looked up in the store together."""


@dataclass
class Work:
    """What is left to encode: renderings by key, in the order in which they were first met.

    `stored` are the keys whose vectors are there, `faults` says why others cannot be had.
    """

    missing: dict[Key, Rendered] = field(default_factory=dict)
    stored: set[Key] = field(default_factory=set)
    faults: dict[Key, str] = field(default_factory=dict)
    index: FileIndex | None = None

    def changed(self, key: Key) -> str | None:
        """Say of a missing item that its image file is no longer what its key was made from."""
        rendered = self.missing[key]
        if self.index is None or not isinstance(rendered.image, str | os.PathLike):
            return None
        try:
            if item_key(rendered, image_digest(rendered.image, self.index)) == key:
                return None
        except ItemError as error:
            return str(error)
        return f"image {describe(rendered.image)} was changed while the run was under way"

    def look_up(self, asked: dict[Key, Rendered], store: VectorStore) -> None:
        """Note of what is asked for which vectors are there and which are not; empty it."""
        found = store.find(asked)
        self.stored |= found
        self.missing.update((key, one) for key, one in asked.items() if key not in found)
        asked.clear()

    def measure(self, encoder: PlannedEncoder) -> NDArray[np.int32]:
        """Return the tokens of each missing item, in order; the immeasurable become faults."""
        sizes = []
        for key, rendered in list(self.missing.items()):
            try:
                sizes.append(_checked(encoder.size(rendered)))
            except EnvironmentFault:
                raise
            except ANY_OF_OTHERS as error:
                self.faults[key] = reason(error)
                del self.missing[key]
        return np.array(sizes, dtype=np.int32)

    def pictures(self) -> list[int]:
        """Number the image of each missing item, in order; -1 where there is none."""
        numbers: dict[Hashable, int] = {}
        images = (rendered.image for rendered in self.missing.values())
        return [
            -1 if image is None else numbers.setdefault(source_key(image), len(numbers))
            for image in images
        ]


def _checked(size: Any) -> int:
    tokens = int(size)
    if not 0 <= tokens < MOST_TOKENS:
        raise ItemError(f"its encoder says that it has {tokens} tokens")
    return tokens


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The key of each item (empty for the unusable), why items are unusable, and the digest of
    each item's image (None without one), in the order of the items."""

    keys: list[Key]
    faults: dict[int, str]
    images: list[str | None]

    @property
    def images_digest(self) -> str:
        """One digest of all the images, in the order of the items."""
        return hashlib.sha256("".join(one or "-" for one in self.images).encode()).hexdigest()


def gather_items(
    items: Sequence[Item],
    encoder: PlannedEncoder,
    index: FileIndex,
    store: VectorStore,
    work: Work,
    advance: Callable[[int], None] = lambda _: None,
) -> Gathered:
    """Render and key the items, noting in `work` those without a stored vector."""
    keys: list[Key] = []
    faults: dict[int, str] = {}
    images: list[str | None] = []
    asked: dict[Key, Rendered] = {}
    work.index = index
    index.recall(item.image for item in items if isinstance(item.image, str))
    for place, item in enumerate(items):
        try:
            rendered = encoder.render(item)
            image = image_digest(rendered.image, index)
        except EnvironmentFault:
            raise
        except ANY_OF_OTHERS as error:
            faults[place] = reason(error)
            keys.append(b"")
            images.append(None)
            continue
        images.append(image)
        key = item_key(rendered, image)
        keys.append(key)
        if key not in work.missing and key not in work.stored:
            asked.setdefault(key, rendered)
        if place % AT_ONCE == AT_ONCE - 1:
            work.look_up(asked, store)
            advance(AT_ONCE)
    work.look_up(asked, store)
    advance(len(items) % AT_ONCE)
    index.flush()
    return Gathered(keys=keys, faults=faults, images=images)


def gather_task(
    data: TaskData,
    encoder: PlannedEncoder,
    index: FileIndex,
    store: VectorStore,
    work: Work,
    advance: Callable[[int], None],
) -> Gathered:
    """Like `gather_items`, but an unusable item fails the whole task. Raises TaskError."""
    ours = Work(stored=work.stored)
    gathered = gather_items(data.items, encoder, index, store, ours, advance)
    if gathered.faults:
        raise TaskError(name_faults(data.items, gathered.faults))
    for key, rendered in ours.missing.items():
        work.missing.setdefault(key, rendered)
    return gathered


def name_faults(items: Sequence[Item], faults: dict[int, str]) -> str:
    """Name the first unusable item and count the others."""
    place, why = next(iter(faults.items()))
    more = f" (and {len(faults) - 1} more unusable items)" if len(faults) > 1 else ""
    return f"{name_item(items[place], why)}{more}"


def name_item(item: Item, why: str) -> str:
    """Say of an item, named by role, the start of its text and its image, what is wrong."""
    parts: list[str] = [item.role or "item"]
    if item.text:
        parts.append(repr(item.text if len(item.text) <= 60 else item.text[:57] + "..."))
    if item.image is not None and describe(item.image) not in why:
        parts.append(f"image {describe(item.image)}")
    return f"{' '.join(parts)}: {why}"
