"""Intermediate masks: what the attention of each scale votes before the decoder (DCAMA, Fig. 4b and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.otsu import otsu_threshold
from fewseg.models.ops.resize import resize
from fewseg.tools.explain.case import voting


@torch.no_grad()
def scale_masks(method: FewShotMethod, query: QueryFeatures, support: SupportSet) -> dict[int, Tensor]:
    """Scale to the sum (B, h, w) of its layers' aggregated masks, finest first; float32 on the CPU.

    Raises `InvalidOption` for a method that aggregates no masks.
    """
    model = voting(method, "intermediate masks")
    sums: dict[int, Tensor] = {}
    for (_, scale), vote in zip(model.attended, model.aggregated_masks(query, support), strict=True):
        sums[scale] = sums[scale] + vote.float() if scale in sums else vote.float()
    return {scale: sums[scale].cpu() for scale in sorted(sums)}


def binarised(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (h, w), cut at Otsu's threshold, then resized: bool (*size). Thresholded first, as the paper's figure."""
    cut = (mask > otsu_threshold(mask)).float()
    return resize(cut[None, None], size)[0, 0] >= 0.5
