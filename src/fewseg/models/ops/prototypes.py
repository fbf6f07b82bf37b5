"""Masked pooling: the mean feature of what a mask covers, or of the groups that it falls into."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_mean(features: Tensor, mask: Tensor, floor: float = 1e-4) -> Tensor:
    """Mean of features (B, C, h, w) where mask (B, 1, h, w) is, (B, C).

    `floor` is the least weight that is divided by. Summed in float32: half precision overflows.
    """
    total = (features.float() * mask.float()).sum((2, 3)) / mask.float().sum((2, 3)).clamp(min=floor)
    return total.to(features.dtype)


def cluster_means(features: Tensor, mask: Tensor, count: int, *, rounds: int = 10, floor: float = 1e-4) -> Tensor:
    """Means of the `count` groups that features (B, C, h, w) fall into where mask (B, 1, h, w) is, (B, count, C).

    Weighted k-means by cosine. Nothing is drawn: it starts from the mean and goes on with what is farthest from the
    starts so far. A group that stays empty gets the mean of everything. Gradients go through the means, not through
    what belongs to which group.
    """
    mean = masked_mean(features.float(), mask, floor)
    if count == 1:
        return mean.unsqueeze(1).to(features.dtype)
    tokens, weights = features.float().flatten(2).transpose(1, 2), mask.float().flatten(1)
    with torch.no_grad():
        unit = F.normalize(tokens, dim=-1)
        centres = _starts(unit, weights, mean, count)
        for _ in range(rounds):
            centres = _group_means(tokens, _groups(unit, weights, centres), mean, floor)
        groups = _groups(unit, weights, centres)
    return _group_means(tokens, groups, mean, floor).to(features.dtype)


def _starts(unit: Tensor, weights: Tensor, mean: Tensor, count: int) -> Tensor:
    """(B, count, C): the mean, then each time the token whose weight times distance from all before is largest."""
    starts = mean.unsqueeze(1)
    for _ in range(count - 1):
        nearest = (unit @ F.normalize(starts, dim=-1).transpose(1, 2)).amax(-1)
        farthest = (weights * (1 - nearest)).argmax(1)
        starts = torch.cat([starts, unit[torch.arange(len(unit), device=unit.device), farthest].unsqueeze(1)], 1)
    return starts


def _groups(unit: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """Each token's weight in the group of its nearest centre, 0 in the others, (B, count, N)."""
    nearest = (unit @ F.normalize(centres, dim=-1).transpose(1, 2)).argmax(-1)
    return (F.one_hot(nearest, centres.shape[1]) * weights.unsqueeze(-1)).transpose(1, 2)


def _group_means(tokens: Tensor, groups: Tensor, mean: Tensor, floor: float) -> Tensor:
    size = groups.sum(-1, keepdim=True)
    return torch.where(size > floor, groups @ tokens / size.clamp(min=floor), mean.unsqueeze(1))
