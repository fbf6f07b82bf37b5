"""Values that follow the edges of a picture.

Kaiming He, Jian Sun, Xiaoou Tang: "Guided Image Filtering", TPAMI 2013, with all three colours; as in He, Sun: "Fast
Guided Filter", 2015, fitted on a smaller copy of the picture than it is applied to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.ops.resize import map_size, resize, shrink


class Guide(NamedTuple):
    """A picture, with what every window of it says of its colours."""

    fine: Tensor
    """(B, 3, H, W), at the size of the values that follow it."""
    coarse: Tensor
    """(B, 3, h, w), where windows are looked at."""
    mean: Tensor
    """(B, 3, h, w), of each window."""
    inverse: Tensor
    """(B, 3, 3, h, w), of each window's covariance of colours."""
    radius: int


def guide(picture: Tensor, coarse: tuple[int, int], radius: int, tolerance: float) -> Guide:
    """Prepare pictures (B, 3, H, W), float32, for any number of values.

    Args:
        picture: at the size of the values.
        coarse: the size at which windows are looked at.
        radius: of the windows, in pixels there.
        tolerance: variance of the colours, in their own units squared, below which a window is even.
    """
    small = shrink(picture, coarse)
    mean = _window_mean(small, radius)
    products = _window_mean((small.unsqueeze(1) * small.unsqueeze(2)).flatten(1, 2), radius)
    covariance = products.unflatten(1, (3, 3)) - mean.unsqueeze(1) * mean.unsqueeze(2)
    even = tolerance * torch.eye(3, dtype=picture.dtype, device=picture.device)
    return Guide(picture, small, mean, _inverse(covariance + even[:, :, None, None]), radius)


def follow_guide(values: Tensor, guide: Guide) -> Tensor:
    """Values (B, L, H, W), float32, as the mean of all windows' best linear functions of the picture's colours."""
    small = shrink(values, map_size(guide.coarse))
    mean = _window_mean(small, guide.radius)
    products = small.unsqueeze(2) * guide.coarse.unsqueeze(1)
    together = _window_mean(products.flatten(1, 2), guide.radius).unflatten(1, (-1, 3))
    covariance = together - mean.unsqueeze(2) * guide.mean.unsqueeze(1)  # (B, L, 3, h, w)
    slope = (guide.inverse.unsqueeze(1) * covariance.unsqueeze(2)).sum(3)
    level = mean - (slope * guide.mean.unsqueeze(1)).sum(2)
    size = map_size(guide.fine)
    slope = resize(_window_mean(slope.flatten(1, 2), guide.radius), size).unflatten(1, (-1, 3))
    return (slope * guide.fine.unsqueeze(1)).sum(2) + resize(_window_mean(level, guide.radius), size)


def _window_mean(x: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _inverse(x: Tensor) -> Tensor:
    """Of symmetric matrices (B, 3, 3, h, w): cofactors over the determinant, which exports have operators for."""
    first, second, third = x.unbind(1)
    cofactors = torch.stack([_cross(second, third), _cross(third, first), _cross(first, second)], 1)
    determinant = (first * cofactors[:, 0]).sum(1)
    return cofactors / determinant[:, None, None]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product of vectors (B, 3, h, w)."""
    return a.roll(-1, 1) * b.roll(-2, 1) - a.roll(-2, 1) * b.roll(-1, 1)
