"""Fusing the n one-shot predictions of an n-shot episode: what one-pass inference is compared with (DCAMA, Table 4).

Every function takes the one-shot logits (B, n, 2, H, W) and gives logits (B, 2, H, W) whose arg max is the strategy's
mask. Where a strategy decides by votes, the logits keep the shots' mean log-odds on the side that was voted for, so
that probabilities still say how sure the shots are.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DECIDED = 1e-3
"""Least log-odds of a pixel that votes have decided, against what the mean of the shots says."""


def majority_vote(logits: Tensor) -> Tensor:
    """Foreground where more than half of the n masks are."""
    votes = _votes(logits)
    return _decided(2 * votes > logits.shape[1], logits)


def hsnet_vote(logits: Tensor) -> Tensor:
    """HSNet's: foreground where the votes reach half of the image's largest number of votes (at least 1)."""
    votes = _votes(logits)
    most = votes.flatten(1).amax(1).clamp(min=1).view(-1, 1, 1)
    return _decided(2 * votes >= most, logits)


def mean_probability(logits: Tensor) -> Tensor:
    """The mean of the n foreground probabilities, as log probabilities."""
    probability = logits.float().softmax(2).mean(1)
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log().to(logits.dtype)


def weighted_average(logits: Tensor, weights: Tensor) -> Tensor:
    """SCL's cross-guided average: (1/n) times the sum of weight (B, n) times logits; weights are not normalised."""
    return (logits * weights.to(logits.dtype)[:, :, None, None, None]).mean(1)


def _votes(logits: Tensor) -> Tensor:
    """Number of foreground masks at each pixel, (B, H, W)."""
    return logits.argmax(2).sum(1)


def _decided(foreground: Tensor, logits: Tensor) -> Tensor:
    odds = (logits[:, :, 1] - logits[:, :, 0]).float().mean(1)
    odds = torch.where(foreground, odds.clamp(min=_DECIDED), odds.clamp(max=-_DECIDED))
    return torch.stack([-odds / 2, odds / 2], 1).to(logits.dtype)
