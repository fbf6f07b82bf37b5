"""Values that follow the edges of an image.

Kaiming He, Jian Sun, Xiaoou Tang: "Guided Image Filtering", TPAMI 2013, with all three colours; as in He, Sun: "Fast
Guided Filter", 2015, fitted on a smaller copy of the image than it is applied to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.resize import map_size, resize, shrink


class Guide(NamedTuple):
    """An image, with what every window of it says of its colours."""

    fine: Tensor
    """(B, 3, H, W), at the size of the values that follow it."""
    coarse: Tensor
    """(B, 3, h, w), where windows are looked at."""
    mean: Tensor
    """(B, 3, h, w), of each window."""
    factors: Tensor
    """(B, 6, h, w), of each window's covariance of colours; see `symmetric_factors`."""


def make_guide(image: Tensor, coarse: tuple[int, int], radius: int, tolerance: float) -> Guide:
    """Prepare images (B, 3, H, W), float32, for any number of values.

    Args:
        image: at the size of the values.
        coarse: the size at which windows are looked at.
        radius: of the windows, in pixels there.
        tolerance: variance of the colours, in their own units squared, below which a window is even.
    """
    small = shrink(image, coarse)
    mean = _window_mean(small, radius)
    products = _window_mean((small.unsqueeze(1) * small.unsqueeze(2)).flatten(1, 2), radius)
    covariance = products.unflatten(1, (3, 3)) - mean.unsqueeze(1) * mean.unsqueeze(2)
    even = tolerance * torch.eye(3, dtype=image.dtype, device=image.device)
    return Guide(image, small, mean, symmetric_factors(covariance + even[:, :, None, None]))


def follow_guide(values: Tensor, guide: Guide, radius: int) -> Tensor:
    """Values (B, L, H, W), float32, as the mean of all windows' best linear functions of the image's colours.

    `radius` is that of `make_guide`.
    """
    small = shrink(values, map_size(guide.coarse))
    mean = _window_mean(small, radius)
    products = small.unsqueeze(2) * guide.coarse.unsqueeze(1)
    together = _window_mean(products.flatten(1, 2), radius).unflatten(1, (-1, 3))
    covariance = together - mean.unsqueeze(2) * guide.mean.unsqueeze(1)  # (B, L, 3, h, w)
    slope = solve_factored(guide.factors.unsqueeze(1), covariance)
    level = mean - (slope * guide.mean.unsqueeze(1)).sum(2)
    size = map_size(guide.fine)
    slope = resize(_window_mean(slope.flatten(1, 2), radius), size).unflatten(1, (-1, 3))
    return (slope * guide.fine.unsqueeze(1)).sum(2) + resize(_window_mean(level, radius), size)


def _window_mean(x: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def symmetric_factors(x: Tensor) -> Tensor:
    """Of symmetric matrices (B, 3, 3, h, w): L D Lᵀ as (B, 6, h, w), D's diagonal first, then L below its own.

    Where all three colours are the same and far apart (grey images) an inverse by cofactors has no digit left.
    """
    first = x[:, 0, 0]
    low = x[:, 1, 0] / first
    left = x[:, 2, 0] / first
    second = x[:, 1, 1] - low * x[:, 1, 0]
    right = (x[:, 2, 1] - left * x[:, 1, 0]) / second
    third = x[:, 2, 2] - left * x[:, 2, 0] - right * right * second
    return torch.stack([first, second, third, low, left, right], 1)


def solve_factored(factors: Tensor, x: Tensor) -> Tensor:
    """What the factored matrices (..., 6, h, w) make (..., 3, h, w) of."""
    first, second, third, low, left, right = factors.unbind(-3)
    a, b, c = x.unbind(-3)
    b = b - low * a
    c = (c - left * a - right * b) / third
    b = b / second - right * c
    a = a / first - low * b - left * c
    return torch.stack([a, b, c], -3)
