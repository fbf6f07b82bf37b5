"""n-shot segmentation by fusing n one-shot predictions, for any method, to compare with its own n-shot inference.

Everything that depends on the support alone is computed once and serves any number of queries, as in a `SupportSet`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

import torch
from torch import Tensor

from fewseg.core.choices import Fusion as Fusion
from fewseg.core.errors import unknown
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.base import check_support
from fewseg.models.ops.fusion import hsnet_vote, majority_vote, mean_probability, weighted_average

_FUSE: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "vote": majority_vote,
    "average": mean_probability,
    "hsnet-vote": hsnet_vote,
}


@dataclass(frozen=True)
class FusedSupport:
    """A support set as a strategy needs it."""

    fusion: Fusion
    sets: tuple[SupportSet, ...]
    """All shots in one for `one-pass`; else one set for each shot."""
    weights: Tensor | None = None
    """(B, n), how well each shot guides; `guided` only."""


def fused_support(method: FewShotMethod, images: Tensor, masks: Tensor, fusion: Fusion = "one-pass") -> FusedSupport:
    """Encode support images (B, n, 3, H, W) and masks (B, n, H, W) for a strategy, each shot once.

    `guided` also encodes every support image once as a query and segments it with every shot: n² predictions.

    Raises:
        InvalidOption: an unknown strategy. InvalidSupport: shapes that do not fit.
    """
    if fusion not in get_args(Fusion):
        raise unknown("fusion", str(fusion), get_args(Fusion))
    check_support(images, masks)
    support = method.encode_support(images, masks)
    if fusion == "one-pass":
        return FusedSupport(fusion, (support,))
    shots = tuple(support.select([i]) for i in range(support.shots))
    weights = guidance(method, images, masks, shots) if fusion == "guided" else None
    return FusedSupport(fusion, shots, weights)


def guidance(method: FewShotMethod, images: Tensor, masks: Tensor, shots: tuple[SupportSet, ...]) -> Tensor:
    """SCL's weights U (B, n): U_i is the mean over all shots j, i among them, of the IoU of j's mask as i predicts it.

    The IoU of an image is the mean of the background's and the foreground's; one with an empty union is 0, as the
    metrics count it. U is not normalised.
    """
    weights = torch.zeros(images.shape[:2])
    for j in range(images.shape[1]):
        query, truth = method.encode_query(images[:, j]), (masks[:, j] == 1).cpu().numpy()
        for i, shot in enumerate(shots):
            predicted = method.segment(query, shot).argmax(1).cpu().numpy()
            both, either = intersection_and_union(predicted, truth)
            weights[:, i] += torch.from_numpy(both / either.clip(min=1)).float().mean(1)
    return weights / images.shape[1]


def segment_fused(method: FewShotMethod, query: Tensor | QueryFeatures, support: FusedSupport) -> Tensor:
    """Float32 logits (B, 2, H, W) for query images, or for what `encode_query` made of them."""
    if isinstance(query, Tensor):
        query = method.encode_query(query)
    if support.fusion == "one-pass":
        return method.segment(query, support.sets[0]).float()
    logits = torch.stack([method.segment(query, shot).float() for shot in support.sets], 1)
    if support.weights is None:
        return _FUSE[support.fusion](logits)
    return weighted_average(logits, support.weights.to(logits.device).expand(logits.shape[0], -1))


def fuse(
    method: FewShotMethod, query: Tensor | QueryFeatures, images: Tensor, masks: Tensor, fusion: Fusion = "one-pass"
) -> Tensor:
    """Support and query at once: `fused_support`, then `segment_fused`."""
    return segment_fused(method, query, fused_support(method, images, masks, fusion))
