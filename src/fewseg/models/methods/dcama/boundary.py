"""Where the outline of a mask is drawn, for DCAMA's light decoder (ours): how far out, and along which edges.

Both work on logits at the finest skip scale, after the decoder has said what it has to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.guided_filter import Guide, follow_guide, make_guide
from fewseg.models.ops.resize import shrink
from fewseg.models.ops.surest import surest_mean

GUIDE: Final = "guide."
"""Begins the names of the query's tensors that outlines follow: a `Guide`'s fields."""

PEAK_SHARE: Final = 0.01
"""Share of the pixels, the surest ones, whose mean logit is the peak."""

RAISE_LIMIT: Final = 4.0
"""No logits are raised by more."""

EDGE_RADIUS: Final = 3
"""Of the windows in which colours are looked at, in pixels of the decoder's working size."""

EDGE_TOLERANCE: Final = 0.003
"""Variance of normalised colours below which a window has no edges."""

EDGE_LIMIT: Final = 2.0
"""Logits are filtered as if they were no surer: how sure the decoder is inside of a thing does not move its outline."""


def peak(logit: Tensor) -> Tensor:
    """(B): the mean of the largest hundredth of (B, 1, h, w)."""
    return surest_mean(logit.flatten(1), PEAK_SHARE)


def lenient(logit: Tensor, leniency: Tensor) -> Tensor:
    """Logits (B, 1, h, w), raised where their `peak` is low.

    `leniency` (2) is the peak below which that begins, and what is added for every unit below it, `RAISE_LIMIT` at
    most. The pixels of a thing that is hardly recognised have low logits together, and cutting them at the same height
    as those of a clear one leaves too little of it. The order of an image's pixels stays.
    """
    start, slope = leniency.to(logit.dtype)
    raised = (slope * F.relu(start - peak(logit))).clamp(max=RAISE_LIMIT)
    return logit + raised[:, None, None, None]


def guide_tensors(images: Tensor, fine: tuple[int, int], work: tuple[int, int]) -> dict[str, Tensor]:
    """What `along_edges` follows in images (B, 3, H, W), float32, by name.

    `fine` is the size of the logits, `work` the decoder's working size.
    """
    guide = make_guide(shrink(images, fine), work, EDGE_RADIUS, EDGE_TOLERANCE)
    return {GUIDE + name: tensor for name, tensor in guide._asdict().items()}


def guide_among(tensors: Mapping[str, Tensor]) -> Guide | None:
    """What `guide_tensors` put there, if it did."""
    if GUIDE + Guide._fields[0] not in tensors:
        return None
    return Guide(*(tensors[GUIDE + name] for name in Guide._fields))


def along_edges(logit: Tensor, guide: Guide, labels: int) -> Tensor:
    """Logits (B * L, 1, h, w), labels innermost, whose outlines follow the edges of B images.

    What a guided filter makes of logits of at most `EDGE_LIMIT` is their change, everywhere.
    """
    limited = logit.float().clamp(-EDGE_LIMIT, EDGE_LIMIT)
    moved = follow_guide(limited.squeeze(1).unflatten(0, (-1, labels)), guide, EDGE_RADIUS)
    return logit + (moved.flatten(0, 1).unsqueeze(1) - limited).to(logit.dtype)
