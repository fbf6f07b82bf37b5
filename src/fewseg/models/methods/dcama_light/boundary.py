"""Boundary refinement of the light method (ours): mask boundaries aligned with the image's edges by a guided filter.

It works on logits at the finest skip scale, after the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from fewseg.models.ops.guided_filter import Guide, follow_guide, make_guide
from fewseg.models.ops.resize import shrink

GUIDE: Final = "guide."
"""Prefix of the names of the query's tensors that guide boundaries: the fields of a `Guide`."""

EDGE_RADIUS: Final = 3
"""Radius of the filter's windows, in pixels of the decoder's working size."""

EDGE_TOLERANCE: Final = 0.003
"""Variance of normalised colours below which a window counts as without edges."""

EDGE_LIMIT: Final = 2.0
"""Logits are clamped to +/- this for the filter, so that confidence inside an object does not move its boundary."""


def guide_tensors(images: Tensor, fine: tuple[int, int], work: tuple[int, int]) -> dict[str, Tensor]:
    """The guide of images (B, 3, H, W), float32, as tensors by name.

    `fine` is the size of the logits, `work` the decoder's working size.
    """
    guide = make_guide(shrink(images, fine), work, EDGE_RADIUS, EDGE_TOLERANCE)
    return {GUIDE + name: tensor for name, tensor in guide._asdict().items()}


def guide_from(tensors: Mapping[str, Tensor]) -> Guide | None:
    """The guide among tensors by name; None where `guide_tensors` put none there."""
    if GUIDE + Guide._fields[0] not in tensors:
        return None
    return Guide(*(tensors[GUIDE + name] for name in Guide._fields))


def refine_boundary(logit: Tensor, guide: Guide, labels: int) -> Tensor:
    """Logits (B * L, 1, h, w), labels innermost, with boundaries along the edges of B images.

    The filter's change to the logits, clamped to `EDGE_LIMIT`, is added everywhere.
    """
    limited = logit.float().clamp(-EDGE_LIMIT, EDGE_LIMIT)
    moved = follow_guide(limited.squeeze(1).unflatten(0, (-1, labels)), guide, EDGE_RADIUS)
    return logit + (moved.flatten(0, 1).unsqueeze(1) - limited).to(logit.dtype)
