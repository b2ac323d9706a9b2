"""InfoNCE: each query shall find its own target among all targets of the batch.

One pure function of vectors and of which targets are equal; it knows no device, no process and no
chunk. Source: the objective of VLM2Vec (arXiv 2410.05160, equation 1), its mean over queries.

Shapes: P pairs, T targets (the P positives in order, then any negatives), D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmeb_harness.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class InfoNCE:
    """The loss with its settings; see the section `loss` of the trainer's configuration."""

    temperature: float
    similarity: Literal["cosine", "dot"] = "cosine"
    mask_equal_targets: bool = True
    symmetric: bool = False
    dimensions: Sequence[int] = ()

    def __call__(
        self,
        queries_PD: torch.Tensor,
        targets_TD: torch.Tensor,
        codes_T: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the mean loss, of the vectors' type.

        `codes_T` numbers the targets, equal ones alike: what equals a query's own target is then
        not counted against it, if that is to be masked. None: all are different.

        Raises:
            UsageError: for a dimension that the vectors do not have.
        """
        own = queries_PD.shape[1]
        if max(self.dimensions, default=0) > own:
            raise UsageError(
                f"loss.dimensions: the model's vectors have {own} numbers, not "
                f"{max(self.dimensions)}"
            )
        same_as_T = codes_T if self.mask_equal_targets else None
        losses = [
            self._loss(queries_PD[:, :dimension], targets_TD[:, :dimension], same_as_T)
            for dimension in self.dimensions or (own,)
        ]
        return sum(losses[1:], losses[0]) / len(losses)

    def _loss(
        self, queries_PD: torch.Tensor, targets_TD: torch.Tensor, same_as_T: torch.Tensor | None
    ) -> torch.Tensor:
        from torch.nn.functional import cross_entropy, normalize

        if self.similarity == "cosine":
            queries_PD, targets_TD = normalize(queries_PD, dim=-1), normalize(targets_TD, dim=-1)
        scores_PT = queries_PD @ targets_TD.T / self.temperature
        if same_as_T is not None:
            scores_PT = scores_PT.masked_fill(_others_equal(same_as_T, len(queries_PD)), -INFINITY)
        own_P = _places(scores_PT)
        loss = cross_entropy(scores_PT, own_P)
        if self.symmetric:
            loss = (loss + cross_entropy(scores_PT[:, : len(queries_PD)].T, own_P)) / 2
        return loss

    def negatives(self, codes_T: torch.Tensor, pairs: int) -> float:
        """Return against how many targets a query is held, on average."""
        if not self.mask_equal_targets:
            return float(len(codes_T) - 1)
        equal_PT = codes_T[:pairs, None] == codes_T[None, :]
        return len(codes_T) - int(equal_PT.sum()) / pairs


INFINITY = float("inf")


def _places(scores_PT: torch.Tensor) -> torch.Tensor:
    """Return where each query's own target stands."""
    import torch

    return torch.arange(len(scores_PT), device=scores_PT.device)


def _others_equal(same_as_T: torch.Tensor, pairs: int) -> torch.Tensor:
    """Return which targets (P, T) equal a query's own without being it."""
    equal_PT = same_as_T[:pairs, None] == same_as_T[None, :]
    equal_PT.fill_diagonal_(False)
    return equal_PT
