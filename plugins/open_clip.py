"""The whole zoo of open_clip: a model's name with its weights, a Hub repository, or a folder.

The one idea: open_clip builds the model, reads the weights, tokenises and transforms; what is said
here is only where they come from (`Source`), and that is read without the weights, so that a worker
process tokenises and transforms in the same way.

A reference is `NAME@TAG` (a name and tag of open_clip's own tables), `NAME@PATH` (a checkpoint, or
a folder with one), `hf-hub:ORGANISATION/NAME`, or a folder in the layout that open_clip puts on the
Hub (`open_clip_config.json` beside the weights). As in open_clip, pictures for `NAME@PATH` are
normalised as OpenAI's CLIP was: a folder in the layout says another normalisation.

Features are unnormalised, whatever the class of the model: CoCa normalises where it is not told.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import Card, write_card
from mmeb_harness.errors import EnvironmentFault, UsageError, unknown_name
from mmeb_harness.hub import CONFIGURATION, commit_of, fetch_model
from mmeb_harness.image import load_image
from mmeb_harness.keys import digest_of
from mmeb_harness.plugins.pretrained import quiet_transformers
from mmeb_harness.plugins.two_tower import TwoTower

if TYPE_CHECKING:
    import torch
    from mmeb_harness.item import ImageSource
    from PIL.Image import Image

HUB, FOLDER = "hf-hub:", "local-dir:"
"""How open_clip marks a repository of the Hub, and a folder."""

CONFIG_FILE = "open_clip_config.json"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The configuration and the weights in open_clip's layout; the first weights that exist are it."""

CHECKPOINTS = (".safetensors", ".bin", ".pt", ".pth", ".npz")

USUAL_PATCH = 16
"""Stands in for the patch of towers that do not say theirs; only planning uses it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from: all that a vector depends on, but the weights themselves.

    `model` is what open_clip is asked for. `place` is the folder or file that tells these weights
    from others. Of weights on the Hub, `files` in `repository` are tried in order.
    """

    model: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    place: Path
    repository: str | None = None
    files: Sequence[str] = ()

    @property
    def in_layout(self) -> bool:
        """Whether `place` is a folder with its own configuration, not a name's weights."""
        return self.model.startswith(FOLDER)

    def fetch(self, revision: str | None) -> Path:
        """Return where the weights are, downloading them where they are not here."""
        if self.repository is None:
            return self.place
        revision = commit_of(self.place) or revision
        for file in self.files:
            path = fetch_model(self.repository, revision, (file,)) / file
            if path.is_file():
                return path
        raise EnvironmentFault(
            f"{self.repository} has no {' and no '.join(self.files)}, here or on the Hub"
        )


class OpenClip(TwoTower):
    """An encoder over the two towers of a model that open_clip builds."""

    def __init__(self, card: Card, device: str | None = None, dtype: str | None = None) -> None:
        if card.base is None:
            raise UsageError(f"{card.name} names no weights: -m {card.name}:NAME@WEIGHTS")
        super().__init__(card, device, dtype)
        self.source = self.find_source(card.base, card.revision)
        facts = {"config": self.source.config, "preprocess": self.source.preprocess}
        self._settings = digest_of(facts)[:16]

    def find_source(self, reference: str, revision: str | None) -> Source:
        """Read a reference. Raises UsageError for a name or tag that does not exist."""
        return find_source(reference, revision)

    # -- CPU half ------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that open_clip chooses for the model."""
        text: Mapping[str, Any] = self.source.config["text_cfg"]
        length = text.get("context_length", library().tokenizer.DEFAULT_CONTEXT_LENGTH)
        settings = dict(text.get("tokenizer_kwargs") or {})
        settings.pop("reduction_mask", None)  # drops tokens at random, for training
        if self.tokenizer_folder is None:
            return library().tokenizer.SimpleTokenizer(context_length=length, **settings)
        settings["tokenizer_mode"] = text.get("tokenizer_mode")
        with loading(f"the tokenizer in {self.tokenizer_folder}"), quiet_transformers():
            return library().tokenizer.HFTokenizer(
                str(self.tokenizer_folder), context_length=length, **settings
            )

    @cached_property
    def tokenizer_folder(self) -> Path | None:
        """Folder of the tokenizer, or None where it is the one that open_clip carries."""
        name = self.source.config["text_cfg"].get("hf_tokenizer_name")
        if not name:
            return None
        if self.source.in_layout and (self.source.place / "tokenizer_config.json").is_file():
            return self.source.place
        return fetch_model(str(name), None, CONFIGURATION)

    @cached_property
    def transform(self) -> Any:
        """The transform of open_clip's evaluation: a PIL image to a (3, height, width) tensor."""
        transforms = library().transform
        settings = transforms.PreprocessCfg(**self.source.preprocess)
        return transforms.image_transform_v2(settings, is_train=False)

    @property
    def image_tokens(self) -> int:
        vision = self.source.config["vision_cfg"]
        size = self.source.preprocess["size"]
        side = size if isinstance(size, int) else max(size)
        return int((side // (vision.get("patch_size") or USUAL_PATCH)) ** 2 + 1)

    def text_tokens(self, text: str) -> int:
        return int(self.tokenizer.context_length)  # every text is padded to it, and computed so

    def token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer([text])[0].tolist()
        return ids

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, None]:
        import torch

        return torch.tensor(rows), None

    def picture(self, source: ImageSource) -> Image:
        """Open an image in its own mode: open_clip makes RGB of it after the resize."""
        image = load_image(source)
        if "transparency" in image.info:  # changes no pixel here, but Pillow would warn
            image = image.copy()
            del image.info["transparency"]
        return image

    def pixels(self, pictures: Sequence[Image]) -> torch.Tensor:
        import torch

        return torch.stack([self.transform(picture) for picture in pictures])

    # -- device half ---------------------------------------------------------------------------

    def fetch_weights(self) -> Path:
        """Return where the weights are on this machine."""
        return self.source.fetch(self.card.revision)

    def load_module(self) -> torch.nn.Module:
        import torch

        weights = self.fetch_weights()
        with loading(f"the weights in {weights}"), quiet_logging():
            model: torch.nn.Module = library().create_model(
                self.source.model,
                pretrained=None if self.source.in_layout else str(weights),
                require_pretrained=True,
            )
        return model.to(getattr(torch, self.dtype))

    def text_features(self, ids_TL: torch.Tensor, mask_TL: torch.Tensor | None) -> torch.Tensor:
        module: Any = self.module
        features_TD: torch.Tensor = module.encode_text(ids_TL, normalize=False)
        return features_TD

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        features_ID: torch.Tensor = module.encode_image(pixels, normalize=False)
        return features_ID

    # -- identity and saving -------------------------------------------------------------------

    def folders(self) -> Sequence[Path]:
        tokenizer = self.tokenizer_folder
        if tokenizer is None or tokenizer == self.source.place:
            return (self.source.place,)
        return (self.source.place, tokenizer)

    def fingerprint(self) -> str:
        """With the model's configuration, which a program may have given to open_clip itself."""
        return f"{super().fingerprint()} {self._settings}"

    @property
    def model_config(self) -> Mapping[str, Any]:
        """The configuration of the module, once that is loaded."""
        return self.source.config

    def save(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the weights and the tokenizer in open_clip's layout, and the card."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = self.module.state_dict() if state is None else state
        save_file(
            {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()},
            folder / HUB_FILES[0],
        )
        preprocess = {key: value for key, value in self.source.preprocess.items() if key != "size"}
        config = {"model_cfg": self.model_config, "preprocess_cfg": preprocess}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1))
        if self.tokenizer_folder is not None:
            self.tokenizer.save_pretrained(folder)
        write_card(self.card, folder)


# -- reading a reference ---------------------------------------------------------------------------


def find_source(reference: str, revision: str | None) -> Source:
    """Read a reference to a model of open_clip. Raises UsageError for what does not exist."""
    folder = Path(reference.removeprefix(FOLDER)).expanduser()
    if folder.is_dir():
        return folder_source(folder)
    if reference.startswith(HUB):
        return hub_source(reference.removeprefix(HUB), revision)
    name, _, weights = reference.partition("@")
    if reference.startswith((".", "/", "~", FOLDER)):
        raise UsageError(f"there is no folder {reference!r}")
    name = name.replace("/", "-")
    config = library().get_model_config(name)
    if config is None:
        raise unknown_name("OpenCLIP model", name, library().list_models(), "(NAME@WEIGHTS)")
    if not weights:
        raise UsageError(f"{name} alone would be random: {_choices(name)}")
    facts = library().get_pretrained_cfg(name, weights)
    if facts:
        return _tag_source(name, config, weights, facts, revision)
    place = Path(weights).expanduser()
    if not place.exists():
        tags = library().list_pretrained_tags_by_model(name)
        raise unknown_name(f"weights of {name}", weights, tags, f"({_choices(name)})")
    place = _checkpoint_in(place) if place.is_dir() else place
    return Source(model=name, config=config, preprocess=preprocess_of(config, {}), place=place)


def folder_source(folder: Path) -> Source:
    """Read a folder in the layout that open_clip puts on the Hub."""
    if not any(path.suffix in CHECKPOINTS for path in folder.iterdir()):
        raise EnvironmentFault(f"{folder} holds no weights ({HUB_FILES[0]}): they would be random")
    config, preprocess = _read_layout(folder, str(folder))
    return Source(model=f"{FOLDER}{folder}", config=config, preprocess=preprocess, place=folder)


def hub_source(repository: str, revision: str | None) -> Source:
    """Read the configuration of a repository that open_clip wrote."""
    folder = fetch_model(repository, revision, CONFIGURATION)
    config, preprocess = _read_layout(folder, repository)
    return Source(
        model=f"{FOLDER}{folder}",
        config=config,
        preprocess=preprocess,
        place=folder,
        repository=repository,
        files=HUB_FILES,
    )


def _tag_source(
    name: str,
    config: Mapping[str, Any],
    tag: str,
    facts: Mapping[str, Any],
    revision: str | None,
) -> Source:
    """Find a tag's weights on the Hub. Raises UsageError for a name with another activation."""
    _check_activation(name, config, tag, facts)
    repository, _, file = str(facts.get("hf_hub") or "").rpartition("/")
    if not repository:
        raise UsageError(
            f"{name}@{tag} is not on the Hub: download {facts.get('url')} and give -m NAME@FILE"
        )
    safer = file.removesuffix(".bin").removesuffix(".pth") + ".safetensors"
    return Source(
        model=name,
        config=config,
        preprocess=preprocess_of(config, facts),
        place=fetch_model(repository, revision, CONFIGURATION),
        repository=repository,
        files=(safer, file) if file else HUB_FILES,
    )


def _check_activation(
    name: str, config: Mapping[str, Any], tag: str, facts: Mapping[str, Any]
) -> None:
    """Refuse a name whose activation is not the one the weights were trained with.

    open_clip warns and computes wrong vectors. Where it has no name that fits, its tables are what
    is wrong (roberta-ViT-B-32), and the weights are taken as it takes them.
    """
    if bool(config.get("quick_gelu")) == bool(facts.get("quick_gelu")):
        return
    fits = f"{name}-quickgelu" if facts.get("quick_gelu") else name.removesuffix("-quickgelu")
    if fits != name and library().get_pretrained_cfg(fits, tag):
        raise UsageError(
            f"the weights {tag!r} were trained with another activation (QuickGELU or GELU) than "
            f"{name} has: {fits}@{tag}"
        )


def _choices(name: str) -> str:
    tags = library().list_pretrained_tags_by_model(name)
    known = f"one of its tags ({', '.join(tags)})" if tags else "no tag is known"
    return f"{name}@WEIGHTS, {known}, or a checkpoint's path"


def _checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint in a folder. Raises UsageError where that is not one file."""
    found = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINTS)
    named = [folder / name for name in HUB_FILES if folder / name in found]
    if named or len(found) == 1:
        return (named or found)[0]
    listed = f": {', '.join(path.name for path in found[:4])}" if found else ""
    raise UsageError(f"{folder} holds {len(found)} checkpoints{listed}; give the path of one")


def _read_layout(folder: Path, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the configuration of a model and of its pictures from open_clip's layout."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UsageError(
            f"{name} has no {CONFIG_FILE}: it is not in open_clip's layout, and weights alone need "
            "a name: NAME@PATH"
        )
    try:
        facts = json.loads(path.read_text())
        config = facts["model_cfg"]
        _ = config["text_cfg"], config["vision_cfg"]
        return config, preprocess_of(config, facts.get("preprocess_cfg") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFault(f"{path} is no configuration of open_clip: {error!r}") from None


def preprocess_of(config: Mapping[str, Any], facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how pictures are prepared: open_clip's defaults, what is stated, the tower's size."""
    transform = library().transform
    merged = transform.merge_preprocess_dict(asdict(transform.PreprocessCfg()), dict(facts))
    return {**merged, "size": config["vision_cfg"].get("image_size", merged["size"])}


# -- the library -----------------------------------------------------------------------------------


def library() -> Any:
    """Return open_clip; `requires` on the card has seen to it that it is installed."""
    import open_clip  # type: ignore[import-untyped]  # it ships no types

    return open_clip


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in loading into one sentence."""
    try:
        yield
    except Exception as error:  # open_clip, timm, torch and safetensors each have errors of theirs
        said = " ".join(str(error).split())[:400]
        raise EnvironmentFault(
            f"{what} cannot be loaded: {type(error).__name__}: {said}"
        ) from error


@contextlib.contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep open_clip, which logs to the root, from setting up the program's logging and from
    printing; what matters is checked by code."""
    root, silence = logging.getLogger(), logging.NullHandler()
    root.addHandler(silence)
    try:
        yield
    finally:
        root.removeHandler(silence)
