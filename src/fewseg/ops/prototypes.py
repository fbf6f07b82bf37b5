"""Masked pooling: the mean feature of what a mask covers."""

from __future__ import annotations

from torch import Tensor


def masked_mean(features: Tensor, mask: Tensor, floor: float = 1e-4) -> Tensor:
    """Mean of features (B, C, h, w) where mask (B, 1, h, w) is, (B, C).

    `floor` is the least weight that is divided by. Summed in float32: half precision overflows.
    """
    total = (features.float() * mask.float()).sum((2, 3)) / mask.float().sum((2, 3)).clamp(min=floor)
    return total.to(features.dtype)
