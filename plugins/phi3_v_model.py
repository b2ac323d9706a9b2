"""Phi-3.5-vision as a torch module: transformers' own Phi-3 and CLIP tower, and what joins them.

The one idea: its parameters are named as in the published checkpoints (`model.layers...`,
`model.vision_embed_tokens...`), so that weights and adapters need no other names than their own.

What joins them, by image_embedding_phi3_v.py of VLM2Vec and Microsoft: the patches of every crop
are merged two by two; the crops' maps are laid out as the picture; a learnable separator (`sub_GN`)
ends every row; another (`glb_GN`) stands between the crops and the global view, which comes last;
two linear layers take all of it, separators too, to the decoder's size.

Shapes: C crops of all pictures, I pictures, S patches of a crop's side, V the tower's hidden size,
M = 4 V the size of merged patches, T image tokens of all pictures, D the decoder's hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModel, Phi3Model
from transformers.models.phi3.modeling_phi3 import Phi3PreTrainedModel

MERGED = 2
"""Patches that become one token, along each side."""


class ImageEmbedding(nn.Module):
    """From the crops of pictures to tokens of the decoder."""

    def __init__(self, vision: Any, hidden_size: int) -> None:
        super().__init__()
        merged_size = vision.hidden_size * MERGED**2
        self.img_processor = nn.ModuleDict({"vision_model": CLIPVisionModel(vision)})
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, merged_size))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, merged_size))
        self.img_projection = nn.Sequential(
            nn.Linear(merged_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, crops_C3HW: torch.Tensor, grids_I2: torch.Tensor) -> torch.Tensor:
        """Return (T, D) tokens; `grids` holds rows and columns of crops, a view precedes each."""
        counts_I = (grids_I2.prod(1) + 1).tolist()
        maps_I = torch.split(merged(self.patches(crops_C3HW)), counts_I)
        tokens = [
            self.laid_out(maps_NSSM, rows, columns)
            for maps_NSSM, (rows, columns) in zip(maps_I, grids_I2.tolist(), strict=True)
        ]
        projected_TD: torch.Tensor = self.img_projection(torch.cat(tokens))
        return projected_TD

    def patches(self, crops_C3HW: torch.Tensor) -> torch.Tensor:
        """Return the (C, S*S, V) patches after all layers of the tower but the last.

        That is `hidden_states[-2][:, 1:]`, without running the layer that comes to nothing.
        """
        tower: Any = self.img_processor["vision_model"]
        hidden_CPV = tower.pre_layrnorm(tower.embeddings(crops_C3HW))
        for layer in tower.encoder.layers[:-1]:
            hidden_CPV = layer(hidden_CPV, None)
        patches_CPV: torch.Tensor = hidden_CPV[:, 1:]
        return patches_CPV

    def laid_out(self, maps_NSSM: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Return the (tokens, M) of one picture, whose first map is the global view."""
        side, size = maps_NSSM.shape[1], maps_NSSM.shape[3]
        crops = maps_NSSM[1:].reshape(rows, columns, side, side, size).transpose(1, 2)
        picture = crops.reshape(rows * side, columns * side, size)
        return torch.cat([self.ended(picture), self.glb_GN[0], self.ended(maps_NSSM[0])])

    def ended(self, map_HWM: torch.Tensor) -> torch.Tensor:
        """Return a map's tokens (H * (W + 1), M), row by row, each row ended by the separator."""
        ends = self.sub_GN[0].expand(map_HWM.shape[0], 1, -1)
        return torch.cat([map_HWM, ends], dim=1).flatten(0, 1)


def merged(patches_CPV: torch.Tensor) -> torch.Tensor:
    """Join squares of two by two patches: (C, S*S, V) to (C, S/2, S/2, 4 V), row by row."""
    count, patches, size = patches_CPV.shape
    side = int(patches**0.5) // MERGED
    squares = patches_CPV.reshape(count, side, MERGED, side, MERGED, size)
    return squares.transpose(2, 3).reshape(count, side, side, MERGED**2 * size)


class Phi3VisionModel(Phi3PreTrainedModel):
    """Phi-3 with the image embedding inside it, where the published checkpoints have it."""

    def __init__(self, text: Any, vision: Any) -> None:
        super().__init__(text)
        self.model = Phi3Model(text)
        self.model.vision_embed_tokens = ImageEmbedding(vision, text.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    @property
    def language_model(self) -> Any:
        """The decoder: from embeddings to hidden states."""
        return self.model

    @property
    def image_embedding(self) -> Any:
        """From crops to embeddings."""
        return self.model.vision_embed_tokens

    @property
    def short_context(self) -> int | None:
        """Tokens up to which a text takes the short rope factors, if there are two sets."""
        rope: Any = self.config.rope_parameters
        found: int | None = rope.get("original_max_position_embeddings")
        return found
