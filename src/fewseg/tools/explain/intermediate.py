"""Intermediate masks: aggregated masks of each scale, before the decoder (DCAMA, Fig. 4b and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.otsu import otsu_threshold
from fewseg.models.ops.resize import resize
from fewseg.tools.explain.case import aggregating


@torch.no_grad()
def scale_masks(method: FewShotMethod, query: QueryFeatures, support: SupportSet) -> dict[int, Tensor]:
    """Scale to the sum (B, h, w) of its layers' aggregated masks, finest first; float32 on the CPU.

    Raises `InvalidOption` for a method that aggregates no masks.
    """
    model = aggregating(method, "intermediate masks")
    sums: dict[int, Tensor] = {}
    for (_, scale), mask in zip(model.attended, model.aggregated_masks(query, support), strict=True):
        sums[scale] = sums[scale] + mask.float() if scale in sums else mask.float()
    return {scale: sums[scale].cpu() for scale in sorted(sums)}


def binarised(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (h, w), cut at Otsu's threshold, then resized: bool (*size). Thresholded first, as the paper's figure."""
    cut = (mask > otsu_threshold(mask)).float()
    return resize(cut[None, None], size)[0, 0] >= 0.5
