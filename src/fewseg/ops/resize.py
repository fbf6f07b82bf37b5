"""Bilinear resizing of tensors: the only place that knows `align_corners`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def map_size(x: Tensor) -> tuple[int, int]:
    """Height and width of (..., H, W)."""
    return int(x.shape[-2]), int(x.shape[-1])


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, as both papers resize maps, masks and logits; (B, C, H, W) to (B, C, *size)."""
    if map_size(x) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
