"""Which image to label next: scores, and a choice of several that do not repeat each other.

Two scores rank images. `uncertainty` is that of the model about its predicted mask, and needs a support; `coverage`
is the distance of the image's features from those of all labelled images, and needs none. `choose_uncertain` and
`choose_covering` pick images greedily, each given those picked before. The DCAMA paper names such a selection of
supports as future work (section 5).

Measured on novel classes (docs/lab/suggestions.md), the uncertain images are the worse choice: `choose_covering` is
what the page goes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHING: Final = 0.01
"""Additive smoothing of the expected IoU, as a share of the image; makes a confidently empty prediction certain instead
of 0/0."""

_FLOOR: Final = 1e-6


def uncertainty(probabilities: Tensor) -> Tensor:
    """One minus the expected IoU of the mask with the truth, in [0, 1); (..., h, w) to (...).

    Probabilities p (..., h, w) are cut at 0.5 into the mask m. Were every pixel foreground with its probability, and
    independently, the mask would share sum(m p) pixels with the truth and sum(m + p - m p) would be in one of the two:
    the quotient of these expectations, with `SMOOTHING` of the image added to both, is the overlap. Unlike a
    mean entropy it does not grow with the object's boundary alone, and is 0 for a confidently empty mask.

    Examples:
        >>> float(uncertainty(torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
        0.0
    """
    p = probabilities.float()
    mask = (p >= 0.5).float()
    extra = SMOOTHING * p.shape[-1] * p.shape[-2]
    shared = (mask * p).sum((-1, -2)) + extra
    either = (mask + p - mask * p).sum((-1, -2)) + extra
    return (1 - shared / either).clamp(0, 1)


def coverage(query_tokens: Tensor, support_tokens: Tensor) -> Tensor:
    """Mean distance (...) of an image's tokens (..., n, c) to the nearest support token (m, c).

    The distance is one minus the cosine, so in [0, 2]; 1 without support tokens (m = 0).
    """
    nearest = _nearest(_unit(query_tokens), _unit(support_tokens))
    return nearest.mean(-1)


def _unit(tokens: Tensor) -> Tensor:
    return F.normalize(tokens.float(), dim=-1, eps=_FLOOR)


def _nearest(query: Tensor, support: Tensor) -> Tensor:
    """Distance of unit tokens (..., n, c) to the nearest of (m, c)."""
    if not len(support):
        return query.new_ones(query.shape[:-1])
    return 1 - (query @ support.T).amax(-1)


def centred(tokens: Tensor) -> Tensor:
    """Tokens (images, n, c) minus their mean, which dominates the cosines of raw features."""
    return tokens.float() - tokens.float().mean((0, 1))


def choose_covering(
    tokens: Tensor, support_tokens: Tensor, n: int, candidates: Sequence[int], weights: Tensor | None = None
) -> list[tuple[int, float]]:
    """`n` of the candidates, each the one that brings all images nearest to something labelled, given those before.

    `tokens` are those of all images (images, t, c), `support_tokens` (m, c) those of the labelled ones, `weights`
    (images, t) the tokens' weights (equal if not given). Gives (image, gain) pairs: by how much the
    mean distance of all tokens to the nearest labelled one falls. This is the greedy rule for the facility location
    problem, within 63 % of the best choice (Nemhauser et al., 1978).
    """
    every = _unit(tokens)
    distance = _nearest(every, _unit(support_tokens))
    matters = torch.ones(every.shape[:2]) if weights is None else weights.float()
    left = list(dict.fromkeys(candidates))
    chosen: list[tuple[int, float]] = []
    brought = {c: 1 - (every @ every[c].T).amax(-1) for c in left} if len(left) * every.shape[0] <= 250_000 else {}
    while left and len(chosen) < n:
        gains = []
        for c in left:
            by_this = brought[c] if c in brought else 1 - (every @ every[c].T).amax(-1)
            gains.append(((distance - by_this).clamp(min=0) * matters).mean())
        best = int(torch.stack(gains).argmax())
        picked = left.pop(best)
        chosen.append((picked, float(gains[best])))
        distance = torch.minimum(distance, 1 - (every @ every[picked].T).amax(-1))
    return chosen


def choose_uncertain(
    scores: Tensor, tokens: Tensor, n: int, candidates: Sequence[int], support_tokens: Tensor | None = None
) -> list[tuple[int, float]]:
    """`n` of the candidates, each the most uncertain one, lessened by how much it resembles those picked before.

    `scores` (images,) in [0, 1], `tokens` (images, t, c). Gives (image, score) pairs, where the score is the
    uncertainty times the distance (at most 1) of the image's tokens to the nearest of those picked before, and of
    `support_tokens` (m, c), those labelled already, where they are given.
    """
    every = _unit(tokens)
    nearest = torch.full(every.shape[:2], 2.0)
    if support_tokens is not None and len(support_tokens):
        nearest = _nearest(every, _unit(support_tokens))
    left = list(dict.fromkeys(candidates))
    chosen: list[tuple[int, float]] = []
    while left and len(chosen) < n:
        values = scores.float()[left] * nearest[left].mean(-1).clamp(0, 1)
        best = int(values.argmax())
        picked = left.pop(best)
        chosen.append((picked, float(values[best])))
        nearest = torch.minimum(nearest, 1 - (every @ every[picked].T).amax(-1))
    return chosen
