"""Any model of the sentence-transformers library: a folder or Hub id with `modules.json`.

The one idea: the library's own steps, `preprocess` and the modules, are called as its `encode`
calls them for one item, but apart: the CPU half is the same model without its weights, and only
items whose features have the same shapes share a forward. So nothing is ever padded, and a vector
cannot depend on its neighbours, which in the library it does for some models (left padding without
positions, text towers that read the last place).

What a model sees: the bare text, and as the library's prompt the model's own for the role
(`encode_query`, `encode_document`), or the item's instruction where the model reads chats, whose
system message the prompt is. A model of two towers gives text and image the sum of both vectors.

Shapes: B items, D features; a part of a batch holds R rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card, write_card
from mmeb_harness.errors import HarnessError, ItemError, UsageError
from mmeb_harness.hub import CONFIGURATION, WEIGHTS, commit_of, fetch_model, local_folder
from mmeb_harness.image import image_size, load_image, resize_square, square_side, to_rgb
from mmeb_harness.item import ImageSource, Item, Rendered, Role
from mmeb_harness.plugins.pretrained import KERNELS
from mmeb_harness.plugins.sentence_loading import (
    check_complete,
    first_line,
    load_model,
    quiet,
    usable_modules,
)
from mmeb_harness.plugins.weights import LazyWeights
from mmeb_harness.prompt import worded

if TYPE_CHECKING:
    import torch

ORGANISATION = "sentence-transformers"
"""Whose a model without an organisation is, as in the library."""

TASKS: Mapping[Role | None, str] = {"query": "query", "candidate": "document", None: ""}
"""What the library calls the roles: `encode_query`, `encode_document`, and `encode`."""

PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""The names under which the library looks for a task's prompt, in its order."""

IMAGE_TOKENS = 256
"""Stands for the tokens of an image where the model's processor does not count them."""

FLAT = {"image_grid_thw": ("pixel_values", "num_images_per_sample")}
"""Tensors that are joined along their first axis though it is not one row an item, where the
tensor that tells their items apart is beside them."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Features of items that share a forward; `rows` are the places of their vectors."""

    rows: Sequence[int]
    features: Mapping[str, Any]
    task: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A prepared batch."""

    items: int
    parts: Sequence[Part]


class SentenceTransformers(LazyWeights):
    """An encoder over a model of the sentence-transformers library."""

    attention: Any
    """The kernel asked for, or that the choice is the library's."""

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        if card.base is None:
            raise UsageError(f"{card.name} names no weights: -m {card.name}:FOLDER_OR_HUB_ID")
        super().__init__(card, device, dtype)
        self.attention = card.attention or "the library's choice"
        is_short = "/" not in card.base and local_folder(card.base) is None
        self.base = f"{ORGANISATION}/{card.base}" if is_short else card.base
        self.entries = usable_modules(self.base_folder, self.base)

    # -- files ---------------------------------------------------------------------------------

    @cached_property
    def base_folder(self) -> Path:
        """Folder with the configuration of the model, and its weights once loaded."""
        return fetch_model(self.base, self.card.revision, CONFIGURATION)

    def folders(self) -> Sequence[Path]:
        """Return the folder and every folder in it; of a Hub commit the folder says it all."""
        if commit_of(self.base_folder):
            return (self.base_folder,)
        inside = [path for path in self.base_folder.rglob("*") if path.is_dir()]
        hidden = {path for path in inside if "/." in f"/{path.relative_to(self.base_folder)}"}
        return (self.base_folder, *sorted(set(inside) - hidden))

    def fetch_weights(self) -> Path:
        """Return the folder with the weights in it, of the very commit already read.

        Where a module has none in the safe format, its older ones are fetched.
        """
        revision = commit_of(self.base_folder) or self.card.revision
        folder = fetch_model(self.base, revision, WEIGHTS)
        old = [
            f"{entry['path']}/*.bin" if entry["path"] else "pytorch_model*.bin"
            for entry in self.entries
            if not entry["type"].endswith((".Pooling", ".Normalize"))
            and not any((folder / entry["path"]).glob("*.safetensors"))
        ]
        return fetch_model(self.base, revision, [*WEIGHTS, *old]) if old else folder

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def hollow(self) -> Any:
        """The model without its weights: what the library needs to preprocess."""
        return load_model(self.fetch_weights(), model_kwargs={"device_map": "meta"}).to("meta")

    @cached_property
    def max_length(self) -> int | None:
        """Tokens of a text at most; beside an image in one input, the model's own limit holds."""
        from sentence_transformers.base.modules import Router, Transformer

        if self.card.max_length is None:
            return None
        if not isinstance(self.hollow[0], Transformer | Router):
            raise UsageError(f"{self.base} does not cut texts: leave out max_length")
        return min(self.card.max_length, self.hollow.max_seq_length or self.card.max_length)

    def render(self, item: Item) -> Rendered:
        text: str | None = worded(item, self.card) or None
        image = item.image
        if self.card.fusion == "unimodal" and text is not None and image is not None:
            text = None if item.modality == "image" else text
            image = None if item.modality == "text" else image
        if text is None and image is None:
            raise ItemError("nothing is left of it without its instruction (see -M prompt=stored)")
        for kind, given in (("text", text), ("image", image)):
            if given is not None and kind not in self.takes:
                raise ItemError(f"the model takes no {kind}: it takes {', '.join(self.takes)}")
        return Rendered(text=text, image=image, settings=(TASKS[item.role], self._prompt(item)))

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """What the model takes: `text`, `image`, both in one (`image+text`), chats (`message`)."""
        kinds = [kind for kind in ("text", "image", "message") if self.hollow.supports(kind)]
        together = self.hollow.supports(("image", "text"))
        return (*kinds, "image+text") if together else tuple(kinds)

    def _prompt(self, item: Item) -> str:
        """Return the library's prompt for an item: its instruction, or the model's own."""
        instruction = (item.instruction or "").strip()
        asks = self.card.prompt == "plain" and item.role != "candidate" and "message" in self.takes
        if asks and instruction:
            return instruction
        names = PROMPTS.get(TASKS[item.role], (self.hollow.default_prompt_name,))
        found = (self.hollow.prompts[name] for name in names if name in self.hollow.prompts)
        return next(found, None) or ""

    def size(self, rendered: Rendered) -> int:
        """Return about how many tokens an item has: enough to sort and cut batches by."""
        _, prompt = rendered.settings
        text = self._tokens(prompt + (rendered.text or ""))
        text = min(text, self.max_length or self.hollow.max_seq_length or text)
        return 1 + text + (0 if rendered.image is None else self._image_tokens(rendered.image))

    def _tokens(self, text: str) -> int:
        from transformers import PreTrainedTokenizerBase

        tokenizer = getattr(self.hollow[0], "tokenizer", None)
        if not text or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return len(text) // 4
        return len(tokenizer(text, verbose=False)["input_ids"])

    def _image_tokens(self, source: ImageSource) -> int:
        processor: Any = getattr(self.hollow[0], "processor", None)
        if not hasattr(processor, "_get_num_multimodal_tokens"):
            return IMAGE_TOKENS
        width, height = self._picture_size(source)
        try:
            counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        except ValueError as error:
            raise ItemError(f"its image of {width}x{height} pixels does not fit: {error}") from None
        return int(counted.num_image_tokens[0])

    def _picture_size(self, source: ImageSource) -> tuple[int, int]:
        size = image_size(source)
        side = square_side(size, self.card.image_resolution or "processor")
        return size if side is None else (side, side)

    def prepare(self, rendered: Sequence[Rendered]) -> Parts:
        groups: dict[tuple[str, Hashable], list[tuple[int, Mapping[str, Any]]]] = {}
        for row, one in enumerate(rendered):
            task, prompt = one.settings
            for place, given in enumerate(self._inputs(one)):
                features = self._features(given, task, prompt)
                key = _shapes(features) or (row, place)
                groups.setdefault((task, key), []).append((row, features))
        parts = [
            Part(
                rows=[row for row, _ in members],
                features=_joined([features for _, features in members]),
                task=task,
            )
            for (task, _), members in groups.items()
        ]
        return Parts(items=len(rendered), parts=parts)

    def _inputs(self, rendered: Rendered) -> list[Any]:
        """Return what the library is given of an item: one thing, or text and image apart."""
        given: dict[str, Any] = {}
        if rendered.image is not None:
            resolution = self.card.image_resolution or "processor"
            given["image"] = to_rgb(resize_square(load_image(rendered.image), resolution))
        if rendered.text is not None:
            given["text"] = rendered.text
        if len(given) == 2 and "image+text" in self.takes:
            return [given]
        return [{kind: value} for kind, value in given.items()]

    def _features(self, given: dict[str, Any], task: str, prompt: str) -> dict[str, Any]:
        """Preprocess one input as `encode` does."""
        options: dict[str, Any] = {"task": task} if task else {}
        if self.max_length is not None and "image" not in given:
            options["processing_kwargs"] = {"text": {"max_length": self.max_length}}
        try:
            features = self.hollow.preprocess(
                [_unmistakable(given, self.hollow.modalities)], prompt=prompt or None, **options
            )
        except (HarnessError, MemoryError):
            raise
        except Exception as error:  # every processor has errors of its own
            raise ItemError(
                f"the library refuses it: {type(error).__name__}: {first_line(error)}"
            ) from error
        ids = features.get("input_ids")
        if ids is not None and not len(ids.reshape(-1)):
            raise ItemError("its text has no tokens")
        return dict(features)

    # -- device half ---------------------------------------------------------------------------

    def load_module(self) -> torch.nn.Module:
        import torch

        check_complete(self.hollow, self.base_folder, self.entries)
        kwargs: dict[str, Any] = {"dtype": getattr(torch, self.dtype)}
        if self.card.attention is not None:
            kwargs["attn_implementation"] = KERNELS[self.card.attention]
        module: torch.nn.Module = load_model(
            self.fetch_weights(), device=self.device, model_kwargs=kwargs
        )
        return module

    def forward(self, batch: Parts) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        module: Any = self.module
        vectors_BD: torch.Tensor | None = None
        for part in batch.parts:
            features = {
                name: value.to(self.device) if isinstance(value, torch.Tensor) else value
                for name, value in part.features.items()
            }
            task = {"task": part.task} if part.task else {}
            part_RD = module(features, **task)["sentence_embedding"][:, : module.truncate_dim]
            if vectors_BD is None:
                vectors_BD = torch.zeros(batch.items, part_RD.shape[1], device=self.device)
            rows = torch.tensor(part.rows, device=self.device)
            vectors_BD = vectors_BD.index_add(0, rows, part_RD.float())
        if vectors_BD is None:
            raise ValueError("there is nothing to encode")
        return normalize(vectors_BD, dim=-1) if self.card.normalize else vectors_BD

    def save(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the model as the library does, and the card."""
        module: Any = self.module
        with quiet():
            module.save_pretrained(str(folder), create_model_card=False)
        write_card(self.card, folder)


# -- features --------------------------------------------------------------------------------------


def _unmistakable(given: dict[str, Any], modalities: Sequence[Any]) -> Any:
    """Return an input as one gives it to the library; a text that it would take for the address of
    an image or video is named a text."""
    from sentence_transformers.base.modality import infer_modality

    if len(given) > 1:
        return given
    [(kind, value)] = given.items()
    return value if infer_modality(value, list(modalities)) == kind else given


def _shapes(features: Mapping[str, Any]) -> Hashable | None:
    """Return what features must have in common to be joined, or None where they must stay alone."""
    import torch

    flat = {name for mark, names in FLAT.items() if mark in features for name in names}
    shapes: list[Hashable] = []
    for name, value in sorted(features.items()):
        if isinstance(value, torch.Tensor):
            if name not in flat and (value.ndim < 2 or len(value) != 1):
                return None
            shapes.append((name, str(value.dtype), tuple(value.shape[1:])))
        elif isinstance(value, str | int | tuple | None):
            shapes.append((name, value))
        else:
            return None
    return tuple(shapes)


def _joined(features: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Join the features of several items along their first axis."""
    import torch

    if len(features) == 1:
        return features[0]
    return {
        name: torch.cat([one[name] for one in features])
        if isinstance(value, torch.Tensor)
        else value
        for name, value in features[0].items()
    }
