"""Resizing of tensors: the only place that knows `align_corners`, but for what is sampled at points."""

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


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) to a smaller (B, C, *size): means of whole cells, resized to fit; samples would miss thin things."""
    cells = [max(1, large // small) for large, small in zip(map_size(x), size, strict=True)]
    return resize(F.avg_pool2d(x, (cells[0], cells[1])), size)
