"""Point-wise attention maps: how much a point of the query attends to every pixel of the support (DCAMA, Fig. S5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from fewseg.core.errors import InvalidOption
from fewseg.models.ops.resize import resize
from fewseg.tools.explain.case import Explained, aggregating

Point = tuple[float, float]
"""Across and down the query, as fractions of its width and height."""


@dataclass(frozen=True)
class BlockAttention:
    """One block's attention from P query points to the support, averaged over the heads."""

    block: int
    scale: int
    weights: Tensor
    """(P, n, h, w); those of a point sum to 1."""
    values: Tensor
    """(n, h, w): the support's mask, as the block sees it."""
    cells: tuple[tuple[int, int], ...]
    """Row and column of each point in the query's map."""

    @property
    def aggregated(self) -> Tensor:
        """(P,): the mask values that the attention sums up to; equation 3 at these points, before class balancing."""
        return (self.weights * self.values).sum((1, 2, 3))


@torch.no_grad()
def point_attention(
    explained: Explained, points: Sequence[Point], attention_scales: Sequence[int] = ()
) -> tuple[BlockAttention, ...]:
    """The attention of every block of `attention_scales` (all if none are named), in the backbone's order.

    Only the rows of the wanted points are computed. Raises `InvalidOption` for a method without such attention, points
    outside the image, scales that are not attended, or support tokens that have no places.
    """
    method = aggregating(explained.method, "attention maps")
    if method.config.support_pixel_budget is not None:
        raise InvalidOption("with support_pixel_budget the support's tokens have no places: choose another checkpoint")
    if not points or not all(0 <= x < 1 and 0 <= y < 1 for x, y in points):
        raise InvalidOption(f"points {list(points)}: give some, each from 0 to below 1 across and down")
    attended = sorted({scale for _, scale in method.attended})
    if wrong := [s for s in attention_scales if s not in attended]:
        raise InvalidOption(f"no attention at scale 1/{wrong[0]}: choose among {', '.join(map(str, attended))}")
    return tuple(
        _block(explained, method.config.heads, index, scale, points)
        for index, scale in method.attended
        if not attention_scales or scale in attention_scales
    )


def _block(explained: Explained, heads: int, index: int, scale: int, points: Sequence[Point]) -> BlockAttention:
    query = explained.query.tensors[f"query.{index}"][0]
    key = explained.support.tensors[f"key.{index}"][0]
    value = explained.support.tensors[f"value.{index}"][0]
    height, width = query.shape[:2]  # the support's maps are as large: both were squashed to one size
    cells = tuple((int(y * height), int(x * width)) for x, y in points)
    rows = torch.stack([query[cell] for cell in cells]).float()
    scores = torch.einsum(
        "phc,khc->phk", rows.unflatten(-1, (heads, -1)), key.flatten(0, 1).float().unflatten(-1, (heads, -1))
    )  # the queries carry the factor of the dot products already
    weights = scores.softmax(-1).mean(1).unflatten(-1, (key.shape[0], height, width))
    return BlockAttention(index, scale, weights.cpu(), value.float().cpu().unflatten(-1, (height, width)), cells)


def mean_attention(blocks: Sequence[BlockAttention]) -> Tensor:
    """(P, n, h, w): the mean over the blocks at the finest one's size; what a point attends to sums to 1."""
    size = max((b.weights.shape[-2:] for b in blocks), key=lambda s: s[0] * s[1])
    total = torch.zeros(*blocks[0].weights.shape[:2], *size)
    for block in blocks:
        finer = resize(block.weights, (size[0], size[1]))
        total += finer / finer.sum((1, 2, 3), keepdim=True)
    return total / len(blocks)


def default_points(probability: Tensor) -> tuple[Point, Point]:
    """One point on the predicted object and one on background: where each is farthest from the other.

    `probability` is the foreground's, (H, W). Where either is empty, its most probable pixel stands for it.
    """
    values = probability.numpy()
    return _deepest(values >= 0.5, values), _deepest(values < 0.5, -values)


def _deepest(region: np.ndarray, confidence: np.ndarray) -> Point:
    """The middle of the region's widest place, borders of the image counted as its end."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] if region.any() else confidence
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    height, width = depth.shape
    return (float(column) + 0.5) / width, (float(row) + 0.5) / height
