"""FoRIS's scores of the tokens of a query, step by step."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.methods.foris.support import ClassModel
from fewseg.models.ops.clusters import mean_by_cluster

TEMPERATURE: Final = 0.07
"""Of the soft maximum over the foreground prototypes."""

BACKGROUND: Final = 0.55
"""Weight of the background's similarity."""

VOTE: Final = 0.20
"""Weight of the votes."""

PRIOR: Final = 0.25
"""Weight of the clusters' prior."""

DISAGREEMENT: Final = 0.08
"""Penalty of a token that votes and prior contradict."""

COUPLING: Final = 0.05
"""Penalty of a token that resembles foreground and background."""

EXPONENT: Final = 1.5
"""Of a token's doubt."""

PURE: Final = 0.20
"""Reward of clusters that resemble the foreground more."""

CONFLICT: Final = 0.18
"""Penalty of clusters that resemble both."""

FLOOR: Final = -0.12
"""The largest penalty of a cluster."""


def scaled(values: Tensor) -> Tensor:
    """Values with their least as 0 and their largest as 1; all 0 where they do not differ."""
    least = values.min()
    return (values - least) / (values.max() - least).clamp(min=1e-6)


class Evidence(NamedTuple):
    """What a query's tokens say one by one, (N,) each."""

    score: Tensor
    """Similarity to the foreground, less the weighted similarity to the background."""
    foreground: Tensor
    """Similarity to the nearest prototypes, scaled to [0, 1]."""
    background: Tensor
    """Similarity to the background's direction, scaled to [0, 1]."""


def token_evidence(tokens: Tensor, model: ClassModel) -> Evidence:
    """The evidence of tokens (N, C); the soft maximum is at most TEMPERATURE ln J above the largest cosine."""
    foreground = TEMPERATURE * torch.logsumexp(tokens @ model.prototypes.T / TEMPERATURE, 1)
    background = tokens @ model.background
    return Evidence(foreground - BACKGROUND * background, scaled(foreground), scaled(background))


def joint_tokens(tokens: Tensor, colours: Tensor, colour_weight: float, position_weight: float) -> Tensor:
    """(N, C + 5): tokens (N, C) beside the chromaticity of `colours` (3, h, w) and the angle of their place."""
    height, width = colours.shape[1:]
    axes = (torch.linspace(-1, 1, side, dtype=tokens.dtype, device=tokens.device) for side in (height, width))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    parts = [
        tokens,
        colour_weight * F.normalize(colours.flatten(1).T.to(tokens.dtype), dim=1, eps=1e-12),
        position_weight * F.normalize(places, dim=1, eps=1e-12),
    ]
    return F.normalize(torch.cat(parts, 1), dim=1, eps=1e-12)


def with_even_places(candidates: Tensor, shape: tuple[int, int]) -> Tensor:
    """(N,), bool: the candidates (N,) and all tokens in even rows and columns, which let no larger cluster be empty."""
    more = candidates.view(shape).clone()
    more[::2, ::2] = True
    return more.flatten()


def cluster_prior(tokens: Tensor, labels: Tensor, candidates: Tensor, mean: Tensor) -> Tensor:
    """(N,): in [0, 1], how well each token's cluster fits the class.

    Args:
        tokens: (N, C), unit.
        labels: (N,): the joint clusters.
        candidates: (N,), bool: those of `with_even_places`.
        mean: (C,): the class's mean direction.
    """
    area = mean_by_cluster(candidates.to(tokens.dtype), labels)
    if len(area) == 1:
        return candidates.to(tokens.dtype)
    cross = mean_by_cluster(tokens @ mean, labels)
    directions = F.normalize(mean_by_cluster(tokens, labels), dim=1, eps=1e-12)
    seed = int((cross * area).masked_fill(area == 0, -torch.inf).argmax())
    fit = cross * (directions @ directions[seed]).clamp(min=0) * area
    fit[seed] = fit.max().clamp(min=1e-6)
    return scaled(fit)[labels]


def disagreement_penalty(evidence: Evidence, votes: Tensor, prior: Tensor) -> Tensor:
    """(N,): taken off where votes (N,) or prior (N,) contradict a token that is itself in doubt; at most 0.105.

    The release caps it at 0.22, which is never reached.
    """
    f, r = evidence.foreground, evidence.background
    doubt = (1 - 2 * (f - 0.5).abs()).clamp(min=0) ** EXPONENT
    return (DISAGREEMENT * ((f - votes).abs() + (f - prior).abs()) + COUPLING * torch.minimum(f, r)) * doubt


def cluster_reweighting(evidence: Evidence, labels: Tensor) -> Tensor:
    """(N,): in [-0.12, 0.2], added to all tokens of a cluster that is foreground rather than both or background."""
    f, r = (mean_by_cluster(values, labels) for values in (evidence.foreground, evidence.background))
    change = PURE * (f - r).clamp(min=0) - CONFLICT * torch.minimum(f, r)
    return change.clamp(min=FLOOR)[labels]
