"""Splicing of half images: which of the two objects is meant, only the support tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

View = tuple[tuple[Tensor, ...], Tensor]
"""Maps (C, h, w) of one image, the image itself being one, and its mask (s, s): 0, 1, 255."""


def splice_views(mine: Sequence[View], others: Sequence[View], rng: np.random.Generator) -> list[View]:
    """Each view's half, left, right, top or bottom, beside a half of another view.

    Of each of `mine` the half with more foreground is taken, of each of `others` any. Sides of odd length are cut
    so that both halves fit together.

    Args:
        mine: views of an episode, query and supports.
        others: as many of another class, with the masks of this one.
        rng: draws the direction, the halves and the sides.
    """
    return [_splice(one, other, rng) for one, other in zip(mine, others, strict=True)]


def _splice(mine: View, other: View, rng: np.random.Generator) -> View:
    across, their_second, mine_second = (bool(rng.integers(2)) for _ in range(3))
    dim = -1 if across else -2
    foreground = mine[1] == 1
    first, second = (_half(foreground, dim, part).sum() for part in (False, True))
    my_part = bool(second > first) if first != second else bool(rng.integers(2))

    def spliced(one: Tensor, another: Tensor) -> Tensor:
        length = one.shape[dim]
        kept = _half(one, dim, my_part)
        added = _half(another, dim, their_second).narrow(dim, 0, length - kept.shape[dim])
        return torch.cat([added, kept] if mine_second else [kept, added], dim)

    maps = tuple(spliced(one, another) for one, another in zip(mine[0], other[0], strict=True))
    return maps, spliced(mine[1], other[1])


def _half(tensor: Tensor, dim: int, second: bool) -> Tensor:
    """The first or second half, the middle of an odd length included."""
    length = tensor.shape[dim]
    half = -(-length // 2)
    return tensor.narrow(dim, length - half if second else 0, half)
