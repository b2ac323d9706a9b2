"""UniIR's CLIP with score fusion (CLIP_SF): OpenAI's CLIP, fine-tuned, in UniIR's own checkpoint.

The one idea: the published `.pth` holds the two towers under OpenAI's names, each behind
`clip_model.`, and open_clip's CLIP has the very same names; so the sizes of the towers are read
from the tensors, and every tensor is bound or loading fails.

Text and image features are added unnormalised, texts are cut to 77 tokens, and pictures are
prepared as for OpenAI's CLIP, RGB first (TIGER-AI-Lab/UniIR:src/data/mbeir_dataset.py and
src/models/uniir_clip/clip_scorefusion/clip_sf.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmeb_harness.card import CARD_FILE
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.hub import fetch_model
from mmeb_harness.image import load_image, to_rgb
from mmeb_harness.plugins.open_clip import (
    CONFIG_FILE,
    OpenClip,
    Source,
    folder_source,
    library,
    loading,
    preprocess_of,
)

if TYPE_CHECKING:
    import torch
    from mmeb_harness.item import ImageSource
    from PIL.Image import Image

NAME = "ViT-L-14-quickgelu"
"""open_clip's name for the towers that were published."""

PUBLISHED = "checkpoint/CLIP_SF/clip_sf_large.pth"
"""Where the checkpoint lies in the repository `TIGER-Lab/UniIR` of the Hub."""

ALWAYS_THERE = (".gitattributes", "README.md")
"""Files that tell a repository's commit without its gigabytes."""

PREFIX = "clip_model."
HEAD_WIDTH = 64
"""Of every CLIP by OpenAI, in both towers: the tensors do not tell it."""


class UniirClipSF(OpenClip):
    """An encoder over a CLIP_SF checkpoint, or over a folder that `save` wrote."""

    _towers: Mapping[str, Any] | None = None

    @property
    def model_config(self) -> Mapping[str, Any]:
        return self._towers or super().model_config

    def find_source(self, reference: str, revision: str | None) -> Source:
        path = Path(reference).expanduser()
        if (path / CONFIG_FILE).is_file():
            if not (path / CARD_FILE).is_file():
                raise UsageError(
                    f"{reference} is a model of open_clip's, and nothing says that it is UniIR's: "
                    f"name it -m open-clip:{reference}"
                )
            return folder_source(path)
        config = library().get_model_config(NAME)
        place, repository = path, None
        if path.is_dir():
            place = _checkpoint_in(path)
        elif not path.is_file():
            if path.suffix == ".pth" or reference.startswith((".", "/", "~")):
                raise UsageError(f"there is no checkpoint {reference!r}")
            place, repository = fetch_model(reference, revision, ALWAYS_THERE), reference
        return Source(
            model=NAME,
            config=config,
            preprocess=preprocess_of(config, {}),
            place=place,
            repository=repository,
            files=(PUBLISHED,),
        )

    def picture(self, source: ImageSource) -> Image:
        return to_rgb(load_image(source))

    def load_module(self) -> torch.nn.Module:
        import torch

        if self.source.in_layout:
            return super().load_module()
        path = self.fetch_weights()
        state = read_towers(path)
        with loading(f"the towers in {path}"):
            config = towers_of(state)
            module: torch.nn.Module = library().CLIP(**config)
            module.load_state_dict(state)
        found, wanted = config["vision_cfg"]["image_size"], self.source.preprocess["size"]
        if found != wanted:
            raise EnvironmentFault(f"{path} takes pictures of {found} pixels; UniIR's, {wanted}")
        self._towers = config
        return module.to(getattr(torch, self.dtype))


def _checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint in a folder: the published one, or the only one."""
    published = (folder / PUBLISHED, folder / Path(PUBLISHED).name)
    found = [path for path in published if path.is_file()] or sorted(folder.glob("*.pth"))
    if len(found) != 1 and (not found or found[0] not in published):
        raise UsageError(f"{folder} holds {len(found)} checkpoints (.pth); give the path of one")
    return found[0]


def towers_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return open_clip's configuration of the two towers whose tensors these are.

    Raises:
        KeyError: where a tensor that tells a size is missing.
    """

    def layers(tower: str) -> int:
        start = f"{tower}.resblocks."
        return len({name[len(start) :].split(".")[0] for name in state if name.startswith(start)})

    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, text_width = state["token_embedding.weight"].shape
    return {
        "embed_dim": state["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": patch * side,
            "patch_size": patch,
            "width": width,
            "head_width": HEAD_WIDTH,
            "layers": layers("visual.transformer"),
        },
        "text_cfg": {
            "context_length": len(state["positional_embedding"]),
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": text_width // HEAD_WIDTH,
            "layers": layers("transformer"),
        },
    }


class Inert:
    """Stands in for every foreign class in a checkpoint: it takes anything and does nothing."""

    def __new__(cls, *_: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_towers(path: Path) -> dict[str, torch.Tensor]:
    """Return the towers' tensors by OpenAI's names, running nothing that the file brings along.

    Beside the model the published file holds an optimiser and the configuration of the training, an
    object of a library that need not be here: torch's safe reader is given a dummy for each class
    that it does not know.

    Raises:
        EnvironmentFault: for a file that is no checkpoint, or not one of CLIP_SF.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    with loading(f"the checkpoint {path}"):
        foreign = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(Inert, name) for name in foreign]):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = held.get("model") if isinstance(held, dict) else None
    if not isinstance(state, dict):
        raise EnvironmentFault(f"{path} is no checkpoint of UniIR: it holds no 'model'")
    strangers = [name for name in state if not name.startswith(PREFIX)]
    if strangers or not state:
        raise EnvironmentFault(
            f"{path} is no CLIP_SF checkpoint of UniIR: it has tensors like {strangers[:3]}"
        )
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
