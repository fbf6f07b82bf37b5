"""Where the outline of a mask is drawn, for DCAMA's light decoder (ours): how far out, and along which edges.

Both work on logits at the finest skip scale, after the decoder has said what it has to say.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn import functional as F

from fewseg.ops.guided_filter import Guide, follow_guide, guide

PICTURE: Final = "picture"
"""Name of the query's tensor that outlines follow: (B, 3, h, w), normalised, at the finest skip scale."""

PEAK_SHARE: Final = 0.01
"""Share of the pixels, the surest ones, whose mean logit is the peak."""

EDGE_RADIUS: Final = 3
"""Of the windows in which colours are looked at, in pixels of the decoder's working size."""

EDGE_TOLERANCE: Final = 0.003
"""Variance of normalised colours below which a window has no edges."""

EDGE_LIMIT: Final = 2.0
"""Logits beyond this are what the decoder is sure of; only what lies between follows the picture."""


def peak(logit: Tensor) -> Tensor:
    """(B): the mean of the largest hundredth of (B, 1, h, w)."""
    flat = logit.flatten(1)
    kept = max(1, round(flat.shape[1] * PEAK_SHARE))
    return flat.topk(kept, 1).values.mean(1)


def lenient(logit: Tensor, leniency: Tensor) -> Tensor:
    """Logits (B, 1, h, w), raised where their `peak` is low.

    `leniency` (2) is the peak below which that begins, and what is added for every unit below it. The pixels of a thing
    that is hardly recognised have low logits together, and cutting them at the same height as those of a clear one
    leaves too little of it. The order of pixels, and of peaks for less than 1 a unit, stays.
    """
    start, slope = leniency.to(logit.dtype)
    return logit + (slope * F.relu(start - peak(logit)))[:, None, None, None]


def edge_guide(picture: Tensor, work: tuple[int, int]) -> Guide:
    """What `along_edges` follows: `picture` as `PICTURE` says, `work` the decoder's working size."""
    return guide(picture, work, EDGE_RADIUS, EDGE_TOLERANCE)


def along_edges(logit: Tensor, edges: Guide, labels: int) -> Tensor:
    """Logits (B * L, 1, h, w), labels innermost, whose outlines follow the edges of B pictures."""
    unsure = logit.float().clamp(-EDGE_LIMIT, EDGE_LIMIT)
    moved = follow_guide(unsure.squeeze(1).unflatten(0, (-1, labels)), edges).flatten(0, 1).unsqueeze(1)
    return logit + (moved - unsure).to(logit.dtype)
