"""What FoRIS knows of a class by all shots together."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.clusters import cosine_clusters, mean_by_cluster

HARD_SHARE: Final = 0.2
"""Share of the background, the part most similar to the foreground, that its direction is made of."""

MOST_TOKENS: Final = 16384
"""Foreground tokens that are clustered: a gigabyte of distances. Of more, evenly chosen ones (ours)."""


class ClassModel(NamedTuple):
    """A class, in unit tokens of C channels."""

    mean: Tensor
    """(C,): the mean of the shots' mean foreground tokens, of length 1."""
    prototypes: Tensor
    """(J, C): mean directions of the clusters of all shots' foreground."""
    background: Tensor
    """(C,): direction of the hard background that is not the foreground's; 0 without background."""


def class_model(tokens: Tensor, masks: Tensor, similarity: float) -> ClassModel:
    """The model of shots (n, N, C) with masks (n, N), none of them empty.

    Tokens of all shots are pooled in an order that does not depend on that of the shots, so neither does rounding.
    `similarity` is that at which clustering stops.
    """
    means = torch.stack([shot[mask].mean(0) for shot, mask in zip(tokens, masks, strict=True)])
    order = sorted(range(len(means)), key=lambda shot: means[shot].tolist())
    mean = F.normalize(means[order].mean(0), dim=0, eps=1e-12)
    foreground = torch.cat([tokens[shot][masks[shot]] for shot in order])
    some = foreground[:: -(-len(foreground) // MOST_TOKENS)].contiguous()
    clusters = mean_by_cluster(some, cosine_clusters(some, similarity))
    background = torch.cat([tokens[shot][~masks[shot]] for shot in order])
    return ClassModel(mean, F.normalize(clusters, dim=1, eps=1e-12), hard_background(background, mean))


def hard_background(tokens: Tensor, mean: Tensor) -> Tensor:
    """(C,): what the background tokens (M, C) most similar to `mean` (C,) have in common, orthogonal to it."""
    if not len(tokens):
        return torch.zeros_like(mean)
    count = max(1, int(HARD_SHARE * len(tokens)))
    hardest = tokens[(tokens @ mean).topk(count).indices]
    direction = F.normalize(hardest.mean(0), dim=0, eps=1e-12)
    return F.normalize(direction - (direction @ mean) * mean, dim=0, eps=1e-8)


def alignment(tokens: Tensor, masks: Tensor, query: Tensor) -> float | None:
    """Cosine of the mean foreground token of all shots (n, N, C) to the mean of the query's (N, C).

    None where no shot has foreground under its mask (n, N).
    """
    foreground = tokens[masks]
    if not len(foreground):
        return None
    return float(F.cosine_similarity(foreground.double().mean(0), query.double().mean(0), dim=0))
