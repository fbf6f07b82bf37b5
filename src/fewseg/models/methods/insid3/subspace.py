"""The positional subspace: what tokens hold of their place, whatever the image shows."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor

from fewseg.images.transforms import normalise
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.backbones.stamp import WeightsStamp

_ROUNDING: Final = 1e-12
"""Mean squared length of a token along a direction below which that direction is rounding, not position."""

_SIZES: Final = 8
"""Input sizes whose subspace is kept."""


class PositionalSubspaces:
    """The subspace (C, s) of every input size, for as long as the backbone's weights stay what they are.

    Derived from the backbone, so neither saved nor copied with the method.
    """

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        self._stamp: WeightsStamp | None = None
        self._bases: dict[tuple[int, ...], Tensor] = {}

    def get(self, method: Any, size: tuple[int, int]) -> Tensor:
        """An orthonormal basis (C, s) for images of `size`, from the tokens of a black image.

        `method`: its `backbone`, `rank` and `unit_tokens` are used.
        """
        backbone: FeaturePyramid = method.backbone
        if self._stamp is None or not self._stamp.holds(backbone):
            self.drop()
            self._stamp = WeightsStamp.of(backbone)
        if size not in self._bases:
            basis = leading_directions(black_tokens(method, size), method.rank)
            if len(self._bases) >= _SIZES:
                self._bases.pop(next(iter(self._bases)))
            self._bases[size] = basis.to(method.device, method.work_dtype)
        return self._bases[size]

    def __deepcopy__(self, memo: dict[int, Any]) -> PositionalSubspaces:
        return PositionalSubspaces()

    def __reduce__(self) -> tuple[Any, ...]:
        return PositionalSubspaces, ()


@torch.no_grad()
def black_tokens(method: Any, size: tuple[int, int]) -> Tensor:
    """(N, C): unit tokens of a black image; in float32 at least, for rounding would pass for position."""
    backbone = method.backbone
    if method.dtype != method.work_dtype:
        backbone = copy.deepcopy(backbone).to(dtype=method.work_dtype)
    black = normalise(torch.zeros(1, 3, *size, device=method.device, dtype=method.work_dtype))
    tokens: Tensor = method.unit_tokens(backbone(black), backbone)
    return tokens[0].flatten(1).T


def leading_directions(tokens: Tensor, rank: int) -> Tensor:
    """(C, s): the `rank` leading left singular vectors of unit tokens (N, C) around their mean.

    Taken from the C x C second moments in float64, which is faster and more exact than the singular value
    decomposition. There are less than `rank` where the tokens do not vary in so many directions: the others would be
    arbitrary.
    """
    exact = tokens.cpu().double()
    centred = exact - exact.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    meant = int((values > _ROUNDING).sum())
    kept = min(rank, len(tokens) - 1, meant)
    return vectors[:, vectors.shape[1] - kept :].flip(1)
