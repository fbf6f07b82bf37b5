"""INSID3's matching: which tokens the support votes for, and how well the clusters of an image score."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.clusters import mean_by_cluster

_ROWS: Final = 1024
"""Query tokens that are compared with all support tokens at a time."""

QUANTILE: Final = 0.9
"""Of the similarities, the share that is left out where none is positive."""


def backward_matches(tokens: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """(M,), bool: whether the support token nearest to each token (M, C) lies under the mask.

    `support` (N, C) holds one shot's tokens, foreground and background alike, and `mask` (N,) is true for foreground.
    The first of equally near tokens counts.
    """
    nearest = [(some @ support.T).argmax(1) for some in tokens.split(_ROWS)]
    return mask[torch.cat(nearest)] if nearest else mask[:0]


def count_votes(tokens: Tensor, supports: Tensor, masks: Tensor) -> Tensor:
    """(M,), int64: of how many shots (n, N, C) with masks (n, N) a token's nearest neighbour is foreground."""
    votes = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    for support, mask in zip(supports, masks, strict=True):
        votes += backward_matches(tokens, support, mask)
    return votes


def majority(shots: int) -> int:
    """Votes that make a candidate: half of the shots, of two shots one."""
    return (shots + 1) // 2


def forward_matches(similarity: Tensor) -> Tensor:
    """(N,), bool: tokens whose similarity (N,) to the prototype is positive; without any, the highest tenth."""
    positive = similarity > 0
    return positive if positive.any() else similarity > torch.quantile(similarity, QUANTILE)


def find_candidates(similarity: Tensor, tokens: Tensor, supports: Tensor, masks: Tensor) -> Tensor:
    """(N,), bool: tokens (N, C) that match in both directions.

    Only those that match forward are matched backward, for no other can become a candidate.
    """
    candidates = forward_matches(similarity)
    votes = count_votes(tokens[candidates], supports, masks)
    candidates[candidates.clone()] = votes >= majority(len(masks))
    return candidates


class ClusterScores(NamedTuple):
    """What speaks for each of the K clusters of an image, (K,) each."""

    seed: int
    """The cluster that resembles the prototype most, among those with a candidate."""
    seed_similarity: Tensor
    """(): cosine of its mean direction to the prototype."""
    cross: Tensor
    """Mean similarity of the cluster's tokens to the prototype."""
    intra: Tensor
    """Cosine of the cluster's mean direction to the seed's, in the tokens that still know their place."""
    area: Tensor
    """Share of the cluster's tokens that are candidates; 1 for the seed."""
    score: Tensor
    """Product of the three."""


def score_clusters(
    tokens: Tensor, debiased: Tensor, labels: Tensor, candidates: Tensor, prototype: Tensor
) -> ClusterScores:
    """Scores of the clusters `labels` (N,) of an image with at least one candidate.

    Args:
        tokens: (N, C), unit.
        debiased: (N, C), unit, without their positional part.
        candidates: (N,), bool.
        prototype: (C,), unit, of debiased support tokens.
    """
    area = mean_by_cluster(candidates.to(tokens.dtype), labels)
    direction = F.normalize(mean_by_cluster(debiased, labels), dim=1, eps=1e-12) @ prototype
    seed = int(direction.masked_fill(area == 0, -torch.inf).argmax())
    area[seed] = 1
    cross = mean_by_cluster(debiased @ prototype, labels)
    means = F.normalize(mean_by_cluster(tokens, labels), dim=1, eps=1e-12)
    intra = means @ means[seed]
    return ClusterScores(seed, direction[seed], cross, intra, area, cross * intra * area)
